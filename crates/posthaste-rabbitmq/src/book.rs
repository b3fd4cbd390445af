//! The books of one channel: which deliveries are out, until when, and up to where everything is
//! settled.
//!
//! Delivery tags count up by one on a channel, over all of its consumers. An acknowledgement for
//! all up to a tag is sent only where all of them are settled.

use std::collections::VecDeque;

use tokio::time::Instant;

/// The deliveries of one channel. As long as its prefetch, and what is settled out of order.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// All tags up to this one are settled.
    floor: u64,
    /// The tags behind the floor, in order.
    slots: VecDeque<Slot>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    /// On its way to us, or not looked at yet.
    Coming,
    /// Handed out, with the end of its lease.
    Out(Instant),
    Settled,
}

impl Book {
    /// A delivery is handed out.
    pub(crate) fn arrive(&mut self, tag: u64, until: Instant) {
        let Some(at) = self.index(tag) else { return };
        while self.slots.len() <= at {
            self.slots.push_back(Slot::Coming);
        }
        self.slots[at] = Slot::Out(until);
    }

    /// Whether the delivery is handed out and not settled.
    pub(crate) fn is_out(&self, tag: u64) -> bool {
        matches!(self.slot(tag), Some(Slot::Out(_)))
    }

    /// Prolongs the lease. `false` if there is none any more.
    pub(crate) fn prolong(&mut self, tag: u64, until: Instant) -> bool {
        let at = self.index(tag).filter(|at| *at < self.slots.len());
        match at.map(|at| &mut self.slots[at]) {
            Some(Slot::Out(end)) => {
                *end = until;
                true
            }
            _ => false,
        }
    }

    /// It is settled. `false` if it was not handed out.
    pub(crate) fn settle(&mut self, tag: u64) -> bool {
        match self.index(tag) {
            Some(at) if at < self.slots.len() && matches!(self.slots[at], Slot::Out(_)) => {
                self.slots[at] = Slot::Settled;
                while self.slots.front() == Some(&Slot::Settled) {
                    self.slots.pop_front();
                    self.floor += 1;
                }
                true
            }
            _ => false,
        }
    }

    /// The tag up to which all are settled.
    pub(crate) const fn floor(&self) -> u64 {
        self.floor
    }

    /// When the next lease ends.
    pub(crate) fn next_end(&self) -> Option<Instant> {
        let ends = self.slots.iter().filter_map(|slot| match slot {
            Slot::Out(end) => Some(*end),
            _ => None,
        });
        ends.min()
    }

    /// The deliveries whose lease has ended, in order.
    pub(crate) fn ended(&self, now: Instant) -> Vec<u64> {
        let tags = (self.floor + 1..).zip(&self.slots);
        let ended = tags.filter(|(_, slot)| matches!(slot, Slot::Out(end) if *end <= now));
        ended.map(|(tag, _)| tag).collect()
    }

    fn index(&self, tag: u64) -> Option<usize> {
        // A tag that nobody issued may be any number: it is not worth a book.
        let at = usize::try_from(tag.checked_sub(self.floor + 1)?).ok()?;
        (at < 1 << 20).then_some(at)
    }

    fn slot(&self, tag: u64) -> Option<Slot> {
        self.slots.get(self.index(tag)?).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_floor_stops_at_what_is_not_settled() {
        let mut book = Book::default();
        let end = Instant::now() + Duration::from_secs(1);
        // Two consumers of one channel: the second's delivery is looked at first.
        book.arrive(2, end);
        assert!(book.settle(2));
        assert_eq!(book.floor(), 0);
        book.arrive(1, end);
        book.arrive(3, end);
        assert!(book.settle(1));
        assert_eq!(book.floor(), 2);
        assert!(!book.settle(1) && !book.settle(9));
        assert!(book.is_out(3) && !book.is_out(2) && !book.is_out(u64::MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn leases_end_unless_they_are_prolonged() {
        let mut book = Book::default();
        let now = Instant::now();
        let second = Duration::from_secs(1);
        book.arrive(1, now + second);
        book.arrive(2, now + second);
        assert!(book.prolong(1, now + second * 3));
        assert_eq!(book.next_end(), Some(now + second));
        assert_eq!(book.ended(now + second), [2]);
        assert!(book.settle(2));
        assert!(!book.prolong(2, now + second * 3));
        assert_eq!(book.next_end(), Some(now + second * 3));
    }

    proptest! {
        #[test]
        fn the_floor_is_the_longest_settled_prefix(
            order in prop::collection::vec(0_u64..40, 0..120)
        ) {
            let mut book = Book::default();
            let end = Instant::from_std(std::time::Instant::now());
            for tag in 1..=40 {
                book.arrive(tag, end);
            }
            let mut settled = std::collections::BTreeSet::new();
            for tag in order {
                prop_assert_eq!(book.settle(tag + 1), settled.insert(tag + 1));
                let prefix = (1..).take_while(|tag| settled.contains(tag)).count();
                prop_assert_eq!(book.floor(), prefix as u64);
            }
        }
    }
}
