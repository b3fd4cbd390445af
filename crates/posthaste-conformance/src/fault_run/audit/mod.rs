//! The auditor: it knows every message, what its publisher was told, and what each group made of
//! it.
//!
//! It also bounds the run: a publisher needs room for a message, which is free again when every
//! group of the topic has done with it, or when it was not confirmed.

mod books;
mod deliveries;
mod findings;
mod keys;
mod members;
mod publications;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use posthaste_core::Delivery;
use tokio::sync::Semaphore;

use self::books::Books;
pub(super) use self::books::{Letter, Shape};
use self::deliveries::Arrival;
pub(super) use self::deliveries::Ending;
pub use self::findings::{Findings, Wrong};
use self::keys::Right;
pub(super) use self::keys::Waiting;
pub(super) use self::publications::Published;
use super::clock::{Clock, Millis};
use super::message::Tag;

#[derive(Debug)]
pub(super) struct Audit {
    pub(super) clock: Clock,
    books: Mutex<Books>,
    /// Of each topic, how many messages may still be published before some are done.
    rooms: Vec<Semaphore>,
}

/// Somebody who has to get on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// Whether there is something to do.
    pub(super) busy: bool,
    /// How much was done so far.
    pub(super) progress: u64,
}

/// What the books say of all publishers together.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    pub(super) attempted: u64,
    pub(super) confirmed: u64,
    pub(super) duplicates: u64,
    pub(super) not_stored: u64,
    pub(super) unknown: u64,
    pub(super) doubts: u64,
    pub(super) copies: u64,
    pub(super) bytes: usize,
}

/// What the books say of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupReport {
    /// The group.
    pub name: String,
    /// How many different messages were acknowledged or became dead letters.
    pub handled: u64,
    /// How many confirmed messages it has still to handle.
    pub pending: u64,
    /// How many deliveries were not the first one of their message.
    pub redelivered: u64,
    /// Of these, how many were of messages that had been settled: duplicates.
    pub again: u64,
    /// How many messages it gave to the dead letters.
    pub dead_lettered: u64,
}

impl Audit {
    /// `room` is for each topic.
    pub(super) fn new(shape: Shape, topics: usize, room: u32) -> Self {
        let room = usize::try_from(room).unwrap_or(Semaphore::MAX_PERMITS);
        let rooms = (0..topics).map(|_| Semaphore::new(room.min(Semaphore::MAX_PERMITS)));
        Self { clock: Clock::start(), books: Mutex::new(Books::new(shape)), rooms: rooms.collect() }
    }

    /// Waits for room, and names so many new messages of the publisher.
    pub(super) async fn attempt(&self, publisher: usize, count: u32) -> Vec<Tag> {
        let topic = self.books().publishers[publisher].topic;
        // The room is closed by nobody.
        if let Ok(room) = self.rooms[topic].acquire_many(count).await {
            room.forget();
        }
        let mut books = self.books();
        (0..count).map(|_| books.attempt(publisher)).collect()
    }

    pub(super) fn published(&self, tag: Tag, outcome: Published) {
        let mut books = self.books();
        let topic = books.publishers[tag.publisher].topic;
        if books.published(tag, outcome) {
            self.rooms[topic].add_permits(1);
        }
    }

    /// A handler begins with a delivery. None if it is no message of this run.
    pub(super) fn begin(
        self: &Arc<Self>,
        group: usize,
        member: usize,
        delivery: &Arc<Delivery>,
    ) -> Option<Held> {
        let at = self.clock.now();
        let Some(tag) = Tag::of(delivery.envelope()) else {
            self.books().foreign(group, delivery.id());
            return None;
        };
        let arrival = Arrival {
            tag,
            member,
            attempt: delivery.attempt(),
            exact: delivery.attempt_is_exact(),
            offset: delivery.offset(),
            stored: delivery.stored_at().map(|stored| self.clock.of(stored)),
        };
        let right = Arc::clone(delivery) as Arc<dyn Right>;
        let mut books = self.books();
        // Under the lock: the next holder looks at the books only after this one.
        if right.is_lost() {
            return None;
        }
        let is_first = !books.groups[group].came(tag);
        let free = books.arrived(group, &arrival, &right, at)?;
        self.rooms[books.groups[group].topic].add_permits(free);
        drop(books);
        Some(Held { audit: Arc::clone(self), group, tag, is_first, right: Some(right) })
    }

