//! A record as it came from the broker.

use bytes::Bytes;
use posthaste_core::broker::Position;
use posthaste_core::{Envelope, Timestamp};
use rdkafka::message::{BorrowedMessage, Message as _};

use super::topics::{self, Topics};
use crate::convert::{self, Origin};
use crate::private;

/// A record as it came from the broker.
#[derive(Debug)]
pub(super) struct Arrived {
    /// Its number in the row of [`Topics`].
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) envelope: Envelope,
    pub(super) position: Position,
    /// Deliveries before this copy of the message.
    pub(super) attempts: u32,
    /// Not to be handed out before that.
    pub(super) due: Option<Timestamp>,
    /// Not to be looked at before that: it waits in its partition.
    pub(super) released: Option<Timestamp>,
}

impl Arrived {
    /// Takes over a message: its payload is copied, once. The client's memory is free then.
    pub(super) fn take(message: &BorrowedMessage<'_>, topics: &Topics) -> Self {
        let (partition, offset) = (message.partition(), message.offset());
        let stored_at = convert::stored_at(message.timestamp());
        let origin = Origin { topic: message.topic(), partition, offset, stored_at };
        let payload = message.payload().map(Bytes::copy_from_slice);
        let envelope = convert::envelope(message.headers(), message.key(), payload, &origin);
        let number = topics.number(message.topic(), partition);
        let position = Position::offset(u64::try_from(offset).unwrap_or(0)).stored_at(stored_at);
        let (mut attempts, mut due, mut released) = (0, None, None);
        let position = match topics::private(number) {
            None => position.in_partition(u32::try_from(partition).ok()),
            Some(partition) => {
                (attempts, due) = convert::waits(message.headers());
                released = private::released(partition, stored_at, due);
                position
            }
        };
        Self { partition: number, offset, envelope, position, attempts, due, released }
    }
}
