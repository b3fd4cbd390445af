//! What of a partition is settled.
//!
//! Kafka keeps one number for a group and a partition: the offset to go on from. Records are
//! settled in any order, so that number is the *watermark*, below which everything is settled.
//!
//! **What is kept.** Only the unsettled records, in the order they came. What came and is not
//! among them is settled, so memory follows what is unsettled, not how far the reading is ahead of
//! the slowest record: one that is held back for half a minute does not make the rest pile up.
//!
//! **Holes.** Compaction, transaction markers and aborted batches leave offsets that never come.
//! What came next to a hole reaches over it, for the watermark and for the settled runs alike.
//!
//! **Generations.** A tracker is for one partition from the moment it is assigned, or sought, to
//! the moment it is taken away. Its owner numbers these lives in the tokens, and asks a tracker
//! only about its own.
//!
//! **The metadata of a commit** carries what is settled above the watermark, which records were
//! delivered and are not settled, as far as their owner says so, and three things that tell the
//! next owner how this one ended: whether it ended *cleanly*; how many owners before it
//! began at this watermark, did not move it and ended without a word (*starts*); and the *reach*,
//! below which records may have been handed out. All of it changes while the offset stays the
//! same, so it has to be committed for its own sake:
//!
//! - before the first record of a life is handed out: from then on an end without a word shows;
//! - from time to time while records are settled;
//! - with `clean` when everything is settled or given back.
//!
//! **After an unclean end** the records from the watermark up to the reach are flagged: delivered
//! once more than owners ended. Which of them were really out nobody knows. The last commit is
//! some time ago, so the reach is an estimate from above: what came since the commit before, twice,
//! and at least as many as may be unsettled. It is cut where the partition ends when the next
//! owner begins, if that is known: what came later, nobody can have had. An owner that was cut off
//! while nothing was to be had is no sign of anything.
//!
//! **An owner that comes back** finds its own number where it committed last, if nobody had the
//! partition meanwhile. Then what it remembers itself is more than what it could commit.
//!
//! **A record that kills** whoever handles it keeps the watermark below it. When three owners have
//! ended there, the next hands out one record at a time, and commits before each: now the one that
//! kills does so alone, at the committed offset, and the owner after that knows which it is. An
//! owner may have been ended from outside just then, so how often it happened is told, and what
//! follows from it is not decided here. When that record is settled, or when all suspects are, the
//! partition runs free again.

mod again;
mod digits;
mod held;
#[cfg(test)]
mod model;
mod progress;
mod runs;
mod suspicion;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

pub(crate) use again::Again;
use held::Held;
pub(crate) use progress::Progress;
use runs::{Run, Runs};
use suspicion::Suspicion;

/// How far ahead of the last record the reach is at least: as many as may be unsettled.
const LEAST_AHEAD: i64 = 10_000;

/// The records of one partition in one generation.
#[derive(Debug)]
pub(crate) struct Tracker {
    held: Held,
    /// The offset behind the last record that came.
    position: i64,
    /// Settled by earlier owners, and not come yet.
    remembered: VecDeque<Run>,
    suspicion: Suspicion,
    /// Where the position was when the progress was last asked for.
    told: i64,
    /// How many offsets came between two such times, lately.
    pace: i64,
    /// Names this life among all.
    owner: u32,
}

/// What a record is that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// To be handed out, and settled by this sequence. `attempt` is which delivery to this group
    /// it is, as far as the ends of earlier owners tell.
    New {
        /// Names the record in this generation.
        sequence: u64,
        /// From 1.
        attempt: u32,
    },
    /// Settled by an earlier owner.
    Settled,
    /// It came before in this generation, or lies before where that began.
    Earlier,
}

/// When a partition has to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cap {
    /// So many records are unsettled.
    pub(crate) unsettled: usize,
    /// One has been unsettled for so long.
    pub(crate) behind: Duration,
}

impl Cap {
    /// The cap of every partition.
    pub(crate) const USUAL: Self = Self { unsettled: 10_000, behind: Duration::from_secs(300) };
}

/// Why a partition has to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// Too many records are unsettled.
    Unsettled,
    /// One has been unsettled for too long.
    Behind,
}

impl Tracker {
    /// A partition that is read from that offset on, with nothing known of earlier owners.
    pub(crate) fn begin(position: i64) -> Self {
        Self {
            held: Held::new(),
            position,
            remembered: VecDeque::new(),
            suspicion: Suspicion::none(),
            told: position,
            pace: 0,
            owner: fastrand::u32(1..progress::OWNERS),
        }
    }

