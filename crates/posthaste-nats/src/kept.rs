//! A message that came and was not handed out yet.

use std::sync::Arc;

use async_nats::{Message, Subject};
use bytes::Bytes;
use posthaste_core::Envelope;
use posthaste_core::broker::{Attempt, Lane, Position, Received, Token};
use tokio::time::Instant;

use crate::convert::{self, Origin};
use crate::lanes::handle::LaneHandle;
use crate::names;
use crate::reply::Delivered;
use crate::source::Source;

pub(crate) struct Kept {
    pub(crate) place: u64,
    pub(crate) reply: Subject,
    /// From when on its lease may count.
    pub(crate) arrived: Instant,
    pub(crate) order: Option<Arc<LaneHandle>>,
    envelope: Envelope,
    lane: Arc<Lane>,
    lane_number: u32,
    attempt: Attempt,
    position: Position,
}

impl Kept {
    pub(crate) fn new(
        source: &Source,
        message: Message,
        reply: Subject,
        delivered: &Delivered,
        arrived: Instant,
    ) -> Self {
        let origin = Origin {
            stream: &source.spec.stream,
            subject: &message.subject,
            sequence: delivered.stream_sequence,
            stored_at: Some(delivered.stored_at),
        };
        let partition =
            source.spec.partition.or_else(|| names::partition_of(&source.topic, &message.subject));
        let deliveries = u32::try_from(delivered.deliveries).unwrap_or(u32::MAX);
        let attempt = match source.counts_exactly {
            true => Attempt::exact(deliveries),
            false => Attempt::approximate(deliveries),
        };
        let envelope = convert::envelope(message.headers.as_ref(), message.payload, &origin);
        Self {
            place: delivered.stream_sequence,
            reply,
            arrived,
            order: source.order.as_ref().map(|order| Arc::clone(&order.handle)),
            envelope,
            lane: Arc::clone(&source.lane),
            lane_number: source.lane_number,
            attempt,
            position: Position::offset(delivered.stream_sequence)
                .in_partition(partition)
                .stored_at(Some(delivered.stored_at)),
        }
    }

    /// The delivery, with a lease that counts from the stamp.
    pub(crate) fn into_received(self, stamp: u32) -> Received {
        let handle = Bytes::from(self.reply.into_string());
        let token = Token::sequence(self.lane_number, stamp, self.place).with_handle(handle);
        Received::new(self.envelope, token, self.lane)
            .with_attempt(self.attempt)
            .with_position(self.position)
    }
}
