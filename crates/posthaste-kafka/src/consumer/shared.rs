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
use posthaste_core::{Error, Result, Timestamp};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::arrived::Arrived;
use super::assignment::{Hop, Keeping, Next, Partition, Remembered};
use super::bell::Bell;
use super::counted::CountedMap;
use super::held::Held;
use super::place::Place;

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
    /// One for who brings copies of each topic to the private one.
    movers: Box<[Notify]>,
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
    /// How many bytes may be read yet.
    bytes: usize,
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
    pub(super) partitions: CountedMap<i32, Partition>,
    /// How often each partition was assigned.
    lives: HashMap<i32, u16>,
    pub(super) held: Held,
    pub(super) asks: Vec<Ask>,
    /// Handed out only when the commit that goes before it is confirmed.
    pub(super) uncommitted: Vec<Received>,
    /// Copies that are to go to the private topic.
    pub(super) hops: Vec<Hop>,
    /// What is known of partitions that were lost.
    remembered: HashMap<i32, Remembered>,
    pub(super) keeping: Keeping,
    has_ended: bool,
}

/// Somebody waits for the broker to have what was settled of these partitions in these lives.
pub(super) struct Ask {
    pub(super) settled: Vec<(i32, u16)>,
    pub(super) tell: oneshot::Sender<Result<()>>,
    /// Until then a commit that fails in passing is tried again.
    pub(super) until: Instant,
}