    fn end(&self, group: usize, tag: Tag, right: &Arc<dyn Right>, ending: Ending) {
        let at = self.clock.now();
        let mut books = self.books();
        if books.ended(group, tag, right, ending, at) {
            self.rooms[books.groups[group].topic].add_permits(1);
        }
    }

    /// The settlement of what a handler had ended was refused.
    pub(super) fn refused(&self, group: usize, tag: Tag, ending: Ending) {
        self.books().refused(group, tag, ending);
    }

    pub(super) fn join(&self, group: usize, name: String) -> usize {
        self.books().members.join(group, name, self.clock.now())
    }

    pub(super) fn heard(&self, member: usize, word: &str) {
        let word = format!("{word} at {} ms", self.clock.now());
        self.books().members.heard(member, word);
    }

    /// A member got a lane, or one is taken from it.
    pub(super) fn lane(&self, member: usize, lane: Option<u32>, is_ours: bool) {
        self.books().members.lane(member, lane, is_ours, self.clock.now());
    }

    pub(super) fn leave(&self, member: usize, dropped: bool) {
        self.books().members.leave(member, dropped, self.clock.now());
    }

    pub(super) fn outage_begins(&self) {
        self.books().outages.begin(self.clock.now());
    }

    pub(super) fn outage_ends(&self) {
        self.books().outages.end(self.clock.now());
    }

    /// For how long nothing is broken; nothing if something is.
    pub(super) fn well_for(&self) -> Option<Duration> {
        self.books().outages.well_for(self.clock.now())
    }

    /// A process was killed, with deliveries in hand or before it had any.
    pub(super) fn killed_a_process(&self, with_deliveries: bool) {
        self.books().processes += usize::from(with_deliveries);
    }

    pub(super) fn find(&self, wrong: Wrong, words: impl Into<String>) {
        self.books().findings.add(wrong, || words.into());
    }

    /// Dead letters that are there because they follow another one are done.
    pub(super) fn followed(&self, group: usize, letters: &[Letter]) {
        let mut books = self.books();
        let free = books.followed(group, letters);
        self.rooms[books.groups[group].topic].add_permits(free);
    }

    /// All dead letters of a group, in the end.
    pub(super) fn compare_letters(&self, group: usize, letters: &[Letter]) {
        self.books().compare_letters(group, letters);
    }

    /// What a reader of a topic found: of each publisher how many copies of each number.
    pub(super) fn stored(&self, copies: &[Vec<u8>]) {
        self.books().stored(copies);
    }

    /// Draws the balance. What is confirmed and not handled is lost, if all had time to come.
    pub(super) fn close(&self, drained: bool) {
        self.books().close(drained);
    }

    /// Publishers first, then groups. When little is left, a group with a handler at work waits for
    /// that one, which ends by itself.
    pub(super) fn standings(&self, little_is_left: bool) -> Vec<Standing> {
        let books = self.books();
        let publishers = books.publishers.iter();
        let publishers =
            publishers.map(|of| Standing { busy: of.open() > 0, progress: of.confirmed });
        let groups = books.groups.iter();
        let groups = groups.map(|group| Standing {
            busy: group.pending > 0 && !(little_is_left && group.holding > 0),
            progress: group.endings,
        });
        publishers.chain(groups).collect()
    }

    /// How many confirmed messages any group has still to handle.
    pub(super) fn pending(&self) -> u64 {
        self.books().groups.iter().map(|group| group.pending).sum()
    }

