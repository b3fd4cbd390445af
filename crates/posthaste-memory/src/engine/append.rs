//! Storing a batch, and making room for it: what every group has read may go, what a group has not
//! read goes only where the topic's own retention says so, and is counted.

use posthaste_core::broker::{Outcomes, Stored};
use posthaste_core::{Envelope, Result, Timestamp};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::dedup::Place;
use super::log::Entry;
use super::port::Turn;
use super::topic::State;
use crate::error;
use crate::fault::Fate;

/// What holds for a whole batch.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) stored_at: Timestamp,
    pub(crate) visible_at: Option<Instant>,
    pub(crate) deduplicate: bool,
    /// What shall go wrong with each entry; empty is nothing.
    pub(crate) fates: Vec<Fate>,
}

impl State {
    /// Stores a batch in its order: one outcome for each entry.
    pub(crate) fn append(
        &mut self,
        batch: &[Envelope],
        append: &Append,
        turn: &mut Turn,
    ) -> Outcomes {
        self.last_stored = self.last_stored.max(append.stored_at);
        self.make_room(batch);
        let mut touched: SmallVec<[usize; 8]> = SmallVec::new();
        let mut outcomes = Outcomes::with_capacity(batch.len());
        for (index, envelope) in batch.iter().enumerate() {
            let fate = append.fates.get(index).copied().unwrap_or_default();
            let stored = match fate {
                Fate::Rejected => Err(error::injected(&self.name, false)),
                Fate::Stored | Fate::ReplyLost => self.store(envelope, append, turn.now),
            };
            outcomes.push(stored.and_then(|(stored, partition)| {
                if !stored.duplicate && !touched.contains(&partition) {
                    touched.push(partition);
                }
                match fate {
                    Fate::ReplyLost => Err(error::injected(&self.name, true)),
                    Fate::Stored | Fate::Rejected => Ok(stored),
                }
            }));
        }
        if !touched.is_empty() {
            self.trim_surplus();
            self.groups.values().for_each(|group| group.stored(&touched, turn));
        }
        outcomes
    }

    fn store(
        &mut self,
        envelope: &Envelope,
        append: &Append,
        now: Instant,
    ) -> Result<(Stored, usize)> {
        let size = envelope.size();
        if size > self.settings.max_message_bytes {
            return Err(error::too_large(&self.name, size, self.settings.max_message_bytes));
        }
        if append.deduplicate {
            if let Some(place) = self.dedup.find(envelope, now) {
                let mut stored = self.stored(place);
                stored.duplicate = true;
                return Ok((stored, place.partition));
            }
            if self.dedup.is_full() {
                return Err(error::full(&self.name, "ids to deduplicate"));
            }
        }
        if !self.has_room(1, size) {
            return Err(error::full(&self.name, "messages that some group has not settled"));
        }
        let partition = self.settings.layout.partition(envelope).map_or(0, usize::from);
        let Some(log) = self.logs.get_mut(partition) else {
            return Err(error::no_topic(&self.name));
        };
        self.appended += 1;
        let offset = log.push(Entry {
            envelope: envelope.clone(),
            number: self.appended,
            stored_at: self.last_stored,
            visible_at: append.visible_at,
        });
        self.count += 1;
        self.bytes += size;
        let place = Place { partition, offset };
        if append.deduplicate {
            self.dedup.remember(envelope, place, now);
        }
        Ok((self.stored(place), partition))
    }

    fn stored(&self, place: Place) -> Stored {
        let mut stored = Stored::at(place.offset);
        let ordered = self.settings.layout.partitions().is_some();
        stored.partition = ordered.then(|| u32::try_from(place.partition).ok()).flatten();
        stored
    }

    /// Whether no further message can be stored: every one is still needed.
    pub(crate) fn is_full(&mut self) -> bool {
        self.drop_settled(1, 1);
        !self.has_room(1, 1)
    }

    /// Removes what retention by age says.
    pub(super) fn trim_aged(&mut self) {
        let Some(age) = self.settings.retention.max_age else { return };
        let now = Timestamp::now();
        for partition in 0..self.logs.len() {
            let old = |entry: &Entry| now.since(entry.stored_at) > age;
            while self.logs[partition].oldest().is_some_and(old) {
                self.drop_oldest(partition);
            }
            self.tell_trimmed(partition, "max_age");
        }
    }

    /// Removes every message, and says how many that were.
    pub(crate) fn purge(&mut self, turn: &mut Turn) -> u64 {
        let count = self.count as u64;
        for partition in 0..self.logs.len() {
            while self.drop_oldest(partition) {}
            self.tell_trimmed(partition, "purge");
        }
        for group in self.groups.values_mut() {
            let waiting = group.purge(turn);
            if waiting > 0 {
                group.lose(waiting, "purge");
            }
            group.wake_all(turn);
        }
        count
    }

