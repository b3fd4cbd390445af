//! What was found to be wrong: counted by kind, with the first few of each in words.

use std::collections::BTreeMap;
use std::fmt;

/// So many of each kind are kept in words.
const IN_WORDS: usize = 8;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $what:literal;)+) => {
        /// What can be wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Wrong {
            $( $(#[$doc])* $name, )+
        }

        impl Wrong {
            /// What it is, in a few words.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $( Self::$name => $what, )+
                }
            }
        }
    };
}

kinds! {
    /// A confirmed message was not handled by a group.
    Lost = "lost";
    /// A message came whose publish had certainly failed.
    NotStoredButDelivered = "delivered though certainly not stored";
    /// A message came that was never published, or not so.
    Foreign = "changed or never published";
    /// A message was stored twice, although it was deduplicated, or nothing was broken near it.
    StoredTwice = "stored twice, though deduplicated or far from any fault";
    /// A settled message came again, and nothing was broken near its settlement.
    Repeated = "came again after it was settled, far from any fault";
    /// A later message of a key was handled before an earlier one was settled.
    Overtaken = "overtaken within a key";
    /// The count of attempts did not grow.
    AttemptsWentBack = "attempts went back";
    /// A message was given to the dead letters and is not there.
    LetterMissing = "missing among the dead letters";
    /// A message is among the dead letters that was not given to them.
    LetterUnexpected = "among the dead letters for no reason";
    /// A message is among the dead letters more than once, and nothing was broken near it.
    LetterTwice = "twice among the dead letters";
    /// A publish failed that had the time to wait for the end of any outage.
    GaveUp = "a publish gave up that could wait";
    /// Nothing moved for too long although nothing was broken.
    Stalled = "stalled";
    /// The broker counts messages to do that are done.
    Behind = "lag at the end";
    /// A call failed that has no reason to.
    Failed = "failed";
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// All that was found to be wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    counts: BTreeMap<Wrong, u64>,
    words: BTreeMap<Wrong, Vec<String>>,
}

impl Findings {
    pub(in crate::fault_run) fn add(&mut self, wrong: Wrong, words: impl FnOnce() -> String) {
        *self.counts.entry(wrong).or_default() += 1;
        let kept = self.words.entry(wrong).or_default();
        if kept.len() < IN_WORDS {
            kept.push(words());
        }
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// How often this is wrong.
    #[must_use]
    pub fn count(&self, wrong: Wrong) -> u64 {
        self.counts.get(&wrong).copied().unwrap_or(0)
    }

    /// What is wrong, how often, and the first few in words.
    pub fn iter(&self) -> impl Iterator<Item = (Wrong, u64, &[String])> {
        self.counts.iter().map(|(wrong, count)| {
            (*wrong, *count, self.words.get(wrong).map_or(&[][..], Vec::as_slice))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_and_some_are_kept_in_words() {
        let mut findings = Findings::default();
        assert!(findings.is_empty());
        for number in 0..100 {
            findings.add(Wrong::Lost, || format!("p0-{number}"));
        }
        let all: Vec<_> = findings.iter().collect();
        assert_eq!(all.len(), 1);
        let (wrong, count, words) = all[0];
        assert_eq!((wrong, count, words.len()), (Wrong::Lost, 100, IN_WORDS));
        assert_eq!(words[0], "p0-0");
        assert_eq!(findings.count(Wrong::Stalled), 0);
    }
}
