//! Wakes the thread of a consumer.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Wakes a thread that is not of the runtime.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    /// The thread has something to do.
    pub(super) fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Waits until it is rung, or so long. Rung before is rung.
    pub(super) fn wait(&self, limit: Duration) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(rung, limit, |rung| !*rung);
        let (mut rung, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *rung = false;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn who_was_rung_before_does_not_wait_and_who_was_not_waits_so_long() {
        let (bell, limit) = (Bell::default(), Duration::from_millis(50));
        bell.ring();
        let start = Instant::now();
        bell.wait(Duration::from_secs(60));
        assert!(start.elapsed() < Duration::from_secs(30));
        bell.wait(limit);
        assert!(start.elapsed() >= limit);
    }
}
