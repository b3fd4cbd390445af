//! Settling: verdicts on deliveries, in batches.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Lane, Position};
use crate::{Cause, DeadLetter, Envelope, Error, Result};

/// Carries verdicts to the broker. Shared with the task that flushes settlements.
#[async_trait]
pub trait Settler: Debug + Send + Sync + 'static {
    /// Applies each verdict. A copy is confirmed before its original is settled. Resolves when
    /// the protocol has done its part; with [`Confirmation::Broker`] when the broker has answered.
    ///
    /// A verdict other than `Ack` on a lost lease or lane MUST be reported as
    /// [`SettleOutcome::LeaseLost`] and MUST NOT touch another's delivery. A late `Ack` may
    /// complete the message, since it was handled, and may then be reported as done; where it does
    /// not, the message comes again. MUST NOT break the connection, whatever the tokens.
    ///
    /// # Errors
    /// An `Err` means that nothing is known of any entry: each will come again.
    ///
    /// # Cancel safety
    /// When dropped, each entry may or may not be settled.
    async fn settle(
        &self,
        batch: &[Settlement],
        confirmation: Confirmation,
    ) -> Result<SettleReport>;

    /// Prolongs the leases by the subscription's lease, from now.
    ///
    /// # Errors
    /// An `Err` means that no lease was prolonged.
    ///
    /// # Cancel safety
    /// When dropped, each lease may or may not be prolonged.
    async fn extend(&self, tokens: &[Token]) -> Result<Extended>;
}

/// What is awaited by [`Settler::settle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Confirmation {
    /// That the settlement is on its way.
    #[default]
    Sent,
    /// That the broker has it.
    Broker,
}

/// An adapter's handle of one delivery. Costs no allocation besides what `handle` shares.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Token {
    /// Which lane of the subscription.
    pub lane: u32,
    /// Which life of that lane: a token of an earlier one is stale.
    pub generation: u32,
    /// The sequence, tag or offset.
    pub sequence: u64,
    /// What does not fit a number: a reply subject, a receipt handle.
    pub handle: Bytes,
}

impl Token {
    /// A token by number.
    #[must_use]
    pub const fn sequence(lane: u32, generation: u32, sequence: u64) -> Self {
        Self { lane, generation, sequence, handle: Bytes::new() }
    }

    /// The same token with a handle.
    #[must_use]
    pub fn with_handle(mut self, handle: Bytes) -> Self {
        self.handle = handle;
        self
    }
}

/// A verdict on one delivery.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settlement {
    /// The delivery.
    pub token: Token,
    /// What becomes of it.
    pub verdict: Verdict,
}

impl Settlement {
    /// A settlement from its parts.
    #[must_use]
    pub const fn new(token: Token, verdict: Verdict) -> Self {
        Self { token, verdict }
    }
}

/// What becomes of a delivery.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Verdict {
    /// Handled: never again for this group.
    Ack,
    /// Given back without fault: to this group, soon.
    Release(Box<Parcel>),
    /// Failed: to this group again, soon.
    Requeue(Box<Parcel>),
    /// Failed: to this group again, not before the delay is over.
    After(Duration, Box<Parcel>),
    /// Given up: stored as a dead letter of this group, then settled.
    DeadLetter(Box<DeadLetter>),
}

/// What a copy-and-settle needs: the message as it was received.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Parcel {
    /// The message.
    pub envelope: Envelope,
    /// Where it was.
    pub position: Position,
    /// The lane it came by.
    pub lane: Arc<Lane>,
    /// How often it has been delivered. One that the application has not seen does not count.
    pub attempt: u32,
    /// How long it should rest yet, for one of an ordered key that failed before it had to be given
    /// back. An adapter that can keep what follows of the key behind it meanwhile does so; another
    /// one delivers it soon, because the order counts for more.
    pub rest: Duration,
    /// What failed.
    pub cause: Option<Cause>,
}

impl Parcel {
    /// A parcel from its parts, which need not rest.
    #[must_use]
    pub const fn new(
        envelope: Envelope,
        position: Position,
        lane: Arc<Lane>,
        attempt: u32,
        cause: Option<Cause>,
    ) -> Self {
        Self { envelope, position, lane, attempt, rest: Duration::ZERO, cause }
    }
}

/// What became of a settlement.
#[derive(Debug)]
#[non_exhaustive]
pub enum SettleOutcome {
    /// Done, but the message comes again only after this time, not when it was asked for.
    DelayedBy(Duration),
    /// The lease had ended: nothing was done.
    LeaseLost,
    /// It could not be done: the message comes again.
    Failed(Error),
}

/// What became of a batch: whatever is not listed is done.
#[derive(Debug, Default)]
pub struct SettleReport {
    exceptions: Vec<(usize, SettleOutcome)>,
}

impl SettleReport {
    /// All done.
    #[must_use]
    pub const fn done() -> Self {
        Self { exceptions: Vec::new() }
    }

    /// Lists the entry with this index in the batch.
    pub fn except(&mut self, index: usize, outcome: SettleOutcome) {
        self.exceptions.push((index, outcome));
    }

    /// What is not plainly done, by index.
    #[must_use]
    pub fn into_exceptions(self) -> Vec<(usize, SettleOutcome)> {
        self.exceptions
    }
}

/// Which leases were prolonged.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Extended {
    /// Indexes, in the slice of tokens, of leases that are lost.
    pub lost: Vec<usize>,
}

impl Extended {
    /// All were prolonged but these.
    #[must_use]
    pub const fn except(lost: Vec<usize>) -> Self {
        Self { lost }
    }
}
