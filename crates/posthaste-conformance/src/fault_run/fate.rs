//! What a group's handlers make of a message: drawn from the seed, the same at every delivery.

use std::time::Duration;

use super::message::Tag;

/// What becomes of a delivery.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fate {
    /// Acknowledged at once.
    Quick,
    /// Acknowledged after some milliseconds.
    Slow(Duration),
    /// Acknowledged after more than its lease.
    SlowerThanTheLease(Duration),
    /// Acknowledged, and the broker's word is waited for.
    Confirmed,
    /// Fails at first, to be had again soon.
    Requeue,
    /// Fails at first, to be had again later.
    Later(Duration),
    /// Given back at first, without a fault.
    Release,
    /// Forgotten at first.
    Drop,
    /// Always fails for good.
    DeadLetter,
}

/// Where fates come from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fates {
    pub(super) seed: u64,
    pub(super) lease: Duration,
    /// How many times as many deliveries as usual are not quick.
    pub(super) clumsiness: u32,
    pub(super) dead_letters: bool,
}

/// Of a million messages.
const MILLION: u64 = 1_000_000;

impl Fates {
    /// What the group makes of this delivery. What fails at first does so the first time alone, and
    /// only if it has attempts left.
    pub(super) fn of(self, group: usize, tag: Tag, may_fail: bool) -> Fate {
        let mut chance = self.chance(group, tag);
        let mut draw = chance.u64(..MILLION);
        let share = chance.f64();
        let mut is = |of_a_million: u64| {
            let wide = of_a_million * u64::from(self.clumsiness);
            let hit = draw < wide;
            draw = draw.wrapping_sub(wide);
            hit
        };
        if is(50) {
            return Fate::SlowerThanTheLease(self.lease.mul_f64(1.2 + 0.5 * share));
        }
        let (dead, slow, confirmed) = (is(100), is(5_000), is(2_000));
        let (requeue, later, release, drop) = (is(1_000), is(1_000), is(500), is(500));
        if dead && self.dead_letters {
            Fate::DeadLetter
        } else if slow {
            Fate::Slow(Duration::from_millis(60).mul_f64(share))
        } else if confirmed {
            Fate::Confirmed
        } else if !may_fail {
            Fate::Quick
        } else if requeue {
            Fate::Requeue
        } else if later {
            Fate::Later(Duration::from_millis(50) + Duration::from_millis(1_450).mul_f64(share))
        } else if release {
            Fate::Release
        } else if drop {
            Fate::Drop
        } else {
            Fate::Quick
        }
    }

    fn chance(self, group: usize, tag: Tag) -> fastrand::Rng {
        let publisher = tag.publisher as u64;
        let place = (group as u64) << 48 | publisher << 32 | u64::from(tag.number);
        // The generator mixes well from its second number on.
        let mut chance =
            fastrand::Rng::with_seed(self.seed ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let _ = chance.u64(..);
        chance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FATES: Fates =
        Fates { seed: 3, lease: Duration::from_secs(5), clumsiness: 1, dead_letters: true };

    fn count(fates: Fates, may_fail: bool, like: fn(Fate) -> bool) -> usize {
        let tags = (0..200_000).map(|number| Tag::new(1, number));
        tags.filter(|tag| like(fates.of(0, *tag, may_fail))).count()
    }

    #[test]
    fn each_fate_has_its_share() {
        let near = |found: usize, wanted: usize| found.abs_diff(wanted) < wanted / 3 + 5;
        assert!(near(count(FATES, true, |fate| matches!(fate, Fate::Later(_))), 200));
        assert!(near(count(FATES, true, |fate| fate == Fate::Requeue), 200));
        assert!(near(count(FATES, true, |fate| fate == Fate::Drop), 100));
        assert!(near(count(FATES, true, |fate| fate == Fate::DeadLetter), 20));
        assert!(count(FATES, true, |fate| fate == Fate::Quick) > 190_000);
    }

    #[test]
    fn what_fails_at_first_is_well_the_second_time() {
        assert_eq!(count(FATES, false, |fate| matches!(fate, Fate::Requeue | Fate::Later(_))), 0);
        let dead = |fate| fate == Fate::DeadLetter;
        assert_eq!(count(FATES, true, dead), count(FATES, false, dead));
        assert_eq!(count(Fates { dead_letters: false, ..FATES }, true, dead), 0);
    }

    #[test]
    fn slower_than_the_lease_is_longer_than_the_lease() {
        let long = |fate| matches!(fate, Fate::SlowerThanTheLease(takes) if takes > FATES.lease);
        assert!(count(FATES, true, long) > 2);
    }

    #[test]
    fn groups_and_seeds_differ() {
        let all = |fates: Fates, group| -> Vec<Fate> {
            (0..5_000).map(|number| fates.of(group, Tag::new(0, number), true)).collect()
        };
        assert_eq!(all(FATES, 0), all(FATES, 0));
        assert_ne!(all(FATES, 0), all(FATES, 1));
        assert_ne!(all(FATES, 0), all(Fates { seed: 4, ..FATES }, 0));
    }
}
