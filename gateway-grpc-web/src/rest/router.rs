//! Finds the method of a REST request by path and HTTP method.

use std::{collections::BTreeSet, sync::Arc};

use super::template::{Template, Unsupported};
use crate::transcode::{Contract, HttpRule, Method};

/// A REST path of a method.
#[derive(Debug)]
pub(crate) struct Binding {
    pub(crate) method: Arc<Method>,
    pub(crate) rule: HttpRule,
    template: Template,
}

/// All REST paths of the contract.
#[derive(Debug)]
pub(crate) struct Router {
    bindings: Vec<Arc<Binding>>,
}

/// The result of looking for a path.
#[derive(Debug)]
pub(crate) enum Found {
    /// The binding, and the values of the fields in the path.
    Binding(Arc<Binding>, Vec<(String, String)>),
    /// The path has only these methods.
    OtherMethods(String),
    Nothing,
}

impl Router {
    /// Reads the annotations of the contract.
    ///
    /// # Errors
    /// If a path template uses unsupported syntax.
    pub(crate) fn try_new(contract: &Contract) -> Result<Self, Unsupported> {
        let mut bindings = Vec::new();
        for method in contract.methods() {
            for rule in &method.rules {
                let template = Template::parse(&rule.template)?;
                bindings.push(Arc::new(Binding { method: method.clone(), rule: rule.clone(), template }));
            }
        }
        Ok(Self { bindings })
    }

    /// Returns whether a path belongs to REST, although it may be unknown.
    pub(crate) fn owns(&self, path: &str) -> bool {
        let root = path.trim_start_matches('/').split('/').next();
        self.bindings.iter().any(|binding| binding.template.root() == root)
    }

    /// Finds the binding of a request. `HEAD` finds that of `GET`.
    pub(crate) fn find(&self, verb: &http::Method, path: &str) -> Found {
        let verb = if *verb == http::Method::HEAD { &http::Method::GET } else { verb };
        let mut others = BTreeSet::new();
        for binding in &self.bindings {
            let Some(fields) = binding.template.matches(path) else { continue };
            if binding.rule.verb == *verb {
                let fields = fields.into_iter().map(|(field, value)| (field.to_owned(), value)).collect();
                return Found::Binding(binding.clone(), fields);
            }
            others.insert(binding.rule.verb.as_str());
        }
        if others.is_empty() {
            return Found::Nothing;
        }
        if others.contains("GET") {
            others.insert("HEAD");
        }
        others.insert("OPTIONS");
        Found::OtherMethods(others.into_iter().collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(verb: &str, path: &str) -> String {
        let router = Router::try_new(&Contract::try_new(None).unwrap()).unwrap();
        match router.find(&verb.parse().unwrap(), path) {
            Found::Binding(binding, fields) => {
                let name = binding.method.path.path().rsplit('/').next().unwrap().to_owned();
                fields.into_iter().fold(name, |text, (field, value)| format!("{text} {field}={value}"))
            }
            Found::OtherMethods(others) => format!("allow {others}"),
            Found::Nothing => "nothing".to_owned(),
        }
    }

    #[test]
    fn every_path_of_the_contract_is_found() {
        for (verb, path, expected) in [
            ("POST", "/v1/tickets", "RegisterTicket"),
            ("GET", "/v1/tickets", "ListTickets"),
            ("HEAD", "/v1/tickets", "ListTickets"),
            ("GET", "/v1/tickets/a", "GetTicket ticket_id=a"),
            ("PATCH", "/v1/tickets/a", "UpdateTicket ticket_id=a"),
            ("POST", "/v1/tickets/a:withdraw", "WithdrawTicket ticket_id=a"),
            ("GET", "/v1/tickets/a:checkAvailability", "CheckAvailability ticket_id=a"),
            ("POST", "/v1/reservations", "ReserveTicket"),
            ("GET", "/v1/reservations", "ListReservations"),
            ("GET", "/v1/reservations/r", "GetReservation reservation_id=r"),
            ("POST", "/v1/reservations/r:cancel", "CancelReservation reservation_id=r"),
            ("GET", "/v1/prices", "ListPrices"),
            ("GET", "/v1/prices/a", "GetPrice ticket_id=a"),
            ("GET", "/v1/prices/quote", "GetPrice ticket_id=quote"),
            ("GET", "/v1/prices:quote", "QuotePrice"),
            ("GET", "/v1/pricingPolicy", "GetPricingPolicy"),
            ("GET", "/v1/views", "ListTicketViews"),
            ("GET", "/v1/views/a", "GetTicketView ticket_id=a"),
            ("GET", "/v1/views/a/history", "GetTicketHistory ticket_id=a"),
            ("GET", "/v1/users/kim%20lee/reservations", "ListUserReservations user_id=kim lee"),
            ("GET", "/v1/views:watch", "WatchTicketViews"),
            ("DELETE", "/v1/tickets", "allow GET, HEAD, OPTIONS, POST"),
            ("GET", "/v1/tickets/a:withdraw", "allow OPTIONS, POST"),
            ("POST", "/v1/views:watch", "allow GET, HEAD, OPTIONS"),
            ("OPTIONS", "/v1/tickets/a", "allow GET, HEAD, OPTIONS, PATCH"),
            ("GET", "/v1/nothing", "nothing"),
            ("GET", "/v1/tickets/a:nothing", "nothing"),
            ("GET", "/v2/tickets", "nothing"),
        ] {
            assert_eq!(find(verb, path), expected, "{verb} {path}");
        }
    }

    #[test]
    fn pages_are_not_rest() {
        let router = Router::try_new(&Contract::try_new(None).unwrap()).unwrap();
        for (path, expected) in [("/v1/x", true), ("/v1", true), ("/", false), ("/v12/x", false), ("/assets/v1", false)]
        {
            assert_eq!(router.owns(path), expected, "{path}");
        }
    }
}
