//! The only place that converts an error into a `tonic::Status`.
//!
//! The gRPC code follows from the reason, so a reason has the same code wherever it occurs. Localized texts come from
//! the contract, in the language of the call; a server layer sets the language for the task (`server/language.rs`).

use std::{borrow::Cow, collections::HashMap, error::Error, fmt, fmt::Display, time::Duration};

use eticket_base::error::chain;
use eticket_proto::{
    ERROR_DOCUMENTATION, ERROR_DOMAIN, error::ErrorReason, error_text, error_text::Language, field_text, headers,
};
use tonic::{Code, Status, metadata::MetadataMap};
use tonic_types::{ErrorDetails, FieldViolation, LocalizedMessage, StatusExt};

use crate::server::language;

/// Default delay before a retry of a call that was rejected temporarily.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The longest delay that is sent as `grpc-retry-pushback-ms`. Client libraries sleep for this delay and do not tell
/// their caller.
const LONGEST_PUSHBACK: Duration = Duration::from_secs(1);

/// The most field violations of one error. With their texts they stay far below the 8 KiB of metadata that grpc-java
/// accepts by default.
const MOST_VIOLATIONS: usize = 8;

/// An error of the contract that is not yet a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError(Box<Inner>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Inner {
    reason: ErrorReason,
    message: Option<String>,
    metadata: Vec<(Cow<'static, str>, String)>,
    fields: Vec<(String, String)>,
    retry_after: Option<Duration>,
}

impl ApiError {
    /// Creates an error with the code and the texts of its reason, and a `RetryInfo` of one second if a retry can
    /// succeed.
    #[must_use]
    pub fn new(reason: ErrorReason) -> Self {
        let retry_after = matches!(code_of(reason), Code::Unavailable | Code::ResourceExhausted).then_some(RETRY_AFTER);
        Self(Box::new(Inner { reason, message: None, metadata: Vec::new(), fields: Vec::new(), retry_after }))
    }

    /// Creates an `INVALID_FIELD` error for one field of the request.
    #[must_use]
    pub fn invalid_field(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::new(ErrorReason::InvalidField).field(field, description)
    }

    /// Sets the English message for developers. The default is the text of the reason.
    #[must_use]
    pub fn message(mut self, text: impl Into<String>) -> Self {
        self.0.message = Some(text.into());
        self
    }

    /// Adds an entry to the `metadata` of `ErrorInfo`: an id, never a secret.
    #[must_use]
    pub fn with(mut self, key: impl Into<Cow<'static, str>>, value: impl Display) -> Self {
        self.0.metadata.push((key.into(), value.to_string()));
        self
    }

