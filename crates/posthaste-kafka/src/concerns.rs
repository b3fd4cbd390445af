//! What is not as it should be with subscriptions, for the health of their connection.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many are told at once; the others are counted.
const TOLD: usize = 3;

/// What is not as it should be now. Shared by all who may have something to say.
#[derive(Default)]
pub(crate) struct Concerns(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    next: u64,
    texts: BTreeMap<u64, String>,
}

/// One of them, until it is dropped.
pub(crate) struct Concern {
    of: Arc<Concerns>,
    number: u64,
}

impl Concerns {
    /// Something is not as it should be, which is written to the log once.
    pub(crate) fn raise(self: &Arc<Self>, text: String) -> Concern {
        tracing::warn!("{text}");
        let mut all = self.lock();
        let number = all.next;
        all.next += 1;
        all.texts.insert(number, text);
        drop(all);
        Concern { of: Arc::clone(self), number }
    }

    /// All there is to say, if there is something.
    pub(crate) fn text(&self) -> Option<String> {
        let all = self.lock();
        let told: Vec<&str> = all.texts.values().take(TOLD).map(String::as_str).collect();
        let more = all.texts.len() - told.len();
        let told = told.join("; ");
        match (told.is_empty(), more) {
            (true, _) => None,
            (false, 0) => Some(told),
            (false, more) => Some(format!("{told}; and {more} more")),
        }
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        // Nothing panics while it is held but an allocation that failed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Concern {
    fn drop(&mut self) {
        self.of.lock().texts.remove(&self.number);
    }
}

impl fmt::Debug for Concerns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.lock().texts.values()).finish()
    }
}

impl fmt::Debug for Concern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Concern").field("number", &self.number).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_concern_is_told_until_it_is_over() {
        let concerns = Arc::new(Concerns::default());
        assert_eq!(concerns.text(), None);
        let first = concerns.raise("one".to_owned());
        let others: Vec<_> = ["two", "three", "four", "five"]
            .map(|text| concerns.raise(text.to_owned()))
            .into_iter()
            .collect();
        assert_eq!(concerns.text().as_deref(), Some("one; two; three; and 2 more"));
        drop(others);
        assert_eq!(concerns.text().as_deref(), Some("one"));
        drop(first);
        assert_eq!(concerns.text(), None);
    }
}
