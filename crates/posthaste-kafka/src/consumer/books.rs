//! What a thread does in the books: partitions that come and go, and what is due.

use std::collections::BTreeMap;
use std::sync::Arc;

use posthaste_core::broker::{DeliveryMode, DriverEvent, Lane, LaneState, Token};
use posthaste_core::{Error, ErrorKind, Result, Retry, Timestamp, TopicName};
use tokio::time::Instant;

use super::arrived::Arrived;
use super::assignment::{Next, Partition, Remembered};
use super::commit::Entry;
use super::place::Place;
use super::shared::{Ask, Shared, State};
use super::start::Beginning;
use super::topics;
use crate::error::BROKER;

/// What is to be committed, and who waits for it.
#[derive(Default)]
pub(super) struct Due {
    pub(super) entries: Vec<Entry>,
    lives: Vec<(i32, u16)>,
    asks: Vec<Ask>,
}

/// Partitions that are to be read no further for a while, and those that are to be read again.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) pause: Vec<i32>,
    pub(super) resume: Vec<i32>,
    /// How many are at their cap.
    pub(super) full: usize,
}

impl Shared {
    /// Partitions begin. Gives what is to be committed before the first record is handed out.
    pub(super) fn assign(
        &self,
        source: usize,
        topic: &TopicName,
        beginnings: Vec<Beginning>,
    ) -> Vec<Entry> {
        let mut state = self.lock();
        let mut entries = Vec::with_capacity(beginnings.len());
        for Beginning { partition: number, tracker, lost, delivered } in beginnings {
            if let Some(count) = lost {
                state.tell(loss(topic, count));
            }
            if tracker.is_alone() {
                let at = tracker.position();
                tracing::warn!(%topic, number, at, "members ended here: one message at a time");
            }
            // The private topic is no partition of the one that was asked for.
            let of_topic = topics::private(number).is_none();
            let shown = u32::try_from(number).ok().filter(|_| of_topic);
            let lane = Arc::new(Lane::new(topic.clone(), shown));
            let life = state.next_life(source, number);
            let keeping = state.sources.get(source).map(|books| books.keeping).unwrap_or_default();
            let partition = Partition::new(Arc::clone(&lane), source, number, life, tracker);
            let mut partition = partition.keeping(keeping).with_delivered(delivered);
            entries.push(Entry::of(number, &partition.progress(false)));
            if let Some(books) = state.sources.get_mut(source) {
                books.partitions.insert(number, partition);
            }
            state.tell(DriverEvent::LaneAssigned(lane));
        }
        drop(state);
        self.wake_driver();
        entries
    }

    /// Partitions go to others: nothing of them is handed out any more. What failed and waits goes
    /// to the private topic where it can; the last commit tells of the rest.
    pub(super) fn drain(&self, source: usize, partitions: &[i32], until: Instant) {
        let (now, time) = (Instant::now(), Timestamp::now());
        let mut state = self.lock();
        for number in partitions {
            if self.mode == DeliveryMode::AtLeastOnce {
                state.drop_buffered(source, *number);
            }
            let Some(books) = state.sources.get_mut(source) else { continue };
            let held = books.held.take(*number);
            let Some(partition) = books.partitions.get_mut(number) else { continue };
            if books.keeping.spills {
                let due = |due: Instant| time + due.saturating_duration_since(now);
                let hops = held.into_iter().filter_map(|(at, one)| partition.spill(one, due(at)));
                books.hops.extend(hops);
            }
            partition.lane.drain(until);
            partition.waiting.clear();
            partition.parked.clear();
            let lane = Arc::clone(&partition.lane);
            state.tell(DriverEvent::LaneRevoked(lane));
        }
        drop(state);
        self.move_on(source);
        self.wake_driver();
    }

    /// How many records of the partitions core has, or are on their way to the private topic.
    pub(super) fn away(&self, source: usize, partitions: &[i32]) -> usize {
        let state = self.lock();
        let Some(books) = state.sources.get(source) else { return 0 };
        partitions
            .iter()
            .filter_map(|number| books.partitions.get(number))
            .map(Partition::away)
            .sum()
    }

