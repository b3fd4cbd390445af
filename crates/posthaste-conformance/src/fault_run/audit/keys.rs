//! Who handles which message of a key, and which one has its turn.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use posthaste_core::Delivery;

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
        (holder.map(|(tag, _)| tag), open)
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

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let running = self.running.as_ref().map(|(tag, _)| tag);
        f.debug_struct("Page").field("running", &running).field("next", &self.next).finish()
    }
}
