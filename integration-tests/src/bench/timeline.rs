//! How far the view is behind while a load runs, sampled a few times a second.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, task::JoinHandle, time::MissedTickBehavior};

use super::counters::Counters;

const INTERVAL: Duration = Duration::from_millis(250);
const OWNERS: [&str; 3] = ["reservation", "ticket", "pricing"];

/// The state at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Since the start of the load.
    pub at: Duration,
    /// The number of responses so far.
    pub responses: usize,
    /// Events that were published and that the slowest replica of query has not applied.
    pub behind: f64,
}

/// Samples until it is stopped.
pub(super) struct Timeline {
    /// Counts the responses.
    pub(super) responses: Arc<AtomicUsize>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Vec<Sample>>,
}

impl Timeline {
    /// Begins to sample the processes with these admin addresses.
    pub(super) async fn start(admins: Vec<String>) -> Self {
        let responses = Arc::new(AtomicUsize::new(0));
        let (stop, mut stopped) = oneshot::channel();
        let (first, counted, begun) = (Counts::read(&admins).await, responses.clone(), Instant::now());
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut samples = Vec::new();
            loop {
                tokio::select! {
                    biased;
                    _ = &mut stopped => return samples,
                    _ = ticks.tick() => {}
                }
                let behind = Counts::read(&admins).await.behind(&first);
                samples.push(Sample { at: begun.elapsed(), responses: counted.load(Ordering::Relaxed), behind });
            }
        });
        Self { responses, stop, task }
    }

    pub(super) async fn stop(self) -> Vec<Sample> {
        // The task may have ended by a panic, which is reported here.
        let _ = self.stop.send(());
        self.task.await.expect("the samples were taken")
    }
}

/// Events published by all owners, and applied by each replica of query.
struct Counts {
    sent: f64,
    applied: Vec<f64>,
}

impl Counts {
    async fn read(admins: &[String]) -> Self {
        let mut counts = Self { sent: 0.0, applied: Vec::new() };
        for admin in admins {
            let counters = Counters::at(admin).await;
            let sent = OWNERS.map(|owner| counters.get(&format!("eticket_outbox_sent_total{{service=\"{owner}\"}}")));
            counts.sent += sent.into_iter().flatten().sum::<f64>();
            counts.applied.extend(counters.get("eticket_events_taken_in_total{consumer=\"query\"}"));
        }
        counts
    }

    fn behind(&self, first: &Self) -> f64 {
        let slowest =
            self.applied.iter().zip(&first.applied).map(|(now, before)| now - before).fold(f64::MAX, f64::min);
        // The processes are read one after another, so a replica can have applied what was sent since.
        (self.sent - first.sent - slowest).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_replica_counts() {
        let first = Counts { sent: 10.0, applied: vec![100.0, 5.0] };
        let later = Counts { sent: 40.0, applied: vec![128.0, 20.0] };
        assert!((later.behind(&first) - 15.0).abs() < 1e-9);
        let ahead = Counts { sent: 11.0, applied: vec![105.0, 10.0] };
        assert!(ahead.behind(&first).abs() < 1e-9);
    }
}
