//! The inputs of a pipeline: what was read, what the handler has, and what comes to it again.
//!
//! Inputs of a transaction that was taken back are kept and handed out again. That is as if they
//! were read anew from what the group has committed, without the way to the broker.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::desk::Offer;
use super::input::Input;

/// What a window may have in memory, besides its first input.
const WINDOW_BYTES: usize = 16 << 20;
/// The pause after the first failure; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The pause after many failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How much a transaction takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) count: usize,
    /// How long inputs are gathered.
    pub(super) time: Duration,
    /// How long the handler may take.
    pub(super) handling: Duration,
}

/// What the thread has in its books.
#[derive(Debug)]
pub(super) struct Work {
    limits: Limits,
    /// In the order of their partitions, not handed out.
    held: VecDeque<Input>,
    bytes: usize,
    /// When the first of them came.
    since: Option<Instant>,
    out: Option<Out>,
    again_at: Option<Instant>,
    failures: u32,
}

/// What the handler has.
#[derive(Debug)]
pub(super) struct Out {
    /// Whether its transaction is open.
    pub(super) is_open: bool,
    /// By when it has to come back.
    pub(super) until: Instant,
    /// The offsets that are committed with it, by partition.
    pub(super) ends: BTreeMap<i32, i64>,
    taken_back: CancellationToken,
    /// Partitions that went to somebody else meanwhile.
    lost: BTreeSet<i32>,
}

impl Work {
    pub(super) const fn new(limits: Limits) -> Self {
        Self {
            limits,
            held: VecDeque::new(),
            bytes: 0,
            since: None,
            out: None,
            again_at: None,
            failures: 0,
        }
    }

    /// Keeps what was read.
    pub(super) fn add(&mut self, input: Input, now: Instant) {
        self.bytes += input.envelope().size();
        self.since.get_or_insert(now);
        self.held.push_back(input);
    }

    /// Whether the next window is complete: no more is to be read.
    pub(super) fn is_full(&self) -> bool {
        self.held.len() >= self.limits.count || self.bytes >= WINDOW_BYTES
    }

    pub(super) const fn out(&self) -> Option<&Out> {
        self.out.as_ref()
    }

    /// When there is something to do next, if there is.
    pub(super) fn due(&self) -> Option<Instant> {
        if let Some(out) = &self.out {
            return out.is_open.then_some(out.until);
        }
        let since = self.since?;
        let gathered = if self.is_full() { since } else { since + self.limits.time };
        Some(self.again_at.map_or(gathered, |again| again.max(gathered)))
    }

