//! What the threads of a subscription, its driver and its settler share.
//!
//! The driver says how much core would take, the threads read no more than that, and the settler
//! works on the books without asking a thread. Nobody waits while the books are locked.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use posthaste_core::broker::{Credit, DeliveryMode, DriverEvent, LaneState, Polled, Received};
use posthaste_core::{Error, Result};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::arrived::Arrived;
use super::assignment::{Partition, Place};
use super::bell::Bell;
use super::held::Held;

/// What is read at once at most.
const BATCH: usize = 256;
/// Events that nobody has asked for yet; the oldest of more are dropped.
const EVENTS: usize = 1_024;
/// What a message is taken for until some have come.
const USUAL_SIZE: usize = 1_024;

/// The books of a subscription.
pub(crate) struct Shared {
    state: Mutex<State>,
    /// One for the thread of each topic.
    bells: Box<[Bell]>,
    driver: AtomicWaker,
    /// How long core may have a delivery without prolonging it.
    pub(super) lease: Duration,
    pub(super) mode: DeliveryMode,
}

/// What the application wants of the threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wish {
    Run,
    /// Hand out nothing, wait for what is out, commit, leave.
    Stop,
    /// Commit and leave.
    Drop,
}

pub(crate) struct State {
    wish: Wish,
    /// How many messages may be read yet.
    credit: usize,
    /// How many of the credit are being read just now.
    reserved: usize,
    /// The mean size of messages, slowly following.
    mean: usize,
    /// A thread would read if it might.
    is_hungry: bool,
    buffer: VecDeque<Received>,
    events: VecDeque<DriverEvent>,
    pub(super) sources: Vec<Source>,
    failure: Option<Error>,
    is_quiet: bool,
}

/// The books of one topic.
#[derive(Default)]
pub(super) struct Source {
    pub(super) partitions: HashMap<i32, Partition>,
    /// How often each partition was assigned.
    lives: HashMap<i32, u16>,
    pub(super) held: Held,
    pub(super) asks: Vec<Ask>,
    /// Handed out only when the commit that goes before it is confirmed.
    pub(super) uncommitted: Vec<Received>,
    has_ended: bool,
}

/// Somebody waits for the broker to have what was settled of these partitions in these lives.
pub(super) struct Ask {
    pub(super) settled: Vec<(i32, u16)>,
    pub(super) tell: oneshot::Sender<Result<()>>,
}

impl Shared {
    /// The books of that many topics.
    pub(crate) fn new(topics: usize, lease: Duration, mode: DeliveryMode) -> Self {
        Self {
            state: Mutex::new(State {
                wish: Wish::Run,
                credit: 0,
                reserved: 0,
                mean: USUAL_SIZE,
                is_hungry: false,
                buffer: VecDeque::new(),
                events: VecDeque::new(),
                sources: std::iter::repeat_with(Source::default).take(topics).collect(),
                failure: None,
                is_quiet: false,
            }),
            bells: std::iter::repeat_with(Bell::default).take(topics).collect(),
            driver: AtomicWaker::new(),
            lease,
            mode,
        }
    }

    /// What the driver gives to core.
    pub(crate) fn poll(
        &self,
        cx: &mut Context<'_>,
        out: &mut Vec<Received>,
        credit: Credit,
    ) -> Poll<Result<Polled>> {
        self.driver.register(cx.waker());
        let mut guard = self.lock();
        let state = &mut *guard;
        if let Some(event) = state.events.pop_front() {
            return Poll::Ready(Ok(Polled::Event(event)));
        }
        let before = out.len();
        let until = Instant::now() + self.lease;
        while out.len() - before < credit.messages
            && let Some(received) = state.buffer.pop_front()
        {
            if self.mode == DeliveryMode::AtMostOnce || state.hand_out(&received, until) {
                out.push(received);
            }
        }
        let taken = out.len() - before;
        let hungry = state.allow(credit, taken);
        let ended = state.sources.iter().all(|source| source.has_ended);
        let polled = if taken > 0 {
            Poll::Ready(Ok(Polled::Batch))
        } else if state.wish == Wish::Run {
            match state.failure.take() {
                Some(failure) => Poll::Ready(Err(failure)),
                None => Poll::Pending,
            }
        } else if ended {
            Poll::Ready(Ok(Polled::Stopped))
        } else if !std::mem::replace(&mut state.is_quiet, true) {
            // Nothing is handed out any more, whatever the threads still read.
            Poll::Ready(Ok(Polled::Quiet))
        } else {
            Poll::Pending
        };
        drop(guard);
        if hungry {
            self.ring_all();
        }
        polled
    }

