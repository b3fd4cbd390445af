//! Bounded waits on conditions of other processes.

use std::time::{Duration, Instant};

/// The pauses between two polls: short at first, then a tenth of what was waited, so that asking
/// takes little from those who are waited for, and an answer is at most a tenth late.
const SHORTEST: Duration = Duration::from_millis(15);
const LONGEST: Duration = Duration::from_millis(250);

/// Asks `condition` again and again until it gives a value or `limit` has passed.
///
/// Another process offers nothing to wait on but its answers, so the condition is polled.
pub(crate) fn until<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        let waited = begun.elapsed();
        if waited >= limit {
            return None;
        }
        pause((waited / 10).clamp(SHORTEST, LONGEST).min(limit - waited));
    }
}

#[expect(clippy::disallowed_methods, reason = "the pause between two polls of a bounded wait")]
fn pause(length: Duration) {
    std::thread::sleep(length);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_ends_the_wait() {
        let mut asked = 0;
        let value = until(Duration::from_secs(5), || {
            asked += 1;
            (asked == 3).then_some(asked)
        });
        assert_eq!(value, Some(3));
    }

    #[test]
    fn a_condition_that_never_holds_is_asked_at_least_once_and_given_up() {
        let mut asked = 0;
        let value: Option<()> = until(Duration::ZERO, || {
            asked += 1;
            None
        });
        assert_eq!((value, asked), (None, 1));
    }
}
