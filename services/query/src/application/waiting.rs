//! Waits of calls for rows. A waiting call holds a permit and a registration, but no connection of the store.

use std::{collections::BTreeMap, time::Duration};

use eticket_proto::ids::TicketId;
use eticket_store as store;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    Views,
    changes::{Condition, Trouble},
    completeness::OWNERS,
};
use crate::domain::{Lacking, View};

/// When a wait must end, and how long it may then look for the cause.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    pub until: Instant,
    pub diagnosis: Duration,
}

/// Why the view is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The events have not arrived yet: the view, or the service that must react, is slow.
    Late,
    /// The stream holds events that the bus does not deliver.
    Stalled,
    /// The view could not apply an event of this ticket.
    Parked,
    /// The bus does not respond.
    BusUnavailable,
    /// The view is being built, for the first time or again.
    Rebuilding,
}

/// What a wait has not reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    pub ticket: TicketId,
    /// The parts that are behind; empty if they have arrived after the end of the wait, or if the store does not
    /// respond.
    pub lacking: Vec<Lacking>,
    pub cause: Cause,
}

/// Why a wait ended early.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    #[error("the view has not caught up in time")]
    NotCaughtUp(Box<Behind>),
    #[error("the service is shutting down")]
    ShuttingDown,
    #[error("too many waiting calls")]
    TooMany,
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Views {
    /// Returns a row once it fulfils the condition. The wait ends in time, or when the server drains.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub async fn view_once(&self, id: &TicketId, condition: &Condition, patience: Patience) -> Result<View, WaitError> {
        // Usually the condition already holds; this path costs one read and no registration.
        if let Some(view) = self.look(id, condition).await? {
            return Ok(view);
        }
        let _permit = self.waits.try_acquire().map_err(|_| WaitError::TooMany)?;
        let _counted = Counted::new();
        self.in_time(id, condition, patience).await
    }

    /// Waits until each row fulfils its condition. A condition with tokens stays fulfilled, so the rows are waited for
    /// one after another. The wait ends in time, or when the server drains.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub async fn caught_up_with(
        &self,
        conditions: &BTreeMap<TicketId, Condition>,
        patience: Patience,
    ) -> Result<(), WaitError> {
        if conditions.is_empty() {
            return Ok(());
        }
        let ids: Vec<TicketId> = conditions.keys().cloned().collect();
        let views: BTreeMap<TicketId, View> = self.store.views_of(&ids).await?.into_iter().collect();
        let holds = |id: &TicketId, condition: &Condition| views.get(id).is_some_and(|view| condition.holds(view));
        let behind: Vec<_> = conditions.iter().filter(|(id, condition)| !holds(id, condition)).collect();
        if behind.is_empty() {
            return Ok(());
        }
        // One permit for the whole call.
        let _permit = self.waits.try_acquire().map_err(|_| WaitError::TooMany)?;
        let _counted = Counted::new();
        for (id, condition) in behind {
            self.in_time(id, condition, patience).await?;
        }
        Ok(())
    }

    async fn in_time(&self, id: &TicketId, condition: &Condition, patience: Patience) -> Result<View, WaitError> {
        let waited = tokio::select! {
            waited = timeout_at(patience.until, self.wait_for(id, condition)) => waited,
            () = self.draining.cancelled() => return Err(WaitError::ShuttingDown),
        };
        match waited {
            Ok(outcome) => outcome,
            Err(_) => Err(WaitError::NotCaughtUp(Box::new(self.behind(id, condition, patience.diagnosis).await))),
        }
    }

    async fn wait_for(&self, id: &TicketId, condition: &Condition) -> Result<View, WaitError> {
        loop {
            let answer = self.changes.answer_once(id, condition.clone());
            // Read again after the registration: a commit before the registration does not wake this call.
            if let Some(view) = self.look(id, condition).await? {
                return Ok(view);
            }
            // `None` means that all rows were exchanged: read again.
            if let Some(view) = answer.await {
                return Ok(view);
            }
        }
    }

    async fn look(&self, id: &TicketId, condition: &Condition) -> Result<Option<View>, store::Error> {
        Ok(self.store.view(id).await?.filter(|view| condition.holds(view)))
    }

    /// Describes what is missing, for a call whose time has ended. A store or bus that does not respond within `time`
    /// is ignored.
    async fn behind(&self, id: &TicketId, condition: &Condition, time: Duration) -> Behind {
        let read = self.store.views_of(std::slice::from_ref(id));
        let (view, cause) = tokio::join!(timeout(time, read), timeout(time, self.cause(id)));
        let lacking = match view {
            Ok(Ok(rows)) => condition.lacking(&rows.into_iter().next().map(|(_, view)| view).unwrap_or_default()),
            Ok(Err(_)) | Err(_) => Vec::new(),
        };
        Behind { ticket: id.clone(), lacking, cause: cause.unwrap_or(Cause::Late) }
    }

    async fn cause(&self, id: &TicketId) -> Cause {
        if self.changes.is_building() {
            return Cause::Rebuilding;
        }
        match self.changes.trouble() {
            Some(Trouble::Bus) => return Cause::BusUnavailable,
            Some(Trouble::Stalled) => return Cause::Stalled,
            None => {}
        }
        // The reader notices an outage with a delay.
        if self.bus.state().await.is_err() {
            return Cause::BusUnavailable;
        }
        // Event ids begin with the name of the owner.
        for owner in OWNERS {
            let prefix = format!("{owner}/{id}/");
            let first = self.store.parked(&prefix, 1).await.unwrap_or_default().into_iter().next();
            if first.is_some_and(|parked| parked.event_id.starts_with(&prefix)) {
                return Cause::Parked;
            }
        }
        Cause::Late
    }
}

/// Counts a waiting call in a gauge until it is dropped, also if the call is cancelled.
struct Counted;

impl Counted {
    fn new() -> Self {
        metrics::gauge!("eticket_view_waits").increment(1);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!("eticket_view_waits").decrement(1);
    }
}
