//! Routing: the backend of a call by its path, and the properties of its method from the contract.

use std::collections::HashMap;

use eticket_proto::{
    headers, health::health_server, operations::operations_service_server, pricing::pricing_service_server,
    query::query_service_server, reservation::reservation_service_server, ticket::ticket_service_server,
};
use eticket_rpc_server::{
    error::ApiError,
    server::methods::{self, Method},
};
use http::HeaderMap;
use prost::{DecodeError, Message};
use prost_types::FileDescriptorSet;
use tonic::Status;

use crate::guest::Guest;

/// The operation that concerns every replica of a service.
const GET_STATUS: &str = "/eticket.operations.v1.OperationsService/GetStatus";

/// A service behind the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    /// The ticket service.
    Ticket,
    /// The reservation service.
    Reservation,
    /// The pricing service.
    Pricing,
    /// The query service.
    Query,
}

impl Backend {
    /// All backends, in the order of their discriminants.
    pub const ALL: [Self; 4] = [Self::Ticket, Self::Reservation, Self::Pricing, Self::Query];

    /// Returns the name of the backend in configuration, headers and errors.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ticket => "ticket",
            Self::Reservation => "reservation",
            Self::Pricing => "pricing",
            Self::Query => "query",
        }
    }

    /// Reads the backend of an operations call from its header: all four services serve the same operations RPCs.
    pub(crate) fn from_headers(map: &HeaderMap) -> Result<Self, ApiError> {
        let named = map.get(headers::SERVICE).and_then(|value| value.to_str().ok());
        Self::ALL.into_iter().find(|backend| Some(backend.name()) == named).ok_or_else(|| {
            let got =
                named.map_or("nothing".to_owned(), |name| format!("{:?}", name.chars().take(80).collect::<String>()));
            let description = format!("the header must say ticket, reservation, pricing or query; got {got}");
            ApiError::invalid_field(headers::SERVICE, description)
        })
    }
}

/// The destination of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destination {
    Upstream(Backend),
    /// Operations: a header names the upstream.
    ByHeader,
    /// The gateway itself, which calls every replica of the upstream that a header names.
    Replicas,
    /// The gateway itself: health and reflection.
    Gateway,
}

/// The properties of the RPC that a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) destination: Destination,
    /// Takes a stream of messages.
    pub(crate) streams_requests: bool,
}

