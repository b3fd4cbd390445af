//! What a window holds: entries that wait, flights that are out, keys that are busy.
//!
//! Decides which entries leave together. Does no I/O and spawns nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::cargo::{Cargo, Landed, Ticket};
use super::epoch::Epochs;
use super::flight::Flight;
use crate::broker::{Destination, SendOptions};
use crate::keygate::{KeyGate, hash};
use crate::{Envelope, Layout};

/// One batch carries at most this many bytes, unless a single message is larger.
const BATCH_BYTES: usize = 4 << 20;

/// A message that is to be sent.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) envelope: Envelope,
    pub(super) ticket: Ticket,
    pub(super) send: SendOptions,
}

pub(super) struct State {
    /// What may leave with the next flight, in order; of each key one entry at most.
    pub(super) waiting: VecDeque<Entry>,
    /// What waits for an earlier entry of its key to be resolved. Empty on plain topics.
    gate: KeyGate<Entry>,
    /// Flights that are out.
    out: usize,
    /// The last batch had company, so that the next one waits until all who are ready have come.
    /// The task makes up the batches then, and says when the crowd is over.
    crowded: bool,
    /// The number of the flight that finds out what the topic is.
    scout: Option<u64>,
    /// Flights that only their callers poll.
    pub(super) loose: SmallVec<[(u64, Flight); 4]>,
    /// Flights that the task has still to take over.
    pub(super) adopted: Vec<Flight>,
    pub(super) driven: bool,
    /// No entry that is kept back has an earlier deadline. Who leaves does not change it.
    due: Option<Instant>,
    /// When the task is going to look for those who are late.
    watched: Option<Instant>,
    destination: Option<Arc<Destination>>,
    /// How the topic ordered when it was last known.
    layout: Option<Layout>,
    pub(super) epochs: Epochs,
    last_number: u64,
    pub(super) closed: bool,
    max_flights: usize,
    max_batch: usize,
}

impl State {
    pub(super) fn new(max_flights: usize, max_batch: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            gate: KeyGate::default(),
            out: 0,
            crowded: false,
            scout: None,
            loose: SmallVec::new(),
            adopted: Vec::new(),
            driven: false,
            due: None,
            watched: None,
            destination: None,
            layout: None,
            epochs: Epochs::new(),
            last_number: 0,
            closed: false,
            max_flights,
            max_batch,
        }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Takes an entry in. What is returned leaves at once; else it waits.
    pub(super) fn take_in(&mut self, entry: Entry, at_once: bool) -> Option<(u64, Cargo)> {
        let at_once = at_once && self.waiting.is_empty();
        let deadline = entry.ticket.deadline;
        match self.offer(entry) {
            Some(entry) if at_once && !self.crowded && self.has_room() => {
                return Some(self.launch(Cargo::of(entry)));
            }
            Some(entry) => self.waiting.push_back(entry),
            None => {}
        }
        self.keep_by(deadline);
        None
    }

    /// Somebody who is kept back has this deadline.
    fn keep_by(&mut self, deadline: Instant) {
        self.due = Some(self.due.map_or(deadline, |due| due.min(deadline)));
    }

    /// Whether nobody but the task may make up a batch.
    pub(super) const fn is_crowded(&self) -> bool {
        self.crowded
    }

    /// All who were ready have come: is there still a crowd?
    pub(super) fn look_around(&mut self) {
        self.crowded &= self.out > 0 || self.waiting.len() > 1;
    }

    /// The next batch: entries with equal options, in order.
    pub(super) fn load(&mut self) -> Option<(u64, Cargo)> {
        if !self.has_room() {
            return None;
        }
        let first = self.waiting.pop_front()?;
        let most = self.most(&first);
        let mut cargo = Cargo::of(first);
        cargo.reserve(most.min(self.waiting.len() + 1));
        let mut bytes = cargo.bytes();
        while let Some(next) = self.waiting.front() {
            bytes += next.ticket.cost as usize;
            let fits = bytes <= BATCH_BYTES && next.send == cargo.options;
            if cargo.tickets.len() >= most || !fits {
                break;
            }
            self.waiting.pop_front().into_iter().for_each(|entry| cargo.load(entry));
        }
        self.crowded |= cargo.tickets.len() > 1;
        Some(self.launch(cargo))
    }

    /// How many entries may travel with that one.
    fn most(&self, first: &Entry) -> usize {
        if self.destination.is_none() {
            // The topic may turn out to be ordered: one entry finds out.
            return 1;
        }
        if !first.ticket.awaited {
            return self.max_batch;
        }
        // Where a flight had more than its share of those who wait, the others would have nothing
        // to carry: the broker rests while they publish again, and they while it stores.
        self.max_batch.min(self.epochs.outstanding().div_ceil(self.max_flights))
    }