    /// Tells the threads what is wanted of them. It cannot be taken back.
    pub(crate) fn wish(&self, wish: Wish) {
        let mut state = self.lock();
        state.wish = state.wish.max(wish);
        if self.mode == DeliveryMode::AtLeastOnce {
            state.buffer.clear();
        }
        drop(state);
        self.ring_all();
    }

    pub(super) fn wished(&self) -> Wish {
        self.lock().wish
    }

    /// How much a thread may read now. What it gets it has to bring back at once, by
    /// [`deliver`](Self::deliver).
    pub(super) fn reserve(&self, source: usize) -> usize {
        let mut state = self.lock();
        let fair = state.credit.div_ceil(state.sources.len().max(1));
        let room = fair.min(BATCH);
        let waits = state.sources.get(source).is_none_or(|source| !source.uncommitted.is_empty());
        if waits || state.wish != Wish::Run {
            return 0;
        }
        state.is_hungry |= room == 0;
        state.credit -= room;
        state.reserved += room;
        room
    }

    /// Takes what was read for a reservation. What is of partitions that went meanwhile is
    /// dropped: their next owners get it.
    pub(super) fn deliver(&self, source: usize, reserved: usize, batch: Vec<Arrived>) {
        let now = Instant::now();
        let mut guard = self.lock();
        let state = &mut *guard;
        state.reserved = state.reserved.saturating_sub(reserved);
        let runs = state.wish == Wish::Run;
        let mut added = 0;
        let Some(books) = state.sources.get_mut(source).filter(|_| runs) else { return };
        for arrived in batch {
            let Some(partition) = books.partitions.get_mut(&arrived.partition) else { continue };
            if partition.lane.state() != LaneState::Live {
                continue;
            }
            state.mean = mean(state.mean, arrived.envelope.size());
            partition.fetched = arrived.offset.saturating_add(1);
            if partition.tracker.is_alone() || !partition.waiting.is_empty() {
                partition.waiting.push_back(arrived);
                added += 1;
                continue;
            }
            let Some(received) = partition.add(arrived, now) else { continue };
            added += 1;
            if self.mode == DeliveryMode::AtMostOnce {
                partition.settle(received.token.sequence);
                books.uncommitted.push(received);
            } else {
                state.buffer.push_back(received);
            }
        }
        state.credit = state.credit.saturating_add(reserved.saturating_sub(added));
        drop(guard);
        if added > 0 {
            self.driver.wake();
        }
    }

    /// Something to tell the application.
    pub(super) fn tell(&self, event: DriverEvent) {
        self.lock().tell(event);
        self.driver.wake();
    }

    /// The subscription ends with that error.
    pub(super) fn fail(&self, error: Error) {
        self.lock().failure.get_or_insert(error);
        self.driver.wake();
    }

    /// The thread of that topic is gone.
    pub(super) fn end(&self, source: usize) {
        let mut state = self.lock();
        if let Some(source) = state.sources.get_mut(source) {
            source.has_ended = true;
            source.partitions.values().for_each(|partition| partition.lane.lose());
            source.partitions.clear();
            // Who asked is told by the drop.
            source.asks.clear();
        }
        drop(state);
        self.driver.wake();
    }

    pub(super) fn wake_driver(&self) {
        self.driver.wake();
    }

