//! What a token names: which hand-out of which record.

use posthaste_core::broker::Token;

/// How many topics one subscription may have: tokens name them in twelve bits.
pub(crate) const MOST_TOPICS: usize = 1 << 12;
/// The bits of a token's lane that name the partition.
const PARTITION_BITS: u32 = 20;
const PARTITION_MASK: u32 = (1 << PARTITION_BITS) - 1;

/// What a token names besides the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Which topic of the subscription.
    pub(crate) source: usize,
    pub(crate) partition: i32,
    /// Which life of the partition here.
    pub(crate) life: u16,
    /// Which hand-out of the record: one whose lease has ended comes again in the same life.
    pub(super) handout: u16,
}

impl Place {
    /// Reads a token, whatever made it.
    pub(crate) fn of(token: &Token) -> Self {
        let [low, high, ..] = [token.generation & 0xffff, token.generation >> 16];
        Self {
            source: usize::try_from(token.lane >> PARTITION_BITS).unwrap_or(usize::MAX),
            partition: i32::try_from(token.lane & PARTITION_MASK).unwrap_or(-1),
            life: u16::try_from(high).unwrap_or(u16::MAX),
            handout: u16::try_from(low).unwrap_or(u16::MAX),
        }
    }

    pub(super) fn token(self, sequence: u64) -> Token {
        let source = u32::try_from(self.source).unwrap_or(u32::MAX);
        let partition = u32::try_from(self.partition).unwrap_or(PARTITION_MASK);
        let lane = (source << PARTITION_BITS) | (partition & PARTITION_MASK);
        Token::sequence(lane, (u32::from(self.life) << 16) | u32::from(self.handout), sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_name_topic_partition_life_and_handout() {
        for (source, partition) in [(0, 0), (MOST_TOPICS - 1, 0xf_ffff), (7, 12)] {
            let place = Place { source, partition, life: 65_535, handout: 258 };
            assert_eq!(Place::of(&place.token(u64::MAX)), place);
        }
    }
}
