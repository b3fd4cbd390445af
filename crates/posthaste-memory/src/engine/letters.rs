//! Dead letters of a topic's groups. They outlive their group.

use std::collections::{BTreeMap, HashMap};

use posthaste_core::broker::{DeadLetterQuery, StoredLetter};
use posthaste_core::{DeadLetter, GroupName, LetterId};

use super::group::Message;

#[derive(Debug)]
struct Letter {
    record: DeadLetter,
    /// What comes again on replay, at its place in the log.
    message: Message,
}

#[derive(Debug, Default)]
pub(crate) struct Letters {
    groups: HashMap<GroupName, BTreeMap<u64, Letter>>,
    last: u64,
    count: usize,
    bytes: usize,
}

impl Letters {
    /// How many messages and bytes there are.
    pub(crate) const fn used(&self) -> (usize, usize) {
        (self.count, self.bytes)
    }

    pub(crate) fn push(&mut self, group: &GroupName, record: DeadLetter, message: Message) {
        self.last += 1;
        self.count += 1;
        self.bytes += record.envelope.size();
        let letters = self.groups.entry(group.clone()).or_default();
        letters.insert(self.last, Letter { record, message });
    }

    /// A page of a group's letters, oldest first; `None` if the group never had one.
    pub(crate) fn page(
        &self,
        group: &GroupName,
        query: &DeadLetterQuery,
    ) -> Option<Vec<StoredLetter>> {
        let after = query.after.as_ref().map_or(Some(0), number);
        let letters = self.groups.get(group)?;
        // An unknown name is behind everything.
        let first = after.map_or(u64::MAX, |after| after.saturating_add(1));
        let page = letters.range(first..).take(query.limit);
        let stored = |(number, letter): (&u64, &Letter)| {
            StoredLetter::new(LetterId::new(number.to_string()), letter.record.clone())
        };
        Some(page.map(stored).collect())
    }

    /// Takes a letter out: the message to replay.
    pub(crate) fn take(&mut self, group: &GroupName, id: &LetterId) -> Option<Message> {
        let letter = self.groups.get_mut(group)?.remove(&number(id)?)?;
        self.count -= 1;
        self.bytes -= letter.record.envelope.size();
        Some(Message { replayed: true, ..letter.message })
    }
}

fn number(id: &LetterId) -> Option<u64> {
    id.as_str().parse().ok()
}
