//! Latencies and their percentiles. Every value is kept, so nothing is rounded into buckets.

use std::time::Duration;

/// Durations of calls.
#[derive(Debug, Clone, Default)]
pub struct Latencies {
    /// In ascending order.
    sorted: Vec<Duration>,
}

impl FromIterator<Duration> for Latencies {
    fn from_iter<I: IntoIterator<Item = Duration>>(durations: I) -> Self {
        let mut sorted: Vec<Duration> = durations.into_iter().collect();
        sorted.sort_unstable();
        Self { sorted }
    }
}

impl Latencies {
    pub fn count(&self) -> usize {
        self.sorted.len()
    }

    /// Returns the smallest duration that `share` thousandths of the calls did not exceed; `None` without calls.
    pub fn permille(&self, share: usize) -> Option<Duration> {
        let rank = (self.sorted.len() * share).div_ceil(1000).max(1);
        self.sorted.get(rank - 1).copied()
    }

    /// Merges two sets.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        self.sorted.into_iter().chain(other.sorted).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measured_values() {
        let latencies: Latencies = (1..=1000).rev().map(Duration::from_millis).collect();
        let at = |share| latencies.permille(share).unwrap().as_millis();
        assert_eq!([at(0), at(500), at(900), at(990), at(999), at(1000)], [1, 500, 900, 990, 999, 1000]);
    }

    #[test]
    fn few_calls_have_percentiles_and_an_empty_set_has_none() {
        let two: Latencies = [4, 2].map(Duration::from_secs).into_iter().collect();
        assert_eq!(two.permille(500), Some(Duration::from_secs(2)));
        assert_eq!(two.permille(501), Some(Duration::from_secs(4)));
        assert_eq!(two.permille(999), Some(Duration::from_secs(4)));
        assert_eq!(Latencies::default().permille(500), None);
    }

    #[test]
    fn merged_latencies_are_sorted() {
        let seconds = |numbers: [u64; 2]| numbers.map(Duration::from_secs).into_iter().collect::<Latencies>();
        let joined = seconds([1, 4]).and(seconds([2, 3]));
        assert_eq!(joined.count(), 4);
        assert_eq!(joined.permille(500), Some(Duration::from_secs(2)));
    }
}