    /// Partitions are somebody else's.
    pub(super) fn lose(&self, source: usize, partitions: &[i32]) {
        let mut state = self.lock();
        for number in partitions {
            if self.mode == DeliveryMode::AtLeastOnce {
                state.drop_buffered(source, *number);
            }
            let Some(books) = state.sources.get_mut(source) else { continue };
            books.held.take(*number);
            books.hops.retain(|hop| Place::of(&hop.token).partition != *number);
            books.uncommitted.retain(|one| Place::of(&one.token).partition != *number);
            let Some(partition) = books.partitions.remove(number) else { continue };
            let was_live = partition.lane.state() == LaneState::Live;
            partition.lane.lose();
            if was_live {
                state.tell(DriverEvent::LaneRevoked(Arc::clone(&partition.lane)));
            }
            state.remember(source, *number, partition);
        }
        drop(state);
        self.wake_driver();
    }

    /// What is known of partitions that come back.
    pub(super) fn recall(&self, source: usize, number: i32) -> Option<Remembered> {
        self.lock().recall(source, number)
    }

    /// How far the partitions of the private topic are settled that are ours.
    pub(crate) fn settled_copies(&self, source: usize) -> BTreeMap<i32, i64> {
        let state = self.lock();
        let Some(books) = state.sources.get(source) else { return BTreeMap::new() };
        let settled = books.partitions.iter().filter_map(|(number, partition)| {
            Some((topics::private(*number)?, partition.tracker.watermark()))
        });
        settled.collect()
    }

    /// The partitions that are ours.
    pub(super) fn assigned(&self, source: usize) -> Vec<i32> {
        let state = self.lock();
        state
            .sources
            .get(source)
            .map(|s| s.partitions.keys().copied().collect())
            .unwrap_or_default()
    }

    /// Whether no partition is ours.
    pub(super) fn has_nothing(&self, source: usize) -> bool {
        self.lock().sources.get(source).is_some_and(|books| books.partitions.is_empty())
    }

    /// Whether somebody waits for a commit.
    pub(super) fn has_asks(&self, source: usize) -> bool {
        self.lock().sources.get(source).is_some_and(|books| !books.asks.is_empty())
    }

    /// Takes what is to be committed: of partitions where something was settled, and of those that
    /// end. Without `asked`, those who wait go on waiting.
    pub(super) fn take_due(&self, source: usize, ending: &[i32], asked: bool) -> Due {
        let mut state = self.lock();
        let Some(books) = state.sources.get_mut(source) else { return Due::default() };
        let asks = if asked { std::mem::take(&mut books.asks) } else { Vec::new() };
        let mut due = Due { asks, ..Due::default() };
        let wanted =
            |number: &i32, life| due.asks.iter().any(|ask| ask.settled.contains(&(*number, life)));
        for (number, partition) in &mut books.partitions {
            let ends = ending.contains(number);
            if ends || partition.is_dirty || wanted(number, partition.life) {
                due.entries.push(Entry::of(*number, &partition.progress(ends)));
                due.lives.push((*number, partition.life));
            }
        }
        due
    }

    /// Notes what became of a commit. What it was waited for goes to the driver.
    pub(super) fn committed(&self, source: usize, due: Due, result: &Result<()>) {
        let Due { entries: _, lives, mut asks } = due;
        let passes = result.as_ref().err().is_some_and(|error| error.retry() == Retry::Transient);
        if passes {
            let now = Instant::now();
            let (again, over) = asks.into_iter().partition(|ask| ask.until > now);
            self.ask_again(source, again);
            asks = over;
        }
        for ask in asks {
            let all = ask.settled.iter().all(|settled| lives.contains(settled));
            let answer = match result {
                Ok(()) if all => Ok(()),
                Ok(()) => Err(gone()),
                Err(error) => Err(error.duplicate()),
            };
            // Nobody may wait any more.
            let _ = ask.tell.send(answer);
        }
        if result.is_ok() {
            self.hand_out_committed(source);
            return;
        }
        let mut state = self.lock();
        let Some(books) = state.sources.get_mut(source) else { return };
        for (number, life) in lives {
            let partition = books.partitions.get_mut(&number);
            if let Some(partition) = partition.filter(|partition| partition.life == life) {
                partition.is_dirty = true;
            }
        }
    }

