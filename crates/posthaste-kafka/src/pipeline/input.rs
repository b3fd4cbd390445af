//! What a pipeline reads.

use bytes::Bytes;
use posthaste_core::{Envelope, Timestamp};
use rdkafka::message::{BorrowedMessage, Message as _};

use crate::convert::{self, Origin};

/// A message that a pipeline read.
#[derive(Debug, Clone)]
pub struct Input {
    envelope: Envelope,
    pub(super) partition: i32,
    pub(super) offset: i64,
    stored_at: Option<Timestamp>,
    pub(super) attempt: u32,
}

impl Input {
    /// Takes over a message: its payload is copied, once. The client's memory is free then.
    pub(super) fn take(message: &BorrowedMessage<'_>) -> Self {
        let (partition, offset) = (message.partition(), message.offset());
        let stored_at = convert::stored_at(message.timestamp());
        let origin = Origin { topic: message.topic(), partition, offset, stored_at };
        let payload = message.payload().map(Bytes::copy_from_slice);
        let envelope = convert::envelope(message.headers(), message.key(), payload, &origin);
        Self { envelope, partition, offset, stored_at, attempt: 1 }
    }

    /// The message.
    #[must_use]
    pub const fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The partition it is in.
    #[must_use]
    pub fn partition(&self) -> u32 {
        u32::try_from(self.partition).unwrap_or(0)
    }

    /// Where it is in its partition.
    #[must_use]
    pub fn offset(&self) -> u64 {
        u64::try_from(self.offset).unwrap_or(0)
    }

    /// When it was stored, by the clock that its topic is set to.
    #[must_use]
    pub const fn stored_at(&self) -> Option<Timestamp> {
        self.stored_at
    }

    /// How often the handler has got it, with this time: more than once after a transaction that
    /// was taken back. It is counted in memory, and begins anew with the process or when the
    /// partition moves.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }

    #[cfg(test)]
    pub(super) fn sample(partition: i32, offset: i64) -> Self {
        use posthaste_core::Envelope;
        let envelope = Envelope::builder("test").source("/it").build();
        let envelope = envelope.unwrap_or_else(|error| unreachable!("{error}"));
        Self { envelope, partition, offset, stored_at: None, attempt: 1 }
    }
}
