//! Deadlines that no argument can overflow.

use std::time::Duration;

use tokio::time::Instant;

/// Longer than any process lives; what is longer still counts as this.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// When that much time has passed from now.
pub(crate) fn after(time: Duration) -> Instant {
    Instant::now() + bounded(time)
}

/// A duration that can be added to an instant.
pub(crate) fn bounded(time: Duration) -> Duration {
    time.min(LONGEST)
}
