//! The way into a window: what is refused, and what waits for room.

use std::sync::Arc;

use tokio::time::Instant;

use super::cargo::Ticket;
use super::flight;
use super::hold::Entry;
use super::window::{Window, closed};
use super::{Receipt, options};
use crate::broker::SendOptions;
use crate::{Envelope, Error, ErrorKind, Result, Retry};

/// How a submitted message leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// At once where there is room, moved on by its receipt until that is dropped.
    Straight,
    /// By the window's task.
    Queued,
    /// By the window's task, once [`Window::depart`] is called or the window is full.
    Together,
}

impl Window {
    /// Waits for room, then queues the message or sends it at once.
    ///
    /// Cancel safety: when dropped while it waits for room, nothing was sent.
    pub(crate) async fn submit(
        self: &Arc<Self>,
        envelope: Envelope,
        send: SendOptions,
        deadline: Instant,
        leave: Leave,
    ) -> Result<Receipt> {
        let cost = self.admit(&envelope, send)?;
        self.reserve(cost, deadline).await?;
        let (answer, question) = self.answers.open();
        let mut state = self.lock();
        if state.closed {
            drop(state);
            self.answers.forget(&question);
            // Nobody waits for its room any more.
            let error = closed(self.topic());
            self.answers.answer(answer, Err(error.duplicate()));
            return Err(error);
        }
        let number = state.number();
        let ticket = Ticket {
            entry: number,
            epoch: state.epochs.enter(),
            answer: Some(answer),
            deadline,
            cost,
            key: None,
            awaited: leave == Leave::Straight,
            uncertain: false,
            looked_again: false,
            last_error: None,
        };
        let entry = Entry { envelope, ticket, send };
        let flight = match state.take_in(entry, leave == Leave::Straight) {
            Some((number, cargo)) => {
                let flight = flight::depart(Arc::clone(self), number, cargo);
                state.loose.push((number, flight.clone()));
                Some(flight)
            }
            None => {
                if leave != Leave::Together {
                    self.engage(state);
                }
                None
            }
        };
        Ok(Receipt::new(question, flight, Arc::clone(self)))
    }

    /// Refuses what can never be sent.
    fn admit(&self, envelope: &Envelope, send: SendOptions) -> Result<u32> {
        let size = envelope.size();
        let capabilities = self.core.broker.capabilities(Some(self.topic()));
        if send != SendOptions::default() {
            options::check(send, &capabilities).map_err(|error| self.name(error))?;
        }
        if let Some(limit) = capabilities.max_message_bytes.filter(|limit| size > *limit) {
            let error = Error::new(ErrorKind::TooLarge, "the message exceeds the broker's limit")
                .with_context("bytes", size)
                .with_context("limit", limit);
            return Err(self.name(error));
        }
        // A message larger than the whole window goes alone.
        let cost = size.min(self.core.settings.window.bytes);
        u32::try_from(cost).map_err(|_| self.name(Error::new(ErrorKind::TooLarge, "over 4 GiB")))
    }

    async fn reserve(self: &Arc<Self>, cost: u32, deadline: Instant) -> Result<()> {
        let full = || {
            self.name(
                Error::new(ErrorKind::Backpressure, "the window stayed full until the deadline")
                    .with_context("messages", self.core.settings.window.messages)
                    .with_context("bytes", self.core.settings.window.bytes)
                    .with_retry(Retry::Exhausted),
            )
        };
        let closed = |_| closed(self.topic());
        let slot = match self.slots.try_acquire() {
            Ok(slot) => slot,
            Err(_) => {
                self.depart();
                tokio::time::timeout_at(deadline, self.slots.acquire())
                    .await
                    .map_err(|_| full())?
                    .map_err(closed)?
            }
        };
        let bytes = match self.bytes.try_acquire_many(cost) {
            Ok(bytes) => bytes,
            Err(_) => {
                self.depart();
                tokio::time::timeout_at(deadline, self.bytes.acquire_many(cost))
                    .await
                    .map_err(|_| full())?
                    .map_err(closed)?
            }
        };
        // Given back when the entry is resolved.
        slot.forget();
        bytes.forget();
        Ok(())
    }
}