    /// Books what is resolved: the next ones of their keys may leave.
    pub(super) fn settle(&mut self, landed: &Landed) {
        landed.epochs.iter().for_each(|(epoch, count)| self.epochs.leave(*epoch, *count));
        for key in &landed.keys {
            self.waiting.extend(self.gate.release(*key));
        }
    }

    /// A flight has ended.
    pub(super) fn land(&mut self, number: u64) {
        self.out -= 1;
        if self.scout == Some(number) {
            self.scout = None;
        }
        self.loose.retain(|(loose, _)| *loose != number);
    }

    pub(super) fn destination(&self) -> Option<Arc<Destination>> {
        self.destination.clone()
    }

    /// The topic is known now.
    pub(super) fn know(&mut self, destination: Arc<Destination>) {
        let before = self.layout.replace(destination.layout);
        self.destination = Some(destination);
        self.scout = None;
        if self.layout == Some(Layout::Plain) {
            let gated = std::mem::take(&mut self.gate).take_all();
            self.waiting.extend(gated);
            self.waiting.make_contiguous().sort_unstable_by_key(|entry| entry.ticket.entry);
            self.waiting.iter_mut().for_each(|entry| entry.ticket.key = None);
        } else if before == Some(Layout::Plain) {
            // The topic was created anew, and keeps its order now.
            for entry in std::mem::take(&mut self.waiting) {
                let passed = self.offer(entry);
                self.waiting.extend(passed);
            }
        }
    }

    /// What was known of the topic is out of date: these entries are the next ones to leave.
    pub(super) fn look_again(&mut self, entries: impl Iterator<Item = Entry>) {
        self.destination = None;
        let plain = self.layout == Some(Layout::Plain);
        let entries: SmallVec<[Entry; 1]> = entries.collect();
        for mut entry in entries.into_iter().rev() {
            // On a plain topic nobody waits for it, even if it left before that was known.
            entry.ticket.key = entry.ticket.key.filter(|_| !plain);
            self.keep_by(entry.ticket.deadline);
            self.waiting.push_front(entry);
        }
    }

    pub(super) fn forget_destination(&mut self) {
        self.destination = None;
    }

    /// Whether somebody is late before the task looks again.
    pub(super) fn is_due_sooner(&self) -> bool {
        self.due.is_some_and(|due| self.watched.is_none_or(|watched| due < watched))
    }

    /// The task ends: nobody looks any more.
    pub(super) const fn end_drive(&mut self) {
        self.driven = false;
        self.watched = None;
    }

    /// When the task has to look for those who are late.
    pub(super) const fn watch_until(&mut self) -> Option<Instant> {
        self.watched = self.due;
        self.due
    }

    /// Takes back what waits and is past its deadline, each with the right to pass that others of
    /// its key wait for.
    pub(super) fn withdraw_late(&mut self, now: Instant) -> Vec<Ticket> {
        let is_late = |entry: &Entry| entry.ticket.deadline <= now;
        let mut late = Vec::new();
        for entry in std::mem::take(&mut self.waiting) {
            if is_late(&entry) {
                late.push(entry.ticket);
            } else {
                self.waiting.push_back(entry);
            }
        }
        for mut gated in self.gate.take_all_that(is_late) {
            // Another one of its key has the right.
            gated.ticket.key = None;
            late.push(gated.ticket);
        }
        let waiting = self.waiting.iter().chain(self.gate.waiting());
        self.due = waiting.map(|entry| entry.ticket.deadline).min();
        late
    }

    /// Takes back everything that waits.
    pub(super) fn withdraw_all(&mut self) -> Vec<Ticket> {
        let gated = std::mem::take(&mut self.gate).take_all();
        let waiting = std::mem::take(&mut self.waiting);
        waiting.into_iter().chain(gated).map(|entry| entry.ticket).collect()
    }

    /// Keeps an entry back while an earlier one of its key is not resolved. Until the topic is
    /// known to be plain, keys may have to keep their order.
    fn offer(&mut self, mut entry: Entry) -> Option<Entry> {
        if self.layout == Some(Layout::Plain) {
            return Some(entry);
        }
        let Some(key) = entry.envelope.key().map(|key| hash(&[key])) else { return Some(entry) };
        entry.ticket.key = Some(key);
        self.gate.offer(key, entry)
    }

    /// Until the topic is known, one flight goes alone to find out.
    fn has_room(&self) -> bool {
        let may_scout = self.destination.is_some() || self.scout.is_none();
        may_scout && self.out < self.max_flights
    }

    fn launch(&mut self, cargo: Cargo) -> (u64, Cargo) {
        let number = self.number();
        self.out += 1;
        if self.destination.is_none() {
            self.scout = Some(number);
        }
        (number, cargo)
    }
}
