//! The window: what of a topic is queued and in flight, bounded by count and by bytes.
//!
//! While fewer than `max_flights` batches are out, a publish starts one at once and its caller
//! polls it. Beyond that, entries queue and leave together when a flight lands. As soon as
//! anything waits, the window's own task polls every flight too.
//!
//! Once a batch had several entries, those whom its landing wakes will publish again, one after
//! the other. So the task lets them all come before it makes up the next batches: else the first of
//! them would leave alone, and each small batch costs the broker and us as much as a large one.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::answers::Answers;
use super::cargo::{Cargo, Landed, Ticket, late};
use super::flight::{self, Flight, GONE};
use super::hold::State;
use crate::broker::{Broker, Destination};
use crate::bus::Core;
use crate::{Error, Result, TopicName};

/// The task of a window with nothing to do ends after this time and is started again when needed.
const IDLE: Duration = Duration::from_secs(1);

pub(crate) struct Window {
    pub(super) core: Arc<Core>,
    topic: TopicName,
    queue: bool,
    state: Mutex<State>,
    pub(super) answers: Answers,
    /// Room for messages and for bytes. What an entry takes is given back when it is resolved.
    pub(super) slots: Semaphore,
    pub(super) bytes: Semaphore,
    changed: Notify,
    landed: Notify,
    aborted: CancellationToken,
}

impl Window {
    pub(crate) fn new(core: Arc<Core>, topic: TopicName, queue: bool) -> Self {
        let capabilities = core.broker.capabilities(Some(&topic));
        let limits = core.settings.window;
        let max_flights = capabilities.max_flights.max(1);
        // Batches of a full window leave room for the next one to fill while they are out.
        let max_batch = capabilities.max_batch.min(limits.messages.div_ceil(max_flights)).max(1);
        Self {
            slots: Semaphore::new(limits.messages),
            bytes: Semaphore::new(limits.bytes),
            core,
            topic,
            queue,
            state: Mutex::new(State::new(max_flights, max_batch)),
            answers: Answers::default(),
            changed: Notify::new(),
            landed: Notify::new(),
            aborted: CancellationToken::new(),
        }
    }

    pub(crate) const fn topic(&self) -> &TopicName {
        &self.topic
    }

    pub(super) fn broker(&self) -> &dyn Broker {
        &*self.core.broker
    }

    /// Entries that are not resolved.
    pub(crate) fn outstanding(&self) -> usize {
        self.lock().epochs.outstanding()
    }

    /// Lets what waits depart, after entries that were submitted to leave together.
    pub(super) fn depart(self: &Arc<Self>) {
        self.engage(self.lock());
    }

    /// Takes over a flight whose caller went away.
    pub(super) fn adopt(self: &Arc<Self>, flight: Flight) {
        if flight.is_done() {
            return;
        }
        let mut state = self.lock();
        state.adopted.push(flight);
        self.engage(state);
    }

    /// Books what is resolved while others of its flight are not.
    pub(super) fn book(self: &Arc<Self>, landed: &Landed) {
        if landed.entries() == 0 {
            return;
        }
        let mut state = self.lock();
        state.settle(landed);
        self.give_back(state, landed);
    }

    /// Books a landed flight and lets the next ones depart.
    pub(super) fn land(self: &Arc<Self>, number: u64, landed: &Landed) {
        let mut state = self.lock();
        state.settle(landed);
        state.land(number);
        self.give_back(state, landed);
    }

    fn give_back(self: &Arc<Self>, state: MutexGuard<'_, State>, landed: &Landed) {
        if state.waiting.is_empty() {
            drop(state);
        } else {
            self.engage(state);
        }
        self.slots.add_permits(landed.entries());
        self.bytes.add_permits(landed.bytes);
        self.landed.notify_waiters();
    }

    /// Lets waiting entries depart and has the task poll every flight.
    pub(super) fn engage(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let loose = std::mem::take(&mut state.loose);
        state.adopted.extend(loose.into_iter().map(|(_, flight)| flight));
        if !state.is_crowded() {
            while let Some((number, cargo)) = state.load() {
                let flight = flight::depart(Arc::clone(self), number, cargo);
                state.adopted.push(flight);
            }
        }
        let sooner = state.is_due_sooner();
        if state.adopted.is_empty() && (state.waiting.is_empty() || !state.is_crowded()) && !sooner
        {
            return;
        }
        if state.driven {
            self.changed.notify_one();
        } else {
            state.driven = true;
            // Not under the lock: where the runtime has ended, the task is dropped at once.
            drop(state);
            self.core.spawn(drive(Driver { window: Arc::clone(self), done: false }));
        }
    }

    /// Where the topic's messages go, found out once and again after it changed.
    pub(super) async fn destination(self: &Arc<Self>) -> Result<Arc<Destination>> {
        if let Some(known) = self.lock().destination() {
            return Ok(known);
        }
        let found = self.core.resolve(&self.topic, self.queue).await?;
        let found = Arc::new(Destination::new(found.name, found.layout, found.queue));
        let mut state = self.lock();
        state.know(Arc::clone(&found));
        if !state.waiting.is_empty() {
            // What waited to know the topic may leave now.
            self.engage(state);
        }
        Ok(found)
    }

