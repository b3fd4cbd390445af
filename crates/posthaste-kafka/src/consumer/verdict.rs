//! What verdicts do in the books. No thread is asked, so a partition that goes can wait for them.

use std::time::Duration;

use posthaste_core::broker::{Confirmation, LaneState, Settlement, Token, Verdict};
use posthaste_core::{Result, Timestamp};
use smallvec::SmallVec;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::place::Place;
use super::shared::{Ask, Shared, State};
use crate::private;

/// How long a commit that somebody waits for is tried again: a group that divides its partitions
/// anew takes none.
const PATIENCE: Duration = Duration::from_secs(10);

/// The topics whose threads have something to do now.
type Rings = SmallVec<[usize; 4]>;

/// Partitions in certain lives.
type Lives = Vec<(i32, u16)>;

/// What of a batch is not done by the books alone, by index.
#[derive(Debug, Default)]
pub(crate) struct Open {
    /// Not ours any more.
    pub(crate) lost: Vec<usize>,
    /// To be stored as dead letters before they are settled.
    pub(crate) letters: Vec<usize>,
    /// To be stored in the private topic before they are settled, due after that time.
    pub(crate) copies: Vec<(usize, Duration)>,
    /// Acknowledged, and not known to the broker yet: one answer for each topic, with the indexes
    /// that it is for.
    pub(crate) asked: Vec<(Vec<usize>, Answer)>,
}

impl Shared {
    /// Books verdicts. Where the broker's confirmation is wanted, it is asked for at once: a
    /// partition that goes waits for its last settlement, and not for a question that follows it.
    pub(crate) fn book(&self, batch: &[Settlement], confirmation: Confirmation) -> Open {
        let now = Instant::now();
        let (mut open, mut rings) = (Open::default(), Rings::new());
        let mut acknowledged = Vec::new();
        let mut state = self.lock();
        for (index, settlement) in batch.iter().enumerate() {
            let Settlement { token, verdict, .. } = settlement;
            let is_ours = match verdict {
                Verdict::Ack => state.settle(token, &mut rings),
                Verdict::DeadLetter(_) => {
                    let is_ours = state.holds(token);
                    if is_ours {
                        open.letters.push(index);
                    }
                    is_ours
                }
                Verdict::Requeue(_) if state.spills(token, Duration::ZERO) => {
                    open.copies.push((index, Duration::ZERO));
                    true
                }
                Verdict::After(delay, _) if state.spills(token, *delay) => {
                    open.copies.push((index, *delay));
                    true
                }
                Verdict::After(delay, parcel) => {
                    state.give_back(token, now + *delay, Some(parcel.attempt), &mut rings)
                }
                Verdict::Release(parcel) | Verdict::Requeue(parcel) => {
                    state.give_back(token, now + parcel.rest, Some(parcel.attempt), &mut rings)
                }
                // Whatever it is, the message comes again.
                _ => state.give_back(token, now, None, &mut rings),
            };
            if !is_ours {
                open.lost.push(index);
            } else if confirmation == Confirmation::Broker && matches!(verdict, Verdict::Ack) {
                acknowledged.push((index, token));
            }
        }
        if !acknowledged.is_empty() {
            open.asked = state.ask_for(&acknowledged, &mut rings);
        }
        drop(state);
        self.ring_these(&rings);
        open
    }

    /// Its dead letter or its copy is stored. `false` if it is not ours any more: then it comes again.
    pub(crate) fn buried(&self, token: &Token) -> bool {
        let mut rings = Rings::new();
        let settled = self.lock().settle(token, &mut rings);
        self.ring_these(&rings);
        settled
    }

    /// Its dead letter or its copy is not stored: it comes again after the delay.
    pub(crate) fn keep(&self, token: &Token, delay: Duration) {
        let mut rings = Rings::new();
        self.lock().give_back(token, Instant::now() + delay, None, &mut rings);
        self.ring_these(&rings);
    }

