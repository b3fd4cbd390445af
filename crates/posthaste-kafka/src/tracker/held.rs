//! The records that are not settled, in the order they came.

use tokio::time::Instant;

/// No slot.
const NONE: usize = usize::MAX;
/// How much of a sequence names the slot; the rest counts the records.
const SLOT_BITS: u32 = 32;
/// The part of a sequence that names the slot.
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;

/// A list in slots that are used again: adding and removing costs the same however many there
/// are, and what is removed leaves nothing behind.
#[derive(Debug)]
pub(super) struct Held {
    slots: Vec<Slot>,
    first: usize,
    last: usize,
    /// The first of the slots without a record, which are chained.
    vacant: usize,
    len: usize,
    /// How many records were ever added.
    added: u64,
}

/// One record that is not settled.
#[derive(Debug)]
pub(super) struct Slot {
    /// Where it is in the partition.
    pub(super) offset: i64,
    /// The offset behind the record that came before it.
    pub(super) after: i64,
    /// When it came.
    pub(super) since: Instant,
    /// Whose slot it is; `None` is vacant.
    sequence: Option<u64>,
    before: usize,
    next: usize,
}

impl Held {
    pub(super) const fn new() -> Self {
        Self { slots: Vec::new(), first: NONE, last: NONE, vacant: NONE, len: 0, added: 0 }
    }

    /// Adds a record behind the others. The sequence names it until it is removed, and no other
    /// record of the next four billion.
    pub(super) fn push(&mut self, offset: i64, after: i64, since: Instant) -> u64 {
        let at = if self.vacant == NONE { self.slots.len() } else { self.vacant };
        let sequence = (self.added << SLOT_BITS) | (at as u64 & SLOT_MASK);
        let slot =
            Slot { offset, after, since, sequence: Some(sequence), before: self.last, next: NONE };
        if self.vacant == NONE {
            self.slots.push(slot);
        } else {
            self.vacant = std::mem::replace(&mut self.slots[at], slot).next;
        }
        match self.last {
            NONE => self.first = at,
            last => self.slots[last].next = at,
        }
        self.last = at;
        self.len += 1;
        self.added = self.added.wrapping_add(1);
        sequence
    }

    /// Removes a record. False where there is none of that sequence.
    pub(super) fn remove(&mut self, sequence: u64) -> bool {
        let Ok(at) = usize::try_from(sequence & SLOT_MASK) else { return false };
        let Some(slot) = self.slots.get_mut(at).filter(|slot| slot.sequence == Some(sequence))
        else {
            return false;
        };
        slot.sequence = None;
        let before = slot.before;
        let next = std::mem::replace(&mut slot.next, self.vacant);
        self.vacant = at;
        match before {
            NONE => self.first = next,
            before => self.slots[before].next = next,
        }
        match next {
            NONE => self.last = before,
            next => self.slots[next].before = before,
        }
        self.len -= 1;
        true
    }

    /// How many there are.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// The one that came first.
    pub(super) fn first(&self) -> Option<&Slot> {
        self.slots.get(self.first)
    }

    /// All, in the order they came.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        std::iter::successors(self.first(), |slot| self.slots.get(slot.next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(held: &Held) -> Vec<i64> {
        held.iter().map(|slot| slot.offset).collect()
    }

    #[test]
    fn keeps_the_order_whatever_is_removed() {
        let mut held = Held::new();
        let now = Instant::now();
        let sequences: Vec<_> = (0..5).map(|offset| held.push(offset, offset, now)).collect();
        for (at, left) in [(2, &[0, 1, 3, 4][..]), (0, &[1, 3, 4]), (4, &[1, 3])] {
            assert!(held.remove(sequences[at]));
            assert!(!held.remove(sequences[at]));
            assert_eq!(offsets(&held), left);
        }
        held.push(9, 5, now);
        assert_eq!(offsets(&held), [1, 3, 9]);
        assert_eq!(held.len(), 3);
        assert_eq!(held.first().map(|slot| slot.offset), Some(1));
    }

    #[test]
    fn slots_are_used_again_and_sequences_are_not() {
        let mut held = Held::new();
        let now = Instant::now();
        let first = held.push(0, 0, now);
        assert!(held.remove(first));
        for offset in 1..1_000 {
            let sequence = held.push(offset, offset, now);
            assert!(!held.remove(first));
            assert!(held.remove(sequence));
        }
        assert_eq!(held.slots.len(), 1);
        assert!(offsets(&held).is_empty());
    }

    #[test]
    fn what_nobody_was_given_removes_nothing() {
        let mut held = Held::new();
        assert!(!held.remove(0));
        held.push(0, 0, Instant::now());
        for sequence in [1, SLOT_MASK, 1 << SLOT_BITS, u64::MAX] {
            assert!(!held.remove(sequence));
        }
        assert_eq!(held.len(), 1);
    }

    #[test]
    fn the_count_in_sequences_may_wrap() {
        let mut held = Held::new();
        held.added = u64::from(u32::MAX);
        let now = Instant::now();
        let sequences = [held.push(0, 0, now), held.push(1, 1, now)];
        assert_ne!(sequences[0], sequences[1]);
        assert!(sequences.iter().all(|sequence| held.remove(*sequence)));
    }
}
