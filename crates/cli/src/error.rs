//! Failures of commands: the text on standard error, and the exit code.

use std::{env, io, process::ExitCode, time::Duration};

use eticket_base::{
    exit::{FAILED, INTERRUPTED},
    telemetry,
};
use eticket_proto::{error::ErrorReason, error_text, error_text::Language, rpc};
use prost::Message;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::{output::Style, time::show_duration};

const REFUSED: u8 = 1;
const USAGE: u8 = 2;
const UNAVAILABLE: u8 = 69;
const CONFIG: u8 = 78;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A text for people, with the exit code.
    #[error("{}", .0.what)]
    Report(Box<Report>),
    /// The server's status.
    #[error("{}", .0.message())]
    Status(Box<Status>),
    /// Some items of several failed; each was reported where it happened.
    #[error("not everything was done")]
    Partial { code: u8 },
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// Standard output cannot be written.
    #[error("standard output cannot be written: {0}")]
    Output(#[from] io::Error),
}

/// A failure in words.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    code: u8,
    what: String,
    /// Labels and texts, a line each.
    details: Vec<(String, String)>,
}

impl Error {
    pub(crate) fn new(code: u8, what: impl Into<String>) -> Self {
        Self::Report(Box::new(Report { code, what: what.into(), details: Vec::new() }))
    }

    /// The arguments, or a file that they name, are invalid.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(USAGE, what)
    }

    /// The address, the token or a certificate is invalid.
    pub(crate) fn config(what: impl Into<String>) -> Self {
        Self::new(CONFIG, what)
    }

    /// No server answers.
    pub(crate) fn unavailable(what: impl Into<String>) -> Self {
        Self::new(UNAVAILABLE, what)
    }

    /// The command was carried out and found something to complain about.
    pub(crate) fn refused(what: impl Into<String>) -> Self {
        Self::new(REFUSED, what)
    }

    pub(crate) fn internal(what: impl ToString) -> Self {
        Self::new(FAILED, what.to_string())
    }

    /// Adds a line to the report.
    pub(crate) fn with(self, label: &str, text: impl Into<String>) -> Self {
        let mut report = self.into_report();
        report.details.push((label.to_owned(), text.into()));
        Self::Report(Box::new(report))
    }

    /// After a failure that leaves open whether the command took effect: how to repeat it safely.
    pub(crate) fn of_command(self, request_id: Uuid) -> Self {
        match self.code() {
            UNAVAILABLE | FAILED => {
                let again = format!("add --request-id {request_id}: the command cannot take effect twice");
                self.with("repeat", again)
            }
            _ => self,
        }
    }

    /// The reason of the contract, such as `TICKET_EXPIRED`; for an error without one, its gRPC code.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Status(status) => reason(status).unwrap_or_else(|| code_name(status.code())),
            _ => String::new(),
        }
    }

    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Status(status) if status.code() == Code::NotFound)
    }

    /// The text alone, as in a list of results.
    pub(crate) fn text(&self) -> String {
        let report = self.clone_report();
        let fields = report.details.iter().filter(|(label, _)| label.starts_with(FIELD));
        let fields = fields.map(|(label, text)| format!("{}: {text}", label.trim_start_matches(FIELD)));
        let fields: Vec<_> = fields.collect();
        if fields.is_empty() { report.what } else { fields.join("; ") }
    }

    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Report(report) => report.code,
            Self::Status(status) => code_of(status),
            Self::Partial { code } => *code,
            Self::Interrupted => INTERRUPTED,
            // A reader that closes the pipe, such as `head`, has read enough.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Output(_) => FAILED,
        }
    }

    fn into_report(self) -> Report {
        match self {
            Self::Report(report) => *report,
            other => other.clone_report(),
        }
    }

    fn clone_report(&self) -> Report {
        match self {
            Self::Report(report) => (**report).clone(),
            Self::Status(status) => report_of(status),
            other => Report { code: other.code(), what: other.to_string(), details: Vec::new() },
        }
    }

    /// Writes the report to standard error, and returns the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        let code = self.code();
        if code != 0 && !matches!(self, Self::Partial { .. } | Self::Interrupted) {
            let style = Style::of_stderr();
            telemetry::say(&self.clone_report().render(&style));
        }
        ExitCode::from(code)
    }
}