    /// Prolongs leases. Gives the indexes of those that are lost.
    pub(crate) fn extend(&self, tokens: &[Token]) -> Vec<usize> {
        let until = Instant::now() + self.lease;
        let mut state = self.lock();
        let lost = |(index, token): (usize, &Token)| {
            if !state.holds(token) {
                return Some(index);
            }
            if let Some(partition) = state.partition(Place::of(token)) {
                partition.extend(token.sequence, until);
            }
            None
        };
        tokens.iter().enumerate().filter_map(lost).collect()
    }

    fn ring_these(&self, rings: &[usize]) {
        rings.iter().for_each(|source| self.ring(*source));
    }
}

/// Whether the broker has it. An end without a word is one of the thread.
pub(crate) type Answer = oneshot::Receiver<Result<()>>;

impl State {
    /// Whether core has just this hand-out.
    fn holds(&mut self, token: &Token) -> bool {
        let place = Place::of(token);
        self.partition(place).is_some_and(|partition| partition.holds(place, token.sequence))
    }

    /// Asks the threads for commits of what was settled.
    fn ask_for(
        &mut self,
        settled: &[(usize, &Token)],
        rings: &mut Rings,
    ) -> Vec<(Vec<usize>, Answer)> {
        let mut topics: Vec<(usize, Vec<usize>, Lives)> = Vec::new();
        for (index, token) in settled {
            let place = Place::of(token);
            let life = (place.partition, place.life);
            match topics.iter_mut().find(|(source, ..)| *source == place.source) {
                Some((_, indexes, lives)) => {
                    indexes.push(*index);
                    if !lives.contains(&life) {
                        lives.push(life);
                    }
                }
                None => topics.push((place.source, vec![*index], vec![life])),
            }
        }
        let until = Instant::now() + PATIENCE;
        let ask = |(source, indexes, settled)| {
            let (tell, told) = oneshot::channel();
            self.ask(source, Ask { settled, tell, until });
            ring(rings, source);
            (indexes, told)
        };
        topics.into_iter().map(ask).collect()
    }

    /// Whether a failed delivery goes to the private topic: where it would wait for long, and where
    /// the next owner would not know of the failure.
    fn spills(&mut self, token: &Token, delay: Duration) -> bool {
        let place = Place::of(token);
        let spills = self.sources.get(place.source).is_some_and(|source| source.keeping.spills);
        let goes = self.is_stopping();
        let Some(partition) = self.partition(place).filter(|_| spills) else { return false };
        let goes = goes || partition.lane.state() != LaneState::Live;
        (goes || delay > private::IN_MEMORY) && partition.holds(place, token.sequence)
    }

    /// `false` if the partition went: then the message comes again.
    fn settle(&mut self, token: &Token, rings: &mut Rings) -> bool {
        let place = Place::of(token);
        let Some(partition) = self.partition(place) else { return false };
        partition.settle(token.sequence);
        self.look_after(place, rings);
        true
    }

    /// `delivered` is how often the application has had it, if core says so. `false` if it is not ours any more.
    fn give_back(
        &mut self,
        token: &Token,
        due: Instant,
        delivered: Option<u32>,
        rings: &mut Rings,
    ) -> bool {
        let place = Place::of(token);
        let goes = self.is_stopping();
        let Some(partition) = self.partition(place) else { return false };
        if !partition.holds(place, token.sequence) {
            return false;
        }
        let goes = goes || partition.lane.state() != LaneState::Live;
        let left = due.saturating_duration_since(Instant::now());
        let time = (!left.is_zero()).then(|| Timestamp::now() + left);
        partition.take_back(token.sequence, delivered, time, goes);
        if !goes && let Some(books) = self.sources.get_mut(place.source) {
            books.held.add(due, place.partition, token.sequence);
            ring(rings, place.source);
        }
        self.look_after(place, rings);
        true
    }

    /// Rings for a thread that waits for the last one of a partition.
    fn look_after(&mut self, place: Place, rings: &mut Rings) {
        let goes = self.is_stopping();
        let Some(partition) = self.partition(place) else { return };
        let awaited =
            goes || partition.lane.state() != LaneState::Live || partition.tracker.is_alone();
        if awaited && partition.away() == 0 {
            ring(rings, place.source);
        }
    }
}

fn ring(rings: &mut Rings, source: usize) {
    if !rings.contains(&source) {
        rings.push(source);
    }
}
