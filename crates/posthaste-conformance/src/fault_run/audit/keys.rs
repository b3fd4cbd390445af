//! Who handles which message of a key, and which one has its turn.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use posthaste_core::Delivery;

use super::super::clock::Millis;
use super::super::message::Tag;

/// A right that may be taken away: a handler that has lost it is not counted, also when it had no
/// time yet to notice.
pub(in crate::fault_run) trait Right: Send + Sync {
    fn is_lost(&self) -> bool;
}

impl Right for Delivery {
    fn is_lost(&self) -> bool {
        Self::is_lost(self)
    }
}

#[derive(Debug, Default)]
pub(super) struct Keys {
    pages: HashMap<(usize, u32), Page>,
}

#[derive(Default)]
struct Page {
    running: Option<(Tag, Weak<dyn Right>)>,
    /// All before it were done, or passed over.
    next: u32,
    /// All that are confirmed are before it.
    confirmed: u32,
    /// A handler has begun since the last look.
    begun: bool,
    /// At the last look: what was next, and since when nobody handled it.
    seen: u32,
    since: Millis,
}

/// A key that has waited for so long with a confirmed message that nobody handles. A handler that
/// is slower than the lease begins anew after each outage that takes the lane away: its key gets
/// its turns, and is not waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::fault_run) struct Waiting {
    pub(in crate::fault_run) millis: Millis,
    /// The message that is next.
    pub(in crate::fault_run) next: Tag,
}

impl Keys {
    /// A handler begins. Another one that holds a message of the key now, and the turns before
    /// this one that were not done when all were looked at last.
    pub(super) fn begin(
        &mut self,
        tag: Tag,
        right: &Arc<dyn Right>,
    ) -> (Option<Tag>, std::ops::Range<u32>) {
        let page = self.pages.entry((tag.publisher, tag.key())).or_default();
        let holder = page.running.replace((tag, Arc::downgrade(right)));
        let holder = holder.filter(|(_, right)| right.upgrade().is_some_and(|r| !r.is_lost()));
        let open = page.next.min(tag.turn())..tag.turn();
        page.next = page.next.max(tag.turn());
        page.begun = true;
        (holder.map(|(tag, _)| tag), open)
    }

    /// A message is confirmed, so that somebody has to handle it.
    pub(super) fn confirmed(&mut self, tag: Tag) {
        let page = self.pages.entry((tag.publisher, tag.key())).or_default();
        page.confirmed = page.confirmed.max(tag.turn() + 1);
    }

    /// A look at all keys: the one that has waited longest, if one waits.
    pub(super) fn look(&mut self, now: Millis) -> Option<Waiting> {
        let mut longest = None;
        for ((publisher, key), page) in &mut self.pages {
            let is_held = std::mem::take(&mut page.begun) || page.is_held();
            if is_held || page.next != page.seen || page.next >= page.confirmed {
                (page.seen, page.since) = (page.next, now);
            } else {
                let next = Tag::new(*publisher, *key).at_turn(page.next);
                longest = longest.max(Some(Waiting { millis: now - page.since, next }));
            }
        }
        longest
    }

    /// It ends; once done, the next one has its turn.
    pub(super) fn end(&mut self, tag: Tag, right: &Arc<dyn Right>, done: bool) {
        let Some(page) = self.pages.get_mut(&(tag.publisher, tag.key())) else { return };
        let is_it = |(_, running): &(Tag, Weak<dyn Right>)| {
            std::ptr::addr_eq(running.as_ptr(), Arc::as_ptr(right))
        };
        if page.running.as_ref().is_some_and(is_it) {
            page.running = None;
        }
        if done {
            page.next = page.next.max(tag.turn() + 1);
        }
    }
}

impl Page {
    /// Whether a handler is at it.
    fn is_held(&self) -> bool {
        let right = self.running.as_ref().and_then(|(_, right)| right.upgrade());
        right.is_some_and(|right| !right.is_lost())
    }
}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let running = self.running.as_ref().map(|(tag, _)| tag);
        f.debug_struct("Page").field("running", &running).field("next", &self.next).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::message::KEYS;
    use super::*;

    struct Kept;

    impl Right for Kept {
        fn is_lost(&self) -> bool {
            false
        }
    }

    fn handle(keys: &mut Keys, tag: Tag) {
        let right: Arc<dyn Right> = Arc::new(Kept);
        keys.begin(tag, &right);
        keys.end(tag, &right, true);
    }

    #[test]
    fn the_key_that_waits_longest_is_found() {
        let (one, other) = (Tag::new(0, 1), Tag::new(0, 2));
        let mut keys = Keys::default();
        keys.confirmed(one);
        assert_eq!(keys.look(1_000), Some(Waiting { millis: 1_000, next: one }));
        handle(&mut keys, one);
        assert_eq!(keys.look(2_000), None);
        keys.confirmed(one.at_turn(1));
        keys.confirmed(other);
        assert_eq!(keys.look(5_000), Some(Waiting { millis: 5_000, next: other }));
        handle(&mut keys, other);
        assert_eq!(keys.look(9_000), Some(Waiting { millis: 7_000, next: Tag::new(0, KEYS + 1) }));
    }

    #[test]
    fn a_key_that_is_handled_does_not_wait() {
        let tag = Tag::new(0, 1);
        let mut keys = Keys::default();
        keys.confirmed(tag);
        let right: Arc<dyn Right> = Arc::new(Kept);
        keys.begin(tag, &right);
        assert_eq!(keys.look(5_000), None);
        assert_eq!(keys.look(9_000), None, "it is still at it");
        // It was taken away, and nobody has it again.
        keys.end(tag, &right, false);
        assert_eq!(keys.look(12_000), Some(Waiting { millis: 3_000, next: tag }));
        keys.begin(tag, &right);
        keys.end(tag, &right, false);
        assert_eq!(keys.look(13_000), None, "it had its turn in between");
    }
}
