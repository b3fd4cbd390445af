//! A record as it came from the broker.

use bytes::{Bytes, BytesMut};
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
    pub(super) fn take(
        message: &BorrowedMessage<'_>,
        topics: &Topics,
        payloads: &mut Payloads,
    ) -> Self {
        let (partition, offset) = (message.partition(), message.offset());
        let stored_at = convert::stored_at(message.timestamp());
        let origin = Origin { topic: message.topic(), partition, offset, stored_at };
        let payload = message.payload().map(|payload| payloads.copy(payload));
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

/// Memory for the payloads of messages that come one after the other.
///
/// Small ones share a block: most are settled in the order in which they came, so that its memory
/// is free again soon, and it costs less than memory for each, which another thread gives back.
/// Whoever keeps one such message keeps a block.
#[derive(Debug, Default)]
pub(super) struct Payloads {
    block: BytesMut,
}

impl Payloads {
    /// The bytes of a block.
    const BLOCK: usize = 64 << 10;
    /// The bytes of the largest payload that does not get memory of its own.
    const SMALL: usize = 4 << 10;

    fn copy(&mut self, payload: &[u8]) -> Bytes {
        if payload.len() > Self::SMALL {
            return Bytes::copy_from_slice(payload);
        }
        if self.block.capacity() < payload.len() {
            self.block = BytesMut::with_capacity(Self::BLOCK);
        }
        self.block.extend_from_slice(payload);
        self.block.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_copied_whole_whatever_their_size() {
        let mut payloads = Payloads::default();
        let sizes = [0, 1, 1_000, Payloads::SMALL, Payloads::SMALL + 1, 100_000, 3];
        let made: Vec<Vec<u8>> =
            (0..200).map(|at: u8| vec![at; sizes[usize::from(at) % 7]]).collect();
        let copies: Vec<_> = made.iter().map(|payload| payloads.copy(payload)).collect();
        assert!(copies == made);
    }
}
