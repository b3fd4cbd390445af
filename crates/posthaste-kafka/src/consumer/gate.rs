//! Keys that wait because a record of theirs failed under an earlier owner of the partition.
//!
//! Within one life core keeps the order: it holds back what follows a record of the same key that
//! it has, or had and waits for. Of a record that failed before this life it knows nothing until
//! it gets it. So where keys are ordered, what follows such a record waits here with it.

use std::collections::HashMap;

use tokio::time::Instant;

/// The keys that wait, with how many records each has waiting.
#[derive(Debug, Default)]
pub(super) struct Gate {
    keys: HashMap<Box<[u8]>, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    records: usize,
    /// Until when the last of them waits.
    last: Instant,
}

impl Gate {
    /// A record of the key came: until when it has to wait, if it has to. `due` is its own time.
    pub(super) fn come(&mut self, key: &[u8], due: Option<Instant>) -> Option<Instant> {
        if let Some(waiting) = self.keys.get_mut(key) {
            // Of records with the same time, the one that came first goes first.
            waiting.last = due.map_or(waiting.last, |due| due.max(waiting.last));
            waiting.records += 1;
            return Some(waiting.last);
        }
        let last = due?;
        self.keys.insert(key.into(), Waiting { records: 1, last });
        Some(last)
    }

    /// A record of the key waits no more: core has it, or it is settled.
    pub(super) fn go(&mut self, key: &[u8]) {
        let Some(waiting) = self.keys.get_mut(key) else { return };
        waiting.records -= 1;
        if waiting.records == 0 {
            self.keys.remove(key);
        }
    }

    /// Whether no key waits.
    pub(super) fn is_open(&self) -> bool {
        self.keys.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_follows_a_record_that_waits_waits_as_long() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        let (soon, late) = (now + Duration::from_secs(1), now + Duration::from_secs(9));
        assert_eq!(gate.come(b"a", None), None);
        assert_eq!(gate.come(b"a", Some(late)), Some(late));
        assert_eq!(gate.come(b"a", None), Some(late));
        assert_eq!(gate.come(b"a", Some(soon)), Some(late), "it does not overtake");
        assert_eq!(gate.come(b"b", None), None, "another key does not wait");
        for waiting in (0..3).rev() {
            gate.go(b"a");
            assert_eq!(gate.is_open(), waiting == 0);
        }
        gate.go(b"a");
        assert_eq!(gate.come(b"a", None), None);
    }
}
