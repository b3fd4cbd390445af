//! The time of a run, in milliseconds since its start, and when it was broken.

use std::time::Duration;

use posthaste_core::Timestamp;
use tokio::time::Instant;

/// Milliseconds since the start of the run: 49 days are enough.
pub(super) type Millis = u32;

#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    begun: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { begun: Instant::now() }
    }

    pub(super) fn now(self) -> Millis {
        millis(self.begun.elapsed())
    }

    /// That time of the wall clock, which may be another machine's. Before the start it is zero.
    pub(super) fn of(self, time: Timestamp) -> Millis {
        self.now().saturating_sub(millis(Timestamp::now().since(time)))
    }

    pub(super) fn elapsed(self) -> Duration {
        self.begun.elapsed()
    }
}

pub(super) fn millis(time: Duration) -> Millis {
    Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX)
}

/// How long a settlement may be on its way to the broker, and a machine be busy elsewhere.
const SLACK: Duration = Duration::from_secs(1);

/// When something was broken: from the fault until throughput was back.
#[derive(Debug)]
pub(super) struct Outages {
    /// The last one may have no end yet.
    all: Vec<(Millis, Option<Millis>)>,
    window: Millis,
}

impl Outages {
    /// `window` is how long before an outage a settlement may have been made that is lost by it.
    pub(super) fn new(window: Duration) -> Self {
        Self { all: Vec::new(), window: millis(window.saturating_add(SLACK)) }
    }

    pub(super) fn begin(&mut self, at: Millis) {
        self.all.push((at, None));
    }

    pub(super) fn end(&mut self, at: Millis) {
        if let Some((_, end)) = self.all.last_mut() {
            end.get_or_insert(at);
        }
    }

    /// For how long nothing is broken; nothing if something is.
    pub(super) fn well_for(&self, now: Millis) -> Option<Duration> {
        let since = self.all.last().map_or(Some(0), |(_, end)| *end)?;
        Some(Duration::from_millis(now.saturating_sub(since).into()))
    }

    /// Whether a settlement that was made then may have been lost.
    pub(super) fn excuse(&self, at: Millis) -> bool {
        self.touch(at, at)
    }

    /// Whether something was broken, or just about to be, between these two times.
    pub(super) fn touch(&self, from: Millis, until: Millis) -> bool {
        let slack = millis(SLACK);
        self.all.iter().rev().any(|(start, end)| {
            start.saturating_sub(self.window) <= until
                && end.is_none_or(|end| from <= end.saturating_add(slack))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_settled_shortly_before_or_during_an_outage_is_excused() {
        let mut outages = Outages::new(Duration::from_secs(2));
        assert!(!outages.excuse(5_000));
        assert_eq!(outages.well_for(5_000), Some(Duration::from_secs(5)));
        outages.begin(10_000);
        assert_eq!(outages.well_for(11_000), None);
        for (at, excused) in [(6_900, false), (7_100, true), (10_500, true), (90_000, true)] {
            assert_eq!(outages.excuse(at), excused, "{at}");
        }
        outages.end(12_000);
        assert_eq!(outages.well_for(15_000), Some(Duration::from_secs(3)));
        for (at, excused) in [(6_900, false), (12_500, true), (13_100, false)] {
            assert_eq!(outages.excuse(at), excused, "{at}");
        }
    }

    #[test]
    fn a_window_without_a_bound_excuses_all_that_was_before() {
        let mut outages = Outages::new(Duration::MAX);
        assert!(!outages.excuse(5));
        outages.begin(1_000_000);
        outages.end(1_001_000);
        assert!(outages.excuse(5));
        assert!(!outages.excuse(2_000_000));
    }

    #[test]
    fn a_span_is_touched_by_any_outage_in_it() {
        let mut outages = Outages::new(Duration::ZERO);
        outages.begin(10_000);
        outages.end(11_000);
        assert!(outages.touch(1_000, 20_000));
        assert!(!outages.touch(13_000, 20_000));
        assert!(!outages.touch(1_000, 8_000));
    }
}