    /// Removes what retention by count and bytes says.
    fn trim_surplus(&mut self) {
        let limit = |limit: Option<u64>| limit.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        let retention = self.settings.retention;
        if let Some(max) = limit(retention.max_messages) {
            self.trim_while("max_messages", |state| state.count > max);
        }
        if let Some(max) = limit(retention.max_bytes) {
            self.trim_while("max_bytes", |state| state.bytes > max);
        }
    }

    fn trim_while(&mut self, reason: &'static str, surplus: impl Fn(&Self) -> bool) {
        while surplus(self) {
            let Some(partition) = self.oldest_partition(|_, _| true) else { return };
            self.drop_oldest(partition);
            self.tell_trimmed(partition, reason);
        }
    }

    fn tell_trimmed(&mut self, partition: usize, reason: &'static str) {
        let base = self.logs[partition].base();
        self.groups.values_mut().for_each(|group| group.trimmed(partition, base, reason));
    }

    fn make_room(&mut self, batch: &[Envelope]) {
        let bytes = batch.iter().map(Envelope::size).sum();
        self.drop_settled(batch.len(), bytes);
    }

    fn has_room(&self, messages: usize, bytes: usize) -> bool {
        let (used_messages, used_bytes) = self.used();
        used_messages.saturating_add(messages) <= self.settings.max_messages
            && used_bytes.saturating_add(bytes) <= self.settings.max_bytes
    }

    /// What counts towards the bounds: the logs, what groups hold besides, and dead letters. A
    /// message that is in a log and held counts twice while the log still has room for it.
    fn used(&self) -> (usize, usize) {
        let held = self.groups.values().map(super::group::Group::held);
        let all = held.chain([self.letters.used(), (self.count, self.bytes)]);
        all.fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1))
    }

    /// Removes messages that every group has read, oldest first, until there is room. Without any
    /// group nothing is removed: nobody has read it.
    fn drop_settled(&mut self, messages: usize, bytes: usize) {
        if self.groups.is_empty() || self.has_room(messages, bytes) {
            return;
        }
        let floor = |at| self.groups.values().map(|group| group.cursor(at)).min().unwrap_or(0);
        let floors: Vec<u64> = (0..self.logs.len()).map(floor).collect();
        while !self.has_room(messages, bytes) {
            let read = |at: usize, base: u64| floors.get(at).is_some_and(|floor| base < *floor);
            let Some(partition) = self.oldest_partition(read) else { return };
            self.drop_oldest(partition);
        }
    }

    /// Of the partitions that fit, the one with the oldest message.
    fn oldest_partition(&self, fits: impl Fn(usize, u64) -> bool) -> Option<usize> {
        let logs = self.logs.iter().enumerate().filter(|(at, log)| fits(*at, log.base()));
        logs.filter_map(|(at, log)| Some((log.oldest()?.number, at))).min().map(|(_, at)| at)
    }

    fn drop_oldest(&mut self, partition: usize) -> bool {
        let Some(entry) = self.logs[partition].pop_oldest() else { return false };
        self.count -= 1;
        self.bytes -= entry.envelope.size();
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use posthaste_core::TopicName;
    use posthaste_core::broker::{RangeQuery, Start};

    use super::*;
    use crate::engine::topic::{Settings, Topic};
    use crate::{MemoryConfig, broker};

    /// The wall clock may be set back; the log's times are searched, so they must not be.
    #[test]
    fn times_never_go_back() {
        let settings = Settings {
            layout: posthaste_core::Layout::Plain,
            queue: false,
            retention: posthaste_core::Retention::default(),
            deduplication_window: Duration::from_secs(1),
            max_messages: 10,
            max_bytes: 10_000,
            max_message_bytes: 10_000,
        };
        let capabilities = Arc::new(broker::capabilities(&MemoryConfig::new()));
        let topic = Topic::new(TopicName::new("topic").unwrap(), settings, capabilities);
        for micros in [5_000_000, 3_000_000, 7_000_000] {
            let message = Envelope::builder("test").source("/t").build().unwrap();
            let append = Append {
                stored_at: Timestamp::from_micros(micros),
                visible_at: None,
                deduplicate: false,
                fates: Vec::new(),
            };
            topic.turn(|state, turn| state.append(&[message], &append, turn)).unwrap();
        }
        let since = Start::At(Timestamp::from_micros(4_000_000));
        let found = topic.turn(|state, _| state.range(&RangeQuery::new(since, 9))).unwrap();
        assert_eq!(found.unwrap().len(), 3);
    }
}