    /// What was known of the topic is out of date. Takes the cargo back, to load it anew.
    pub(super) fn look_again(&self, cargo: &mut Cargo) {
        let mut state = self.lock();
        if self.aborted.is_cancelled() {
            // Nothing leaves any more: the flight gives it up by itself.
            state.forget_destination();
        } else {
            state.look_again(cargo.take());
        }
    }

    /// Cancelled when the bus's close has run out of time: what is out is given up.
    pub(super) const fn aborted(&self) -> &CancellationToken {
        &self.aborted
    }

    /// Waits until everything that was submitted before is resolved.
    pub(crate) async fn flush(self: &Arc<Self>) {
        // A flight whose caller is not polled any more would never land.
        let mark = {
            let mut state = self.lock();
            let mark = state.epochs.mark();
            self.engage(state);
            mark
        };
        loop {
            let landed = self.landed.notified();
            if self.lock().epochs.has_passed(mark) {
                return;
            }
            landed.await;
        }
    }

    /// Takes nothing more.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.slots.close();
        self.bytes.close();
        self.changed.notify_one();
    }

    /// Gives up what has not left, and what fails from now on.
    pub(crate) fn abort(self: &Arc<Self>) {
        self.aborted.cancel();
        self.give_up_waiting("the bus is closed");
        self.changed.notify_one();
    }

    /// Fails all that has not left.
    fn give_up_waiting(self: &Arc<Self>, reason: &'static str) {
        let tickets = self.lock().withdraw_all();
        self.refuse(tickets, |ticket| Error::closed(reason).with_may_be_stored(ticket.uncertain));
    }

    /// Fails what has not left by its deadline.
    fn expire(self: &Arc<Self>) {
        let tickets = self.lock().withdraw_late(Instant::now());
        self.refuse(tickets, |ticket| late(ticket.uncertain, ticket.last_error.take()));
    }

    fn refuse(self: &Arc<Self>, tickets: Vec<Ticket>, why: impl Fn(&mut Ticket) -> Error) {
        let mut landed = Landed::default();
        let mut answering = self.answers.answering();
        for mut ticket in tickets {
            let error = why(&mut ticket);
            ticket.resolve(self, &mut answering, &mut landed, Err(error));
        }
        drop(answering);
        self.book(&landed);
    }

    pub(super) fn name(&self, error: Error) -> Error {
        error.with_operation("publish").with_topic(&self.topic)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it was held can only come from an allocation that failed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task of a window. Dropped before it is done only where the runtime ends.
struct Driver {
    window: Arc<Window>,
    done: bool,
}

impl Drop for Driver {
    fn drop(&mut self) {
        if !self.done {
            self.window.lock().end_drive();
            self.window.give_up_waiting(GONE);
        }
    }
}

/// Polls the flights that nobody else may be polling, and keeps the deadlines of what waits, until
/// there is nothing of either for a while.
async fn drive(mut driver: Driver) {
    let window = Arc::clone(&driver.window);
    let mut flights = FuturesUnordered::new();
    let timer = tokio::time::sleep_until(Instant::now());
    tokio::pin!(timer);
    loop {
        let crowded = window.lock().is_crowded();
        if crowded {
            // Whoever is ready to publish does so before the next batch is made up.
            tokio::task::yield_now().await;
        }
        let due = {
            let mut state = window.lock();
            flights.extend(state.adopted.drain(..));
            state.look_around();
            while let Some((number, cargo)) = state.load() {
                flights.push(flight::depart(Arc::clone(&window), number, cargo));
            }
            if flights.is_empty() && state.closed {
                state.end_drive();
                driver.done = true;
                return;
            }
            state.watch_until()
        };
        if let Some(due) = due.filter(|due| timer.deadline() != *due) {
            timer.as_mut().reset(due);
        }
        let idle = async {
            // With flights out there is something to wait for.
            if !flights.is_empty() {
                return flights.next().await.is_none();
            }
            tokio::time::sleep(IDLE).await;
            true
        };
        // In no order: flights that land all the time must not keep it from looking for the late.
        tokio::select! {
            idle = idle => {
                let mut state = window.lock();
                if idle && state.adopted.is_empty() && state.waiting.is_empty() {
                    state.end_drive();
                    driver.done = true;
                    return;
                }
            }
            () = window.changed.notified() => {}
            () = &mut timer, if due.is_some() => window.expire(),
        }
    }
}

#[cold]
pub(super) fn closed(topic: &TopicName) -> Error {
    Error::closed("the bus is closed").with_operation("publish").with_topic(topic)
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window")
            .field("topic", &self.topic)
            .field("outstanding", &self.outstanding())
            .finish_non_exhaustive()
    }
}
