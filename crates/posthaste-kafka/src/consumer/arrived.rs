//! A record as it came from the broker.

use bytes::Bytes;
use posthaste_core::Envelope;
use posthaste_core::broker::Position;
use rdkafka::message::{BorrowedMessage, Message as _};

use crate::convert::{self, Origin};

/// A record as it came from the broker.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) envelope: Envelope,
    pub(super) position: Position,
}

impl Arrived {
    /// Takes over a message: its payload is copied, once. The client's memory is free then.
    pub(super) fn take(message: &BorrowedMessage<'_>) -> Self {
        let (partition, offset) = (message.partition(), message.offset());
        let stored_at = convert::stored_at(message.timestamp());
        let origin = Origin { topic: message.topic(), partition, offset, stored_at };
        let payload = message.payload().map(Bytes::copy_from_slice);
        let envelope = convert::envelope(message.headers(), message.key(), payload, &origin);
        let position = Position::offset(u64::try_from(offset).unwrap_or(0))
            .in_partition(u32::try_from(partition).ok())
            .stored_at(stored_at);
        Self { partition, offset, envelope, position }
    }
}
