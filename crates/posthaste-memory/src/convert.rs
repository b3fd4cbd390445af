//! Between the log and core. There is no wire, so envelopes pass as they are; what is left is to
//! name places and deliveries.

use std::sync::Arc;

use posthaste_core::broker::{Attempt, Lane, Position, Received, Retained, Token};

use crate::engine::{Entry, Held, Tag};

/// A delivery's token: the source within the subscription, the number of the hand-out, the slot.
pub(crate) fn token(tag: Tag, source: u32) -> Token {
    Token::sequence(source, tag.handout, tag.slot as u64)
}

/// The token of what was settled as it was delivered: no slot has that number.
pub(crate) fn settled_token(source: u32) -> Token {
    Token::sequence(source, 0, u64::MAX)
}

/// The way back; a token that no delivery has, comes out as a tag that no delivery has.
pub(crate) fn tag(token: &Token) -> Tag {
    Tag { slot: usize::try_from(token.sequence).unwrap_or(usize::MAX), handout: token.generation }
}

pub(crate) fn received(held: &Held, lane: &Arc<Lane>, token: Token) -> Received {
    let message = &held.message;
    Received::new(message.envelope.clone(), token, Arc::clone(lane))
        .with_attempt(Attempt::exact(held.attempts))
        .with_position(
            Position::offset(message.offset)
                .in_partition(lane.partition())
                .stored_at(Some(message.stored_at)),
        )
}

pub(crate) fn retained(entry: &Entry, partition: Option<u32>, offset: u64) -> Retained {
    let position =
        Position::offset(offset).in_partition(partition).stored_at(Some(entry.stored_at));
    Retained::new(entry.envelope.clone(), position)
}
