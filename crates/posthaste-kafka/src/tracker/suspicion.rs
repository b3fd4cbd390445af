//! What the ends of earlier owners say about the records they may have had.

use super::progress::Progress;

/// So many owners have to end without a word at one place before its records are handed out one
/// at a time: one may be bad luck, two a bad deployment.
pub(crate) const CRASH_LOOP: u32 = 3;

/// Who is suspected of having ended earlier owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Suspicion {
    /// How many owners had ended without a word at this place when this one began.
    ends: u32,
    /// The same as the next owner shall read it: it changes as the watermark moves.
    starts: u32,
    /// Records from here on were not handed out by those.
    until: i64,
}

impl Suspicion {
    /// Nothing is known of anybody before.
    pub(super) const fn none() -> Self {
        Self { ends: 0, starts: 0, until: 0 }
    }

    /// What the last owner left says. `end` is where the partition ended after that owner did:
    /// what came later it cannot have handed out.
    pub(super) fn of(last: &Progress, end: Option<i64>) -> Self {
        let until = end.map_or(last.reach, |end| end.min(last.reach));
        if until <= last.watermark {
            return Self::none();
        }
        let ends = last.starts.saturating_add(u32::from(!last.clean));
        Self { ends, starts: ends, until }
    }

    /// Which delivery of the record it is, as far as that can be known.
    pub(super) const fn attempt(&self, offset: i64) -> u32 {
        if offset < self.until { self.ends.saturating_add(1) } else { 1 }
    }

    /// Whether the records have to be handed out one at a time.
    pub(super) const fn is_alone(&self) -> bool {
        self.starts >= CRASH_LOOP
    }

    /// How many owners have ended that had nothing out but the record at the watermark.
    pub(super) const fn ends_alone(&self) -> u32 {
        self.starts.saturating_sub(CRASH_LOOP)
    }

    /// The watermark moved: whatever ended the owners before is not below it.
    pub(super) const fn clear_below(&mut self, watermark: i64) {
        // A record that had ended an owner alone is through; else the next one is tried, until all
        // that the owners before may have had are.
        let goes_on = self.starts == CRASH_LOOP && watermark < self.until;
        self.starts = if goes_on { CRASH_LOOP } else { 0 };
    }

    /// How many owners the next one shall read of, and this one if it ends without a word.
    pub(super) const fn starts(&self) -> u32 {
        self.starts
    }

    /// Where the records end that those may have had.
    pub(super) const fn until(&self) -> i64 {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::super::runs::Runs;
    use super::*;

    fn left(starts: u32, clean: bool, reach: i64) -> Progress {
        let (settled, again) = (Runs::default(), Vec::new());
        Progress { watermark: 10, settled, starts, clean, reach, owner: 0, again }
    }

    fn of(starts: u32, clean: bool) -> Suspicion {
        Suspicion::of(&left(starts, clean, 50), None)
    }

    #[test]
    fn an_unclean_end_flags_what_may_have_been_out() {
        let suspicion = of(0, false);
        assert_eq!([10, 49, 50].map(|offset| suspicion.attempt(offset)), [2, 2, 1]);
        assert!(!suspicion.is_alone());
    }

    #[test]
    fn a_clean_end_flags_nothing_and_forgets_nothing() {
        assert_eq!(of(0, true).attempt(10), 1);
        assert_eq!(of(2, true).attempt(10), 3);
        assert_eq!(of(2, true).starts(), 2);
        // An end in order does not turn a crash loop into none.
        assert!(of(3, true).is_alone());
        assert!(of(3, true).ends_alone() == 0);
    }

    #[test]
    fn after_three_unclean_ends_records_come_one_at_a_time() {
        let alone = |starts| of(starts, false).is_alone();
        assert_eq!([0, 1, 2, 3].map(alone), [false, false, true, true]);
        assert!(of(2, false).ends_alone() == 0);
        assert_eq!([of(3, false), of(4, true), of(4, false)].map(|s| s.ends_alone()), [1, 1, 2]);
    }

    #[test]
    fn nobody_is_suspected_where_nothing_was_out() {
        assert_eq!(Suspicion::of(&left(9, false, 10), None), Suspicion::none());
        assert_eq!(Suspicion::of(&left(9, false, 50), Some(10)), Suspicion::none());
        assert_eq!(Suspicion::of(&left(9, false, 50), Some(3)), Suspicion::none());
        let some = Suspicion::of(&left(0, false, 50), Some(20));
        assert_eq!([19, 20].map(|offset| some.attempt(offset)), [2, 1]);
    }

    #[test]
    fn progress_clears_and_flags_stay() {
        let mut suspicion = of(1, false);
        suspicion.clear_below(11);
        assert_eq!(suspicion.starts(), 0);
        assert_eq!(suspicion.attempt(11), 3);
    }

    #[test]
    fn suspects_are_tried_one_after_the_other_to_the_last() {
        let mut suspicion = of(2, false);
        for watermark in 11..50 {
            suspicion.clear_below(watermark);
            assert!(suspicion.is_alone() && suspicion.ends_alone() == 0);
        }
        suspicion.clear_below(50);
        assert!(!suspicion.is_alone());
    }

    #[test]
    fn with_the_killer_gone_the_others_are_free() {
        let mut suspicion = of(3, false);
        suspicion.clear_below(11);
        assert!(!suspicion.is_alone());
    }

    #[test]
    fn counts_do_not_run_over() {
        assert_eq!(of(u32::MAX, false).attempt(10), u32::MAX);
    }
}
