//! A partition while it is this member's: what came, where it is now, and what is settled.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use posthaste_core::broker::{Attempt, Lane, Position, Received, Token};
use posthaste_core::{Envelope, Timestamp};
use tokio::time::Instant;

use super::arrived::Arrived;
use super::counted::CountedMap;
use super::gate::Gate;
use super::place::Place;
use crate::private;
use crate::tracker::{Again, Cap, Known, Progress, Tracker};

/// As many bytes of a partition may be unsettled.
pub(crate) const UNSETTLED_BYTES: usize = 64 << 20;

/// Where an unsettled record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whereabouts {
    /// Waits to be taken by core.
    Buffered,
    /// With core, which has it so long.
    Out(Instant),
    /// Waits here for its next delivery.
    Held,
    /// A copy of it is on its way to the private topic.
    Moving,
    /// Given back while the partition goes: the next owner gets it.
    Back,
}

/// An unsettled record.
#[derive(Debug)]
struct Record {
    envelope: Envelope,
    position: Position,
    /// Which delivery it is, or will be next.
    attempt: u32,
    handout: u16,
    at: Whereabouts,
    /// Not to be delivered again before that.
    due: Option<Timestamp>,
    /// Its key waits with it.
    is_gated: bool,
}

/// Where the records of a topic wait that failed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Keeping {
    /// What waits for long goes to the private topic, which is there.
    pub(crate) spills: bool,
    /// A failed record keeps back what follows it of its key.
    pub(crate) ordered: bool,
}

/// What is to be done with a record that came.
#[derive(Debug)]
pub(super) enum Next {
    /// To be handed out.
    HandOut(Received),
    /// It waits here until then.
    Wait(Instant, u64),
    /// It waits longer than is waited for here.
    Move(Hop),
}

/// A record of which a copy goes to the private topic.
#[derive(Debug)]
pub(crate) struct Hop {
    pub(crate) token: Token,
    pub(crate) envelope: Envelope,
    /// Deliveries so far.
    pub(crate) attempts: u32,
    pub(crate) due: Timestamp,
}

/// A partition from its assignment until it goes.
pub(super) struct Partition {
    pub(super) lane: Arc<Lane>,
    source: usize,
    number: i32,
    pub(super) life: u16,
    pub(super) tracker: Tracker,
    records: CountedMap<u64, Record>,
    /// The size of the records.
    bytes: usize,
    out: usize,
    moving: usize,
    /// Records that came while only one may be out.
    pub(super) waiting: VecDeque<Arrived>,
    /// Records of the private topic whose time in this partition is not over. The first is the next.
    pub(super) parked: VecDeque<Arrived>,
    /// Where the client reads on.
    pub(super) fetched: i64,
    /// The client was told to stop reading it.
    pub(super) is_paused: bool,
    /// Something is to be committed.
    pub(super) is_dirty: bool,
    keeping: Keeping,
    /// Keys that wait since before this life.
    gate: Gate,
    /// Records that were handed out before this life, and have not come yet.
    delivered: BTreeMap<i64, Again>,
}

/// What a member knows of a partition that it lost: more than it could commit.
#[derive(Debug)]
pub(super) struct Remembered {
    /// Who it was.
    pub(super) owner: u32,
    pub(super) progress: Progress,
    /// Records that were handed out.
    pub(super) delivered: BTreeMap<i64, Again>,
}

impl Partition {
    /// A partition that begins.
    pub(super) fn new(
        lane: Arc<Lane>,
        source: usize,
        number: i32,
        life: u16,
        tracker: Tracker,
    ) -> Self {
        Self {
            lane,
            source,
            number,
            life,
            fetched: tracker.position(),
            tracker,
            records: CountedMap::default(),
            bytes: 0,
            out: 0,
            moving: 0,
            waiting: VecDeque::new(),
            parked: VecDeque::new(),
            is_paused: false,
            is_dirty: false,
            keeping: Keeping::default(),
            gate: Gate::default(),
            delivered: BTreeMap::new(),
        }
    }

    /// Where its records wait that fail.
    pub(super) const fn keeping(mut self, keeping: Keeping) -> Self {
        self.keeping = keeping;
        self
    }

    /// Some records were delivered before, by this member or another one.
    pub(super) fn with_delivered(mut self, delivered: BTreeMap<i64, Again>) -> Self {
        self.delivered = delivered;
        self
    }

    /// What is known of it when it is lost.
    pub(super) fn remember(mut self) -> Remembered {
        let delivered = self.delivered(true);
        let owner = self.tracker.owner();
        Remembered { owner, progress: self.tracker.progress(false), delivered }
    }

