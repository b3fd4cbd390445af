//! What the broker answered: for one message, and for a batch.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

use crate::broker::Stored;
use crate::{Envelope, Error, Result};

/// The broker has taken responsibility for the message.
#[derive(Clone)]
pub struct Confirmed {
    // The envelope without its payload: only for the id, and without a new allocation.
    envelope: Envelope,
    stored: Stored,
}

impl Confirmed {
    pub(crate) fn new(envelope: Envelope, stored: Stored) -> Self {
        Self { envelope: envelope.with_payload(Bytes::new()), stored }
    }

    /// The message's id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.envelope.id()
    }

    /// The broker's own name of the message: its offset or sequence, or an id.
    #[must_use]
    pub fn broker_id(&self) -> Option<Cow<'_, str>> {
        match (&self.stored.broker_id, self.stored.offset) {
            (Some(id), _) => Some(Cow::Borrowed(id)),
            (None, Some(offset)) => Some(Cow::Owned(offset.to_string())),
            (None, None) => None,
        }
    }

    /// The partition of an ordered topic or log.
    #[must_use]
    pub const fn partition(&self) -> Option<u32> {
        self.stored.partition
    }

    /// The offset or sequence.
    #[must_use]
    pub const fn offset(&self) -> Option<u64> {
        self.stored.offset
    }

    /// The broker knew the id already and stored nothing.
    #[must_use]
    pub const fn duplicate(&self) -> bool {
        self.stored.duplicate
    }
}

impl fmt::Debug for Confirmed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Confirmed")
            .field("id", &self.id())
            .field("broker_id", &self.broker_id())
            .field("partition", &self.partition())
            .field("duplicate", &self.duplicate())
            .finish()
    }
}

/// What became of each message of a batch, in the batch's order.
#[derive(Debug)]
#[must_use = "entries of a batch can fail one by one: look at the report"]
pub struct PublishReport {
    outcomes: Vec<Result<Confirmed>>,
}

impl PublishReport {
    pub(crate) const fn new(outcomes: Vec<Result<Confirmed>>) -> Self {
        Self { outcomes }
    }

    /// How many messages the batch had.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.outcomes.len()
    }

    /// Whether the batch was empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.outcomes.is_empty()
    }

    /// Whether every message is confirmed.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.outcomes.iter().all(Result::is_ok)
    }

    /// The outcomes, in the batch's order.
    pub fn outcomes(&self) -> &[Result<Confirmed>] {
        &self.outcomes
    }

    /// The messages that are not confirmed, by index. An error whose
    /// [`may_be_stored`](Error::may_be_stored) is false is certainly not stored.
    pub fn failures(&self) -> impl Iterator<Item = (usize, &Error)> {
        let failed = |(index, outcome): (usize, &'_ Result<Confirmed>)| match outcome {
            Ok(_) => None,
            Err(_) => Some(index),
        };
        self.outcomes
            .iter()
            .enumerate()
            .filter_map(failed)
            .filter_map(|index| self.outcomes[index].as_ref().err().map(|error| (index, error)))
    }

    /// The outcomes by value.
    #[must_use]
    pub fn into_outcomes(self) -> Vec<Result<Confirmed>> {
        self.outcomes
    }

    /// All confirmations, or the first failure.
    ///
    /// # Errors
    /// The error of the first message that is not confirmed.
    pub fn into_result(self) -> Result<Vec<Confirmed>> {
        self.outcomes.into_iter().collect()
    }
}
