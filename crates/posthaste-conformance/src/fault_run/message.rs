//! The messages of a fault run. Each is named by its publisher and a number, so that a million of
//! them are known by a few bytes each.

use std::fmt;

use posthaste_core::{Envelope, Layout, Result};

use crate::scene::SOURCE;

const TYPE: &str = "conformance.fault_run";
/// How many keys each publisher of an ordered topic has. Its numbers go round them.
pub(super) const KEYS: u32 = 64;
/// How many bytes the payload of a message has.
const BYTES: usize = 100;
/// One of so many messages is larger.
const LARGE_ONE_OF: u32 = 101;
const LARGE_BYTES: usize = 2_000;

/// The name of a message. As an id it is `p3-17`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Tag {
    pub(super) publisher: usize,
    pub(super) number: u32,
}

impl Tag {
    pub(super) const fn new(publisher: usize, number: u32) -> Self {
        Self { publisher, number }
    }

    /// The message; on an ordered topic with the key of its turn.
    pub(super) fn envelope(self, keyed: bool) -> Result<Envelope> {
        let id = self.to_string();
        let mut payload = id.clone().into_bytes();
        payload.resize(self.bytes(), b' ');
        let key = keyed.then(|| format!("k{}-{}", self.publisher, self.key()));
        let mut builder = Envelope::builder(TYPE).source(SOURCE).id(id).payload(payload);
        if let Some(key) = key {
            builder = builder.key(key);
        }
        builder.build()
    }

    /// The name of a message that came, if it is one of ours and whole.
    pub(super) fn of(envelope: &Envelope) -> Option<Self> {
        let id = envelope.id();
        let (publisher, number) = id.strip_prefix('p')?.split_once('-')?;
        let payload = std::str::from_utf8(envelope.payload()).ok()?;
        let tag = Self { publisher: publisher.parse().ok()?, number: number.parse().ok()? };
        let whole = payload.len() == tag.bytes() && payload.trim_end() == id;
        whole.then_some(tag)
    }

    const fn bytes(self) -> usize {
        if self.number.is_multiple_of(LARGE_ONE_OF) { LARGE_BYTES } else { BYTES }
    }

    /// Which of so many lanes its key is in.
    pub(super) fn lane(self, lanes: u16) -> Option<u16> {
        Layout::Ordered(lanes).partition(&self.envelope(true).ok()?)
    }

    /// Which key of its publisher it has.
    pub(super) const fn key(self) -> u32 {
        self.number % KEYS
    }

    /// The how-manyth of its key it is, from 0.
    pub(super) const fn turn(self) -> u32 {
        self.number / KEYS
    }

    /// The message of the same key at another turn.
    pub(super) const fn at_turn(self, turn: u32) -> Self {
        Self { publisher: self.publisher, number: turn * KEYS + self.key() }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}-{}", self.publisher, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_tells_its_name() {
        for tag in [Tag::new(3, 12_345), Tag::new(0, 0)] {
            for keyed in [false, true] {
                assert_eq!(Tag::of(&tag.envelope(keyed).unwrap()), Some(tag));
            }
        }
    }

    #[test]
    fn what_was_changed_on_the_way_has_no_name() {
        let envelope = Tag::new(3, 5).envelope(false).unwrap();
        let payload = envelope.payload().slice(..BYTES - 1);
        assert_eq!(Tag::of(&envelope.clone().with_payload(payload)), None);
        let other = Tag::new(3, 6).envelope(false).unwrap();
        assert_eq!(Tag::of(&envelope.with_payload(other.payload().clone())), None);
    }

    #[test]
    fn numbers_go_round_the_keys() {
        let tag = Tag::new(0, KEYS * 3 + 5);
        assert_eq!((tag.key(), tag.turn()), (5, 3));
        assert_eq!(tag.at_turn(2), Tag::new(0, KEYS * 2 + 5));
    }
}
