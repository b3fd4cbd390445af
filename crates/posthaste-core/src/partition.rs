//! Which partition of an ordered topic a key belongs to.
//!
//! The hash is Kafka's murmur2, so that Java and Go producers of the same topic agree. It is fixed
//! for ever: changing it would break the order of every existing topic.

use crate::{Envelope, Error, Result};

/// How a topic orders its messages, fixed at its creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Layout {
    /// No order is promised.
    #[default]
    Plain,
    /// Order per key, over this many partitions.
    Ordered(u16),
}

impl Layout {
    /// The most partitions an ordered topic may have.
    pub const MAX_PARTITIONS: u16 = 1_024;

    /// Checks the number of partitions.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) outside of 1 to [`Layout::MAX_PARTITIONS`].
    pub fn check(self) -> Result<Self> {
        match self {
            Self::Ordered(n) if n == 0 || n > Self::MAX_PARTITIONS => {
                Err(Error::invalid("an ordered topic has 1 to 1024 partitions")
                    .with_context("found", n))
            }
            layout => Ok(layout),
        }
    }

    /// How many partitions there are; `None` on a plain topic.
    #[must_use]
    pub const fn partitions(self) -> Option<u16> {
        match self {
            Self::Plain => None,
            Self::Ordered(n) => Some(n),
        }
    }

    /// The partition of a message; `None` on a plain topic. Without a key there is no order to
    /// keep: the id spreads such messages, so that a repeated publish meets the same partition.
    #[must_use]
    pub fn partition(self, envelope: &Envelope) -> Option<u16> {
        let n = self.partitions()?;
        let key = envelope.key().unwrap_or_else(|| envelope.id().as_bytes());
        // The remainder is below n, which is a u16.
        u16::try_from((murmur2(key) & 0x7fff_ffff) % u32::from(n.max(1))).ok()
    }
}

/// Kafka's murmur2 over the bytes of a key. The partition is `(hash & 0x7fff_ffff) % n`.
#[must_use]
pub fn murmur2(bytes: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    #[expect(clippy::cast_possible_truncation, reason = "the hash is defined modulo 2^32")]
    let mut hash = SEED ^ (bytes.len() as u32);
    let (words, tail) = bytes.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (index, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::murmur2;

    /// Values of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn agrees_with_kafka() {
        let expected: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (key, hash) in expected {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
    }
}
