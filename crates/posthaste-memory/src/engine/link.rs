//! The link to the broker: there, cut, or silent; and one client's connection over it.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use posthaste_core::Result;
use tokio::sync::Notify;

use crate::error;

/// How the broker can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    Up,
    /// Every call fails at once.
    Down,
    /// No call is answered.
    Silent,
}

#[derive(Debug, Default)]
pub(crate) struct Link {
    state: AtomicU8,
    restarts: AtomicU64,
    changed: Notify,
}

impl Link {
    pub(crate) fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            0 => State::Up,
            1 => State::Down,
            _ => State::Silent,
        }
    }

    pub(crate) fn set(&self, state: State) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// How often the broker was restarted: what was in flight over one has no known outcome.
    pub(crate) fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Acquire)
    }

    pub(crate) fn count_restart(&self) {
        self.restarts.fetch_add(1, Ordering::AcqRel);
    }

    /// Lets every waiting call look again.
    pub(crate) fn notify(&self) {
        self.changed.notify_waiters();
    }
}

/// One client's connection.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    closed: AtomicBool,
}

impl Connection {
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Passes while the broker can be reached; waits while it is silent.
    pub(crate) async fn reach(&self, link: &Link) -> Result<()> {
        loop {
            // Made before the look, so that no change in between is missed.
            let changed = link.changed.notified();
            if self.is_closed() {
                return Err(error::closed());
            }
            match link.state() {
                State::Up => return Ok(()),
                State::Down => return Err(error::unreachable()),
                State::Silent => changed.await,
            }
        }
    }
}
