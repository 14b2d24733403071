//! The trace context and correlation id that follow a request through services and events.
//!
//! Callers send both, so both are checked: malformed or too long values are replaced. Each service puts its own parent
//! id into `traceparent`, as W3C Trace Context requires.

use std::fmt::Write;

use eticket_proto::headers;
use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

use super::spans;

/// Longer correlation ids are replaced.
const LONGEST_CORRELATION_ID: usize = 128;

/// W3C trace context and correlation id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// `00-<trace id>-<parent id>-<flags>`.
    pub traceparent: String,
    /// 1 to 128 visible ASCII characters.
    pub correlation_id: String,
    trace_id: u128,
    span_id: u64,
    /// The span that caused this step; 0 if there is none.
    parent_id: u64,
    flags: u8,
    /// The server that this step belongs to; empty if it is not known. Only its spans are exported.
    server: &'static str,
}

impl TraceContext {
    /// Starts a new trace.
    #[must_use]
    pub fn new_root() -> Self {
        Self::from_parts(None, None)
    }

    /// Reads the trace context of a request. Missing or malformed parts are generated.
    #[must_use]
    pub fn from_headers(map: &HeaderMap) -> Self {
        let text = |name| map.get(name).and_then(|value| value.to_str().ok());
        Self::read(text(headers::TRACE_PARENT), text(headers::CORRELATION_ID), true)
    }

    /// Reads a trace context from untrusted text. Missing or malformed parts are generated.
    #[must_use]
    pub fn from_parts(parent: Option<&str>, correlation_id: Option<&str>) -> Self {
        Self::read(parent, correlation_id, false)
    }

    /// `samples`: a trace that begins here may be sampled. Work in the background begins no sampled trace.
    fn read(parent: Option<&str>, correlation_id: Option<&str>, samples: bool) -> Self {
        let parent = parent.and_then(parse);
        let (trace_id, parent_id) =
            parent.map_or_else(|| (random_trace_id(), 0), |parent| (parent.trace_id, parent.parent_id));
        let flags = match parent {
            None if !samples => 0,
            parent => spans::flags(trace_id, parent.map(|parent| parent.flags)),
        };
        let well_formed = |id: &&str| {
            (1..=LONGEST_CORRELATION_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
        };
        let correlation_id = match correlation_id.filter(well_formed) {
            Some(id) => id.to_owned(),
            None => random_uuid().to_string(),
        };
        Self::new(trace_id, parent_id, flags, correlation_id, "")
    }

    fn new(trace_id: u128, parent_id: u64, flags: u8, correlation_id: String, server: &'static str) -> Self {
        // The id must not be zero.
        let span_id = rand::random::<u64>().max(1);
        let traceparent = traceparent(trace_id, span_id, flags);
        Self { traceparent, correlation_id, trace_id, span_id, parent_id, flags, server }
    }

    /// Returns the same step as one of this server.
    #[must_use]
    pub fn at(mut self, server: &'static str) -> Self {
        self.server = server;
        self
    }

    /// Begins a step that this one causes.
    #[must_use]
    pub fn child(&self) -> Self {
        Self::new(self.trace_id, self.span_id, self.flags, self.correlation_id.clone(), self.server)
    }

    /// Whether the spans of this trace are exported.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & 1 == 1
    }

    /// Writes the trace context into the headers of a call.
    pub fn write_to(&self, map: &mut HeaderMap) {
        for (name, value) in
            [(headers::TRACE_PARENT, &self.traceparent), (headers::CORRELATION_ID, &self.correlation_id)]
        {
            if let Ok(value) = HeaderValue::from_str(value) {
                map.insert(HeaderName::from_static(name), value);
            }
        }
    }

    /// The trace id, which all spans of the trace share.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        self.traceparent.get(3..35).unwrap_or_default()
    }

    pub(super) fn trace_number(&self) -> u128 {
        self.trace_id
    }

    pub(super) fn span_id(&self) -> u64 {
        self.span_id
    }

    pub(super) fn parent_id(&self) -> u64 {
        self.parent_id
    }

    pub(super) fn server(&self) -> &'static str {
        self.server
    }
}

