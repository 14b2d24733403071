//! The language of a call, for the texts of its errors.
//!
//! It travels as a task-local and not as an argument, because errors are made wherever a call may fail and nothing there
//! should have to carry it. A task that is spawned for a call answers by value; its error becomes a status in the call's own task.

use eticket_proto::error_text::Language;

tokio::task_local! {
    pub(crate) static LANGUAGE: Language;
}

/// The language of the call that this task serves; English outside of calls.
#[must_use]
pub fn current() -> Language {
    LANGUAGE.try_with(|language| *language).unwrap_or_default()
}