impl Shared {
    /// The books of topics, with where each keeps what fails.
    pub(crate) fn new(topics: &[Keeping], lease: Duration, mode: DeliveryMode) -> Self {
        let source = |keeping: &Keeping| Source { keeping: *keeping, ..Source::default() };
        Self {
            state: Mutex::new(State {
                wish: Wish::Run,
                credit: 0,
                reserved: 0,
                bytes: 0,
                mean: USUAL_SIZE,
                is_hungry: false,
                buffer: VecDeque::new(),
                events: VecDeque::new(),
                sources: topics.iter().map(source).collect(),
                failure: None,
                is_quiet: false,
            }),
            bells: topics.iter().map(|_| Bell::default()).collect(),
            movers: topics.iter().map(|_| Notify::new()).collect(),
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

    /// How many messages a thread may read now, and how many bytes, of which the last message may
    /// exceed the bound. What it gets it has to bring back at once, by [`deliver`](Self::deliver).
    pub(super) fn reserve(&self, source: usize) -> (usize, usize) {
        let mut state = self.lock();
        let sources = state.sources.len().max(1);
        let bytes = state.bytes.div_ceil(sources);
        let room = state.credit.div_ceil(sources).min(BATCH);
        let room = if bytes == 0 { 0 } else { room };
        let waits = state.sources.get(source).is_none_or(|source| !source.uncommitted.is_empty());
        if waits || state.wish != Wish::Run {
            return (0, 0);
        }
        state.is_hungry |= room == 0;
        state.credit -= room;
        state.reserved += room;
        (room, bytes)
    }

    /// Takes what was read for a reservation. What is of partitions that went meanwhile is
    /// dropped: their next owners get it. Whether a partition is to be read no further for now.
    pub(super) fn deliver(&self, source: usize, reserved: usize, batch: Vec<Arrived>) -> bool {
        let (now, time) = (Instant::now(), Timestamp::now());
        let mut state = self.lock();
        state.reserved = state.reserved.saturating_sub(reserved);
        if state.wish != Wish::Run {
            return false;
        }
        let (mut added, mut full) = (0, false);
        for arrived in batch {
            let size = arrived.envelope.size();
            state.mean = mean(state.mean, size);
            state.bytes = state.bytes.saturating_sub(size);
            let Some(partition) = state.live(source, arrived.partition) else { continue };
            partition.fetched = arrived.offset.saturating_add(1);
            if !partition.parked.is_empty() || arrived.released.is_some_and(|at| at > time) {
                partition.parked.push_back(arrived);
                full = true;
                continue;
            }
            let number = arrived.partition;
            added += usize::from(state.take_in(source, arrived, now, self.mode));
            full |= state.is_at_cap(source, number, now);
        }
        state.credit = state.credit.saturating_add(reserved.saturating_sub(added));
        let moves = state.sources.get(source).is_some_and(|books| !books.hops.is_empty());
        drop(state);
        if added > 0 {
            self.driver.wake();
        }
        if moves {
            self.move_on(source);
        }
        full
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

    /// Waits until copies are to go to the private topic, and takes them.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn hops(&self, source: usize) -> Vec<Hop> {
        let Some(mover) = self.movers.get(source) else { return std::future::pending().await };
        loop {
            let found = self.lock().sources.get_mut(source).map(|s| std::mem::take(&mut s.hops));
            match found {
                Some(hops) if !hops.is_empty() => return hops,
                _ => mover.notified().await,
            }
        }
    }

    /// There are such copies.
    pub(super) fn move_on(&self, source: usize) {
        if let Some(mover) = self.movers.get(source) {
            mover.notify_one();
        }
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

    /// The partition, if something of it may be handed out.
    fn live(&mut self, source: usize, number: i32) -> Option<&mut Partition> {
        let partition = self.sources.get_mut(source)?.partitions.get_mut(&number)?;
        (partition.lane.state() == LaneState::Live).then_some(partition)
    }

    /// Whether the partition has to stop at once.
    fn is_at_cap(&self, source: usize, number: i32, now: Instant) -> bool {
        let partition = self.sources.get(source).and_then(|source| source.partitions.get(&number));
        partition.is_some_and(|partition| partition.is_at_cap(now))
    }

    /// A record came, and its time in its partition is over. Whether it takes credit.
    pub(super) fn take_in(
        &mut self,
        source: usize,
        arrived: Arrived,
        now: Instant,
        mode: DeliveryMode,
    ) -> bool {
        let number = arrived.partition;
        let Some(partition) = self.live(source, number) else { return false };
        if partition.tracker.is_alone() || !partition.waiting.is_empty() {
            partition.waiting.push_back(arrived);
            return true;
        }
        let next = partition.add(arrived, now);
        let Some(books) = self.sources.get_mut(source) else { return false };
        match next {
            None => return false,
            Some(Next::Wait(due, sequence)) => books.held.add(due, number, sequence),
            Some(Next::Move(hop)) => books.hops.push(hop),
            Some(Next::HandOut(received)) => {
                self.give(source, received, mode);
                return true;
            }
        }
        false
    }

    /// Gives what is to be handed out to the driver, within the credit that was taken for it.
    /// Under at-most-once it is settled first, and waits for the commit.
    pub(super) fn give(&mut self, source: usize, received: Received, mode: DeliveryMode) {
        if mode == DeliveryMode::AtLeastOnce {
            self.buffer(received);
            return;
        }
        let place = Place::of(&received.token);
        if let Some(partition) = self.partition(place) {
            partition.settle(received.token.sequence);
        }
        if let Some(books) = self.sources.get_mut(source) {
            books.uncommitted.push(received);
        }
    }

    /// Keeps what is known of a partition that is lost, for the case that it comes back.
    pub(super) fn remember(&mut self, source: usize, number: i32, partition: Partition) {
        if let Some(books) = self.sources.get_mut(source) {
            books.remembered.insert(number, partition.remember());
        }
    }

    /// What is known of a partition that comes back.
    pub(super) fn recall(&mut self, source: usize, number: i32) -> Option<Remembered> {
        self.sources.get_mut(source)?.remembered.remove(&number)
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

    /// What it was taken for did not need it.
    pub(super) const fn return_credit(&mut self) {
        self.credit = self.credit.saturating_add(1);
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
        self.credit = credit.messages.saturating_sub(here);
        // Where nothing is on its way, one message may come, however large it is.
        self.bytes = credit.bytes.saturating_sub(here * self.mean).max(usize::from(here == 0));
        self.credit > 0 && self.bytes > 0 && std::mem::take(&mut self.is_hungry)
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
