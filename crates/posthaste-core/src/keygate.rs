//! The per-key gate: nothing of a key passes while an earlier one of it is out.
//!
//! A pure state machine, used in both directions: entries of a window, deliveries of a
//! subscription. Keys are hashes; two keys that meet in one wait for each other.

use std::collections::{HashMap, VecDeque};

/// Who waits behind whom. A key that is present has one item out.
#[derive(Debug)]
pub(crate) struct KeyGate<T> {
    keys: HashMap<u64, VecDeque<T>>,
}

impl<T> Default for KeyGate<T> {
    fn default() -> Self {
        Self { keys: HashMap::new() }
    }
}

impl<T> KeyGate<T> {
    /// Lets the item pass if nothing of its key is out, else keeps it behind the others.
    pub(crate) fn offer(&mut self, key: u64, item: T) -> Option<T> {
        match self.keys.get_mut(&key) {
            Some(waiting) => {
                waiting.push_back(item);
                None
            }
            None => {
                self.keys.insert(key, VecDeque::new());
                Some(item)
            }
        }
    }

    /// The key's item is done with: returns the next one, which is out now.
    pub(crate) fn release(&mut self, key: u64) -> Option<T> {
        let next = self.keys.get_mut(&key)?.pop_front();
        if next.is_none() {
            self.keys.remove(&key);
        }
        next
    }

    /// Takes what waits behind the key's item, which stays out.
    pub(crate) fn take_waiting(&mut self, key: u64) -> VecDeque<T> {
        self.keys.get_mut(&key).map(std::mem::take).unwrap_or_default()
    }

    /// Takes from what waits behind the key's item the first that fits, and all behind it; what
    /// is out stays out.
    pub(crate) fn take_from(&mut self, key: u64, fits: impl Fn(&T) -> bool) -> VecDeque<T> {
        let Some(waiting) = self.keys.get_mut(&key) else { return VecDeque::new() };
        let first = waiting.iter().position(fits).unwrap_or(waiting.len());
        waiting.split_off(first)
    }

    /// Takes the first waiting item that fits, of any key.
    pub(crate) fn take_one(&mut self, fits: impl Fn(&T) -> bool) -> Option<T> {
        self.keys.values_mut().find_map(|waiting| {
            let at = waiting.iter().position(&fits)?;
            waiting.remove(at)
        })
    }

    /// Takes every waiting item that fits, of all keys; the others keep their order.
    pub(crate) fn take_all_that(&mut self, fits: impl Fn(&T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        for waiting in self.keys.values_mut() {
            for item in std::mem::take(waiting) {
                if fits(&item) {
                    taken.push(item);
                } else {
                    waiting.push_back(item);
                }
            }
        }
        taken
    }

    /// What waits, of all keys.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &T> {
        self.keys.values().flatten()
    }

    /// Takes everything that waits, of all keys, in no order between keys.
    pub(crate) fn take_all(&mut self) -> Vec<T> {
        self.keys.values_mut().flat_map(std::mem::take).collect()
    }
}

/// The hash of a key: FNV-1a over its parts. Two keys that meet in it wait for each other, and
/// lose nothing but time.
pub(crate) fn hash(parts: &[&[u8]]) -> u64 {
    // A part's end counts, so that moving a byte from one part to the next changes the hash.
    let bytes = parts.iter().flat_map(|part| part.iter().copied().map(u16::from).chain([0x100]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::KeyGate;

    proptest! {
        /// Whatever the interleaving of arrivals and settlements: one of a key is out at a time,
        /// keys keep their order, nothing is lost, and nothing waits behind a free key.
        #[test]
        fn keeps_order_per_key(steps in prop::collection::vec((0_u64..4, any::<bool>()), 1..200)) {
            let mut gate = KeyGate::default();
            let mut out: HashMap<u64, u32> = HashMap::new();
            let mut arrived: HashMap<u64, u32> = HashMap::new();
            let mut passed: HashMap<u64, u32> = HashMap::new();
            let mut pass = |key: u64, number: u32, out: &mut HashMap<u64, u32>| {
                prop_assert!(out.insert(key, number).is_none(), "two of a key are out");
                let expected = passed.entry(key).or_default();
                prop_assert_eq!(number, *expected, "out of order");
                *expected += 1;
                Ok(())
            };
            for (key, arrives) in steps {
                if arrives {
                    let number = *arrived.entry(key).and_modify(|n| *n += 1).or_insert(0);
                    if let Some(number) = gate.offer(key, number) {
                        pass(key, number, &mut out)?;
                    }
                } else if out.remove(&key).is_some() && let Some(next) = gate.release(key) {
                    pass(key, next, &mut out)?;
                }
            }
            for key in 0..4 {
                while out.remove(&key).is_some() {
                    if let Some(next) = gate.release(key) {
                        pass(key, next, &mut out)?;
                    }
                }
            }
            for (key, last) in arrived {
                prop_assert_eq!(passed[&key], last + 1, "lost at the gate");
            }
            prop_assert!(gate.keys.is_empty());
        }
    }
}
