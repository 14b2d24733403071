//! What `doctor` tells a service that it examines.

use std::{path::PathBuf, time::Duration};

use eticket_base::config::{
    Error,
    urls::{self, StorePlace, StoreSupport},
};

use crate::{config::Settings, context::default_store};

/// A service to examine, without anything open.
#[derive(Debug, Clone)]
pub struct Examination {
    /// The name of the service.
    pub name: &'static str,
    /// The keys that every server has.
    pub settings: Settings,
    /// The path of the data folder, which may not exist; `None` for a server without a store.
    pub data: Option<PathBuf>,
    /// How long a server or a disk may take to answer.
    pub patience: Duration,
}

impl Examination {
    /// Returns the store of the service, as [`crate::context::Context::store_place`]; `None` if it has none.
    ///
    /// # Errors
    /// Fails if `store.url` is not a store that `support` allows.
    pub fn store_place(&self, support: StoreSupport) -> Result<Option<StorePlace>, Error> {
        match (&self.settings.store.url, &self.data) {
            (Some(url), _) => urls::store_place(support, url).map(Some),
            (None, Some(data)) => Ok(Some(StorePlace::Sqlite(default_store(data, self.name)))),
            (None, None) => Ok(None),
        }
    }
}
