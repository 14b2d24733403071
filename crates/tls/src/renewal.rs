//! Reads files again, and publishes what is made of them when they have changed.

use std::time::Duration;

use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::files::Invalid;

/// Interval of reading. With the time of one read it is well below the 15 s within which a renewal is in force.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Files that are used together.
pub(crate) trait Source: Send + Sync + 'static {
    type Contents: PartialEq + Send + 'static;
    type Made: Clone + Send + Sync + 'static;

    /// Returns the key of the first file, for logs.
    fn key(&self) -> String;
    fn read(&self) -> Result<Self::Contents, Invalid>;
    fn make(&self, contents: &Self::Contents) -> Result<Self::Made, Invalid>;
}

/// Reads the files, and what is made of them; [`Renewal`] publishes changes.
pub(crate) fn open<S: Source>(source: S) -> Result<(watch::Receiver<S::Made>, Renewal<S>), Invalid> {
    let current = source.read()?;
    let (sender, receiver) = watch::channel(source.make(&current)?);
    Ok((receiver, Renewal { source, current, sender, last_problem: None }))
}

/// Follows files.
pub(crate) struct Renewal<S: Source> {
    source: S,
    current: S::Contents,
    sender: watch::Sender<S::Made>,
    /// Logged once.
    last_problem: Option<Invalid>,
}

impl<S: Source> Renewal<S> {
    /// Reads the files again at this interval until `stopping` is cancelled.
    pub(crate) async fn run(mut self, stopping: CancellationToken, every: Duration) {
        while stopping.run_until_cancelled(sleep(every)).await.is_some() {
            // A file may be on a slow volume.
            let refreshing = spawn_blocking(move || {
                self.refresh();
                self
            });
            match refreshing.await {
                Ok(renewal) => self = renewal,
                Err(error) => {
                    tracing::error!(%error, "TLS files are no longer followed");
                    return;
                }
            }
        }
    }

    /// Reads the files once.
    pub(crate) fn refresh(&mut self) {
        let made = match self.source.read() {
            Ok(contents) if contents == self.current => {
                self.last_problem = None;
                return;
            }
            Ok(contents) => self.source.make(&contents).map(|made| (contents, made)),
            Err(invalid) => Err(invalid),
        };
        let key = self.source.key();
        match made {
            Ok((contents, made)) => {
                (self.current, self.last_problem) = (contents, None);
                self.sender.send_replace(made);
                tracing::info!(key, "changed TLS files are in force for new connections");
            }
            Err(invalid) => {
                if self.last_problem.as_ref() != Some(&invalid) {
                    tracing::error!(key, error = %invalid, "changed TLS files are not valid; the previous ones stay");
                }
                self.last_problem = Some(invalid);
            }
        }
    }
}
