//! Deliveries that wait in memory until they are due.

use std::collections::BTreeSet;

use tokio::time::Instant;

/// Which records of a partition wait, and for when. The records themselves stay with the partition.
#[derive(Debug, Default)]
pub(super) struct Held {
    due: BTreeSet<(Instant, i32, u64)>,
}

impl Held {
    pub(super) fn add(&mut self, due: Instant, partition: i32, sequence: u64) {
        self.due.insert((due, partition, sequence));
    }

    /// Takes the first that is due.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(i32, u64)> {
        let first = self.due.first().filter(|(due, ..)| *due <= now)?;
        let (partition, sequence) = (first.1, first.2);
        self.due.pop_first();
        Some((partition, sequence))
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(due, ..)| *due)
    }

    /// The partition is gone, and with it what waited of it: until when, and what.
    pub(super) fn take(&mut self, partition: i32) -> Vec<(Instant, u64)> {
        let of = self.due.iter().filter(|(_, of, _)| *of == partition);
        let taken = of.map(|(due, _, sequence)| (*due, *sequence)).collect();
        self.due.retain(|(_, of, _)| *of != partition);
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_due_first_comes_first() {
        let (mut held, now) = (Held::default(), Instant::now());
        let later = now + Duration::from_secs(1);
        held.add(later, 0, 1);
        held.add(now, 1, 2);
        held.add(now, 2, 3);
        assert_eq!(held.take(2), [(now, 3)]);
        assert_eq!((held.next(), held.pop(now)), (Some(now), Some((1, 2))));
        assert_eq!((held.pop(now), held.next()), (None, Some(later)));
        assert_eq!(held.pop(later), Some((0, 1)));
        assert_eq!((held.pop(later), held.next()), (None, None));
    }
}
