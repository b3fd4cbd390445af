//! One received message, with the right to settle it once.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::broker::{Attempt, Lane, LaneState, Position};
use crate::codec::Decode;
use crate::subscription::{Failure, Handout, Ledger};
use crate::{
    Cause, Envelope, Error, ErrorKind, Event, GroupName, Lease, Result, Timestamp, TopicName, event,
};

/// One received message, with the right to settle it once: [`ack`](Self::ack),
/// [`nack`](Self::nack) or [`release`](Self::release).
///
/// Its lease is prolonged while it is held, up to the subscription's `max_handling`. Dropping it
/// gives it back: it comes again after a delay that doubles with each attempt, from 100 ms to 30 s.
pub struct Delivery {
    envelope: Envelope,
    settle: Settle,
    lane: Arc<Lane>,
    position: Position,
    attempt: Attempt,
}

impl Delivery {
    pub(crate) fn new(ledger: &Arc<Ledger>, handout: Handout) -> Self {
        let Handout { slot, envelope, lane, position, attempt } = handout;
        let settle =
            Settle { ledger: Arc::clone(ledger), lane: Arc::clone(&lane), slot, settled: false };
        Self { envelope, settle, lane, position, attempt }
    }

    /// The message.
    #[must_use]
    pub const fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The message's id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.envelope.id()
    }

    /// The message's key.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.envelope.key()
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        self.envelope.payload()
    }

    /// The first application header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.envelope.header(name)
    }

    /// Decodes the payload, after checking that it is of that type and format.
    ///
    /// # Errors
    /// `Decode` names what was wanted and what was found. The delivery is still to be settled,
    /// usually as a dead letter.
    pub fn decode<E>(&self) -> Result<E>
    where
        E: Event,
        E::Codec: Decode<E>,
    {
        event::decode(&self.envelope).map_err(|error| error.with_topic(self.topic()))
    }

    /// The topic it came from.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        self.lane.topic()
    }

    /// The group it was delivered to; `None` without one.
    #[must_use]
    pub fn group(&self) -> Option<&GroupName> {
        self.settle.ledger.group()
    }

    /// Which delivery of the message to this group it is, from 1.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.attempt.count
    }

    /// Whether the broker counts attempts exactly.
    #[must_use]
    pub const fn attempt_is_exact(&self) -> bool {
        self.attempt.exact
    }

    /// Whether the message was delivered to this group before.
    #[must_use]
    pub const fn is_redelivered(&self) -> bool {
        self.attempt.count > 1
    }

    /// The partition of an ordered topic or log.
    #[must_use]
    pub const fn partition(&self) -> Option<u32> {
        self.position.partition
    }

    /// The offset or sequence at the broker.
    #[must_use]
    pub const fn offset(&self) -> Option<u64> {
        self.position.offset
    }

    /// When the broker stored it, where it tells.
    #[must_use]
    pub const fn stored_at(&self) -> Option<Timestamp> {
        self.position.stored_at
    }

    /// Whether the lease has ended: somebody else may have the message.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.settle.is_lost()
    }

    /// Waits until the lease is lost; a handler races its work against it.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn lost(&self) {
        self.settle.lost().await;
    }

    /// The lease apart from the delivery, for work that does not hold it.
    #[must_use]
    pub fn lease(&self) -> Lease {
        Lease::new(&self.settle.ledger, &self.lane, self.settle.slot)
    }

    /// Prolongs the lease now, by the subscription's lease. It is prolonged by itself as well, up
    /// to `max_handling`; this goes beyond it.
    ///
    /// # Errors
    /// `LeaseLost`; `Connection`, `Timeout` from the broker; `Closed`.
    ///
    /// # Cancel safety
    /// When dropped, the lease may or may not be prolonged.
    pub async fn extend(&self) -> Result<()> {
        self.settle.extend().await
    }

    /// It is handled: it never comes again for this group. Returns when the acknowledgement is in
    /// the subscription's buffer; it reaches the broker within milliseconds. What could not be
    /// settled is an event of the subscription, and comes again.
    ///
    /// # Errors
    /// `LeaseLost` after the subscription has drained.
    ///
    /// # Cancel safety
    /// Never waits: once polled, it is done.
    pub async fn ack(self) -> Result<()> {
        self.settle.ack().await
    }

    /// It is handled, and the broker has said so, or has answered a round trip behind it: see
    /// [`Capabilities::ack_confirmation`](crate::Capabilities::ack_confirmation).
    ///
    /// # Errors
    /// `LeaseLost`; `Connection`, `Timeout`: it may come again.
    ///
    /// # Cancel safety
    /// When dropped while it waits, the acknowledgement is buffered as by [`ack`](Self::ack).
    pub async fn ack_confirmed(self) -> Result<()> {
        self.settle.ack_confirmed().await
    }

    /// It failed: it comes again for this group, or becomes a dead letter. Beyond the
    /// subscription's `max_attempts` it always becomes a dead letter. Returns when the verdict is
    /// in the subscription's buffer.
    ///
    /// # Errors
    /// `LeaseLost` if somebody else may have it; `Unsupported` under at-most-once, where it is
    /// settled already.
    ///
    /// # Cancel safety
    /// Never waits: once polled, it is done.
    pub async fn nack(self, nack: Nack) -> Result<()> {
        self.settle.nack(nack).await
    }

    /// Gives it back without fault: it comes again soon, for any member of the group.
    ///
    /// # Errors
    /// `LeaseLost`; `Unsupported` under at-most-once.
    ///
    /// # Cancel safety
    /// Never waits: once polled, it is done.
    pub async fn release(self) -> Result<()> {
        self.settle.release().await
    }

    /// The message, and the right to settle it.
    pub fn split(self) -> (Envelope, Settle) {
        (self.envelope, self.settle)
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("topic", self.topic())
            .field("group", &self.group())
            .field("attempt", &self.attempt.count)
            .field("offset", &self.position.offset)
            .field("envelope", &self.envelope)
            .finish_non_exhaustive()
    }
}