    pub(super) fn totals(&self) -> Totals {
        let books = self.books();
        let mut totals = Totals { copies: books.copies, bytes: books.bytes(), ..Totals::default() };
        for publisher in &books.publishers {
            totals.attempted += publisher.attempted();
            totals.confirmed += publisher.confirmed;
            totals.duplicates += publisher.duplicates;
            totals.not_stored += publisher.not_stored;
            totals.unknown += publisher.unknown;
            totals.doubts += publisher.doubts;
        }
        totals
    }

    pub(super) fn groups(&self) -> Vec<GroupReport> {
        let books = self.books();
        let report = |group: &deliveries::Deliveries| GroupReport {
            name: group.name.clone(),
            handled: group.handled,
            pending: group.pending,
            redelivered: group.redelivered,
            again: group.again,
            dead_lettered: group.dead_lettered,
        };
        books.groups.iter().map(report).collect()
    }

    pub(super) fn findings(&self) -> Findings {
        self.books().findings.clone()
    }

    /// Where each publisher, group and member stands, a line for each.
    pub(super) fn where_all_stand(&self, publishers: &[String]) -> Vec<String> {
        let (books, now) = (self.books(), self.clock.now());
        let mut lines = Vec::new();
        for (of, name) in books.publishers.iter().zip(publishers) {
            let (attempted, open) = (of.attempted(), of.open());
            lines.push(format!(
                "publisher {name}: {attempted} attempted, {} confirmed, {} not stored, {} unknown, \
                 {open} open",
                of.confirmed, of.not_stored, of.unknown
            ));
        }
        for group in &books.groups {
            let (pending, handled) = (group.pending, group.handled);
            lines.push(format!("group {}: {handled} handled, {pending} pending", group.name));
        }
        for (lane, word) in books.members.lanes() {
            let of = &books.groups[lane.group].name;
            lines.push(format!("lane {} of {of}: {word}", lane.number));
        }
        for member in books.members.present() {
            let (group, ago) = (&books.groups[member.group].name, now.saturating_sub(member.last));
            lines.push(format!(
                "member {} of {group}: {} deliveries since {} ms, the last {ago} ms ago; {} lanes; {}",
                member.name, member.got, member.started, member.lanes, member.word
            ));
        }
        lines
    }

    /// Present members that got nothing for so long, while they had something to do.
    pub(super) fn idle_members(&self, longer_than: Millis) -> Vec<String> {
        self.books().idle_members(self.clock.now(), longer_than)
    }

    /// The key of an ordered topic that has waited longest for a confirmed message to be handled,
    /// and its group.
    pub(super) fn longest_wait(&self) -> Option<(Waiting, String)> {
        self.books().longest_wait(self.clock.now())
    }

    /// How many members there were, how many of them were dropped, and how many processes were
    /// killed.
    pub(super) fn members(&self) -> (usize, usize, usize) {
        let books = self.books();
        let all = books.members.all();
        let dropped = all.iter().filter(|member| member.dropped).count();
        (all.len(), dropped, books.processes)
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message that a handler holds. Dropped without an end, it has to come again.
pub(super) struct Held {
    audit: Arc<Audit>,
    group: usize,
    tag: Tag,
    is_first: bool,
    right: Option<Arc<dyn Right>>,
}

impl Held {
    pub(super) const fn tag(&self) -> Tag {
        self.tag
    }

    /// Whether the message did not come to its group before.
    pub(super) const fn is_first(&self) -> bool {
        self.is_first
    }

    /// The handler has ended; it settles after this, and not before.
    pub(super) fn end(mut self, ending: Ending) {
        if let Some(right) = self.right.take() {
            self.audit.end(self.group, self.tag, &right, ending);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(right) = self.right.take() {
            self.audit.end(self.group, self.tag, &right, Ending::Undone);
        }
    }
}
