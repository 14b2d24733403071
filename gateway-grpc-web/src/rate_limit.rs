//! Limits the rate of each caller: by the subject of its token, without a token by its address.
//!
//! The limits are those of one gateway process: with several replicas a caller gets the sum. Health and reflection are
//! not limited, so that a caller at its limit does not make the gateway look unhealthy.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use eticket_proto::error::ErrorReason;
use eticket_rpc_server::{auth::Caller, config::LimitsConfig, error::ApiError, server::Peer};
use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::NoOpMiddleware,
    state::keyed::DefaultKeyedStateStore,
};
use http::Extensions;

/// The most callers that are remembered, each in about 50 bytes.
const MOST_CALLERS: usize = 100_000;
/// The number of callers is looked at once in so many calls, because counting them takes locks.
const LOOK: u32 = 1_024;

/// A caller, as a hash with a random key: fixed in size, and no name of a user stays in memory.
type Key = u64;
type Buckets<C> = RateLimiter<Key, DefaultKeyedStateStore<Key>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// The token buckets of all callers.
pub(crate) struct RateLimit<C: Clock = DefaultClock> {
    quota: Quota,
    clock: C,
    buckets: RwLock<Buckets<C>>,
    hash: RandomState,
    calls: AtomicU32,
}

impl RateLimit {
    /// Returns `None` if the configuration sets no limit.
    pub(crate) fn from_config(limits: &LimitsConfig) -> Option<Self> {
        let rate = limits.requests_per_second?;
        Some(Self::new(rate, limits.burst.unwrap_or(rate), DefaultClock::default()))
    }
}

impl<C: Clock + Clone> RateLimit<C> {
    fn new(requests_per_second: NonZeroU32, burst: NonZeroU32, clock: C) -> Self {
        let quota = Quota::per_second(requests_per_second).allow_burst(burst);
        let buckets = RwLock::new(empty(quota, &clock));
        Self { quota, clock, buckets, hash: RandomState::new(), calls: AtomicU32::new(0) }
    }

    /// Counts one call of the caller that the server's layers have left in the extensions.
    ///
    /// # Errors
    /// `TOO_MANY_REQUESTS` with the time after which a retry succeeds.
    pub(crate) fn check(&self, extensions: &Extensions) -> Result<(), ApiError> {
        self.check_key(self.key(extensions), MOST_CALLERS)
    }

    fn key(&self, extensions: &Extensions) -> Key {
        match extensions.get::<Caller>().and_then(Caller::subject) {
            Some(subject) => self.hash.hash_one(("subject", subject)),
            None => self.hash.hash_one(("address", extensions.get().map(|Peer(address)| network(*address)))),
        }
    }

    fn check_key(&self, key: Key, most_callers: usize) -> Result<(), ApiError> {
        if self.calls.fetch_add(1, Ordering::Relaxed) % LOOK == LOOK - 1 {
            self.forget(most_callers);
        }
        let buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner);
        buckets.check_key(&key).map_err(|refused| {
            metrics::counter!("eticket_gateway_rate_limited_total").increment(1);
            too_many(refused.wait_time_from(self.clock.now()))
        })
    }

    /// Forgets callers whose bucket is full again. If too many are left, forgets all: each then has a full bucket,
    /// which is better than refusing callers who have done nothing.
    fn forget(&self, most_callers: usize) {
        let buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() <= most_callers {
            return;
        }
        buckets.retain_recent();
        let left = buckets.len();
        drop(buckets);
        if left > most_callers {
            tracing::warn!(callers = left, "too many callers at a time: their rates are counted anew");
            *self.buckets.write().unwrap_or_else(PoisonError::into_inner) = empty(self.quota, &self.clock);
        }
    }
}

fn empty<C: Clock + Clone>(quota: Quota, clock: &C) -> Buckets<C> {
    RateLimiter::new(quota, DefaultKeyedStateStore::default(), clock.clone())
}

/// The part of an address that identifies a caller: a host with IPv6 usually has all addresses of a /64 network.
fn network(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

fn too_many(wait: Duration) -> ApiError {
    // Rounded up to a millisecond: a retry that comes too early is refused again.
    let wait = Duration::from_millis(u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX));
    ApiError::new(ErrorReason::TooManyRequests).retry_after(wait)
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::SystemTime};

    use eticket_auth::Claims;
    use eticket_base::credentials::Credentials;
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn two_a_second(burst: u32) -> (RateLimit<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let [rate, burst] = [2, burst].map(|number| NonZeroU32::new(number).unwrap());
        (RateLimit::new(rate, burst, clock.clone()), clock)
    }

    fn from(address: &str, subject: Option<&str>) -> Extensions {
        let mut extensions = Extensions::new();
        extensions.insert(Peer(address.parse().unwrap()));
        extensions.insert(subject.map_or_else(Caller::admin, |subject| {
            let claims = Arc::new(Claims::new(subject, &[], None, SystemTime::now()));
            Caller::with_token(claims, Credentials::new(String::new()))
        }));
        extensions
    }

    #[test]
    fn a_caller_may_make_its_burst_and_then_its_rate() {
        let (limit, clock) = two_a_second(3);
        let caller = from("127.0.0.1", None);
        for call in 0..3 {
            assert_eq!(limit.check(&caller), Ok(()), "call {call}");
        }
        let expected = ApiError::new(ErrorReason::TooManyRequests).retry_after(Duration::from_millis(500));
        assert_eq!(limit.check(&caller), Err(expected));
        clock.advance(Duration::from_millis(500));
        assert_eq!(limit.check(&caller), Ok(()));
        assert!(limit.check(&caller).is_err(), "one call in half a second");
    }

    #[test]
    fn a_caller_is_its_subject_or_else_its_network() {
        let (limit, _) = two_a_second(2);
        let key = |address, subject| limit.key(&from(address, subject));
        assert_eq!(key("10.0.0.1", Some("kim")), key("10.0.0.2", Some("kim")));
        assert_ne!(key("10.0.0.1", Some("kim")), key("10.0.0.1", Some("lee")));
        assert_ne!(key("10.0.0.1", None), key("10.0.0.1", Some("kim")));
        assert_ne!(key("10.0.0.1", None), key("10.0.0.2", None));
        assert_eq!(key("2001:db8::1", None), key("2001:db8::ffff:2", None));
        assert_ne!(key("2001:db8::1", None), key("2001:db8:0:1::1", None));
    }

    #[test]
    fn the_number_of_remembered_callers_is_bounded() {
        const MOST: usize = 100;
        let (limit, clock) = two_a_second(1);
        let remembered = || limit.buckets.read().unwrap().len();
        let calls = |first: Key| (first..first + Key::from(LOOK)).for_each(|key| limit.check_key(key, MOST).unwrap());
        calls(0);
        assert!(remembered() <= LOOK as usize);
        clock.advance(Duration::from_secs(1));
        calls(10_000);
        assert!(remembered() <= LOOK as usize, "callers with a full bucket are forgotten");
        calls(20_000);
        assert!(remembered() <= LOOK as usize, "all are forgotten if too many are left");
    }
}
