//! The entries of a flight: which are resolved by an answer, and which are sent again.

use smallvec::SmallVec;
use tokio::time::Instant;

use super::Confirmed;
use super::answers::{Answer, Answering};
use super::hold::Entry;
use super::window::Window;
use crate::broker::{Outcomes, SendOptions};
use crate::{Envelope, Error, ErrorKind, Result, Retry};

/// What is known of an entry besides its envelope.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) entry: u64,
    /// What is outstanding together, for those who flush.
    pub(super) epoch: u64,
    /// Where the outcome goes; `None` once it was given, while the entry is still on its way.
    pub(super) answer: Option<Answer>,
    pub(super) deadline: Instant,
    /// Bytes reserved in the window.
    pub(super) cost: u32,
    /// The hash of the key while the key's other entries wait for this one.
    pub(super) key: Option<u64>,
    /// Its caller publishes nothing else before it is stored.
    pub(super) awaited: bool,
    /// An attempt may have stored it.
    pub(super) uncertain: bool,
    /// The topic was looked up again for it.
    pub(super) looked_again: bool,
    pub(super) last_error: Option<Error>,
}

/// A batch with what is known of its entries; both have the same order.
#[derive(Debug, Default)]
pub(super) struct Cargo {
    pub(super) envelopes: SmallVec<[Envelope; 1]>,
    pub(super) tickets: SmallVec<[Ticket; 1]>,
    pub(super) options: SendOptions,
}

/// What resolved entries give back.
#[derive(Debug, Default)]
pub(super) struct Landed {
    /// How many of which epoch.
    pub(super) epochs: SmallVec<[(u64, usize); 1]>,
    pub(super) bytes: usize,
    pub(super) keys: SmallVec<[u64; 1]>,
}

impl Cargo {
    pub(super) fn of(entry: Entry) -> Self {
        let mut cargo = Self { options: entry.send, ..Self::default() };
        cargo.load(entry);
        cargo
    }

    pub(super) fn load(&mut self, Entry { envelope, ticket, send: _ }: Entry) {
        self.envelopes.push(envelope);
        self.tickets.push(ticket);
    }

    /// Makes room for that many in all.
    pub(super) fn reserve(&mut self, entries: usize) {
        self.envelopes.reserve(entries.saturating_sub(self.envelopes.len()));
        self.tickets.reserve(entries.saturating_sub(self.tickets.len()));
    }

    pub(super) fn bytes(&self) -> usize {
        self.tickets.iter().map(|ticket| ticket.cost as usize).sum()
    }

    pub(super) fn first_deadline(&self) -> Option<Instant> {
        self.tickets.iter().map(|ticket| ticket.deadline).min()
    }

    /// The answer did not come. If it was sent, it may be stored.
    pub(super) fn doubt(&mut self, sent: bool) {
        self.tickets.iter_mut().for_each(|ticket| ticket.uncertain |= sent);
    }

    /// Gives everything up, for that reason.
    pub(super) fn abandon(&mut self, window: &Window, reason: &'static str, landed: &mut Landed) {
        self.envelopes.clear();
        let mut answering = window.answers.answering();
        for ticket in self.tickets.drain(..) {
            let error = Error::closed(reason).with_may_be_stored(ticket.uncertain);
            ticket.resolve(window, &mut answering, landed, Err(error));
        }
    }

    /// Tells whoever is past its deadline, while the entry stays on its way with the others.
    pub(super) fn give_notice(tickets: &mut [Ticket], window: &Window, sent: bool) {
        let now = Instant::now();
        let mut answering = window.answers.answering();
        for ticket in tickets.iter_mut().filter(|ticket| ticket.deadline <= now) {
            if ticket.answer.is_some() {
                let error = late(sent || ticket.uncertain, ticket.last_error.take());
                ticket.tell(window, &mut answering, Err(error));
            }
        }
    }

    /// The next deadline that somebody waits for.
    pub(super) fn next_deadline(tickets: &[Ticket]) -> Option<Instant> {
        let asked = tickets.iter().filter(|ticket| ticket.answer.is_some());
        asked.map(|ticket| ticket.deadline).min()
    }

    /// Fails what is past its deadline.
    pub(super) fn expire(&mut self, window: &Window, landed: &mut Landed) {
        let now = Instant::now();
        if self.tickets.iter().all(|ticket| ticket.deadline > now) {
            return;
        }
        let mut answering = window.answers.answering();
        for mut entry in self.take() {
            if entry.ticket.deadline > now {
                self.load(entry);
                continue;
            }
            let error = late(entry.ticket.uncertain, entry.ticket.last_error.take());
            entry.ticket.resolve(window, &mut answering, landed, Err(error));
        }
    }

