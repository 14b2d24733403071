//! What is told of a request besides its answer: the trace that it belongs to.

pub mod trace_context;

pub use trace_context::TraceContext;
