//! When something came, although nobody was looking.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

/// A waker that notes when it was woken and passes it on.
///
/// A subscription that is not polled for a while still has to know how old its messages are,
/// because their leases run from the time the server sent them. The first one that comes to an
/// empty inbox wakes this; what comes later is at most younger.
#[derive(Debug)]
pub(crate) struct Arrival {
    began: Instant,
    // Microseconds since `began`, plus one; 0 is nothing.
    at: AtomicU64,
    task: AtomicWaker,
}

impl Arrival {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { began: Instant::now(), at: AtomicU64::new(0), task: AtomicWaker::new() })
    }

    /// The waker to poll the inbox with.
    pub(crate) fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }

    /// Whom to wake in turn.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        self.task.register(cx.waker());
    }

    /// When the first came since this was asked last.
    pub(crate) fn take(&self) -> Option<Instant> {
        let micros = self.at.swap(0, Ordering::AcqRel).checked_sub(1)?;
        Some(self.began + Duration::from_micros(micros))
    }
}

impl Wake for Arrival {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX - 1) + 1;
        let _ = self.at.compare_exchange(0, micros, Ordering::AcqRel, Ordering::Acquire);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_wake_counts() {
        let arrival = Arrival::new();
        assert_eq!(arrival.take(), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        let first = Instant::now();
        arrival.waker().wake();
        tokio::time::advance(Duration::from_secs(1)).await;
        arrival.waker().wake();
        assert_eq!(arrival.take(), Some(first));
        assert_eq!(arrival.take(), None);
    }
}