    /// Wakes the thread of that topic.
    pub(crate) fn ring(&self, source: usize) {
        if let Some(bell) = self.bells.get(source) {
            bell.ring();
        }
    }

    fn ring_all(&self) {
        self.bells.iter().for_each(Bell::ring);
    }

    /// Lets the thread of that topic wait until it is woken, or so long.
    pub(super) fn wait(&self, source: usize, limit: Duration) {
        if let Some(bell) = self.bells.get(source) {
            bell.wait(limit);
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held but an allocation that failed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether nothing is handed out any more.
    pub(super) fn is_stopping(&self) -> bool {
        self.wish != Wish::Run
    }

    /// The partition a token is of, if it still is in that life.
    pub(super) fn partition(&mut self, place: Place) -> Option<&mut Partition> {
        let source = self.sources.get_mut(place.source)?;
        let partition = source.partitions.get_mut(&place.partition)?;
        (partition.life == place.life).then_some(partition)
    }

    /// The number of the partition's next life.
    pub(super) fn next_life(&mut self, source: usize, partition: i32) -> u16 {
        let Some(source) = self.sources.get_mut(source) else { return 0 };
        let life = source.lives.entry(partition).or_default();
        *life = life.wrapping_add(1);
        *life
    }

    pub(super) fn tell(&mut self, event: DriverEvent) {
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Gives what was read or waited to the driver, within the credit that was taken for it.
    pub(super) fn buffer(&mut self, received: Received) {
        if self.wish == Wish::Run {
            self.buffer.push_back(received);
        }
    }

    /// The same for what is settled already: nobody else gets it.
    pub(super) fn buffer_settled(&mut self, received: Received) {
        self.buffer.push_back(received);
    }

    /// Drops what waits for the driver of a partition that goes.
    pub(super) fn drop_buffered(&mut self, source: usize, partition: i32) {
        self.buffer.retain(|received| {
            let place = Place::of(&received.token);
            (place.source, place.partition) != (source, partition)
        });
    }

    /// Takes one message of the credit.
    pub(super) fn take_credit(&mut self) -> bool {
        if self.wish != Wish::Run || self.credit == 0 {
            self.is_hungry = true;
            return false;
        }
        self.credit -= 1;
        true
    }

    /// Somebody waits for a commit.
    pub(super) fn ask(&mut self, source: usize, ask: Ask) {
        if let Some(books) = self.sources.get_mut(source).filter(|books| !books.has_ended) {
            books.asks.push(ask);
        }
    }

    fn hand_out(&mut self, received: &Received, until: Instant) -> bool {
        let place = Place::of(&received.token);
        let sequence = received.token.sequence;
        self.partition(place).is_some_and(|partition| partition.hand_out(sequence, until))
    }

    /// Notes what core would take over what it has just got. Whether a thread waited for that.
    fn allow(&mut self, credit: Credit, taken: usize) -> bool {
        let of_topic = |source: &Source| {
            let waiting = source.partitions.values().map(|partition| partition.waiting.len());
            source.uncommitted.len() + waiting.sum::<usize>()
        };
        let here = self.buffer.len() + self.reserved + taken;
        let here = here + self.sources.iter().map(of_topic).sum::<usize>();
        let by_bytes = (credit.bytes / self.mean.max(1)).max(1);
        self.credit = credit.messages.min(by_bytes).saturating_sub(here);
        self.credit > 0 && std::mem::take(&mut self.is_hungry)
    }
}

/// Follows the sizes of messages slowly.
const fn mean(mean: usize, size: usize) -> usize {
    (mean.saturating_mul(15).saturating_add(size)) / 16
}

/// Marks the topic as ended when its thread is, however that happens.
pub(super) struct Ends {
    pub(super) shared: Arc<Shared>,
    pub(super) source: usize,
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.shared.end(self.source);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Shared")
            .field("wish", &state.wish)
            .field("credit", &state.credit)
            .field("buffered", &state.buffer.len())
            .finish_non_exhaustive()
    }
}
