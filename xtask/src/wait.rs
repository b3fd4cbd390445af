//! Bounded waits on conditions of other processes.

use std::time::{Duration, Instant};

/// Asks `condition` again and again until it gives a value or `limit` has passed.
///
/// Another process offers nothing to wait on but its answers, so the condition is polled.
pub(crate) fn until<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        pause();
    }
}

#[expect(clippy::disallowed_methods, reason = "the pause between two polls of a bounded wait")]
fn pause() {
    std::thread::sleep(Duration::from_millis(15));
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
