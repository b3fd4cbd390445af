//! A map by numbers that we count ourselves: sequences and partitions.
//!
//! Two maps are asked for each message that comes and each that is settled. Nobody outside chooses
//! these numbers, so that the standard hash, which nobody can foresee, would only cost time.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by numbers that nobody outside chooses.
pub(super) type CountedMap<K, V> = HashMap<K, V, BuildHasherDefault<Counted>>;

/// Spreads numbers that follow each other over all bits.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counted(u64);

impl Hasher for Counted {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        // 2^64 divided by the golden ratio: neighbours end up far from each other.
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(SPREAD);
    }

    fn write_i32(&mut self, number: i32) {
        self.write_u64(u64::from(number.cast_unsigned()));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher as _;

    use super::*;

    #[test]
    fn neighbours_share_neither_place_nor_mark() {
        let build = BuildHasherDefault::<Counted>::default();
        let hashes: Vec<u64> = (0..4_096_u64).map(|number| build.hash_one(number)).collect();
        // A map takes the place from the low bits and a mark from the high ones.
        let places: HashSet<u64> = hashes.iter().map(|hash| hash & 0xfff).collect();
        let marks: HashSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
        assert_eq!((places.len(), marks.len()), (4_096, 128));
        assert_ne!(build.hash_one(-1_i32), build.hash_one(1_i32));
    }
}
