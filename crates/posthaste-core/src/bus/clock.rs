//! The wall clock of a bus: one reading of a clock for all that a message needs of it.
//!
//! The time of day is a distance to an instant, which is compared with the system's clock now and
//! then. An instant is what deadlines need too, and is read once for both.

use std::sync::atomic::{AtomicI64, Ordering};

use tokio::time::Instant;

use crate::Timestamp;

/// After so many microseconds the distance is looked at anew: a clock that was set, or a machine
/// that was suspended, shows by then. At a rate where readings cost something, that is rare.
const COMPARE_AFTER: i64 = 1_000;

#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    /// The time of day at the start, by the last comparison.
    origin: AtomicI64,
    /// When that was, in microseconds since the start.
    compared: AtomicI64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let start = Instant::now();
        let origin = AtomicI64::new(Timestamp::now().as_micros());
        Self { start, origin, compared: AtomicI64::new(0) }
    }

    /// The time of day at an instant that is now, or was a moment ago.
    pub(crate) fn at(&self, now: Instant) -> Timestamp {
        let since = now.saturating_duration_since(self.start).as_micros();
        let since = i64::try_from(since).unwrap_or(i64::MAX);
        // Whoever comes at the same time stores nearly the same: no order is needed.
        if since.saturating_sub(self.compared.load(Ordering::Relaxed)) >= COMPARE_AFTER {
            let origin = Timestamp::now().as_micros().saturating_sub(since);
            self.origin.store(origin, Ordering::Relaxed);
            self.compared.store(since, Ordering::Relaxed);
        }
        Timestamp::from_micros(self.origin.load(Ordering::Relaxed).saturating_add(since))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_tells_the_time_of_the_system() {
        let clock = Clock::new();
        for _ in 0..100 {
            let before = Timestamp::now();
            let told = clock.at(Instant::now());
            let after = Timestamp::now();
            let slack = Duration::from_millis(1);
            assert!(told + slack >= before && told <= after + slack, "{before} {told} {after}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_follows_virtual_time_and_finds_back_to_a_clock_that_was_set() {
        let clock = Clock::new();
        let start = clock.at(Instant::now());
        tokio::time::advance(Duration::from_secs(3600)).await;
        let later = clock.at(Instant::now());
        let hour = Duration::from_secs(3600);
        let slack = Duration::from_millis(10);
        assert!(later + slack >= start + hour && later <= start + hour + slack, "{start} {later}");
        clock.origin.fetch_sub(5_000_000, Ordering::Relaxed);
        tokio::time::advance(Duration::from_millis(100)).await;
        let told = clock.at(Instant::now());
        assert!(told.since(later) < Duration::from_secs(1) && told > later, "{told} {later}");
    }
}
