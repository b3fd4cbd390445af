//! The promise of a confirmation.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::task::coop::poll_proceed;

use super::Confirmed;
use super::answers::Question;
use super::flight::Flight;
use super::window::Window;
use crate::Result;

/// The promise of a [`Confirmed`], from [`Publisher::enqueue`](crate::Publisher::enqueue).
///
/// The message is sent whether or not the receipt is awaited; dropping it only forgets the
/// outcome. Awaiting it ends by the publish deadline, which the tasks of the bus keep: at once when
/// their runtime has ended, but not while that runtime lives and nobody drives it.
#[must_use = "only an awaited receipt tells whether the message was stored"]
pub struct Receipt {
    // `None` once it was answered.
    question: Option<Question>,
    // The flight that carries the entry, where this receipt is the one that polls it.
    flight: Option<Flight>,
    window: Arc<Window>,
}

impl Receipt {
    pub(super) const fn new(
        question: Question,
        flight: Option<Flight>,
        window: Arc<Window>,
    ) -> Self {
        Self { question: Some(question), flight, window }
    }
}

impl Future for Receipt {
    type Output = Result<Confirmed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Some(flight) = &mut this.flight {
            // It carries this entry alone and keeps its deadline: before its end there is nothing
            // to wait for, and nothing to be woken by.
            ready!(Pin::new(flight).poll(cx));
            this.flight = None;
        }
        let Some(question) = &this.question else { return Poll::Pending };
        // A broker that answers at once would never let go of the thread.
        let turn = ready!(poll_proceed(cx));
        let outcome = ready!(this.window.answers.poll(question, cx));
        turn.made_progress();
        this.question = None;
        Poll::Ready(outcome)
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some(question) = self.question.take() {
            self.window.answers.forget(&question);
        }
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
