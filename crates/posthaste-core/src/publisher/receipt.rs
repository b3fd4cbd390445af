//! The promise of a confirmation.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use super::Confirmed;
use super::cargo::late;
use super::flight::Flight;
use super::window::Window;
use crate::{Error, Result};

/// How long a flight may take, past the deadline, to say precisely what became of an entry.
const GRACE: Duration = Duration::from_millis(100);

/// The promise of a [`Confirmed`], from [`Publisher::enqueue`](crate::Publisher::enqueue).
///
/// The message is sent whether or not the receipt is awaited; dropping it only forgets the
/// outcome. Awaiting it ends by the publish deadline.
#[must_use = "only an awaited receipt tells whether the message was stored"]
pub struct Receipt {
    outcome: oneshot::Receiver<Result<Confirmed>>,
    // The flight that carries the entry, where this receipt is the one that polls it.
    flight: Option<Flight>,
    window: Arc<Window>,
    entry: u64,
    deadline: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Receipt {
    pub(super) const fn new(
        outcome: oneshot::Receiver<Result<Confirmed>>,
        flight: Option<Flight>,
        window: Arc<Window>,
        entry: u64,
        deadline: Instant,
    ) -> Self {
        Self { outcome, flight, window, entry, deadline, timer: None }
    }

    fn poll_outcome(&mut self, cx: &mut Context<'_>) -> Poll<Result<Confirmed>> {
        Pin::new(&mut self.outcome).poll(cx).map(|outcome| {
            // Its flight ended with its runtime.
            outcome.unwrap_or_else(|_| {
                let gone = Error::closed("the runtime ended before the broker answered");
                Err(self.name(gone.with_may_be_stored(true)))
            })
        })
    }

    fn name(&self, error: Error) -> Error {
        error.with_operation("publish").with_topic(self.window.topic())
    }
}

impl Future for Receipt {
    type Output = Result<Confirmed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Some(flight) = &mut this.flight {
            // It carries this entry alone and keeps its deadline: before its end there is nothing
            // to wait for, and nothing to be woken by.
            std::task::ready!(Pin::new(flight).poll(cx));
            this.flight = None;
        }
        if let Poll::Ready(outcome) = this.poll_outcome(cx) {
            return Poll::Ready(outcome);
        }
        let deadline = this.deadline;
        let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        while timer.as_mut().poll(cx).is_ready() {
            if let Some((may_be_stored, last)) = this.window.withdraw(this.entry) {
                return Poll::Ready(Err(this.name(late(may_be_stored, last))));
            }
            let end = deadline + GRACE;
            if timer.deadline() >= end {
                return Poll::Ready(Err(this.name(late(true, None))));
            }
            timer.as_mut().reset(end);
        }
        Poll::Pending
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some(flight) = self.flight.take() {
            self.window.adopt(flight);
        }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt").field("topic", self.window.topic()).finish_non_exhaustive()
    }
}