#[cfg(test)]
impl Error {
    /// The text that [`Self::report`] writes, without colours.
    pub(crate) fn report_text(&self) -> String {
        self.clone_report().render(&Style::PLAIN)
    }
}

/// Marks the label of a field of the request.
const FIELD: char = '\u{1}';

impl Report {
    fn render(&self, style: &Style) -> String {
        let mut text = format!("{} {}\n", style.error("error:"), printable(&self.what));
        let label = |label: &str| label.trim_start_matches(FIELD).to_owned();
        let width = self.details.iter().map(|(name, _)| label(name).len()).max().unwrap_or_default();
        for (name, detail) in &self.details {
            let name = format!("{:width$}", label(name));
            text += &format!("  {}  {}\n", style.dim(&name), printable(detail));
        }
        text
    }
}

/// A text of a server without control characters, which a terminal would obey.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

fn code_of(status: &Status) -> u8 {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::ResourceExhausted => UNAVAILABLE,
        Code::Internal | Code::Unknown | Code::DataLoss => FAILED,
        _ => REFUSED,
    }
}

fn code_name(code: Code) -> String {
    format!("{code:?}")
}

fn reason(status: &Status) -> Option<String> {
    details::<rpc::ErrorInfo>(status, "ErrorInfo").next().map(|info| info.reason)
}

/// The details of one type. A status whose details are damaged has none.
fn details<T: Message + Default>(status: &Status, name: &str) -> impl Iterator<Item = T> {
    let all = tonic_types::pb::Status::decode(status.details()).unwrap_or_default().details;
    let suffix = format!("/google.rpc.{name}");
    all.into_iter().filter(move |any| any.type_url.ends_with(&suffix)).filter_map(|any| T::decode(&*any.value).ok())
}

fn report_of(status: &Status) -> Report {
    let language = language();
    let localized = details::<rpc::LocalizedMessage>(status, "LocalizedMessage").next();
    let what = localized.map(|text| text.message).filter(|text| !text.is_empty());
    let what = what.unwrap_or_else(|| match status.message() {
        "" => error_text::text(ErrorReason::Unspecified, language).to_owned(),
        message => message.to_owned(),
    });
    let mut lines = Vec::new();
    for violation in details::<rpc::BadRequest>(status, "BadRequest").flat_map(|wrong| wrong.field_violations) {
        let localized = violation.localized_message.map(|text| text.message).filter(|text| !text.is_empty());
        let field = match flag(&violation.field) {
            Some(flag) => format!("{FIELD}{} ({flag})", violation.field),
            None => format!("{FIELD}{}", violation.field),
        };
        lines.push((field, localized.unwrap_or(violation.description)));
    }
    match details::<rpc::ErrorInfo>(status, "ErrorInfo").next() {
        Some(info) => {
            lines.push(("reason".to_owned(), info.reason));
            let mut metadata: Vec<_> = info.metadata.into_iter().filter(|(_, value)| !value.is_empty()).collect();
            metadata.sort();
            lines.extend(metadata);
        }
        None => lines.push(("code".to_owned(), code_name(status.code()))),
    }
    if let Some(delay) = details::<rpc::RetryInfo>(status, "RetryInfo").find_map(|info| info.retry_delay) {
        let delay = Duration::try_from(delay).unwrap_or_default();
        lines.push(("retry".to_owned(), format!("after {}", show_duration(delay))));
    }
    Report { code: code_of(status), what, details: lines }
}

