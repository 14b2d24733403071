//! The only source of randomness, time and order in a simulation, and its log.

use std::{
    collections::BTreeMap,
    fmt,
    ops::RangeInclusive,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use eticket_base::clock::Clock;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::Instant;
use uuid::Uuid;

use super::Report;

struct Inner {
    chance: Mutex<StdRng>,
    log: Mutex<Vec<String>>,
    failure: Mutex<Option<String>>,
    coverage: Mutex<BTreeMap<&'static str, u64>>,
    start: Instant,
    /// Set when the faults of network and stores have ceased.
    calm: AtomicBool,
    /// The bus does not respond.
    bus_is_out: AtomicBool,
}

/// The scheduler; see the module documentation. Clones share state.
#[derive(Clone)]
pub(super) struct Scheduler(Arc<Inner>);

/// Locks a mutex that only one thread uses.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic ends the simulation anyway.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A Wednesday noon in Seoul.
const BEGINNING: i64 = 1_830_049_200;

impl Scheduler {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Inner {
            chance: Mutex::new(StdRng::seed_from_u64(seed)),
            log: Mutex::default(),
            failure: Mutex::default(),
            coverage: Mutex::default(),
            start: Instant::now(),
            calm: AtomicBool::new(false),
            bus_is_out: AtomicBool::new(false),
        }))
    }

    /// Returns a uniformly distributed number of the range.
    pub(super) fn number(&self, range: RangeInclusive<u64>) -> u64 {
        locked(&self.0.chance).random_range(range)
    }

    /// Returns true with this probability in thousandths.
    pub(super) fn chance(&self, in_a_thousand: u64) -> bool {
        self.number(1..=1_000) <= in_a_thousand
    }

    /// Like [`Self::chance`], but always false once faults have ceased.
    pub(super) fn fault(&self, in_a_thousand: u64) -> bool {
        self.chance(in_a_thousand) && !self.is_calm()
    }

    pub(super) fn pick<'a, T>(&self, among: &'a [T]) -> Option<&'a T> {
        let last = among.len().checked_sub(1)?;
        among.get(self.number(0..=last as u64) as usize)
    }

    pub(super) fn shuffle<T>(&self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.number(0..=last as u64) as usize);
        }
    }

    /// Returns a new id; ids are ordered by the calls.
    pub(super) fn uuid(&self) -> Uuid {
        let elapsed = self.0.start.elapsed().as_millis();
        Uuid::from_u128((elapsed << 80) | u128::from(locked(&self.0.chance).random::<u64>()))
    }

    /// Yields to other tasks: usually for about one step, sometimes for much longer.
    pub(super) async fn pause(&self) {
        let millis = match self.number(0..=99) {
            0..=59 => 0,
            60..=94 => self.number(1..=3),
            95..=98 => self.number(4..=60),
            _ => self.number(60..=500),
        };
        match millis {
            0 => tokio::task::yield_now().await,
            millis => tokio::time::sleep(Duration::from_millis(millis)).await,
        }
    }

    pub(super) async fn sleep(&self, millis: RangeInclusive<u64>) {
        tokio::time::sleep(Duration::from_millis(self.number(millis))).await;
    }

    pub(super) fn cease(&self) {
        self.0.calm.store(true, Ordering::Relaxed);
        self.set_bus_out(false);
        self.log("scheduler", "faults cease");
    }

    pub(super) fn is_calm(&self) -> bool {
        self.0.calm.load(Ordering::Relaxed)
    }

    pub(super) fn set_bus_out(&self, out: bool) {
        self.0.bus_is_out.store(out, Ordering::Relaxed);
    }

    pub(super) fn bus_is_out(&self) -> bool {
        self.0.bus_is_out.load(Ordering::Relaxed)
    }

    pub(super) fn log(&self, who: &str, what: &str) {
        let millis = self.0.start.elapsed().as_millis();
        locked(&self.0.log).push(format!("{millis:>7} {who}: {what}"));
    }

    pub(super) fn count(&self, what: &'static str) {
        *locked(&self.0.coverage).entry(what).or_default() += 1;
    }

    /// Reports a failure; the first one counts.
    pub(super) fn fail(&self, what: impl Into<String>) {
        let what = what.into();
        self.log("FAILURE", &what);
        locked(&self.0.failure).get_or_insert(what);
    }

    pub(super) fn has_failed(&self) -> bool {
        locked(&self.0.failure).is_some()
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        let elapsed = TimeDelta::from_std(self.0.start.elapsed()).unwrap_or(TimeDelta::MAX);
        DateTime::from_timestamp(BEGINNING, 0).unwrap_or_default() + elapsed
    }

    pub(super) fn report(&self) -> Report {
        Report {
            log: std::mem::take(&mut locked(&self.0.log)),
            failure: locked(&self.0.failure).clone(),
            coverage: locked(&self.0.coverage).clone(),
        }
    }
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Scheduler")
    }
}

/// All processes have the same clock.
impl Clock for Scheduler {
    fn now(&self) -> DateTime<Utc> {
        Scheduler::now(self)
    }
}
