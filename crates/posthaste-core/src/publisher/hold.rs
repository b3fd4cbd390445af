//! What a window holds: entries that wait, flights that are out, keys that are busy.
//!
//! Decides which entries leave together. Does no I/O and spawns nothing.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use smallvec::SmallVec;

use super::flight::{Cargo, Flight, Ticket};
use crate::broker::{Destination, SendOptions};
use crate::{Envelope, Layout};

/// One batch carries at most this many bytes, unless a single message is larger.
const BATCH_BYTES: usize = 4 << 20;

pub(super) struct State {
    pub(super) waiting: VecDeque<(Envelope, Ticket, SendOptions)>,
    /// Flights that are out.
    pub(super) out: usize,
    /// Those of them that only their callers poll.
    pub(super) loose: SmallVec<[(u64, Flight); 4]>,
    /// Those that the task has still to take over.
    pub(super) adopted: Vec<Flight>,
    pub(super) driven: bool,
    /// Keys with an unresolved entry, on ordered topics.
    pub(super) busy: HashSet<u64>,
    pub(super) destination: Option<Arc<Destination>>,
    pub(super) outstanding: usize,
    pub(super) next_number: u64,
    pub(super) closed: bool,
    pub(super) max_flights: usize,
    pub(super) max_batch: usize,
}

impl State {
    pub(super) fn new(max_flights: usize, max_batch: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            out: 0,
            loose: SmallVec::new(),
            adopted: Vec::new(),
            driven: false,
            busy: HashSet::new(),
            destination: None,
            outstanding: 0,
            next_number: 0,
            closed: false,
            max_flights,
            max_batch,
        }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    pub(super) fn layout(&self) -> Option<Layout> {
        self.destination.as_ref().map(|destination| destination.layout)
    }

    /// Whether a flight with this key may leave now. Until the topic is known to be plain,
    /// one flight goes alone, because keys may have to keep their order.
    pub(super) fn may_depart(&self, key: Option<u64>) -> bool {
        let room = if self.destination.is_some() { self.max_flights } else { 1 };
        self.out < room && key.is_none_or(|key| !self.busy.contains(&key))
    }

    /// The next batch: entries with equal options, in order, none of a key that is on its way.
    pub(super) fn load(&mut self) -> Option<Cargo> {
        if self.waiting.is_empty() || !self.may_depart(None) {
            return None;
        }
        // An unknown topic may turn out to be ordered: one entry finds out.
        let most = if self.destination.is_some() { self.max_batch } else { 1 };
        let mut cargo = Cargo::default();
        let mut bytes = 0;
        let mut passed = VecDeque::new();
        while let Some((envelope, ticket, send)) = self.waiting.pop_front() {
            let first = cargo.tickets.is_empty();
            if first {
                cargo.options = send;
            }
            let fits = first || bytes + ticket.cost as usize <= BATCH_BYTES;
            if cargo.tickets.len() >= most || !fits || send != cargo.options {
                self.waiting.push_front((envelope, ticket, send));
                break;
            }
            if ticket.key.is_some_and(|key| self.busy.contains(&key)) {
                passed.push_back((envelope, ticket, send));
                continue;
            }
            bytes += ticket.cost as usize;
            self.busy.extend(ticket.key);
            cargo.envelopes.push(envelope);
            cargo.tickets.push(ticket);
        }
        while let Some(entry) = passed.pop_back() {
            self.waiting.push_front(entry);
        }
        if cargo.tickets.is_empty() {
            return None;
        }
        self.out += 1;
        Some(cargo)
    }
}

pub(super) fn hash(key: &[u8]) -> u64 {
    // FNV-1a. Two keys that meet in it wait for each other, and lose nothing but time.
    key.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
