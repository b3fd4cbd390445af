//! Waking drivers, and one turn under a topic's lock. Knows nothing of messages.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use smallvec::SmallVec;
use tokio::time::Instant;

/// Where a driver waits. It registers its waker, *then* looks whether there is something, so that
/// whatever happens in between wakes it.
#[derive(Debug, Default)]
pub(crate) struct Port(AtomicWaker);

impl Port {
    pub(crate) fn register(&self, waker: &Waker) {
        self.0.register(waker);
    }

    pub(crate) fn wake(&self) {
        self.0.wake();
    }
}

/// One turn under a topic's lock: when it happens, and whom to wake after it.
///
/// The time is read under the lock, so that leases are granted in the order in which they end.
/// Wakers run after the lock is released, because they may run anything.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) now: Instant,
    ports: SmallVec<[Arc<Port>; 4]>,
}

impl Turn {
    pub(crate) fn begin() -> Self {
        Self { now: Instant::now(), ports: SmallVec::new() }
    }

    #[cfg(test)]
    pub(crate) fn at(now: Instant) -> Self {
        Self { now, ports: SmallVec::new() }
    }

    /// The time after that delay, or a time that nobody lives to see.
    pub(crate) fn after(&self, delay: Duration) -> Instant {
        later(self.now, delay)
    }

    /// Wakes the driver at the end of the turn.
    pub(crate) fn wake(&mut self, port: &Arc<Port>) {
        if !self.ports.iter().any(|known| Arc::ptr_eq(known, port)) {
            self.ports.push(Arc::clone(port));
        }
    }

    /// Wakes everyone. The lock must be free.
    pub(crate) fn end(self) {
        for port in self.ports {
            port.wake();
        }
    }
}

/// The time after that delay; 30 years later if the clock does not reach as far.
pub(crate) fn later(now: Instant, delay: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);
    now.checked_add(delay).unwrap_or_else(|| now + FAR)
}
