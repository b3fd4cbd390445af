//! A group: where it reads in each partition, what it holds, and who its members are.
//!
//! Pure: it is told the time, and names whom to wake. The topic owns the logs and the lock.

mod fetch;
mod lanes;
mod settle;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use posthaste_core::broker::{DriverEvent, Lag, Lane};
use posthaste_core::{GroupName, Timestamp, TopicName};
use tokio::time::Instant;

pub(crate) use fetch::{Fetch, Fetched};
pub(crate) use lanes::Leave;
use lanes::Owner;
pub(crate) use table::{Held, Message, Standing, Tag};
use table::{State, Table};

use super::log::Log;
use super::port::{Port, Turn};

/// In force until a subscription brings its own.
const DEFAULT_LEASE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: u64,
    /// `None` is an ephemeral subscription's.
    pub(crate) name: Option<GroupName>,
    topic: TopicName,
    /// Set by the first subscription.
    lease: Option<Duration>,
    /// Whether partitions are handed to one member each.
    exclusive: bool,
    parts: Vec<Part>,
    table: Table,
    delayed: BTreeSet<(Instant, usize)>,
    drains: BTreeSet<(Instant, usize)>,
    members: Vec<Member>,
    lost: Option<Lost>,
    idle_since: Instant,
}

/// A partition as the group sees it.
#[derive(Debug, Default)]
struct Part {
    /// The next offset to read.
    cursor: u64,
    /// What was read and comes again, in the order of the log.
    ready: BTreeSet<(u64, usize)>,
    leased: usize,
    owner: Option<Owner>,
    /// The member that gets the lane once its owner is done with it.
    heir: Option<u64>,
}

#[derive(Debug)]
struct Member {
    id: u64,
    name: String,
    port: Arc<Port>,
    /// Lanes that come and go; at most two for each partition.
    events: VecDeque<DriverEvent>,
    /// The one lane of a plain topic.
    lane: Arc<Lane>,
    /// When the member's driver will look by itself.
    armed: Option<Instant>,
    /// The partition to begin with, so that a busy one starves nobody.
    first: usize,
}

/// Messages that were removed before the group was done with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) count: u64,
    pub(crate) reason: &'static str,
}

impl Group {
    /// A group that reads each partition from the given offset.
    pub(crate) fn new(
        id: u64,
        name: Option<GroupName>,
        topic: TopicName,
        exclusive: bool,
        cursors: Vec<u64>,
        now: Instant,
    ) -> Self {
        let parts = cursors.into_iter().map(|cursor| Part { cursor, ..Part::default() });
        Self {
            id,
            name,
            topic,
            lease: None,
            exclusive,
            parts: parts.collect(),
            table: Table::default(),
            delayed: BTreeSet::new(),
            drains: BTreeSet::new(),
            members: Vec::new(),
            lost: None,
            idle_since: now,
        }
    }

    /// The lease in force. The first to ask for one sets it.
    pub(crate) fn lease_or(&mut self, wanted: Duration) -> Duration {
        *self.lease.get_or_insert(wanted)
    }

    pub(crate) fn lease(&self) -> Duration {
        self.lease.unwrap_or(DEFAULT_LEASE)
    }

