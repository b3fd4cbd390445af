//! Which messages of a lane its owner has settled, in little memory.
//!
//! A message that the owner settled may come once more, because the server did not get to know
//! it. Everything that the owner saw without a break and has not in its hands is settled by it, so
//! only the stretches that it did not see whole need a record.

use std::collections::BTreeSet;

/// Stretches that are kept apart. More are joined: then a message in between that is delivered
/// once more is handled once more.
const STRETCHES: usize = 16;
/// Messages that are remembered one by one. More are forgotten, oldest first, with the same
/// effect.
const REMEMBERED: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Stretches of sequences of which some may have been settled by others, or never seen: after
    /// the first, up to and with the second. In ascending order.
    unsure: Vec<(u64, u64)>,
    /// What the owner settled in them, and above all of them.
    one_by_one: BTreeSet<u64>,
}

impl Settled {
    /// What lies in that stretch was not seen whole. It lies above all others.
    pub(super) fn doubt(&mut self, after: u64, upto: u64) {
        if upto <= after {
            return;
        }
        self.unsure.push((after, upto));
        if self.unsure.len() > STRETCHES {
            let (_, upto) = self.unsure.remove(1);
            self.unsure[0].1 = upto;
        }
    }

    /// Whether the sequence lies in a stretch that was not seen whole.
    pub(super) fn is_unsure(&self, sequence: u64) -> bool {
        self.unsure.iter().any(|(after, upto)| *after < sequence && sequence <= *upto)
    }

    /// The owner settled it, and it lies where that has to be remembered.
    pub(super) fn remember(&mut self, sequence: u64) {
        self.one_by_one.insert(sequence);
        if self.one_by_one.len() > REMEMBERED {
            self.one_by_one.pop_first();
        }
    }

    /// Whether it is remembered.
    pub(super) fn remembers(&self, sequence: u64) -> bool {
        self.one_by_one.contains(&sequence)
    }

    /// Everything up to there is settled at the server, by whomever, and need not be remembered.
    /// A server that loses its memory in a crash may still deliver it again.
    pub(super) fn prune(&mut self, floor: u64) {
        self.one_by_one = self.one_by_one.split_off(&floor.saturating_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_where_it_is_unsure() {
        let mut settled = Settled::default();
        settled.doubt(0, 10);
        settled.doubt(20, 20);
        settled.doubt(30, 32);
        let unsure: Vec<u64> = (0..40).filter(|s| settled.is_unsure(*s)).collect();
        assert_eq!(unsure, (1..=10).chain([31, 32]).collect::<Vec<_>>());
        settled.remember(4);
        settled.remember(31);
        settled.prune(8);
        assert!(settled.remembers(31) && !settled.remembers(4));
    }

    #[test]
    fn stays_small() {
        let mut settled = Settled::default();
        for at in 0..100 {
            settled.doubt(at * 10, at * 10 + 5);
        }
        assert_eq!(settled.unsure.len(), STRETCHES);
        assert!(settled.is_unsure(1) && settled.is_unsure(17), "the oldest are one");
        assert!(settled.is_unsure(995) && !settled.is_unsure(996) && !settled.is_unsure(989));
        for sequence in 0..REMEMBERED as u64 + 10 {
            settled.remember(sequence);
        }
        assert_eq!(settled.one_by_one.len(), REMEMBERED);
        assert!(!settled.remembers(9) && settled.remembers(10));
    }
}