/// A new id of a trace. Samplers decide by its last eight bytes, so all of its bits are random: a UUID has fixed ones.
fn random_trace_id() -> u128 {
    // The id must not be zero.
    rand::random::<u128>().max(1)
}

/// A random UUID from the thread-local generator: every call needs one, and the generator of the operating system costs
/// a system call.
fn random_uuid() -> Uuid {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid()
}

fn traceparent(trace_id: u128, span_id: u64, flags: u8) -> String {
    let mut text = String::with_capacity(55);
    // Writing to a `String` cannot fail.
    write!(text, "00-{trace_id:032x}-{span_id:016x}-{flags:02x}").ok();
    text
}

/// The content of a `traceparent`.
#[derive(Debug, Clone, Copy)]
struct Parent {
    trace_id: u128,
    parent_id: u64,
    flags: u8,
}

/// Parses a `traceparent`; later versions are read as version 00.
fn parse(text: &str) -> Option<Parent> {
    let hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut parts = text.split('-');
    let (version, trace_id, parent_id, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lengths = (version.len(), trace_id.len(), parent_id.len(), flags.len());
    if lengths != (2, 32, 16, 2) || ![version, trace_id, parent_id, flags].into_iter().all(hex) {
        return None;
    }
    if version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let trace_id = u128::from_str_radix(trace_id, 16).ok().filter(|id| *id != 0)?;
    let parent_id = u64::from_str_radix(parent_id, 16).ok().filter(|id| *id != 0)?;
    Some(Parent { trace_id, parent_id, flags: u8::from_str_radix(flags, 16).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_trace_continues_under_a_new_parent_id() {
        let context = TraceContext::from_parts(Some(PARENT), Some("abc-1"));
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(context.traceparent.ends_with("-01"));
        assert_ne!(context.traceparent, PARENT);
        assert_eq!(context.correlation_id, "abc-1");
        let mut map = HeaderMap::new();
        context.write_to(&mut map);
        assert_eq!(TraceContext::from_headers(&map).trace_id(), context.trace_id());
        assert_eq!(map[headers::CORRELATION_ID], "abc-1");
    }

    #[test]
    fn a_step_knows_the_step_that_caused_it() {
        let first = TraceContext::from_parts(Some(PARENT), None).at("ticket");
        assert_eq!((first.parent_id(), first.is_sampled()), (0x00f0_67aa_0ba9_02b7, true));
        let second = first.child();
        assert_eq!((second.parent_id(), second.trace_id()), (first.span_id(), first.trace_id()));
        assert_eq!((second.server(), &second.correlation_id), ("ticket", &first.correlation_id));
        assert!(second.traceparent.contains(&format!("-{:016x}-01", second.span_id())));
        assert_eq!(TraceContext::new_root().parent_id(), 0);
    }

    #[test]
    fn every_bit_of_a_new_trace_id_is_random() {
        let ids: Vec<u128> = (0..1_000).map(|_| TraceContext::new_root().trace_number()).collect();
        assert_eq!(ids.iter().fold(0, |seen, id| seen | id), u128::MAX, "bits that are 1 in an id");
        assert_eq!(ids.iter().fold(u128::MAX, |seen, id| seen & id), 0, "bits that are 1 in all ids");
    }

    #[test]
    fn malformed_parts_are_replaced() {
        let zero = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        let upper = PARENT.to_uppercase();
        let longer = format!("{PARENT}-more");
        for parent in ["", "nonsense", zero, &upper, &longer, &PARENT.replace("00-4", "ff-4")] {
            let context = TraceContext::from_parts(Some(parent), Some(""));
            assert!(parse(&context.traceparent).is_some(), "{parent}");
            assert_ne!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736", "{parent}");
            assert!(!context.correlation_id.is_empty());
        }
        for id in ["a b", "line\nbreak", &"x".repeat(129)] {
            assert_ne!(TraceContext::from_parts(None, Some(id)).correlation_id, id);
        }
    }
}