    /// The unsettled records that were delivered. Those of which core has the first delivery are
    /// left out unless `all` are asked for: they are many, and of no member that ends in order.
    fn delivered(&self, all: bool) -> BTreeMap<i64, Again> {
        let next = |record: &Record| {
            let out = matches!(record.at, Whereabouts::Out(_)) && (all || record.attempt > 1);
            let offset = i64::try_from(record.position.offset?).ok()?;
            let attempt = record.attempt.saturating_add(u32::from(out));
            let due = record.due;
            (attempt > 1).then_some((offset, Again { offset, attempt, due }))
        };
        // What has not come up to here is gone from the partition.
        let to_come = self.delivered.range(self.tracker.position()..);
        let mut delivered: BTreeMap<_, _> = to_come.map(|(at, one)| (*at, *one)).collect();
        delivered.extend(self.records.values().filter_map(next));
        delivered
    }

    pub(super) const fn number(&self) -> i32 {
        self.number
    }

    /// A record came. `None` if it was settled before, or came before.
    pub(super) fn add(&mut self, arrived: Arrived, now: Instant) -> Option<Next> {
        self.is_dirty = true;
        let Known::New { sequence, attempt } = self.tracker.add(arrived.offset, now) else {
            return None;
        };
        let Arrived { envelope, position, attempts, due, offset, .. } = arrived;
        let before = self.delivered.remove(&offset);
        let attempt = attempts.saturating_add(attempt).max(before.map_or(0, |one| one.attempt));
        let due = before.and_then(|one| one.due).or(due);
        let at = Whereabouts::Buffered;
        let mut record =
            Record { envelope, position, attempt, handout: 0, at, due, is_gated: false };
        let left = due.map(|due| (due, due.since(Timestamp::now())));
        let left = left.filter(|(_, left)| !left.is_zero());
        let until = left.map(|(_, left)| now + left);
        let next = match (self.gated(&mut record, until), left) {
            (Some(until), _) => wait(sequence, &mut record, until),
            (None, None) => Next::HandOut(self.received(sequence, &record)),
            (None, Some((due, left))) if left > private::IN_MEMORY && self.keeping.spills => {
                Next::Move(self.hop(sequence, &mut record, due))
            }
            (None, Some((_, left))) => wait(sequence, &mut record, now + left),
        };
        self.bytes += record.envelope.size();
        self.records.insert(sequence, record);
        Some(next)
    }

    /// Until when a record that came has to wait for the sake of its key, where keys are ordered.
    fn gated(&mut self, record: &mut Record, until: Option<Instant>) -> Option<Instant> {
        if !self.keeping.ordered || (until.is_none() && self.gate.is_open()) {
            return None;
        }
        let until = self.gate.come(record.envelope.key()?, until)?;
        record.is_gated = true;
        Some(until)
    }

    /// A copy of a record that waits here goes to the private topic. `None` if it does not wait.
    pub(super) fn spill(&mut self, sequence: u64, due: Timestamp) -> Option<Hop> {
        let mut record = self.records.remove(&sequence)?;
        let held = record.at == Whereabouts::Held;
        let hop = held.then(|| self.hop(sequence, &mut record, due));
        self.records.insert(sequence, record);
        hop
    }

    fn hop(&mut self, sequence: u64, record: &mut Record, due: Timestamp) -> Hop {
        (record.at, record.due) = (Whereabouts::Moving, Some(due));
        self.moving += 1;
        Hop {
            token: self.place(record).token(sequence),
            envelope: record.envelope.clone(),
            attempts: record.attempt.saturating_sub(1),
            due,
        }
    }

    /// The copy was not stored: the record waits here. Whether it does.
    pub(super) fn stay(&mut self, sequence: u64) -> bool {
        let Some(record) = self.records.get_mut(&sequence) else { return false };
        if record.at != Whereabouts::Moving {
            return false;
        }
        record.at = Whereabouts::Held;
        self.moving -= 1;
        true
    }

    /// Hands a record out once more, if it still waits for that.
    pub(super) fn again(&mut self, sequence: u64) -> Option<Received> {
        let record = self.records.get_mut(&sequence)?;
        if record.at != Whereabouts::Held {
            return None;
        }
        (record.at, record.due) = (Whereabouts::Buffered, None);
        record.handout = record.handout.wrapping_add(1);
        if std::mem::take(&mut record.is_gated) {
            self.gate.go(record.envelope.key().unwrap_or_default());
        }
        let record = self.records.get(&sequence)?;
        Some(self.received(sequence, record))
    }

    const fn place(&self, record: &Record) -> Place {
        Place {
            source: self.source,
            partition: self.number,
            life: self.life,
            handout: record.handout,
        }
    }