    /// How many messages and bytes it holds besides the log.
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.table.len(), self.table.bytes())
    }

    /// The next offset to read in that partition.
    pub(crate) fn cursor(&self, partition: usize) -> u64 {
        self.parts.get(partition).map_or(0, |part| part.cursor)
    }

    /// Names of the live members.
    pub(crate) fn members(&self) -> impl ExactSizeIterator<Item = &str> {
        self.members.iter().map(|member| member.name.as_str())
    }

    /// How long nobody has been a member; zero while somebody is.
    pub(crate) fn idle_for(&self, now: Instant) -> Duration {
        if self.members.is_empty() { now - self.idle_since } else { Duration::ZERO }
    }

    /// The log of that partition now begins here: what was not read before it is lost.
    pub(crate) fn trimmed(&mut self, partition: usize, base: u64, reason: &'static str) {
        let Some(part) = self.parts.get_mut(partition) else { return };
        let count = base.saturating_sub(part.cursor);
        if count > 0 {
            part.cursor = base;
            self.lose(count, reason);
        }
    }

    /// Notes a loss, to be told to the next member that asks.
    pub(crate) fn lose(&mut self, count: u64, reason: &'static str) {
        let before = self.lost.map_or(0, |lost| lost.count);
        self.lost = Some(Lost { count: before + count, reason });
    }

    pub(crate) fn take_lost(&mut self) -> Option<Lost> {
        self.lost.take()
    }

    /// Something was stored in these partitions.
    pub(crate) fn stored(&self, partitions: &[usize], turn: &mut Turn) {
        if self.exclusive {
            partitions.iter().for_each(|partition| self.wake_for(*partition, turn));
        } else {
            self.wake_all(turn);
        }
    }

    /// What is left to do, exactly.
    pub(crate) fn lag(&self, logs: &[Log], turn: &Turn, now: Timestamp) -> Lag {
        let (mut unread, mut waiting, mut ready) = (0, self.delayed.len(), 0);
        let mut oldest: Option<Timestamp> = None;
        let mut see = |at: Timestamp| oldest = Some(oldest.map_or(at, |oldest| oldest.min(at)));
        self.table.iter().for_each(|(_, held)| see(held.message.stored_at));
        for (part, log) in self.parts.iter().zip(logs) {
            unread += log.end().saturating_sub(part.cursor);
            ready += part.ready.len();
            waiting += log.delayed_from(part.cursor, turn.now);
            if let Some(entry) = log.get(part.cursor) {
                see(entry.stored_at);
            }
        }
        let not_due = waiting - self.delayed.len();
        let mut lag = Lag::default();
        lag.ready = Some(unread + ready as u64 - not_due as u64);
        lag.in_flight = Some(self.table.leased() as u64);
        lag.delayed = Some(waiting as u64);
        lag.unrouted = Some(0);
        lag.oldest_age = oldest.map(|at| now.since(at));
        lag.exact = true;
        lag
    }

    /// Moves a group without members. What came back from the dead letters stays, because it is
    /// nowhere else.
    pub(crate) fn seek(&mut self, cursors: &[Option<u64>], turn: &mut Turn) {
        let slots: Vec<(usize, bool, bool)> = self
            .table
            .iter()
            .map(|(slot, held)| {
                let moved = cursors.get(held.message.partition).copied().flatten().is_some();
                let leased = matches!(held.state, State::Leased(_));
                (slot, moved && !held.message.replayed, leased)
            })
            .collect();
        for (slot, forget, leased) in slots {
            if forget {
                self.complete(slot, turn);
            } else if leased {
                self.end_lease(slot, turn);
            }
        }
        for (part, cursor) in self.parts.iter_mut().zip(cursors) {
            part.cursor = cursor.unwrap_or(part.cursor);
        }
    }

    /// Removes what is not delivered just now, and says how many that were.
    pub(crate) fn purge(&mut self, turn: &mut Turn) -> u64 {
        let waiting: Vec<usize> = self
            .table
            .iter()
            .filter(|(_, held)| !matches!(held.state, State::Leased(_)))
            .map(|(slot, _)| slot)
            .collect();
        waiting.iter().for_each(|slot| self.complete(*slot, turn));
        waiting.len() as u64
    }

    /// When something happens by itself: a lease ends, a delay is over, a lane is taken away.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let delayed = self.delayed.first().map(|(due, _)| *due);
        let drained = self.drains.first().map(|(until, _)| *until);
        [self.table.next_end(), delayed, drained].into_iter().flatten().min()
    }

    /// Lets what is due happen.
    pub(crate) fn tick(&mut self, turn: &mut Turn) {
        while let Some(slot) = self.table.ended(turn.now) {
            self.expire(slot, turn);
        }
        while let Some((due, slot)) = self.delayed.first().copied().filter(|(d, _)| *d <= turn.now)
        {
            self.delayed.remove(&(due, slot));
            self.make_ready(slot, turn);
        }
        while let Some((until, partition)) =
            self.drains.first().copied().filter(|(until, _)| *until <= turn.now)
        {
            self.drains.remove(&(until, partition));
            self.end_lane(partition, turn);
        }
    }

    /// Wakes members whose drivers would look too late.
    pub(crate) fn rearm(&self, turn: &mut Turn) {
        let Some(deadline) = self.next_deadline() else { return };
        for member in &self.members {
            if member.armed.is_none_or(|armed| armed > deadline) {
                turn.wake(&member.port);
            }
        }
    }

    // Everyone: whoever is woken alone need not be polled, and then the others would wait for
    // nothing.
    pub(crate) fn wake_all(&self, turn: &mut Turn) {
        self.members.iter().for_each(|member| turn.wake(&member.port));
    }

    fn wake_for(&self, partition: usize, turn: &mut Turn) {
        if !self.exclusive {
            return self.wake_all(turn);
        }
        let owner = self.parts.get(partition).and_then(|part| part.owner.as_ref());
        if let Some(member) = owner.and_then(|owner| self.member(owner.member)) {
            turn.wake(&member.port);
        }
    }

    fn member(&self, id: u64) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }

    fn member_mut(&mut self, id: u64) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.id == id)
    }
}
