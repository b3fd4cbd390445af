//! What the thread of a pipeline and its runtime share, and hand to each other.

use std::error::Error as StdError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use posthaste_core::Error;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::input::Input;

/// What a handler fails with.
pub(super) type Failure = Box<dyn StdError + Send + Sync>;

/// A window for the handler: the inputs of one transaction.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) inputs: Vec<Input>,
    /// The transaction is over: nothing may be sent any more.
    pub(super) taken_back: CancellationToken,
}

/// A window that comes back, and whether it was handled.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) inputs: Vec<Input>,
    pub(super) done: Result<(), Failure>,
}

/// What both sides look at.
#[derive(Debug, Default)]
pub(super) struct Desk {
    thread: OnceLock<Thread>,
    stopped: AtomicBool,
    failure: OnceLock<Error>,
    /// Since when the client ends a transaction.
    busy: Mutex<Option<Instant>>,
    /// What is known of topics may be old.
    forget: AtomicBool,
}

impl Desk {
    /// From here on, this thread is woken.
    pub(super) fn sit_down(&self) {
        // There is one only.
        let _ = self.thread.set(std::thread::current());
    }

    /// The thread has something to do. One that is awake does not sleep the next time.
    pub(super) fn ring(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.ring();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// The pipeline ends with this. The first word counts.
    pub(super) fn fail(&self, error: Error) {
        let _ = self.failure.set(error);
    }

    pub(super) fn failure(&self) -> Option<Error> {
        self.failure.get().map(Error::duplicate)
    }

    /// The client is called, which may take longer than it was told.
    pub(super) fn busy(&self) -> impl Drop {
        struct Busy<'a>(&'a Desk);
        impl Drop for Busy<'_> {
            fn drop(&mut self) {
                *self.0.lock() = None;
            }
        }
        *self.lock() = Some(Instant::now());
        Busy(self)
    }

    /// Whether the client does not come back from a call.
    pub(super) fn is_stuck(&self, limit: Duration) -> bool {
        self.lock().is_some_and(|since| since.elapsed() > limit)
    }

    /// What is known of the topics that are written to is to be asked anew.
    pub(super) fn forget(&self) {
        self.forget.store(true, Ordering::Release);
    }

    pub(super) fn has_to_forget(&self) -> bool {
        self.forget.swap(false, Ordering::AcqRel)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        // Nothing panics while it is held.
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