    fn ask_again(&self, source: usize, asks: Vec<Ask>) {
        let mut state = self.lock();
        asks.into_iter().for_each(|ask| state.ask(source, ask));
    }

    /// Commits have failed whose partitions nobody knows any more: all are committed again.
    pub(super) fn commit_again(&self, source: usize, partitions: &[i32]) {
        let mut state = self.lock();
        let Some(books) = state.sources.get_mut(source) else { return };
        for number in partitions {
            if let Some(partition) = books.partitions.get_mut(number) {
                partition.is_dirty = true;
            }
        }
    }

    fn hand_out_committed(&self, source: usize) {
        let mut state = self.lock();
        let Some(books) = state.sources.get_mut(source) else { return };
        let ready = std::mem::take(&mut books.uncommitted);
        if ready.is_empty() {
            return;
        }
        for received in ready {
            if self.mode == DeliveryMode::AtMostOnce {
                state.buffer_settled(received);
            } else {
                state.buffer(received);
            }
        }
        drop(state);
        self.wake_driver();
    }

    /// Brings what may be handed out by now: what waited for its time, and of partitions where
    /// only one record may be out, the next. Whether that has to be committed first.
    pub(super) fn bring_due(&self, source: usize, now: Instant) -> bool {
        let mut guard = self.lock();
        let state = &mut *guard;
        let mut brought = false;
        loop {
            let Some(books) = state.sources.get_mut(source) else { return false };
            if books.held.next().is_none_or(|due| due > now) || !state.take_credit() {
                break;
            }
            let Some(books) = state.sources.get_mut(source) else { return false };
            let Some((number, sequence)) = books.held.pop(now) else { break };
            let partition = books.partitions.get_mut(&number);
            if let Some(received) = partition.and_then(|partition| partition.again(sequence)) {
                state.give(source, received, self.mode);
                brought = true;
            }
        }
        brought |= self.bring_released(state, source, now);
        let Some(books) = state.sources.get_mut(source) else { return false };
        for partition in books.partitions.values_mut() {
            if partition.waiting.is_empty() || partition.lane.state() != LaneState::Live {
                continue;
            }
            while !(partition.tracker.is_alone() && partition.tracker.outstanding() > 0) {
                let Some(next) = partition.waiting.pop_front() else { break };
                match partition.add(next, now) {
                    None => {}
                    Some(Next::Wait(due, one)) => books.held.add(due, partition.number(), one),
                    Some(Next::Move(hop)) => books.hops.push(hop),
                    Some(Next::HandOut(received)) => {
                        if let Some((offset, ends)) = partition.tracker.killer() {
                            let topic = partition.lane.topic();
                            tracing::warn!(%topic, offset, ends, "members ended with this message");
                        }
                        if self.mode == DeliveryMode::AtMostOnce {
                            partition.settle(received.token.sequence);
                        }
                        books.uncommitted.push(received);
                    }
                }
            }
        }
        let (uncommitted, moves) = (!books.uncommitted.is_empty(), !books.hops.is_empty());
        drop(guard);
        if moves {
            self.move_on(source);
        }
        if brought {
            self.wake_driver();
        }
        uncommitted
    }