    fn received(&self, sequence: u64, record: &Record) -> Received {
        let token = self.place(record).token(sequence);
        Received::new(record.envelope.clone(), token, Arc::clone(&self.lane))
            // What was out when an owner ended without a word is an estimate.
            .with_attempt(Attempt::approximate(record.attempt))
            .with_position(record.position)
    }

    /// Core took it, until then unless it is prolonged. `false` if it is not to be handed out.
    pub(super) fn hand_out(&mut self, sequence: u64, until: Instant) -> bool {
        let Some(record) = self.records.get_mut(&sequence) else { return false };
        if record.at != Whereabouts::Buffered {
            return false;
        }
        record.at = Whereabouts::Out(until);
        self.out += 1;
        true
    }

    /// The record is settled, wherever it is. `false` if it was already.
    pub(super) fn settle(&mut self, sequence: u64) -> bool {
        let Some(record) = self.records.remove(&sequence) else { return false };
        self.bytes = self.bytes.saturating_sub(record.envelope.size());
        match record.at {
            Whereabouts::Out(_) => self.out -= 1,
            Whereabouts::Moving => self.moving -= 1,
            Whereabouts::Buffered | Whereabouts::Held | Whereabouts::Back => {}
        }
        if record.is_gated {
            self.gate.go(record.envelope.key().unwrap_or_default());
        }
        self.is_dirty = true;
        self.tracker.settle(sequence)
    }

    /// Whether core has just this hand-out of the record.
    pub(super) fn holds(&self, place: Place, sequence: u64) -> bool {
        let record = self.records.get(&sequence);
        record.is_some_and(|record| {
            record.handout == place.handout && matches!(record.at, Whereabouts::Out(_))
        })
    }

    /// Core gave it back: it waits here, or for the next owner. It must be [held](Self::holds).
    /// `delivered` is how often the application has had it, at most once more than is known here
    /// unless core counts by itself, as it does for ordered keys.
    pub(super) fn take_back(
        &mut self,
        sequence: u64,
        delivered: Option<u32>,
        due: Option<Timestamp>,
        goes: bool,
    ) {
        if let Some(record) = self.records.get_mut(&sequence)
            && let Whereabouts::Out(_) = record.at
        {
            record.at = if goes { Whereabouts::Back } else { Whereabouts::Held };
            let delivered = delivered.unwrap_or(record.attempt);
            record.attempt = record.attempt.max(delivered.saturating_add(1));
            record.due = due;
            self.out -= 1;
            // Whoever comes next has to know.
            self.is_dirty = true;
        }
    }

    /// Core has it until then. It must be [held](Self::holds).
    pub(super) fn extend(&mut self, sequence: u64, until: Instant) {
        if let Some(record) = self.records.get_mut(&sequence)
            && let Whereabouts::Out(_) = record.at
        {
            record.at = Whereabouts::Out(until);
        }
    }

    /// Takes back what core has had for too long. Whoever has it there knows that.
    pub(super) fn end_leases(&mut self, now: Instant) -> Vec<u64> {
        let over = |record: &Record| matches!(record.at, Whereabouts::Out(until) if until <= now);
        let ended = self.records.iter().filter(|(_, record)| over(record));
        let ended: Vec<_> = ended.map(|(sequence, _)| *sequence).collect();
        ended.iter().for_each(|sequence| self.take_back(*sequence, None, None, false));
        ended
    }

    /// How many records are not here: with core, or on their way to the private topic.
    pub(super) const fn away(&self) -> usize {
        self.out + self.moving
    }

    /// Whether it is at its cap: so much is unsettled, or for so long, that it must not be read
    /// further until that has changed.
    pub(super) fn is_at_cap(&self, now: Instant) -> bool {
        self.bytes >= UNSETTLED_BYTES || self.tracker.full(&Cap::USUAL, now).is_some()
    }

    /// Whether no more may be read for now, because much of it is on its way elsewhere or waits.
    pub(super) fn is_full(&self) -> bool {
        /// As many as travel well in one go.
        const MOST: usize = 512;
        self.moving >= MOST || !self.parked.is_empty() || !self.waiting.is_empty()
    }

    /// What is to be committed now. `clean`: it ends, and nothing of it is handed out any more.
    pub(super) fn progress(&mut self, clean: bool) -> Progress {
        self.is_dirty = false;
        let again = self.delivered(false).into_values().collect();
        Progress { again, ..self.tracker.progress(clean && self.out == 0) }
    }
}

const fn wait(sequence: u64, record: &mut Record, until: Instant) -> Next {
    record.at = Whereabouts::Held;
    Next::Wait(until, sequence)
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partition")
            .field("lane", &self.lane)
            .field("life", &self.life)
            .field("unsettled", &self.records.len())
            .field("out", &self.out)
            .finish_non_exhaustive()
    }
}
