//! Translates calls in other protocols to gRPC calls through the gateway's layers, and their responses back.
//!
//! REST and Connect share this module: the methods of the contract with their types and annotations, JSON, the reading
//! of bodies, and the exchange with the layered gRPC service. The layers know such a call by the path of its method,
//! as they know every other call.

pub(crate) mod exchange;
pub(crate) mod json;
pub(crate) mod messages;
pub(crate) mod refusal;
pub(crate) mod request_body;

use std::{collections::HashMap, sync::Arc};

use http::uri::PathAndQuery;
use prost_reflect::{
    DescriptorError, DescriptorPool, DynamicMessage, ExtensionDescriptor, MessageDescriptor, MethodDescriptor,
};
use prost_types::method_options::IdempotencyLevel;

use crate::guest::Guest;

/// The annotation with the REST path of a method.
const HTTP_RULE: &str = "google.api.http";

/// The contract cannot be used for translation.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokenContract {
    #[error(transparent)]
    Descriptors(#[from] &'static DescriptorError),
    #[error("the descriptors of the guest do not fit the contract")]
    Guest(#[source] DescriptorError),
    #[error("the descriptors have no extension {HTTP_RULE}")]
    NoHttpRule,
    #[error("{0} is not the path of a method")]
    Path(String),
}

/// A REST path of a method, as the contract writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpRule {
    pub(crate) verb: http::Method,
    pub(crate) template: String,
    /// Empty: no body; `*`: the body is the request; otherwise the field that the body is.
    pub(crate) body: String,
}

/// A method of the contract.
#[derive(Debug)]
pub(crate) struct Method {
    /// The path of the gRPC call, by which every layer identifies the method.
    pub(crate) path: PathAndQuery,
    pub(crate) input: MessageDescriptor,
    pub(crate) output: MessageDescriptor,
    pub(crate) streams_requests: bool,
    pub(crate) streams_answers: bool,
    /// The contract says that the method has no side effects.
    pub(crate) reads: bool,
    pub(crate) rules: Vec<HttpRule>,
}

/// The methods of the contract by the path of their gRPC call.
#[derive(Debug)]
pub(crate) struct Contract {
    pub(crate) pool: DescriptorPool,
    methods: HashMap<String, Arc<Method>>,
}

impl Contract {
    /// Reads the embedded descriptors, and those of a guest.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(crate) fn try_new(guest: Option<&Guest>) -> Result<Self, BrokenContract> {
        // Unlike the types of prost, the pool keeps custom options.
        let mut pool = eticket_proto::descriptor_pool()?;
        if let Some(guest) = guest {
            pool.decode_file_descriptor_set(guest.descriptors).map_err(BrokenContract::Guest)?;
        }
        let annotation = pool.get_extension_by_name(HTTP_RULE).ok_or(BrokenContract::NoHttpRule)?;
        let mut methods = HashMap::new();
        for method in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
            let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
            methods.insert(path.clone(), Arc::new(read_method(&method, path, &annotation)?));
        }
        Ok(Self { pool, methods })
    }

    /// Returns the method with this gRPC path.
    pub(crate) fn method(&self, path: &str) -> Option<&Arc<Method>> {
        self.methods.get(path)
    }

    pub(crate) fn methods(&self) -> impl Iterator<Item = &Arc<Method>> {
        self.methods.values()
    }
}

fn read_method(
    method: &MethodDescriptor,
    path: String,
    annotation: &ExtensionDescriptor,
) -> Result<Method, BrokenContract> {
    let options = method.method_descriptor_proto().options.as_ref();
    let level = options.map(prost_types::MethodOptions::idempotency_level);
    let extended = method.options();
    let rules = match extended.has_extension(annotation) {
        true => extended.get_extension(annotation).as_message().map(read_rules).unwrap_or_default(),
        false => Vec::new(),
    };
    Ok(Method {
        path: PathAndQuery::try_from(path.as_str()).map_err(|_| BrokenContract::Path(path))?,
        input: method.input(),
        output: method.output(),
        streams_requests: method.is_client_streaming(),
        streams_answers: method.is_server_streaming(),
        reads: level == Some(IdempotencyLevel::NoSideEffects),
        rules,
    })
}

/// Reads a `google.api.HttpRule` with its additional bindings.
fn read_rules(rule: &DynamicMessage) -> Vec<HttpRule> {
    let text = |name: &str| {
        let value = rule.get_field_by_name(name)?;
        value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let verbs = [
        ("get", http::Method::GET),
        ("put", http::Method::PUT),
        ("post", http::Method::POST),
        ("delete", http::Method::DELETE),
        ("patch", http::Method::PATCH),
    ];
    let body = text("body").unwrap_or_default();
    let own = verbs.into_iter().find_map(|(name, verb)| text(name).map(|template| (verb, template)));
    let own = own.map(|(verb, template)| HttpRule { verb, template, body });
    let more = rule.get_field_by_name("additional_bindings");
    let more = more.as_deref().and_then(prost_reflect::Value::as_list).unwrap_or_default();
    own.into_iter().chain(more.iter().filter_map(prost_reflect::Value::as_message).flat_map(read_rules)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_have_their_annotations() {
        let contract = Contract::try_new(None).unwrap();
        let update = contract.method("/eticket.ticket.v1.TicketService/UpdateTicket").unwrap();
        let rule = HttpRule {
            verb: http::Method::PATCH,
            template: "/v1/tickets/{ticket_id}".to_owned(),
            body: "*".to_owned(),
        };
        assert_eq!((update.rules.as_slice(), update.reads), (&[rule][..], false));
        let watch = contract.method("/eticket.query.v1.QueryService/WatchTicketViews").unwrap();
        assert!(watch.reads && watch.streams_answers && !watch.streams_requests);
        assert_eq!((watch.rules[0].template.as_str(), watch.rules[0].body.as_str()), ("/v1/views:watch", ""));
        let operations = contract.methods().filter(|method| method.path.path().contains("OperationsService"));
        assert!(operations.inspect(|method| assert_eq!(method.rules, [], "{}", method.path)).count() > 5);
    }

    #[test]
    fn every_method_for_users_has_a_rest_path() {
        let contract = Contract::try_new(None).unwrap();
        for method in contract.methods() {
            let path = method.path.path();
            let public = !path.contains("OperationsService") && path.starts_with("/eticket.");
            assert_eq!(!method.rules.is_empty(), public, "{path}");
        }
    }

    #[test]
    fn every_rest_path_is_in_the_documentation() {
        let page = include_str!("../../docs/rest.md");
        let contract = Contract::try_new(None).unwrap();
        let rules: Vec<&HttpRule> = contract.methods().flat_map(|method| &method.rules).collect();
        assert!(rules.len() > 15, "{rules:?}");
        for HttpRule { verb, template, .. } in rules {
            assert!(page.contains(&format!("`{verb} {template}`")), "docs/rest.md has no {verb} {template}");
        }
    }
}
