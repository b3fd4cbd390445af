//! Receiving: the stream of deliveries of a group's member.

mod builder;
mod drain;
mod event;
mod flush;
mod gap;
mod keep;
mod ledger;
mod order;
mod reader;
mod stats;
mod verdict;

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use tokio::task::coop::poll_proceed;

pub use builder::SubscribeBuilder;
pub use event::{Events, SubscriptionEvent};
pub(crate) use keep::Hand;
pub(crate) use ledger::Ledger;
pub(crate) use reader::Handout;
pub use stats::Stats;
pub(crate) use verdict::Failure;

use crate::broker::Received;
use crate::bus::after;
use crate::{Bus, Delivery, Error, ErrorKind, Result};

/// What becomes of a message that expired before it was handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Expired {
    /// It becomes a dead letter.
    #[default]
    DeadLetter,
    /// It is settled and counted.
    Drop,
}

/// What becomes of an ordered key whose message fails for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum KeyFailure {
    /// The message becomes a dead letter, and so do those of its key that wait behind it here.
    #[default]
    DeadLetterKey,
    /// The subscription ends with an error, and the message is given back.
    StopLane,
}

/// A member of a group: the stream of its deliveries.
///
/// An `Err` item is the last: only what no reconnect can repair. Troubles on the way are
/// [`events`](Self::events). Dropping the subscription stops fetching and gives back what was not
/// handed out; deliveries that are still held can be settled for the bus's drain time (30 s).
pub struct Subscription {
    bus: Bus,
    ledger: Arc<Ledger>,
    member: String,
    // Handed out and not yet returned; only `next_batch` takes more than one at a time.
    handed: VecDeque<Handout>,
    // Settled on arrival, under at-most-once.
    settled: Vec<Received>,
    ended: bool,
}

impl Subscription {
    pub(crate) fn new(bus: Bus, ledger: Arc<Ledger>, member: String) -> Self {
        let (handed, settled) = (VecDeque::new(), Vec::new());
        Self { bus, ledger, member, handed, settled, ended: false }
    }

    /// The next delivery; `None` once the subscription was stopped or the bus closed.
    ///
    /// # Errors
    /// The last item: `NotFound` where topic or group vanished, `Auth`, `Fatal`.
    ///
    /// # Cancel safety
    /// Cancel safe: no delivery is lost or taken.
    pub async fn next(&mut self) -> Option<Result<Delivery>> {
        poll_fn(|cx| self.poll_delivery(cx)).await
    }

    /// Up to `max` deliveries at once, at least one; waits only for the first.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    ///
    /// # Cancel safety
    /// Cancel safe: no delivery is lost or taken.
    pub async fn next_batch(&mut self, max: usize) -> Option<Result<Vec<Delivery>>> {
        poll_fn(|cx| self.poll_batch(cx, max.max(1))).await
    }

    /// What happens besides deliveries, from now on; the first call also gets what has happened
    /// since the start.
    #[must_use]
    pub fn events(&self) -> Events {
        self.ledger.events()
    }

    /// Counts so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.ledger.counters.read()
    }

    /// The member's name.
    #[must_use]
    pub fn member(&self) -> &str {
        &self.member
    }

    /// A handle that stops the subscription from elsewhere.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper { ledger: Arc::clone(&self.ledger) }
    }

    /// Stops and waits: nothing is fetched any more, deliveries that are held have until the
    /// deadline, settlements are flushed, and the rest is given back to others.
    ///
    /// # Errors
    /// `Timeout` if deliveries were still held at the deadline: they were given back, and
    /// settling them now is `LeaseLost`.
    ///
    /// # Cancel safety
    /// When dropped, stopping goes on in the background.
    pub async fn stop(self, drain: Duration) -> Result<()> {
        self.ledger.stop(after(drain));
        match self.ledger.stopped().await {
            0 => Ok(()),
            held => Err(Error::new(ErrorKind::Timeout, "stopped while deliveries were held")
                .with_operation("stop")
                .with_context("deliveries given back", held)),
        }
    }

    fn poll_delivery(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Delivery>>> {
        match std::task::ready!(self.poll_handed(cx, 1)) {
            Some(Ok(())) => {
                let handout = self.handed.pop_front();
                Poll::Ready(handout.map(|handout| Ok(self.ledger.deliver(handout))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => Poll::Ready(None),
        }
    }

    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Option<Result<Vec<Delivery>>>> {
        match std::task::ready!(self.poll_handed(cx, max)) {
            Some(Ok(())) => {
                let count = self.handed.len().min(max);
                let ledger = &self.ledger;
                let batch = self.handed.drain(..count);
                Poll::Ready(Some(Ok(batch.map(|handout| ledger.deliver(handout)).collect())))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => Poll::Ready(None),
        }
    }

    /// Makes sure that something is handed out.
    fn poll_handed(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<Option<Result<()>>> {
        if self.ended && self.handed.is_empty() {
            return Poll::Ready(None);
        }
        // A reader that always has something must let other tasks have their turn.
        let turn = std::task::ready!(poll_proceed(cx));
        if !self.handed.is_empty() {
            turn.made_progress();
            return Poll::Ready(Some(Ok(())));
        }
        let polled = self.ledger.poll_handout(cx, &mut self.settled, &mut self.handed, max);
        if polled.is_ready() {
            turn.made_progress();
        }
        if let Poll::Ready(None | Some(Err(_))) = &polled {
            self.ended = true;
        }
        polled
    }
}

impl Stream for Subscription {
    type Item = Result<Delivery>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_delivery(cx)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // Only under at-most-once is anything left here that the application has not seen.
        self.ledger.lose_settled(self.handed.iter().map(|handout| handout.lane.topic()));
        self.ledger.stop(after(self.ledger.drain()));
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("member", &self.member)
            .field("stats", &self.stats())
            .field("bus", &self.bus)
            .finish_non_exhaustive()
    }
}

/// Stops a subscription from elsewhere, for example on a signal.
#[derive(Debug, Clone)]
pub struct Stopper {
    ledger: Arc<Ledger>,
}

impl Stopper {
    /// Stops fetching: [`Subscription::next`] ends with `None`. Deliveries that are held can be
    /// settled for the bus's drain time.
    pub fn stop(&self) {
        self.ledger.stop(after(self.ledger.drain()));
    }

    /// As [`stop`](Self::stop), with a time of its own for deliveries that are held. Of two stops
    /// the earlier deadline counts.
    pub fn stop_within(&self, drain: Duration) {
        self.ledger.stop(after(drain));
    }

    /// Counts of the subscription so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.ledger.counters.read()
    }

    /// Waits until the subscription has drained; how many deliveries were still held and were
    /// given back.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn stopped(&self) -> usize {
        self.ledger.stopped().await
    }
}
