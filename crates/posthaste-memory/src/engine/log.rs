//! The log of one partition: appended at the end, removed at the front. Knows nothing of groups.

use std::collections::VecDeque;

use posthaste_core::{Envelope, Timestamp};
use tokio::time::Instant;

/// One stored message.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) envelope: Envelope,
    /// The place in the topic's order, over all partitions.
    pub(crate) number: u64,
    pub(crate) stored_at: Timestamp,
    /// Not to be delivered before; `None` is at once.
    pub(crate) visible_at: Option<Instant>,
}

/// The messages of one partition at consecutive offsets.
#[derive(Debug, Default)]
pub(crate) struct Log {
    entries: VecDeque<Entry>,
    base: u64,
    /// From then on every entry is visible.
    all_visible_at: Option<Instant>,
}

impl Log {
    /// The offset of the oldest entry, or of the next one if there is none.
    pub(crate) const fn base(&self) -> u64 {
        self.base
    }

    /// The offset that the next entry gets.
    pub(crate) fn end(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    pub(crate) fn push(&mut self, entry: Entry) -> u64 {
        let offset = self.end();
        self.all_visible_at = self.all_visible_at.max(entry.visible_at);
        self.entries.push_back(entry);
        offset
    }

    pub(crate) fn get(&self, offset: u64) -> Option<&Entry> {
        self.entries.get(self.index(offset)?)
    }

    pub(crate) fn oldest(&self) -> Option<&Entry> {
        self.entries.front()
    }

    pub(crate) fn pop_oldest(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.base += 1;
        Some(entry)
    }

    /// The entries from that offset on, each with its offset.
    pub(crate) fn from(&self, offset: u64) -> impl Iterator<Item = (u64, &Entry)> {
        let first = offset.max(self.base);
        let index = self.index(first).unwrap_or(self.entries.len()).min(self.entries.len());
        (first..).zip(self.entries.range(index..))
    }

    /// How many entries from that offset on wait for their time.
    pub(crate) fn delayed_from(&self, offset: u64, now: Instant) -> usize {
        let hidden = |at: Option<Instant>| at.is_some_and(|at| at > now);
        if !hidden(self.all_visible_at) {
            return 0; // the usual case, without a walk
        }
        self.from(offset).filter(|(_, entry)| hidden(entry.visible_at)).count()
    }

    /// The offset of the first entry that was stored at that time or later.
    pub(crate) fn offset_at(&self, time: Timestamp) -> u64 {
        self.base + self.entries.partition_point(|entry| entry.stored_at < time) as u64
    }

    fn index(&self, offset: u64) -> Option<usize> {
        usize::try_from(offset.checked_sub(self.base)?).ok()
    }
}
