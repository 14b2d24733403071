//! Errors in protocols with HTTP status codes and JSON.

use std::time::Duration;

use eticket_proto::error_text::Language;
use eticket_rpc_server::error::ApiError;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use prost::Message;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::{Contract, json};

/// The prefix of the type URL of a detail.
const TYPE_PREFIX: &str = "type.googleapis.com/";

/// The error of a call, with its HTTP status.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) http: StatusCode,
    pub(crate) status: Status,
}

impl Refusal {
    /// Creates an error that has no reason in the contract, because it is about HTTP.
    pub(crate) fn of_http(http: StatusCode, code: Code, language: Language, english: String, korean: &str) -> Self {
        let localized = match language {
            Language::English => english.as_str(),
            Language::Korean => korean,
        };
        let details = ErrorDetails::with_localized_message(language.tag(), localized);
        let status = Status::with_error_details(code, english.clone(), details);
        Self { http, status }
    }

    /// Creates the error of a request with wrong fields.
    pub(crate) fn of_fields(error: &ApiError, language: Language) -> Self {
        error.to_status(language).into()
    }

    /// The delay after which a retry makes sense.
    fn retry_delay(&self) -> Option<Duration> {
        self.status.get_details_retry_info()?.retry_delay
    }

    /// Adds the headers that HTTP has for an error.
    pub(crate) fn write_headers(&self, headers: &mut HeaderMap) {
        if let Some(delay) = self.retry_delay() {
            // Rounded up: a retry that comes too early is rejected again.
            let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.http == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
    }

    /// The delay in milliseconds after which a client of server-sent events should connect again.
    pub(crate) fn retry_milliseconds(&self) -> Option<u128> {
        self.retry_delay().map(|delay| delay.as_millis())
    }

    /// Returns the error as the JSON of `google.rpc.Status`.
    pub(crate) fn to_json(&self, contract: &Contract) -> Value {
        let details: Vec<_> = self.details().iter().map(|detail| detail.to_json(contract)).collect();
        json!({"code": self.status.code() as i32, "message": self.status.message(), "details": details})
    }

    pub(crate) fn details(&self) -> Vec<Detail> {
        // Details that cannot be read are left out, as gRPC clients do.
        let status = tonic_types::Status::decode(self.status.details()).unwrap_or_default();
        status.details.into_iter().map(|any| Detail { url: any.type_url, value: any.value }).collect()
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self { http: http_status(status.code()), status }
    }
}

/// A detail of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Detail {
    url: String,
    pub(crate) value: Vec<u8>,
}

impl Detail {
    /// The full name of its type.
    pub(crate) fn type_name(&self) -> &str {
        self.url.rsplit('/').next().unwrap_or_default()
    }

    /// Returns the fields; `None` for a type that is not in the contract.
    pub(crate) fn fields(&self, contract: &Contract) -> Option<Value> {
        json::value(&self.value, contract.pool.get_message_by_name(self.type_name())?)
    }

    fn to_json(&self, contract: &Contract) -> Value {
        let mut detail = self.fields(contract).unwrap_or_else(|| json!({}));
        if let Value::Object(object) = &mut detail {
            object.insert("@type".to_owned(), format!("{TYPE_PREFIX}{}", self.type_name()).into());
        }
        detail
    }
}

/// The HTTP status of a code, by `google/rpc/code.proto`; Connect has the same.
pub(crate) fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        // "Client closed request"; not registered, so the crate has no constant.
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use eticket_proto::error::ErrorReason;

    use super::*;

    #[test]
    fn a_status_becomes_json_with_typed_details() {
        let contract = Contract::try_new(None).unwrap();
        let error = ApiError::new(ErrorReason::StoreUnavailable).with("ticket_id", "t1");
        let error = error.retry_after(Duration::from_millis(1_001));
        let refusal = Refusal::of_fields(&error, Language::Korean);
        let json = refusal.to_json(&contract);
        assert_eq!((refusal.http, &json["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!(14)));
        let detail = |name: &str| {
            let url = format!("type.googleapis.com/google.rpc.{name}");
            let found = json["details"].as_array().unwrap().iter().find(|detail| detail["@type"] == *url);
            found.unwrap_or_else(|| panic!("no {name}: {json}")).clone()
        };
        let info = detail("ErrorInfo");
        assert_eq!((&info["reason"], &info["domain"]), (&json!("STORE_UNAVAILABLE"), &json!("eticket")));
        assert_eq!(info["metadata"]["ticket_id"], "t1");
        assert_eq!(detail("RetryInfo")["retryDelay"], "1.001s");
        assert_eq!(detail("LocalizedMessage")["locale"], "ko");
        let mut headers = HeaderMap::new();
        refusal.write_headers(&mut headers);
        assert_eq!(headers[header::RETRY_AFTER], "2");
    }

    #[test]
    fn a_missing_token_names_the_scheme() {
        let mut headers = HeaderMap::new();
        Refusal::from(Status::unauthenticated("no token")).write_headers(&mut headers);
        assert_eq!(headers[header::WWW_AUTHENTICATE], "Bearer");
        assert!(!headers.contains_key(header::RETRY_AFTER));
    }

    #[test]
    fn a_detail_of_another_contract_keeps_its_type() {
        let contract = Contract::try_new(None).unwrap();
        let detail = Detail { url: "example.org/own.Detail".to_owned(), value: vec![1, 2] };
        assert_eq!(detail.to_json(&contract), json!({"@type": "type.googleapis.com/own.Detail"}));
    }
}