    /// Whether a window is to be handed out.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.out.is_none() && self.due().is_some_and(|due| due <= now)
    }

    /// Hands out the next window.
    pub(super) fn hand_out(&mut self, now: Instant) -> Offer {
        let (mut inputs, mut taken, mut ends) = (Vec::new(), 0, BTreeMap::new());
        while inputs.len() < self.limits.count && taken < WINDOW_BYTES {
            let Some(input) = self.held.pop_front() else { break };
            taken += input.envelope().size();
            ends.insert(input.partition, input.offset + 1);
            inputs.push(input);
        }
        self.bytes = self.bytes.saturating_sub(taken);
        self.since = (!self.held.is_empty()).then_some(now);
        self.again_at = None;
        let taken_back = CancellationToken::new();
        self.out = Some(Out {
            is_open: true,
            until: now + self.limits.handling,
            ends,
            taken_back: taken_back.clone(),
            lost: BTreeSet::new(),
        });
        Offer { inputs, taken_back }
    }

    /// The window is back: what is known of it.
    pub(super) fn come_back(&mut self) -> Option<Out> {
        self.out.take()
    }

    /// Its transaction is committed.
    pub(super) fn settled(&mut self) {
        self.failures = 0;
    }

    /// Its transaction was taken back while the handler had it: the handler is told to let go.
    pub(super) fn take_back(&mut self) {
        if let Some(out) = &mut self.out {
            out.is_open = false;
            out.taken_back.cancel();
        }
    }

    /// The inputs of a transaction that was taken back are the next ones again.
    pub(super) fn put_back(&mut self, out: &Out, inputs: Vec<Input>, now: Instant) {
        for mut input in inputs.into_iter().rev() {
            if !out.lost.contains(&input.partition) {
                input.attempt = input.attempt.saturating_add(1);
                self.bytes += input.envelope().size();
                self.held.push_front(input);
            }
        }
        if !self.held.is_empty() {
            self.since.get_or_insert(now);
        }
    }

    /// Nothing is handed out for a while, each time for longer.
    pub(super) fn pause(&mut self, now: Instant) {
        let longer = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.again_at = Some(now + longer.min(LONGEST_PAUSE));
    }

    /// Whether the open transaction has inputs of one of these partitions.
    pub(super) fn touches(&self, partitions: &[i32]) -> bool {
        let touched = |out: &&Out| partitions.iter().any(|one| out.ends.contains_key(one));
        self.out.as_ref().filter(|out| out.is_open).as_ref().is_some_and(touched)
    }

    /// These partitions are somebody else's: so are their inputs.
    pub(super) fn lose(&mut self, partitions: &[i32]) {
        self.held.retain(|input| !partitions.contains(&input.partition));
        self.bytes = self.held.iter().map(|input| input.envelope().size()).sum();
        if self.held.is_empty() {
            self.since = None;
        }
        if let Some(out) = &mut self.out {
            out.lost.extend(partitions);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_millis(100);

    fn work(count: usize) -> Work {
        Work::new(Limits { count, time: TIME, handling: Duration::from_secs(40) })
    }

    fn places(inputs: &[Input]) -> Vec<(i32, i64, u32)> {
        inputs.iter().map(|input| (input.partition, input.offset, input.attempt)).collect()
    }

    #[test]
    fn a_window_goes_when_it_is_full_or_old_and_one_at_a_time() {
        let (mut work, now) = (work(2), Instant::now());
        assert!(!work.is_due(now + TIME));
        work.add(Input::sample(0, 7), now);
        assert!(!work.is_due(now) && work.is_due(now + TIME) && !work.is_full());
        work.add(Input::sample(0, 9), now);
        work.add(Input::sample(1, 3), now);
        assert!(work.is_due(now) && work.is_full());
        assert_eq!(places(&work.hand_out(now).inputs), [(0, 7, 1), (0, 9, 1)]);
        assert!(!work.is_due(now + TIME));
        let out = work.come_back().unwrap();
        assert_eq!(out.ends, BTreeMap::from([(0, 10)]));
        work.settled();
        assert!(work.is_due(now + TIME));
        assert_eq!(places(&work.hand_out(now).inputs), [(1, 3, 1)]);
    }

    #[test]
    fn what_was_taken_back_comes_first_and_later_and_without_lost_partitions() {
        let (mut work, now) = (work(3), Instant::now());
        for (partition, offset) in [(0, 1), (1, 1), (0, 2), (0, 3), (1, 2)] {
            work.add(Input::sample(partition, offset), now);
        }
        let offer = work.hand_out(now);
        assert!(work.touches(&[1]) && !work.touches(&[2]));
        work.take_back();
        assert!(offer.taken_back.is_cancelled() && !work.touches(&[1]));
        work.lose(&[1]);
        // It comes again to this member, while the handler has the old one.
        work.add(Input::sample(1, 1), now);
        let out = work.come_back().unwrap();
        work.put_back(&out, offer.inputs, now);
        work.pause(now);
        assert!(!work.is_due(now) && work.is_due(now + FIRST_PAUSE));
        assert_eq!(places(&work.hand_out(now).inputs), [(0, 1, 2), (0, 2, 2), (0, 3, 1)]);
        work.come_back().unwrap();
        assert_eq!(places(&work.hand_out(now).inputs), [(1, 1, 1)]);
    }

    #[test]
    fn pauses_grow_and_a_success_ends_them() {
        let (mut work, now) = (work(1), Instant::now());
        work.add(Input::sample(0, 1), now);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            work.pause(now);
            pauses.push(work.due().unwrap().duration_since(now));
        }
        assert_eq!((pauses[0], pauses[1]), (FIRST_PAUSE, FIRST_PAUSE * 2));
        assert_eq!(pauses[11], LONGEST_PAUSE);
        work.settled();
        work.pause(now);
        assert_eq!(work.due().unwrap(), now + TIME.max(FIRST_PAUSE));
    }
}