    /// Adds a violation to `BadRequest`. The first violation also becomes the message, unless a message is set.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>, description: impl Into<String>) -> Self {
        let (field, description) = (short(field.into()), short(description.into()));
        if self.0.message.is_none() {
            self.0.message = Some(format!("{field}: {description}"));
        }
        self.0.fields.push((field, description));
        self
    }

    /// Adds the field violations of another error, so that the caller can fix all of them at once. At most
    /// `MOST_VIOLATIONS` are named, because errors travel in headers.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.fields.extend(other.0.fields);
        self.0.fields.truncate(MOST_VIOLATIONS);
        self
    }

    /// Combines the validation results of all fields of a request, or of all elements of a list.
    ///
    /// # Errors
    /// One error that contains the given field violations, see [`Self::and`]; `Ok` if there is none.
    pub fn all<'a>(wrong: impl IntoIterator<Item = Option<&'a Self>>) -> Result<(), Self> {
        wrong.into_iter().flatten().cloned().reduce(Self::and).map_or(Ok(()), Err)
    }

    /// Sets the delay before a retry: in `RetryInfo`, and in `grpc-retry-pushback-ms` within the limits of
    /// `pushback`.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.0.retry_after = Some(delay);
        self
    }

    /// Returns the reason.
    #[must_use]
    pub fn reason(&self) -> ErrorReason {
        self.0.reason
    }

    /// Returns the gRPC code of the reason.
    #[must_use]
    pub fn code(&self) -> Code {
        code_of(self.0.reason)
    }

    /// Logs an internal error with all its causes and returns an error that does not reveal them to the caller.
    #[must_use]
    pub fn internal(error: &dyn Error) -> Status {
        tracing::error!(error = %chain(error), "internal error");
        internal_status()
    }

    /// Reads the reason of a status, for clients and tests; `None` if the status has no reason of this contract.
    #[must_use]
    pub fn from_status(status: &Status) -> Option<ErrorReason> {
        let info = status.get_details_error_info().filter(|info| info.domain == ERROR_DOMAIN)?;
        ErrorReason::from_str_name(&format!("ERROR_REASON_{}", info.reason))
    }

    /// Converts the error into a status with texts in the given language.
    #[must_use]
    pub fn to_status(&self, language: Language) -> Status {
        let Inner { reason, message: _, metadata, fields, retry_after } = &*self.0;
        let metadata: HashMap<String, String> = metadata.iter().map(|(k, v)| (k.to_string(), v.clone())).collect();
        let mut details = ErrorDetails::new();
        details.set_error_info(error_text::name(*reason), ERROR_DOMAIN, metadata);
        if !fields.is_empty() {
            let violation = |(field, description): &(String, String)| violation(field, description, language);
            details.set_bad_request(fields.iter().map(violation).collect::<Vec<_>>());
        }
        let mut trailers = MetadataMap::new();
        if let Some(delay) = retry_after {
            details.set_retry_info(Some(*delay));
            trailers.insert(headers::RETRY_PUSHBACK, pushback(*delay, None).into());
        }
        details.set_localized_message(language.tag(), error_text::text(*reason, language));
        details.add_help_link("What this error means and what to do", documentation(*reason));
        Status::with_error_details_and_metadata(self.code(), self.to_string(), details, trailers)
    }
}

impl Display for ApiError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        formatter
            .write_str(inner.message.as_deref().unwrap_or_else(|| error_text::text(inner.reason, Language::English)))
    }
}

impl Error for ApiError {}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        error.to_status(language::current())
    }
}

/// Creates a field violation. `description` is the English text; the localized message is in `language`.
fn violation(field: &str, description: &str, language: Language) -> FieldViolation {
    let field_text::FieldText { reason, korean } = field_text::find(field);
    let message = match language {
        Language::English => description,
        Language::Korean => korean,
    };
    let localized_message = LocalizedMessage::new(language.tag(), message);
    FieldViolation {
        reason: reason.to_owned(),
        localized_message: Some(localized_message),
        ..FieldViolation::new(field, description)
    }
}

/// Returns the value of `grpc-retry-pushback-ms` for a delay: milliseconds, or `-1` for "do not retry". A client
/// library that retries by its service config sleeps for the delay before its caller sees the error. A delay of more
/// than a second, or one that exceeds the time `left` until the caller's deadline, therefore becomes `-1`: the caller
/// gets the error and its reason immediately.
pub(crate) fn pushback(delay: Duration, left: Option<Duration>) -> i64 {
    let sensible = delay <= LONGEST_PUSHBACK && left.is_none_or(|left| delay < left);
    // Rounded up: a retry that comes too early is rejected again.
    let milliseconds = delay.as_nanos().div_ceil(1_000_000);
    i64::try_from(milliseconds).ok().filter(|_| sensible).unwrap_or(-1)
}

