//! What is known of each method by its path: the contract's own, and those of health and reflection.
//!
//! Layers see paths before any message is decoded. Only names from this table become labels of metrics, so that a caller
//! who invents paths cannot make metrics grow.

use std::{collections::HashMap, sync::LazyLock};

use eticket_proto::{authorization::Access, operations::operations_service_server};
use http::Request;
use prost_reflect::{DescriptorPool, ExtensionDescriptor, MethodDescriptor, Value};
use prost_types::method_options::IdempotencyLevel;

use crate::health::STANDARD_SERVICES;

/// A method of a known service.
#[derive(Debug, PartialEq, Eq)]
pub struct Method {
    /// `eticket.ticket.v1.TicketService/GetTicket`.
    pub name: String,
    /// The place among all methods, for tables by method.
    pub index: usize,
    /// The client may send many messages.
    pub streams_requests: bool,
    /// Either side may send many messages.
    pub(crate) streams: bool,
    /// A stream that shows the progress of some work and ends with it, not one that goes on until somebody ends it.
    pub(crate) finishes: bool,
    /// The contract says that it changes nothing.
    pub(crate) reads: bool,
    /// Health and reflection: answered even when the service sheds, so that an overload does not look like a failure.
    pub(crate) exempt: bool,
    /// Who may call it.
    pub(crate) access: Access,
}

static METHODS: LazyLock<HashMap<String, Method>> = LazyLock::new(|| {
    let reflection =
        [tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET, tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET];
    let reflection = reflection.into_iter().filter_map(|set| DescriptorPool::decode(set).ok());
    let mut methods = HashMap::new();
    // Compiled into the program: a set that does not decode would fail the test below.
    for pool in eticket_proto::descriptor_pool().into_iter().chain(reflection) {
        // Only the contract itself has the option.
        let option = pool.get_extension_by_name("eticket.authorization.v1.access");
        for service in pool.services() {
            let exempt = STANDARD_SERVICES.contains(&service.full_name());
            for method in service.methods() {
                let name = format!("{}/{}", service.full_name(), method.name());
                let (index, streams_requests) = (methods.len(), method.is_client_streaming());
                let streams = streams_requests || method.is_server_streaming();
                let options = method.method_descriptor_proto().options.as_ref();
                let level = options.map(prost_types::MethodOptions::idempotency_level);
                let reads = level == Some(IdempotencyLevel::NoSideEffects);
                let finishes = streams && name.starts_with(operations_service_server::SERVICE_NAME);
                let access = option.as_ref().map_or(Access::Unspecified, |option| access(&method, option));
                let facts =
                    Method { name: name.clone(), index, streams_requests, streams, finishes, reads, exempt, access };
                methods.entry(format!("/{name}")).or_insert(facts);
            }
        }
    }
    methods
});

fn access(method: &MethodDescriptor, option: &ExtensionDescriptor) -> Access {
    match *method.options().get_extension(option) {
        Value::EnumNumber(number) => Access::try_from(number).unwrap_or_default(),
        _ => Access::Unspecified,
    }
}

/// Returns the method of a path; `None` if no service of the contract has it.
#[must_use]
pub fn find(path: &str) -> Option<&'static Method> {
    METHODS.get(path)
}

/// The method of a request, found by its outermost layer.
#[derive(Debug, Clone, Copy)]
struct Found(Option<&'static Method>);

/// Finds the method of a request and leaves it in the request for [`of`].
pub(crate) fn look_up<B>(request: &mut Request<B>) -> Option<&'static Method> {
    let method = find(request.uri().path());
    request.extensions_mut().insert(Found(method));
    method
}

/// Returns the method of a request; `None` if no service of the contract has it.
pub fn of<B>(request: &Request<B>) -> Option<&'static Method> {
    request.extensions().get::<Found>().map_or_else(|| find(request.uri().path()), |found| found.0)
}

/// Returns all methods of the contract, of health and of reflection, with their paths.
pub fn all() -> impl Iterator<Item = (&'static str, &'static Method)> {
    METHODS.iter().map(|(path, method)| (path.as_str(), method))
}

/// Whether some server may have this service.
pub(crate) fn is_service(name: &str) -> bool {
    METHODS.values().any(|method| method.name.split_once('/').is_some_and(|(service, _)| service == name))
}

/// Returns the number of methods.
#[must_use]
pub fn count() -> usize {
    METHODS.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_known_by_path() {
        let facts = |path: &str| find(path).map(|method| (method.streams, method.exempt));
        assert_eq!(facts("/eticket.ticket.v1.TicketService/GetTicket"), Some((false, false)));
        assert_eq!(facts("/eticket.query.v1.QueryService/WatchTicketViews"), Some((true, false)));
        assert_eq!(facts("/grpc.health.v1.Health/Check"), Some((false, true)));
        assert_eq!(facts("/grpc.health.v1.Health/Watch"), Some((true, true)));
        for version in ["v1", "v1alpha"] {
            let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
            assert_eq!(facts(&path), Some((true, true)));
        }
        assert_eq!(facts("/eticket.ticket.v1.TicketService/Nothing"), None);
        let reads = |path: &str| find(path).is_some_and(|method| method.reads);
        assert!(reads("/eticket.query.v1.QueryService/GetTicketView"));
        assert!(!reads("/eticket.reservation.v1.ReservationService/ReserveTicket"));
        let finishes = |path: &str| find(path).is_some_and(|method| method.finishes);
        assert!(finishes("/eticket.operations.v1.OperationsService/CompareView"));
        assert!(!finishes("/eticket.operations.v1.OperationsService/ListParkedEvents"));
        assert!(!finishes("/eticket.query.v1.QueryService/WatchTicketViews"));
        for method in METHODS.values() {
            assert_eq!(method.access == Access::Unspecified, method.exempt, "{}", method.name);
        }
        let mut indexes: Vec<_> = METHODS.values().map(|method| method.index).collect();
        indexes.sort_unstable();
        assert_eq!(indexes, (0..count()).collect::<Vec<_>>());
    }

    #[test]
    fn the_method_of_a_request_is_looked_up_once() {
        let path = "/eticket.ticket.v1.TicketService/GetTicket";
        let mut request = Request::builder().uri(path).body(()).expect("a request");
        assert_eq!(of(&request), find(path), "without the outermost layer");
        assert_eq!(look_up(&mut request), find(path));
        // The layers behind use what was found.
        *request.uri_mut() = "/nowhere".parse().expect("a URI");
        assert_eq!(of(&request), find(path));
        assert_eq!(look_up(&mut request), None, "a request that is passed on to another stack of layers");
        assert_eq!(of(&request), None);
    }
}
