//! What the owner of a lane has handed out, so that order holds over redeliveries.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use posthaste_core::broker::Token;

/// How many settled messages are remembered. An acknowledgement that is lost is one of the last.
const REMEMBERED: usize = 16_384;

/// The books of one lane during one ownership.
///
/// Its messages come in the stream's order. What comes again is either held still, or was given
/// back, or was settled and its acknowledgement was lost on the way: the last must not be handed
/// out behind what followed it.
#[derive(Debug, Default)]
pub(crate) struct LaneBook {
    held: BTreeMap<u64, Token>,
    /// Settled, and the server is being told.
    leaving: BTreeSet<u64>,
    /// Settled in this ownership; the server may not know it, if the word was lost on the way.
    settled: BTreeSet<u64>,
    /// Takes the answer to the last delivery that was settled.
    last: Option<Bytes>,
}

/// What a message is that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// To be handed out.
    Due,
    /// With the application.
    Held,
    /// Done: the server has to be told again.
    Settled,
}

impl LaneBook {
    /// What to do with a message at that place. `is_over` tells whether a lease has ended.
    pub(crate) fn arrive(&mut self, place: u64, is_over: impl Fn(&Token) -> bool) -> Arrival {
        match self.held.get(&place) {
            Some(token) if is_over(token) => Arrival::Due,
            Some(_) => Arrival::Held,
            // Only what is certain: anything else is handed out, if need be once more.
            None if self.settled.contains(&place) => Arrival::Settled,
            None => Arrival::Due,
        }
    }

    /// It goes to the application.
    pub(crate) fn hand_out(&mut self, place: u64, token: Token) {
        self.held.insert(place, token);
    }

    /// It will not come again, or only because the server does not know yet.
    pub(crate) fn settle(&mut self, place: u64, answer: Bytes) {
        self.held.remove(&place);
        self.leaving.insert(place);
        self.settled.insert(place);
        if self.settled.len() > REMEMBERED {
            self.settled.pop_first();
        }
        self.last = Some(answer);
    }

    /// The server was told, as far as that was possible.
    pub(crate) fn told(&mut self, place: u64) {
        self.leaving.remove(&place);
    }

    /// Where an answer waits behind all that were given on this lane.
    pub(crate) fn last_answer(&self) -> Option<Bytes> {
        self.last.clone()
    }

    /// It will come again.
    pub(crate) fn give_back(&mut self, place: u64) {
        self.held.remove(&place);
    }

    /// Whether the application has nothing of this lane any more, and the server knows.
    pub(crate) fn is_idle(&mut self, is_over: impl Fn(&Token) -> bool) -> bool {
        self.held.retain(|_, token| !is_over(token));
        self.held.is_empty() && self.leaving.is_empty()
    }

    /// The places that need not be fetched again: they are with the application.
    pub(crate) fn held(&self) -> impl Iterator<Item = u64> {
        self.held.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LASTS: fn(&Token) -> bool = |_| false;

    fn handed(places: &[u64]) -> LaneBook {
        let mut book = LaneBook::default();
        for place in places {
            assert_eq!(book.arrive(*place, LASTS), Arrival::Due);
            book.hand_out(*place, Token::sequence(0, 0, *place));
        }
        book
    }

    #[test]
    fn what_was_settled_is_not_handed_out_again() {
        let mut book = handed(&[3, 5, 9]);
        book.settle(3, Bytes::new());
        book.settle(5, Bytes::new());
        assert_eq!(book.arrive(3, LASTS), Arrival::Settled);
        assert_eq!(book.arrive(9, LASTS), Arrival::Held);
        assert_eq!(book.arrive(12, LASTS), Arrival::Due);
    }

    #[test]
    fn what_was_given_back_comes_again() {
        let mut book = handed(&[3, 5]);
        book.give_back(3);
        assert_eq!(book.arrive(3, LASTS), Arrival::Due);
        book.hand_out(3, Token::sequence(0, 0, 3));
        book.settle(3, Bytes::new());
        assert_eq!(book.arrive(3, LASTS), Arrival::Settled);
    }

    #[test]
    fn a_lane_is_idle_when_the_server_knows_all() {
        let mut book = handed(&[3]);
        book.settle(3, Bytes::from_static(b"answer"));
        assert!(!book.is_idle(LASTS));
        book.told(3);
        assert!(book.is_idle(LASTS));
        assert_eq!(book.last_answer().as_deref(), Some(&b"answer"[..]));
    }

    #[test]
    fn a_lease_that_ended_does_not_hold() {
        let mut book = handed(&[3]);
        assert_eq!(book.arrive(3, |_| true), Arrival::Due);
        assert!(!book.is_idle(LASTS));
        assert!(book.is_idle(|_| true));
    }
}
