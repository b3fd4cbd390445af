//! One batch on its way: sent, sent again while that can help, and landed.
//!
//! A flight is a shared future that owns its entries. Whoever holds a clone can move it on, so
//! nobody's progress depends on another caller being polled, and a dropped caller cancels nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Shared;
use smallvec::SmallVec;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Confirmed;
use super::window::Window;
use crate::broker::{Outcomes, SendOptions};
use crate::{Envelope, Error, ErrorKind, Result, Retry};

/// A batch on its way.
pub(super) type Flight = Shared<Pin<Box<dyn Future<Output = ()> + Send>>>;

/// The first pause before a batch is sent again; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What is known of an entry besides its envelope.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) entry: u64,
    pub(super) reply: oneshot::Sender<Result<Confirmed>>,
    pub(super) deadline: Instant,
    /// Bytes reserved in the window.
    pub(super) cost: u32,
    /// The hash of the key, on ordered topics.
    pub(super) key: Option<u64>,
    /// An attempt may have stored it.
    pub(super) uncertain: bool,
    pub(super) last_error: Option<Error>,
}

/// A batch with what is known of its entries; both have the same order.
#[derive(Debug, Default)]
pub(super) struct Cargo {
    pub(super) envelopes: SmallVec<[Envelope; 1]>,
    pub(super) tickets: SmallVec<[Ticket; 1]>,
    pub(super) options: SendOptions,
}

/// What landed entries give back.
#[derive(Debug, Default)]
pub(super) struct Landed {
    pub(super) entries: usize,
    pub(super) bytes: usize,
    pub(super) keys: SmallVec<[u64; 4]>,
}

pub(super) fn depart(window: Arc<Window>, number: u64, cargo: Cargo) -> Flight {
    async move {
        let landed = fly(&window, cargo).await;
        window.land(number, &landed);
    }
    .boxed()
    .shared()
}

async fn fly(window: &Arc<Window>, mut cargo: Cargo) -> Landed {
    let mut landed = Landed::default();
    let mut pause = FIRST_PAUSE;
    let mut resolved_again = false;
    loop {
        cargo.expire(window, &mut landed);
        let Some(until) = cargo.tickets.iter().map(|ticket| ticket.deadline).max() else {
            return landed;
        };
        let attempted = tokio::select! {
            attempted = attempt(window, &mut cargo) => Some(attempted),
            () = tokio::time::sleep_until(until) => None,
            () = window.aborted().cancelled() => {
                cargo.abandon(window, &mut landed);
                return landed;
            }
        };
        match attempted {
            Some(Ok(outcomes)) => cargo.sort(window, outcomes, &mut landed, &mut resolved_again),
            Some(Err(error)) => {
                let outcomes = Outcomes::failed(cargo.tickets.len(), &error);
                cargo.sort(window, outcomes, &mut landed, &mut resolved_again);
            }
            None => cargo.tickets.iter_mut().for_each(|ticket| ticket.uncertain = true),
        }
        let Some(soonest) = cargo.tickets.iter().map(|ticket| ticket.deadline).min() else {
            return landed;
        };
        let jittered = pause.mul_f64(fastrand::f64().mul_add(0.5, 0.5));
        tokio::select! {
            () = tokio::time::sleep_until(soonest.min(Instant::now() + jittered)) => {}
            () = window.aborted().cancelled() => {
                cargo.abandon(window, &mut landed);
                return landed;
            }
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn attempt(window: &Arc<Window>, cargo: &mut Cargo) -> Result<Outcomes> {
    let destination = window.destination().await?;
    window.broker().publish(&destination, &mut cargo.envelopes, &cargo.options).await
}

impl Cargo {
    /// Gives everything up, because the bus's close has run out of time.
    fn abandon(mut self, window: &Window, landed: &mut Landed) {
        for ticket in self.tickets.drain(..) {
            let error = Error::closed("the bus was closed before the broker answered")
                .with_may_be_stored(true);
            ticket.resolve(window, landed, Err(error));
        }
    }

    /// Fails what is past its deadline.
    fn expire(&mut self, window: &Window, landed: &mut Landed) {
        let now = Instant::now();
        if self.tickets.iter().all(|ticket| ticket.deadline > now) {
            return;
        }
        let mut kept = Self { options: self.options, ..Self::default() };
        for (envelope, ticket) in self.envelopes.drain(..).zip(self.tickets.drain(..)) {
            if ticket.deadline > now {
                kept.envelopes.push(envelope);
                kept.tickets.push(ticket);
            } else {
                let mut error = Error::new(ErrorKind::Timeout, "the publish deadline passed")
                    .with_retry(Retry::Exhausted)
                    .with_may_be_stored(ticket.uncertain);
                let mut ticket = ticket;
                if let Some(last) = ticket.last_error.take() {
                    error = error.with_source(last);
                }
                ticket.resolve(window, landed, Err(error));
            }
        }
        *self = kept;
    }

    /// Resolves what is decided; keeps, in order, what is to be sent again.
    fn sort(
        &mut self,
        window: &Window,
        outcomes: Outcomes,
        landed: &mut Landed,
        resolved_again: &mut bool,
    ) {
        let count = outcomes.len();
        if count != self.tickets.len() {
            let defect = Error::new(ErrorKind::Fatal, "the adapter returned too few outcomes")
                .with_context("entries", self.tickets.len())
                .with_context("outcomes", count)
                .with_may_be_stored(true);
            let all = Outcomes::failed(self.tickets.len(), &defect);
            return self.sort(window, all, landed, resolved_again);
        }
        let mut kept = Self { options: self.options, ..Self::default() };
        // What was found of the topic may be out of date: look once more before giving up.
        let mut stale = false;
        let look_again = !*resolved_again;
        let entries = self.envelopes.drain(..).zip(self.tickets.drain(..));
        for ((envelope, mut ticket), outcome) in entries.zip(outcomes) {
            let error = match outcome {
                Ok(stored) => {
                    let confirmed = Confirmed::new(&envelope, stored);
                    ticket.resolve(window, landed, Ok(confirmed));
                    continue;
                }
                Err(error) => error,
            };
            ticket.uncertain |= error.may_be_stored();
            let moved = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Conflict);
            stale |= moved;
            let again = error.retry() == Retry::Transient
                || (error.may_be_stored() && error.retry() != Retry::Never)
                || (moved && look_again);
            if again {
                ticket.last_error = Some(error);
                kept.envelopes.push(envelope);
                kept.tickets.push(ticket);
            } else {
                let error = error.with_may_be_stored(ticket.uncertain);
                ticket.resolve(window, landed, Err(error));
            }
        }
        if stale {
            window.forget_destination();
            *resolved_again = true;
        }
        *self = kept;
    }
}

impl Ticket {
    fn resolve(self, window: &Window, landed: &mut Landed, outcome: Result<Confirmed>) {
        landed.entries += 1;
        landed.bytes += self.cost as usize;
        landed.keys.extend(self.key);
        let outcome =
            outcome.map_err(|error| error.with_operation("publish").with_topic(window.topic()));
        // Nobody waits for it any more: the receipt was dropped, or its deadline has passed.
        let _ = self.reply.send(outcome);
    }
}