    /// Takes in what was parked and whose time in its partition is over. Whether it was anything.
    fn bring_released(&self, state: &mut State, source: usize, now: Instant) -> bool {
        let time = Timestamp::now();
        let mut brought = false;
        while let Some(books) = state.sources.get_mut(source) {
            let is_released = |one: &Arrived| one.released.is_none_or(|released| released <= time);
            let mut parked = books.partitions.values_mut().filter_map(|partition| {
                let is_live = partition.lane.state() == LaneState::Live;
                let first = partition.parked.front().filter(|one| is_live && is_released(one));
                first.is_some().then_some(partition)
            });
            let Some(number) = parked.next().map(|partition| partition.number()) else { break };
            if !state.take_credit() {
                break;
            }
            let Some(books) = state.sources.get_mut(source) else { break };
            let partition = books.partitions.get_mut(&number);
            let Some(one) = partition.and_then(|one| one.parked.pop_front()) else { break };
            if !state.take_in(source, one, now, self.mode) {
                state.return_credit();
            }
            brought = true;
        }
        brought
    }

    /// The copy was not stored: the message waits here, until then.
    pub(crate) fn stay(&self, token: &Token, due: Instant) {
        let mut state = self.lock();
        let place = Place::of(token);
        let stays = state.partition(place).is_some_and(|partition| partition.stay(token.sequence));
        if stays && let Some(books) = state.sources.get_mut(place.source) {
            books.held.add(due, place.partition, token.sequence);
        }
        drop(state);
        self.ring(place.source);
    }

    /// Takes back what core has had for longer than its lease: it comes again.
    pub(super) fn end_leases(&self, source: usize, now: Instant) {
        let mut state = self.lock();
        let Some(books) = state.sources.get_mut(source) else { return };
        for (number, partition) in &mut books.partitions {
            for sequence in partition.end_leases(now) {
                books.held.add(now, *number, sequence);
            }
        }
    }

    /// When the next record is due that waits for its time.
    pub(super) fn next_due(&self, source: usize) -> Option<Instant> {
        let state = self.lock();
        state.sources.get(source)?.held.next()
    }

    /// Which partitions the client has to stop reading, and which it may read again.
    pub(super) fn changes(&self, source: usize, all: bool) -> Changes {
        let now = Instant::now();
        let mut state = self.lock();
        let mut changes = Changes::default();
        let Some(books) = state.sources.get_mut(source) else { return changes };
        for (number, partition) in &mut books.partitions {
            let full = partition.is_at_cap(now);
            changes.full += usize::from(full);
            let paused = full || partition.is_full() || all;
            match (partition.is_paused, paused) {
                (false, true) => changes.pause.push(*number),
                (true, false) => changes.resume.push(*number),
                _ => continue,
            }
            partition.is_paused = paused;
        }
        changes
    }

    /// Those of the partitions that the client was told to stop reading.
    pub(super) fn paused(&self, source: usize, partitions: &[i32]) -> Vec<i32> {
        let state = self.lock();
        let Some(books) = state.sources.get(source) else { return Vec::new() };
        let paused = |number: &&i32| books.partitions.get(number).is_some_and(|p| p.is_paused);
        partitions.iter().filter(paused).copied().collect()
    }

    /// Where the client reads on in each partition.
    pub(super) fn positions(&self, source: usize) -> Vec<(i32, i64)> {
        let state = self.lock();
        let Some(books) = state.sources.get(source) else { return Vec::new() };
        books.partitions.iter().map(|(number, partition)| (*number, partition.fetched)).collect()
    }

    /// The partition is read on from there, because what came before is gone.
    pub(super) fn skip(&self, source: usize, number: i32, to: i64) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(books) = state.sources.get_mut(source) else { return };
        if let Some(partition) = books.partitions.get_mut(&number) {
            partition.fetched = to;
        }
    }
}

/// Messages are gone that the group did not read.
pub(super) fn loss(topic: &TopicName, count: u64) -> DriverEvent {
    DriverEvent::Lost {
        topic: topic.clone(),
        count: (count > 0).then_some(count),
        reason: "messages were removed from the topic before the group read them".to_owned(),
    }
}

#[cold]
fn gone() -> Error {
    Error::new(ErrorKind::LeaseLost, "the partition went to another member before the commit")
        .with_broker(BROKER)
}
