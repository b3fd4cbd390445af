//! Tells when everything up to a point is resolved, in whatever order that happens.

use std::collections::VecDeque;

/// Counts what is outstanding between one mark and the next.
#[derive(Debug)]
pub(super) struct Epochs {
    /// Epochs with what is outstanding of each, in order. Those before the last are not empty;
    /// the last one takes what comes.
    epochs: VecDeque<(u64, usize)>,
}

impl Epochs {
    pub(super) fn new() -> Self {
        Self { epochs: VecDeque::from([(1, 0)]) }
    }

    /// Counts one more; the epoch it belongs to.
    pub(super) fn enter(&mut self) -> u64 {
        let Some((epoch, count)) = self.epochs.back_mut() else { return 0 };
        *count += 1;
        *epoch
    }

    /// So many of that epoch are resolved.
    pub(super) fn leave(&mut self, epoch: u64, resolved: usize) {
        let Ok(at) = self.epochs.binary_search_by_key(&epoch, |(epoch, _)| *epoch) else { return };
        let (_, count) = &mut self.epochs[at];
        *count = count.saturating_sub(resolved);
        if *count == 0 && at + 1 < self.epochs.len() {
            self.epochs.remove(at);
        }
    }

    /// A mark that has passed once everything that entered until now has left.
    pub(super) fn mark(&mut self) -> u64 {
        match self.epochs.back() {
            Some((last, 0)) => last - 1,
            Some((last, _)) => {
                let mark = *last;
                self.epochs.push_back((mark + 1, 0));
                mark
            }
            None => 0,
        }
    }

    /// Whether everything that entered before the mark has left.
    pub(super) fn has_passed(&self, mark: u64) -> bool {
        self.epochs.front().is_none_or(|(first, _)| *first > mark)
    }

    /// How many have not left.
    pub(super) fn outstanding(&self) -> usize {
        self.epochs.iter().map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Epochs;

    proptest! {
        /// Against the plain meaning: a mark has passed when all that was in before it has left.
        #[test]
        fn a_mark_passes_with_what_was_before_it(steps in prop::collection::vec(0_u8..4, 1..100)) {
            let mut epochs = Epochs::new();
            let mut inside: Vec<(usize, u64)> = Vec::new();
            let mut marks: Vec<(usize, u64)> = Vec::new();
            for (now, step) in steps.into_iter().enumerate() {
                match step {
                    0 | 1 => inside.push((now, epochs.enter())),
                    2 if !inside.is_empty() => {
                        let (_, epoch) = inside.remove(now % inside.len());
                        epochs.leave(epoch, 1);
                    }
                    _ => marks.push((now, epochs.mark())),
                }
                prop_assert_eq!(epochs.outstanding(), inside.len());
                prop_assert!(epochs.epochs.len() <= inside.len() + 1, "unbounded");
                for (at, mark) in &marks {
                    let left = !inside.iter().any(|(entered, _)| entered < at);
                    prop_assert_eq!(epochs.has_passed(*mark), left);
                }
            }
        }
    }
}
