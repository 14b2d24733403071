//! Counts calls over a sliding window of time. The window consists of slots that expire one by one.

/// The number of slots in a window.
pub(super) const SLOTS: u32 = 10;

#[derive(Debug, Default, Clone, Copy)]
struct Slot {
    tick: u64,
    calls: u32,
    failures: u32,
}

/// The calls of the last [`SLOTS`] ticks.
#[derive(Debug, Default)]
pub(super) struct Window([Slot; SLOTS as usize]);

impl Window {
    pub(super) fn add(&mut self, tick: u64, failed: bool) {
        let slot = &mut self.0[usize::try_from(tick % u64::from(SLOTS)).unwrap_or_default()];
        if slot.tick != tick {
            *slot = Slot { tick, ..Slot::default() };
        }
        slot.calls = slot.calls.saturating_add(1);
        slot.failures = slot.failures.saturating_add(u32::from(failed));
    }

    /// Returns the number of calls and of failed calls in the window that ends at `tick`.
    pub(super) fn totals(&self, tick: u64) -> (u32, u32) {
        let recent = self.0.iter().filter(|slot| tick.saturating_sub(slot.tick) < u64::from(SLOTS));
        recent.fold((0, 0), |(calls, failures), slot| {
            (calls.saturating_add(slot.calls), failures.saturating_add(slot.failures))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_older_than_the_window_expire_slot_by_slot() {
        let mut window = Window::default();
        for tick in 0..10 {
            window.add(tick, tick < 2);
        }
        for (now, expected) in [(9, (10, 2)), (10, (9, 1)), (11, (8, 0)), (18, (1, 0)), (19, (0, 0)), (1_000, (0, 0))] {
            assert_eq!(window.totals(now), expected, "at {now}");
        }
        window.add(10, true);
        assert_eq!(window.totals(10), (10, 2), "the slot was reset before its reuse");
    }
}