    /// The call as a whole failed, or the topic could not be looked up for it.
    pub(super) fn fail(&mut self, window: &Window, error: Error, sent: bool, landed: &mut Landed) {
        let stored = sent && error.may_be_stored();
        let error = error.with_may_be_stored(stored);
        self.sort(window, Outcomes::failed(self.tickets.len(), &error), sent, landed);
    }

    /// Resolves what is decided; keeps, in order, what is to be sent again.
    pub(super) fn sort(
        &mut self,
        window: &Window,
        outcomes: Outcomes,
        sent: bool,
        landed: &mut Landed,
    ) {
        let count = outcomes.len();
        if count != self.tickets.len() {
            let defect = Error::new(ErrorKind::Fatal, "the adapter miscounted its outcomes")
                .with_context("entries", self.tickets.len())
                .with_context("outcomes", count)
                .with_may_be_stored(true);
            let all = Outcomes::failed(self.tickets.len(), &defect);
            return self.sort(window, all, sent, landed);
        }
        // What was known of the topic may be out of date: it is looked up once more for each
        // entry. Where the look itself failed, another one would find the same.
        let mut stale = false;
        let mut answering = window.answers.answering();
        for (mut entry, outcome) in self.take().zip(outcomes) {
            let error = match outcome {
                Ok(stored) => {
                    let confirmed = Confirmed::new(entry.envelope, stored);
                    entry.ticket.resolve(window, &mut answering, landed, Ok(confirmed));
                    continue;
                }
                Err(error) => error,
            };
            let ticket = &mut entry.ticket;
            ticket.uncertain |= error.may_be_stored();
            let moved = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Conflict);
            let look_again = moved && sent && !ticket.looked_again;
            stale |= moved;
            ticket.looked_again |= look_again;
            let again = error.retry() == Retry::Transient
                || (error.may_be_stored() && error.retry() != Retry::Never)
                || look_again;
            if again {
                ticket.last_error = Some(error);
                self.load(entry);
            } else {
                let error = error.with_may_be_stored(ticket.uncertain);
                entry.ticket.resolve(window, &mut answering, landed, Err(error));
            }
        }
        drop(answering);
        if stale {
            // The topic may be another one now, which orders in another way: what is left is
            // loaded anew.
            window.look_again(self);
        }
    }

    pub(super) fn take(&mut self) -> impl Iterator<Item = Entry> + use<> {
        let Self { envelopes, tickets, options: send } = std::mem::take(self);
        self.options = send;
        let entries = envelopes.into_iter().zip(tickets);
        entries.map(move |(envelope, ticket)| Entry { envelope, ticket, send })
    }
}

impl Landed {
    pub(super) fn entries(&self) -> usize {
        self.epochs.iter().map(|(_, count)| count).sum()
    }

    pub(super) fn add(&mut self, ticket: &Ticket) {
        match self.epochs.last_mut() {
            Some((epoch, count)) if *epoch == ticket.epoch => *count += 1,
            _ => self.epochs.push((ticket.epoch, 1)),
        }
        self.bytes += ticket.cost as usize;
        self.keys.extend(ticket.key);
    }
}

/// The error of what is past its deadline.
#[cold]
pub(super) fn late(may_be_stored: bool, last: Option<Error>) -> Error {
    let error = Error::new(ErrorKind::Timeout, "the publish deadline passed")
        .with_retry(Retry::Exhausted)
        .with_may_be_stored(may_be_stored);
    match last {
        Some(last) => error.with_source(last),
        None => error,
    }
}

impl Ticket {
    /// Gives back what it took, and answers.
    pub(super) fn resolve(
        mut self,
        window: &Window,
        answering: &mut Answering<'_>,
        landed: &mut Landed,
        outcome: Result<Confirmed>,
    ) {
        landed.add(&self);
        self.tell(window, answering, outcome);
    }

    /// Answers, unless that was done before.
    pub(super) fn tell(
        &mut self,
        window: &Window,
        answering: &mut Answering<'_>,
        outcome: Result<Confirmed>,
    ) {
        if let Some(answer) = self.answer.take() {
            answering.answer(answer, outcome.map_err(|error| window.name(error)));
        }
    }
}