/// The descriptors of the guest cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the descriptors of the guest cannot be read")]
pub(crate) struct BrokenRoutes(#[from] DecodeError);

/// All RPCs of the contract, of health and of reflection.
#[derive(Debug)]
pub(crate) struct Routes {
    /// By [`Method::index`].
    methods: Vec<Option<Route>>,
    guest: HashMap<String, Route>,
    services: HashMap<&'static str, Destination>,
}

impl Routes {
    /// Takes the methods of the contract from the table of the server, and those of a guest from its descriptors.
    ///
    /// # Errors
    /// If the descriptors of the guest are broken.
    pub(crate) fn try_new(guest: Option<&Guest>) -> Result<Self, BrokenRoutes> {
        let mut services = HashMap::from([
            (ticket_service_server::SERVICE_NAME, Destination::Upstream(Backend::Ticket)),
            (reservation_service_server::SERVICE_NAME, Destination::Upstream(Backend::Reservation)),
            (pricing_service_server::SERVICE_NAME, Destination::Upstream(Backend::Pricing)),
            (query_service_server::SERVICE_NAME, Destination::Upstream(Backend::Query)),
            (operations_service_server::SERVICE_NAME, Destination::ByHeader),
            (health_server::SERVICE_NAME, Destination::Gateway),
            (tonic_reflection::pb::v1::server_reflection_server::SERVICE_NAME, Destination::Gateway),
            (tonic_reflection::pb::v1alpha::server_reflection_server::SERVICE_NAME, Destination::Gateway),
        ]);
        let mut methods = vec![None; methods::count()];
        for (path, method) in methods::all() {
            let service = method.name.split_once('/').and_then(|(service, _)| services.get(service));
            let destination = if path == GET_STATUS { Some(&Destination::Replicas) } else { service };
            methods[method.index] =
                destination.map(|to| Route { destination: *to, streams_requests: method.streams_requests });
        }
        let guests = guest.map(guest_routes).transpose()?.unwrap_or_default();
        services.extend(guest.map(|guest| (guest.service, Destination::Upstream(guest.backend))));
        Ok(Self { methods, guest: guests, services })
    }

    /// Returns the route of a path, whose method is `method` if it is in the table of the server. An unknown method of
    /// a known service is forwarded: the service may be newer than the gateway, and otherwise returns `UNIMPLEMENTED`
    /// itself.
    ///
    /// # Errors
    /// `UNIMPLEMENTED` for an unknown service.
    pub(crate) fn find(&self, path: &str, method: Option<&Method>) -> Result<Route, Status> {
        if let Some(route) =
            method.and_then(|method| self.methods[method.index]).or_else(|| self.guest.get(path).copied())
        {
            return Ok(route);
        }
        let service = path.strip_prefix('/').and_then(|path| path.split_once('/')).map(|(service, _)| service);
        let destination = service.and_then(|service| self.services.get(service)).ok_or_else(|| {
            let path: String = path.chars().take(200).collect();
            Status::unimplemented(format!("no service is served at {path}; reflection lists all services"))
        })?;
        Ok(Route { destination: *destination, streams_requests: true })
    }

    /// Returns the destination of a service by its full name.
    pub(crate) fn destination(&self, service: &str) -> Option<Destination> {
        self.services.get(service).copied()
    }

    /// Returns the services that exactly one upstream serves, by full name.
    pub(crate) fn upstream_services(&self) -> impl Iterator<Item = (&'static str, Backend)> {
        self.services.iter().filter_map(|(name, destination)| match destination {
            Destination::Upstream(backend) => Some((*name, *backend)),
            Destination::ByHeader | Destination::Replicas | Destination::Gateway => None,
        })
    }
}

fn guest_routes(guest: &Guest) -> Result<HashMap<String, Route>, DecodeError> {
    let destination = Destination::Upstream(guest.backend);
    let mut routes = HashMap::new();
    for file in FileDescriptorSet::decode(guest.descriptors)?.file {
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            for method in service.method.iter().filter(|_| name == guest.service) {
                let route = Route { destination, streams_requests: method.client_streaming() };
                routes.insert(format!("/{name}/{}", method.name()), route);
            }
        }
    }
    Ok(routes)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use prost_types::{DescriptorProto, FileDescriptorProto, MethodDescriptorProto, ServiceDescriptorProto};
    use tonic::Code;

    use super::*;
    use crate::transcode::Contract;

    fn find(routes: &Routes, path: &str) -> Result<Route, Status> {
        routes.find(path, methods::find(path))
    }

    #[test]
    fn paths_are_routed_to_their_services() {
        let routes = Routes::try_new(None).unwrap();
        for (path, destination, streams_requests) in [
            ("/eticket.ticket.v1.TicketService/GetTicket", Destination::Upstream(Backend::Ticket), false),
            (
                "/eticket.reservation.v1.ReservationService/ReserveTicket",
                Destination::Upstream(Backend::Reservation),
                false,
            ),
            ("/eticket.pricing.v1.PricingService/GetPrice", Destination::Upstream(Backend::Pricing), false),
            ("/eticket.query.v1.QueryService/WatchTicketViews", Destination::Upstream(Backend::Query), false),
            ("/eticket.operations.v1.OperationsService/ListUnsettled", Destination::ByHeader, false),
            (GET_STATUS, Destination::Replicas, false),
            ("/grpc.health.v1.Health/Check", Destination::Gateway, false),
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Destination::Gateway, true),
            ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Destination::Gateway, true),
            ("/eticket.ticket.v1.TicketService/FromTheFuture", Destination::Upstream(Backend::Ticket), true),
        ] {
            let route = find(&routes, path).unwrap();
            assert_eq!(route, Route { destination, streams_requests }, "{path}");
        }
    }

    #[test]
    fn every_service_of_the_contract_has_a_route() {
        let routes = Routes::try_new(None).unwrap();
        for file in FileDescriptorSet::decode(eticket_proto::DESCRIPTORS).unwrap().file {
            for service in &file.service {
                let name = format!("{}.{}", file.package(), service.name());
                assert!(routes.destination(&name).is_some(), "{name}");
            }
        }
    }

    #[test]
    fn a_guest_is_known_to_all_protocols() {
        let method = MethodDescriptorProto {
            name: Some("Get".to_owned()),
            input_type: Some(".guest.v1.Thing".to_owned()),
            output_type: Some(".guest.v1.Thing".to_owned()),
            ..MethodDescriptorProto::default()
        };
        let service = ServiceDescriptorProto {
            name: Some("Guests".to_owned()),
            method: vec![method],
            ..ServiceDescriptorProto::default()
        };
        let thing = DescriptorProto { name: Some("Thing".to_owned()), ..DescriptorProto::default() };
        let file = FileDescriptorProto {
            name: Some("guest.proto".to_owned()),
            package: Some("guest.v1".to_owned()),
            syntax: Some("proto3".to_owned()),
            message_type: vec![thing],
            service: vec![service],
            ..FileDescriptorProto::default()
        };
        let descriptors = FileDescriptorSet { file: vec![file] }.encode_to_vec().leak();
        let guest = Guest { service: "guest.v1.Guests", descriptors, backend: Backend::Pricing };
        let path = "/guest.v1.Guests/Get";
        let expected = Destination::Upstream(Backend::Pricing);
        let route = Route { destination: expected, streams_requests: false };
        assert_eq!(find(&Routes::try_new(Some(&guest)).unwrap(), path).unwrap(), route);
        assert_eq!(find(&Routes::try_new(None).unwrap(), path).unwrap_err().code(), Code::Unimplemented);
        let known = |guest| Contract::try_new(guest).unwrap().method(path).is_some();
        assert_eq!((known(Some(&guest)), known(None)), (true, false));
    }

    #[test]
    fn other_paths_are_unimplemented() {
        let routes = Routes::try_new(None).unwrap();
        for path in
            ["/", "", "/x", "/eticket.event.v1.TicketEvent/Get", "eticket.ticket.v1.TicketService/GetTicket", "//"]
        {
            assert_eq!(find(&routes, path).unwrap_err().code(), Code::Unimplemented, "{path}");
        }
    }

    #[test]
    fn operations_are_routed_by_the_header() {
        for backend in Backend::ALL {
            let map =
                HeaderMap::from_iter([(headers::SERVICE.parse().unwrap(), HeaderValue::from_static(backend.name()))]);
            assert_eq!(Backend::from_headers(&map).unwrap(), backend);
        }
        for value in [None, Some("Ticket"), Some(""), Some("gateway"), Some("\u{e4}")] {
            let mut map = HeaderMap::new();
            if let Some(value) = value {
                map.insert(headers::SERVICE, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            let status: Status = Backend::from_headers(&map).unwrap_err().into();
            assert_eq!(status.code(), Code::InvalidArgument, "{value:?}");
            assert!(status.message().starts_with("eticket-service: "), "{}", status.message());
        }
    }
}
