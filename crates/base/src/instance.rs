//! The identity of this process, as operators and traces see it.

use std::sync::LazyLock;

use chrono::{DateTime, Utc};

/// This process since its start. Its servers share it.
#[derive(Debug)]
pub struct Instance {
    /// A new UUID with each start.
    pub id: String,
    /// When the process started.
    pub start_time: DateTime<Utc>,
    /// The version of eTicket.
    pub version: &'static str,
}

/// Returns the identity of this process. The first call sets the time of the start.
pub fn instance() -> &'static Instance {
    static INSTANCE: LazyLock<Instance> = LazyLock::new(|| Instance {
        id: uuid::Uuid::new_v4().to_string(),
        start_time: Utc::now(),
        version: env!("CARGO_PKG_VERSION"),
    });
    &INSTANCE
}