/// The right to settle a delivery once, apart from its message. From [`Delivery::split`].
///
/// Dropping it gives the message back, as dropping the delivery does.
#[must_use = "dropping it gives the message back"]
pub struct Settle {
    ledger: Arc<Ledger>,
    lane: Arc<Lane>,
    /// `None` under at-most-once, where it is settled already.
    slot: Option<usize>,
    settled: bool,
}

impl Settle {
    /// See [`Delivery::ack`].
    ///
    /// # Errors
    /// As [`Delivery::ack`].
    ///
    /// # Cancel safety
    /// Never waits: once polled, it is done.
    pub async fn ack(mut self) -> Result<()> {
        self.take().map_or(Ok(()), |slot| self.ledger.ack(slot))
    }

    /// See [`Delivery::ack_confirmed`].
    ///
    /// # Errors
    /// As [`Delivery::ack_confirmed`].
    ///
    /// # Cancel safety
    /// As [`Delivery::ack_confirmed`].
    pub async fn ack_confirmed(mut self) -> Result<()> {
        match self.take() {
            Some(slot) => self.ledger.ack_confirmed(slot).await,
            None => Ok(()),
        }
    }

    /// See [`Delivery::nack`].
    ///
    /// # Errors
    /// As [`Delivery::nack`].
    ///
    /// # Cancel safety
    /// Never waits: once polled, it is done.
    pub async fn nack(mut self, nack: Nack) -> Result<()> {
        let slot = self.take().ok_or_else(settled_before)?;
        self.ledger.fail(slot, nack.failure)
    }

    /// See [`Delivery::release`].
    ///
    /// # Errors
    /// As [`Delivery::release`].
    ///
    /// # Cancel safety
    /// Never waits: once polled, it is done.
    pub async fn release(mut self) -> Result<()> {
        let slot = self.take().ok_or_else(settled_before)?;
        self.ledger.release(slot)
    }

    /// See [`Delivery::extend`].
    ///
    /// # Errors
    /// As [`Delivery::extend`].
    ///
    /// # Cancel safety
    /// When dropped, the lease may or may not be prolonged.
    pub async fn extend(&self) -> Result<()> {
        match self.slot {
            Some(slot) => self.ledger.extend(slot).await,
            None => Ok(()),
        }
    }

    /// See [`Delivery::is_lost`].
    #[must_use]
    pub fn is_lost(&self) -> bool {
        let lost = |slot| self.ledger.is_lost(slot);
        self.lane.state() == LaneState::Lost || self.slot.is_some_and(lost)
    }

    /// See [`Delivery::lost`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn lost(&self) {
        let lease = async {
            match self.slot {
                Some(slot) => self.ledger.lost(slot).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = lease => {}
            () = self.lane.lost() => {}
        }
    }

    /// Takes the right; dropping does nothing from now on.
    fn take(&mut self) -> Option<usize> {
        self.settled = true;
        self.slot
    }
}

impl Drop for Settle {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.filter(|_| !self.settled) {
            self.ledger.abandon(slot);
        }
    }
}

impl fmt::Debug for Settle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settle").field("lane", &self.lane).finish_non_exhaustive()
    }
}

/// What a failed delivery asks for.
///
/// ```
/// use std::time::Duration;
/// use posthaste_core::Nack;
/// let later = Nack::after(Duration::from_secs(30)).because("the card service is down");
/// let never = Nack::dead_letter(std::io::Error::other("no such account"));
/// # let _ = (later, never);
/// ```
#[derive(Debug, Clone)]
pub struct Nack {
    failure: Failure,
}

impl Nack {
    /// Again, soon.
    #[must_use]
    pub const fn requeue() -> Self {
        Self { failure: Failure::Requeue(None) }
    }

    /// Again, not before the delay is over.
    #[must_use]
    pub const fn after(delay: Duration) -> Self {
        Self { failure: Failure::After(delay, None) }
    }

    /// Never again: it becomes a dead letter of the group, with this cause.
    pub fn dead_letter(cause: impl Into<Cause>) -> Self {
        Self { failure: Failure::DeadLetter(cause.into()) }
    }

    /// Says why, for the dead letter that the message may become.
    #[must_use]
    pub fn because(mut self, why: impl AsRef<str>) -> Self {
        self.failure = self.failure.with_cause(Cause::new(why));
        self
    }

    /// Says which error it was, for the dead letter that the message may become.
    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<Cause>) -> Self {
        self.failure = self.failure.with_cause(cause.into());
        self
    }
}

#[cold]
fn settled_before() -> Error {
    Error::new(ErrorKind::Unsupported, "under at-most-once the delivery is settled already")
}
