//! Watching and steering a consumer from elsewhere: health checks, pause, stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// Where a consumer is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// It has not started, or is starting.
    Starting,
    /// It handles messages.
    Running,
    /// It takes nothing new; what it has, it handles.
    Paused,
    /// It takes nothing new, and finishes what it has.
    Stopping,
    /// It has ended.
    Stopped,
}

/// Watches and steers a consumer, before it starts and while it runs. Cheap to clone. From
/// [`Consumer::control`](crate::Consumer::control).
#[derive(Debug, Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    phase: watch::Sender<Phase>,
    paused: AtomicBool,
    connected: AtomicBool,
}

impl Control {
    pub(crate) fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                phase: watch::Sender::new(Phase::Starting),
                paused: AtomicBool::new(false),
                connected: AtomicBool::new(false),
            }),
        }
    }

    /// Where the consumer is in its life.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.shared.phase.borrow()
    }

    /// Whether it handles messages now: it runs, is not paused, and has a connection. For
    /// readiness checks.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.phase() == Phase::Running && self.shared.connected.load(Ordering::Relaxed)
    }

    /// Whether it has not ended. For liveness checks: a lost connection is no reason to restart.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.phase() != Phase::Stopped
    }

    /// Takes nothing new, on any topic, until [`resume`](Self::resume). What was taken is handled.
    pub fn pause(&self) {
        self.change(|phase, paused| match phase {
            Phase::Starting => {
                paused.store(true, Ordering::Relaxed);
                None
            }
            Phase::Running => Some(Phase::Paused),
            Phase::Paused | Phase::Stopping | Phase::Stopped => None,
        });
    }

    /// Goes on after a [`pause`](Self::pause).
    pub fn resume(&self) {
        self.change(|phase, paused| match phase {
            Phase::Starting => {
                paused.store(false, Ordering::Relaxed);
                None
            }
            Phase::Paused => Some(Phase::Running),
            Phase::Running | Phase::Stopping | Phase::Stopped => None,
        });
    }

    /// Stops: nothing new is taken, and what is being handled has the drain's time.
    pub fn stop(&self) {
        self.change(|phase, _| match phase {
            Phase::Starting | Phase::Running | Phase::Paused => Some(Phase::Stopping),
            Phase::Stopping | Phase::Stopped => None,
        });
    }

    /// Waits until the consumer is in that phase, or past it.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn reached(&self, wanted: Phase) {
        let order = |phase| match phase {
            Phase::Starting => 0,
            Phase::Running | Phase::Paused => 1,
            Phase::Stopping => 2,
            Phase::Stopped => 3,
        };
        let mut phase = self.shared.phase.subscribe();
        // The sender is `self`, so it cannot be gone.
        let _ = phase.wait_for(|now| *now == wanted || order(*now) > order(wanted)).await;
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Phase> {
        self.shared.phase.subscribe()
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.shared.paused.load(Ordering::Relaxed)
    }

    pub(crate) fn begin(&self) {
        self.set_connected(true);
        self.change(|phase, paused| match phase {
            Phase::Starting if paused.load(Ordering::Relaxed) => Some(Phase::Paused),
            Phase::Starting => Some(Phase::Running),
            Phase::Running | Phase::Paused | Phase::Stopping | Phase::Stopped => None,
        });
    }

    pub(crate) fn end(&self) {
        self.change(|_, _| Some(Phase::Stopped));
    }

    pub(crate) fn set_connected(&self, connected: bool) {
        self.shared.connected.store(connected, Ordering::Relaxed);
    }

    /// Enters another phase. The mark that workers look at is changed with it, so that one that is
    /// set always has a phase to wait for the end of.
    fn change(&self, to: impl FnOnce(Phase, &AtomicBool) -> Option<Phase>) {
        self.shared.phase.send_if_modified(|phase| {
            let Some(next) = to(*phase, &self.shared.paused) else { return false };
            *phase = next;
            self.shared.paused.store(next == Phase::Paused, Ordering::Relaxed);
            true
        });
    }
}