/// Shortens a text that may quote the request. Errors travel in headers, and a client that receives oversized headers
/// closes the connection without reporting the error.
fn short(mut text: String) -> String {
    const MOST: usize = 500;
    if let Some((end, _)) = text.char_indices().nth(MOST) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Returns the URL of the reason's section in the documentation.
fn documentation(reason: ErrorReason) -> String {
    format!("{ERROR_DOCUMENTATION}#{}", error_text::name(reason).to_ascii_lowercase())
}

/// Returns the status of an internal error; it contains no details.
pub(crate) fn internal_status() -> Status {
    let language = language::current();
    let text = error_text::text(ErrorReason::Unspecified, language);
    let details = ErrorDetails::with_localized_message(language.tag(), text);
    Status::with_error_details(Code::Internal, "internal error; see the log of the service", details)
}

fn code_of(reason: ErrorReason) -> Code {
    use ErrorReason as R;
    match reason {
        R::Unspecified => Code::Internal,
        R::TicketNotFound | R::ReservationNotFound | R::PriceNotFound => Code::NotFound,
        R::TicketAlreadyExists => Code::AlreadyExists,
        R::TicketAlreadyReserved
        | R::TicketExpired
        | R::TicketWithdrawn
        | R::ReservationNotActive
        | R::UpstreamNotConfigured => Code::FailedPrecondition,
        R::InvalidField | R::RequestIdReused | R::InvalidPageToken | R::InvalidConsistencyToken => {
            Code::InvalidArgument
        }
        R::EtagMismatch => Code::Aborted,
        R::TicketServiceOverloaded
        | R::ServiceOverloaded
        | R::UpstreamUnavailable
        | R::StoreUnavailable
        | R::ShuttingDown => Code::Unavailable,
        R::TooManyRequests => Code::ResourceExhausted,
        R::DeadlineExceeded | R::ViewNotCaughtUp => Code::DeadlineExceeded,
        R::TokenMissing | R::TokenInvalid => Code::Unauthenticated,
        R::NotAllowed | R::NotYourReservation => Code::PermissionDenied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_field_is_named_in_message_and_details() {
        let status: Status =
            ApiError::invalid_field("title", "must have 1 to 200 characters").with("ticket_id", "t1").into();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "title: must have 1 to 200 characters");
        assert_eq!(ApiError::from_status(&status), Some(ErrorReason::InvalidField));
        let details = status.get_error_details();
        let info = details.error_info().expect("an ErrorInfo");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("INVALID_FIELD", "eticket"));
        assert_eq!(info.metadata["ticket_id"], "t1");
        let violations = &details.bad_request().expect("a BadRequest").field_violations;
        assert_eq!(violations.len(), 1);
        assert_eq!(violations[0].field, "title");
        assert!(details.retry_info().is_none());
        assert!(status.metadata().get(headers::RETRY_PUSHBACK).is_none());
    }

    #[test]
    fn every_invalid_field_is_listed_in_the_language_of_the_call() {
        let wrong = [Some(&ApiError::invalid_field("title", "expected a title")), None];
        let error = ApiError::all(wrong).expect_err("one is wrong").and(ApiError::invalid_field("x", "expected y"));
        assert_eq!(ApiError::all([None, None]), Ok(()));
        for (language, title) in
            [(Language::English, "expected a title"), (Language::Korean, field_text::find("title").korean)]
        {
            let details = error.to_status(language).get_error_details();
            let violations = &details.bad_request().expect("a BadRequest").field_violations;
            let told: Vec<_> = violations.iter().map(|wrong| (wrong.field.as_str(), wrong.reason.as_str())).collect();
            assert_eq!(told, [("title", "INVALID_TITLE"), ("x", "INVALID_VALUE")]);
            let text = violations[0].localized_message.as_ref().expect("a text");
            assert_eq!((text.locale.as_str(), text.message.as_str()), (language.tag(), title));
            assert_eq!(violations[0].description, "expected a title", "developers read English");
        }
    }

    #[test]
    fn a_long_list_of_violations_is_shortened() {
        let wrong: Vec<ApiError> =
            (0..1_000).map(|index| ApiError::invalid_field(format!("ids[{index}]"), "expected an id")).collect();
        let status = ApiError::all(wrong.iter().map(Some)).expect_err("all are wrong").to_status(Language::Korean);
        let details = status.get_error_details();
        let violations = &details.bad_request().expect("a BadRequest").field_violations;
        assert_eq!((violations.len(), violations[7].field.as_str()), (8, "ids[7]"));
        assert!(status.details().len() < 4_000, "{}", status.details().len());
    }

    #[test]
    fn quoted_input_is_shortened() {
        let status: Status = ApiError::invalid_field("x".repeat(9_000), "한".repeat(9_000)).into();
        assert!(status.message().chars().count() < 1_100 && status.details().len() < 6_000, "{status:?}");
        assert!(status.message().ends_with('…'));
    }

    #[test]
    fn retryable_errors_have_a_delay() {
        let status: Status =
            ApiError::new(ErrorReason::ServiceOverloaded).retry_after(Duration::from_millis(250)).into();
        assert_eq!(status.code(), Code::Unavailable);
        let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
        assert_eq!(delay, Some(Duration::from_millis(250)));
        assert_eq!(status.metadata().get(headers::RETRY_PUSHBACK).expect("a pushback"), "250");
        for reason in [ErrorReason::StoreUnavailable, ErrorReason::ShuttingDown, ErrorReason::TooManyRequests] {
            let status: Status = ApiError::new(reason).into();
            assert!(status.get_details_retry_info().is_some(), "{reason:?}");
        }
    }

    #[test]
    fn only_short_delays_become_a_pushback() {
        for (delay, expected) in [(10, "10"), (1_000, "1000"), (1_001, "-1"), (5_000, "-1")] {
            let delay = Duration::from_millis(delay);
            let status: Status = ApiError::new(ErrorReason::TicketServiceOverloaded).retry_after(delay).into();
            assert_eq!(status.metadata().get(headers::RETRY_PUSHBACK).expect("a pushback"), expected, "{delay:?}");
            let info = status.get_details_retry_info().and_then(|info| info.retry_delay);
            assert_eq!(info, Some(delay), "RetryInfo has the whole delay");
        }
        let status: Status = ApiError::new(ErrorReason::ShuttingDown).retry_after(Duration::MAX).into();
        assert_eq!(status.metadata().get(headers::RETRY_PUSHBACK).expect("a pushback"), "-1");
        assert_eq!(pushback(Duration::from_micros(1_200), None), 2, "not before the delay is over");
    }

    #[test]
    fn a_delay_beyond_the_callers_deadline_is_no_pushback() {
        let left = |milliseconds| Some(Duration::from_millis(milliseconds));
        let delay = Duration::from_millis(300);
        assert_eq!(pushback(delay, left(301)), 300);
        for too_short in [left(300), left(100), left(0)] {
            assert_eq!(pushback(delay, too_short), -1, "{too_short:?}");
        }
    }

    #[test]
    fn the_text_for_people_is_in_their_language() {
        let error = ApiError::new(ErrorReason::TicketExpired);
        for language in [Language::English, Language::Korean] {
            let status = error.to_status(language);
            let text = status.get_details_localized_message().expect("a text");
            assert_eq!(text.locale, language.tag());
            assert_eq!(text.message, error_text::text(ErrorReason::TicketExpired, language));
            assert_eq!(status.message(), "This ticket has expired. Choose another ticket.", "developers read English");
        }
    }

    #[test]
    fn every_reason_comes_back_from_its_status() {
        for number in 1..100 {
            let Ok(reason) = ErrorReason::try_from(number) else { continue };
            let status: Status = ApiError::new(reason).into();
            assert_eq!(ApiError::from_status(&status), Some(reason));
            assert_ne!(status.code(), Code::Internal, "{reason:?}");
        }
        assert_eq!(ApiError::from_status(&Status::unavailable("a proxy's")), None);
    }

    #[test]
    fn every_reason_links_to_its_section_of_the_documentation() {
        let text = include_str!("../../../docs/errors.md");
        // The anchor of a heading is its text in lower case.
        let sections: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        for reason in (1..100).filter_map(|number| ErrorReason::try_from(number).ok()) {
            let name = error_text::name(reason);
            assert_eq!(sections.iter().filter(|section| **section == name).count(), 1, "{name}: cargo xtask docs");
            let help = ApiError::new(reason).to_status(Language::English).get_details_help().expect("a Help");
            let [link] = &help.links[..] else { panic!("{name}: {help:?}") };
            assert_eq!(link.url, format!("{ERROR_DOCUMENTATION}#{}", name.to_lowercase()));
        }
    }

    #[test]
    fn internal_details_are_not_sent() {
        let status = ApiError::internal(&std::io::Error::other("the password is 1234"));
        assert_eq!(status.code(), Code::Internal);
        assert!(!status.message().contains("1234"));
        assert!(!String::from_utf8_lossy(status.details()).contains("1234"));
    }
}
