//! Handing out: a whole batch in one turn.

use std::sync::Arc;

use posthaste_core::DeliveryMode;
use posthaste_core::broker::{Credit, DriverEvent, Lane, Received};

use super::Group;
use super::table::Message;
use crate::convert;
use crate::engine::log::{Entry, Log};
use crate::engine::port::Turn;

/// What a member asks for, and where to put it.
pub(crate) struct Fetch<'a> {
    pub(crate) member: u64,
    /// What the tokens name as their lane.
    pub(crate) source: u32,
    pub(crate) credit: Credit,
    pub(crate) mode: DeliveryMode,
    /// Whether the next message is to be delivered twice: a fault.
    pub(crate) twice: &'a mut dyn FnMut() -> bool,
    pub(crate) out: &'a mut Vec<Received>,
}

/// What a fetch brought.
#[derive(Debug)]
pub(crate) enum Fetched {
    /// Messages, or nothing.
    Messages,
    /// Something to tell first.
    Event(DriverEvent),
    /// The member is not one any more.
    Unknown,
}

impl Fetch<'_> {
    // At least one message, however large it is.
    const fn has_room(&self) -> bool {
        self.credit.messages > 0 && self.credit.bytes > 0
    }

    fn push(&mut self, received: Received) {
        let bytes = received.envelope.size().max(1);
        self.credit.bytes = self.credit.bytes.saturating_sub(bytes);
        self.credit.messages -= 1;
        self.out.push(received);
    }
}

impl Group {
    pub(crate) fn fetch(
        &mut self,
        logs: &[Log],
        fetch: &mut Fetch<'_>,
        turn: &mut Turn,
    ) -> Fetched {
        self.tick(turn);
        let Some(at) = self.members.iter().position(|member| member.id == fetch.member) else {
            return Fetched::Unknown;
        };
        if let Some(event) = self.members[at].events.pop_front() {
            return Fetched::Event(event);
        }
        if let Some(lost) = self.lost.take() {
            return Fetched::Event(DriverEvent::Lost {
                topic: self.topic.clone(),
                count: Some(lost.count),
                reason: lost.reason.to_owned(),
            });
        }
        let first = self.members[at].first;
        for step in 0..self.parts.len() {
            if !fetch.has_room() {
                break;
            }
            let partition = (first + step) % self.parts.len();
            let Some(log) = logs.get(partition) else { continue };
            let part = &self.parts[partition];
            if part.ready.is_empty() && part.cursor >= log.end() {
                continue;
            }
            if let Some(lane) = self.lane_of(partition, at) {
                self.fetch_lane(partition, &lane, log, fetch, turn);
            }
        }
        let deadline = self.next_deadline();
        let member = &mut self.members[at];
        member.first = (first + 1) % self.parts.len().max(1);
        member.armed = deadline;
        self.rearm(turn);
        Fetched::Messages
    }

    /// What came back goes before what is new, in the order of the log.
    fn fetch_lane(
        &mut self,
        partition: usize,
        lane: &Arc<Lane>,
        log: &Log,
        fetch: &mut Fetch<'_>,
        turn: &Turn,
    ) {
        while fetch.has_room() {
            let Some(part) = self.parts.get_mut(partition) else { break };
            if let Some((_, slot)) = part.ready.pop_first() {
                self.hand_out(slot, lane, fetch, turn);
                continue;
            }
            let Some(entry) = log.get(part.cursor) else { break };
            let offset = part.cursor;
            part.cursor += 1;
            let slot = self.table.insert(message(entry, partition, offset));
            match entry.visible_at.filter(|at| *at > turn.now) {
                Some(due) => self.delay(slot, due),
                None => self.hand_out(slot, lane, fetch, turn),
            }
        }
    }

    fn hand_out(&mut self, slot: usize, lane: &Arc<Lane>, fetch: &mut Fetch<'_>, turn: &Turn) {
        if fetch.mode == DeliveryMode::AtMostOnce {
            // Settled before the application sees it.
            if let Some(mut held) = self.table.remove(slot) {
                held.attempts = held.attempts.saturating_add(1);
                fetch.push(convert::received(&held, lane, convert::settled_token(fetch.source)));
            }
            return;
        }
        self.lease_out(slot, lane, fetch, turn);
        if fetch.has_room() && (fetch.twice)() {
            let Some(held) = self.table.get(slot) else { return };
            let (copy, attempts) = (held.message.clone(), held.attempts);
            let copy = self.table.insert(copy);
            if let Some(held) = self.table.get_mut(copy) {
                held.attempts = attempts;
            }
            self.lease_out(copy, lane, fetch, turn);
        }
    }

    fn lease_out(&mut self, slot: usize, lane: &Arc<Lane>, fetch: &mut Fetch<'_>, turn: &Turn) {
        let until = turn.after(self.lease());
        let Some(tag) = self.table.lease(slot, fetch.member, until) else { return };
        let Some(held) = self.table.get(slot) else { return };
        fetch.push(convert::received(held, lane, convert::token(tag, fetch.source)));
        if let Some(part) = self.parts.get_mut(held.message.partition) {
            part.leased += 1;
        }
    }
}

fn message(entry: &Entry, partition: usize, offset: u64) -> Message {
    Message {
        envelope: entry.envelope.clone(),
        partition,
        offset,
        stored_at: entry.stored_at,
        replayed: false,
    }
}
