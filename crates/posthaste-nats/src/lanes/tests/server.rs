//! A small model of a pull consumer: what it delivers, to whom, and what it waits for.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::lanes::doubt::{Facts, Question};
use crate::lanes::message::Place;

pub(super) const LEASE: Duration = Duration::from_secs(10);
const EXPIRES: Duration = Duration::from_secs(2);

/// What an owner sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Up {
    Ack(u64),
    Nak(u64),
    Pull { messages: usize, no_wait: bool, at: Instant },
    Ask(Question),
}

/// What an owner gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Down {
    Message(Place),
    /// A request of that time found nothing more.
    Ended(Instant),
}

#[derive(Debug, Clone, Default)]
pub(super) struct Consumer {
    /// The lane's messages in the stream, in ascending order.
    pub(super) log: Vec<u64>,
    next: usize,
    consumer: u64,
    pub(super) pending: BTreeMap<u64, (Instant, u64)>,
    again: VecDeque<u64>,
    floor: u64,
    waiting: VecDeque<Waiting>,
}

/// A request that waits for messages.
#[derive(Debug, Clone)]
struct Waiting {
    owner: usize,
    left: usize,
    at: Instant,
    until: Instant,
}

impl Consumer {
    pub(super) fn publish(&mut self, gap: u64) -> u64 {
        let sequence = self.log.last().copied().unwrap_or(0) + gap;
        self.log.push(sequence);
        sequence
    }

    pub(super) fn facts(&self) -> Facts {
        let delivered = self.next.checked_sub(1).map_or(0, |at| self.log[at]);
        let pending = self.pending.len() as u64;
        Facts { pending, delivered, consumer: self.consumer, floor: self.floor }
    }

    /// Leases that ended put their messages before all others.
    pub(super) fn expire(&mut self, now: Instant) {
        for (sequence, (until, _)) in &self.pending {
            if *until <= now && !self.again.contains(sequence) {
                self.again.push_back(*sequence);
            }
        }
    }

    fn deliver(&mut self, now: Instant) -> Option<Place> {
        let sequence = match self.again.pop_front() {
            Some(sequence) => sequence,
            None => {
                self.next += 1;
                self.log.get(self.next - 1).copied().or_else(|| {
                    self.next -= 1;
                    None
                })?
            }
        };
        self.consumer += 1;
        let (until, deliveries) = self.pending.entry(sequence).or_insert((now, 0));
        *until = now + LEASE;
        *deliveries += 1;
        Some(Place { sequence, consumer: self.consumer, deliveries: *deliveries })
    }

    pub(super) fn settle(&mut self, sequence: u64) {
        if self.pending.remove(&sequence).is_none() {
            return;
        }
        self.again.retain(|again| *again != sequence);
        // As servers do: it moves only when its next one is settled.
        let first = self.pending.first_key_value().map(|(first, _)| *first);
        match first {
            None => self.floor = self.facts_delivered(),
            Some(first) if sequence < first => self.floor = first - 1,
            Some(_) => {}
        }
    }

    fn facts_delivered(&self) -> u64 {
        self.next.checked_sub(1).map_or(0, |at| self.log[at])
    }

    pub(super) fn give_back(&mut self, sequence: u64) {
        if self.pending.contains_key(&sequence) && !self.again.contains(&sequence) {
            self.again.push_back(sequence);
        }
    }

    pub(super) fn prolong(&mut self, sequence: u64, now: Instant) {
        if let Some((until, _)) = self.pending.get_mut(&sequence) {
            *until = now + LEASE;
        }
    }

    /// Serves a request; what cannot be served at once waits, or ends.
    pub(super) fn pull(
        &mut self,
        owner: usize,
        messages: usize,
        no_wait: bool,
        at: Instant,
        now: Instant,
    ) -> Vec<Down> {
        let mut out = Vec::new();
        while out.len() < messages {
            match self.deliver(now) {
                Some(place) => out.push(Down::Message(place)),
                None => break,
            }
        }
        let left = messages - out.len();
        if left > 0 && no_wait {
            out.push(Down::Ended(at));
        } else if left > 0 {
            self.waiting.push_back(Waiting { owner, left, at, until: now + EXPIRES });
        }
        out
    }

    /// Serves requests that wait, and ends those that have waited long enough.
    pub(super) fn serve(&mut self, now: Instant) -> Vec<(usize, Down)> {
        let mut out = Vec::new();
        while let Some(mut request) = self.waiting.pop_front() {
            let Some(place) = self.deliver(now) else {
                self.waiting.push_front(request);
                break;
            };
            out.push((request.owner, Down::Message(place)));
            request.left -= 1;
            if request.left > 0 {
                self.waiting.push_front(request);
            }
        }
        let ended = self.waiting.iter().filter(|request| request.until <= now);
        out.extend(ended.map(|request| (request.owner, Down::Ended(request.at))));
        self.waiting.retain(|request| request.until > now);
        out
    }

    pub(super) fn waiting_of(&self, owner: usize) -> usize {
        self.waiting.iter().filter(|request| request.owner == owner).map(|r| r.left).sum()
    }

    /// The owner's connection is gone, and its requests with it.
    pub(super) fn forget(&mut self, owner: usize) {
        self.waiting.retain(|request| request.owner != owner);
    }

    /// The server comes back as it was at an earlier time, but for the stream.
    pub(super) fn restore(&mut self, mut earlier: Self) {
        earlier.log = std::mem::take(&mut self.log);
        earlier.waiting.clear();
        *self = earlier;
    }
}