    /// A partition that is read from that offset on, where the last owner left that progress.
    /// `end` is where the partition ends now, if known.
    pub(crate) fn resume(position: i64, last: &Progress, end: Option<i64>) -> Self {
        let mut tracker = Self::begin(position);
        // Who goes back wants to have again what was settled.
        if position < last.watermark {
            return tracker;
        }
        tracker.suspicion = Suspicion::of(last, end);
        if position > last.watermark {
            // The first suspects are gone from the partition.
            tracker.suspicion.clear_below(position);
        }
        // A partition that ends before what was settled has lost its end: other records may be
        // in that place now.
        let is_cut = end.zip(last.settled.end()).is_some_and(|(end, settled)| end < settled);
        if !is_cut {
            let ahead = last.settled.iter().filter(|run| run.end > position);
            tracker.remembered.extend(ahead);
        }
        tracker
    }

    /// A record came. Every record has to be told, in the order they come, before it is handed
    /// out.
    pub(crate) fn add(&mut self, offset: i64, now: Instant) -> Known {
        if offset < self.position {
            return Known::Earlier;
        }
        let after = std::mem::replace(&mut self.position, offset.saturating_add(1));
        while self.remembered.front().is_some_and(|run| run.end <= offset) {
            self.remembered.pop_front();
        }
        if self.remembered.front().is_some_and(|run| run.start <= offset) {
            if self.held.len() == 0 {
                self.suspicion.clear_below(self.position);
            }
            return Known::Settled;
        }
        if self.held.len() == 0 && offset > after && self.is_alone() {
            // Owners that had one record out committed its own offset: that record is gone.
            self.suspicion.clear_below(offset);
        }
        let sequence = self.held.push(offset, after, now);
        Known::New { sequence, attempt: self.suspicion.attempt(offset) }
    }

    /// A record is settled. False where it was already, or nobody was given that sequence.
    pub(crate) fn settle(&mut self, sequence: u64) -> bool {
        let before = self.watermark();
        let settled = self.held.remove(sequence);
        let watermark = self.watermark();
        if watermark > before {
            self.suspicion.clear_below(watermark);
        }
        settled
    }

    /// Names this life in what is committed.
    pub(crate) const fn owner(&self) -> u32 {
        self.owner
    }

    /// The offset to commit: everything below it is settled.
    pub(crate) fn watermark(&self) -> i64 {
        self.held.first().map_or(self.position, |first| first.after)
    }

    /// The offset behind the last record that came.
    pub(crate) const fn position(&self) -> i64 {
        self.position
    }

    /// How many records are unsettled.
    pub(crate) const fn outstanding(&self) -> usize {
        self.held.len()
    }

    /// When the first of the unsettled records came.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.held.first().map(|first| first.since)
    }

    /// The offsets of the unsettled records, ascending.
    #[cfg(test)]
    pub(crate) fn unsettled(&self) -> impl Iterator<Item = i64> {
        self.held.iter().map(|slot| slot.offset)
    }

    /// Whether no further record may be taken, and why.
    pub(crate) fn full(&self, cap: &Cap, now: Instant) -> Option<Full> {
        if self.outstanding() >= cap.unsettled {
            return Some(Full::Unsettled);
        }
        let age = now.saturating_duration_since(self.oldest()?);
        (age >= cap.behind).then_some(Full::Behind)
    }

    /// Whether one record may be out at a time only, the first unsettled one, with the progress
    /// committed before it is handed out.
    pub(crate) const fn is_alone(&self) -> bool {
        self.suspicion.is_alone()
    }

    /// The first unsettled record, and how many owners ended while it alone was out, if any did.
    pub(crate) fn killer(&self) -> Option<(i64, u32)> {
        let ends = self.suspicion.ends_alone();
        self.held.first().filter(|_| ends > 0).map(|first| (first.offset, ends))
    }

    /// What the next owner has to know. `clean` says that this one hands out nothing any more and
    /// that nothing it handed out is in use.
    pub(crate) fn progress(&mut self, clean: bool) -> Progress {
        let came = self.position - self.told;
        self.told = self.position;
        // A pause between two bursts does not hide how large they are.
        self.pace = came.max(self.pace / 2);
        let watermark = match self.held.first() {
            // Names the record that is out, where offsets before it are missing.
            Some(first) if self.is_alone() => first.offset,
            _ => self.watermark(),
        };
        let until = self.suspicion.until();
        let reach = if clean || self.is_alone() {
            until
        } else {
            let ahead = self.pace.saturating_mul(2).max(LEAST_AHEAD);
            until.max(self.position.saturating_add(ahead))
        };
        Progress {
            watermark,
            settled: self.settled(),
            starts: self.suspicion.starts(),
            clean,
            reach: reach.max(watermark),
            owner: self.owner,
            // Who has the records knows of these.
            again: Vec::new(),
        }
    }

    /// What is settled above the watermark: what lies between the unsettled records, and what is
    /// remembered of earlier owners.
    fn settled(&self) -> Runs {
        let mut runs = Runs::default();
        let mut behind = self.watermark();
        for slot in self.held.iter() {
            runs.push(behind, slot.after);
            behind = slot.offset.saturating_add(1);
        }
        runs.push(behind, self.position);
        for run in &self.remembered {
            runs.push(run.start.max(self.position), run.end);
        }
        runs
    }
}