/// The flag that sets a field of a request, if its name does not say so.
fn flag(field: &str) -> Option<&'static str> {
    Some(match field {
        "user_id" | "filter_user_id" => "--user",
        "user_grade" => "--grade",
        "filter_ticket_id" => "--ticket",
        "title" => "--title",
        "start_time" => "--start",
        "end_time" => "--end",
        "start_time_from" => "--from",
        "start_time_to" => "--to",
        "order_by" => "--order-by",
        _ => return None,
    })
}

/// The language in which servers shall explain errors: that of the environment's messages.
pub(crate) fn language() -> Language {
    let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_MESSAGES", "LANG"].into_iter().find_map(set).unwrap_or_default();
    language_of(&locale)
}

fn language_of(locale: &str) -> Language {
    // `ko_KR.UTF-8` is `ko-KR` in HTTP.
    let tag = locale.split(['.', '@']).next().unwrap_or_default().replace('_', "-");
    Language::negotiate(&tag)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;

    #[test]
    fn the_report_says_what_to_do_and_why() {
        let mut details = ErrorDetails::new();
        details.set_error_info("TICKET_EXPIRED", "eticket", HashMap::from([("ticket_id".to_owned(), "5".to_owned())]));
        details.set_localized_message("en", "This ticket has expired. Choose another ticket.");
        let error: Error =
            Error::Status(Box::new(Status::with_error_details(Code::FailedPrecondition, "expired", details)));
        assert_eq!(error.code(), 1);
        assert_eq!(error.reason(), "TICKET_EXPIRED");
        assert_eq!(
            error.report_text(),
            "error: This ticket has expired. Choose another ticket.\n  reason     TICKET_EXPIRED\n  ticket_id  5\n"
        );
    }

    #[test]
    fn fields_and_the_delay_of_a_retry_are_named() {
        let mut details = ErrorDetails::new();
        details.add_bad_request_violation("title", "expected 1 to 200 characters");
        let error = Error::Status(Box::new(Status::with_error_details(Code::InvalidArgument, "wrong", details)));
        assert!(
            error.report_text().contains("title (--title)  expected 1 to 200 characters"),
            "{}",
            error.report_text()
        );
        assert_eq!(error.text(), "title (--title): expected 1 to 200 characters");

        let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(3)));
        let error = Error::Status(Box::new(Status::with_error_details(Code::Unavailable, "busy", details)));
        assert_eq!(error.code(), 69);
        assert!(error.report_text().contains("retry  after 3 s"), "{}", error.report_text());
        let id = Uuid::from_u128(7);
        assert!(error.of_command(id).report_text().contains(&format!("--request-id {id}")));
    }

    #[test]
    fn a_text_of_a_server_cannot_steer_the_terminal() {
        let error = Error::Status(Box::new(Status::not_found("\u{1b}[2Jgone")));
        assert!(!error.report_text().contains('\u{1b}'), "{:?}", error.report_text());
    }

    #[test]
    fn codes_follow_the_class_of_the_error() {
        let code = |code: Code| Error::Status(Box::new(Status::new(code, ""))).code();
        for refusal in [Code::NotFound, Code::InvalidArgument, Code::PermissionDenied, Code::Aborted] {
            assert_eq!(code(refusal), 1, "{refusal:?}");
        }
        for unavailable in [Code::Unavailable, Code::DeadlineExceeded, Code::ResourceExhausted] {
            assert_eq!(code(unavailable), 69, "{unavailable:?}");
        }
        assert_eq!(code(Code::Internal), 70);
        assert_eq!(Error::usage("").code(), 2);
        assert_eq!(Error::config("").code(), 78);
        assert_eq!(Error::Output(io::ErrorKind::BrokenPipe.into()).code(), 0, "head has read enough");
    }

    #[test]
    fn the_language_is_that_of_the_environment() {
        for (locale, language) in [
            ("ko_KR.UTF-8", Language::Korean),
            ("ko", Language::Korean),
            ("en_US.UTF-8", Language::English),
            ("C", Language::English),
            ("", Language::English),
            ("de_DE@euro", Language::English),
        ] {
            assert_eq!(language_of(locale), language, "{locale}");
        }
    }
}
