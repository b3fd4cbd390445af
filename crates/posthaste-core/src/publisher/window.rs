//! The window: what of a topic is queued and in flight, bounded by count and by bytes.
//!
//! While fewer than `max_flights` batches are out, a publish starts one at once and its caller
//! polls it. Beyond that, entries queue and leave together when a flight lands. As soon as
//! anything waits, the window's own task polls every flight too.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::flight::{self, Cargo, Flight, Landed, Ticket};
use super::hold::{State, hash};
use super::{Receipt, options};
use crate::broker::{Broker, Destination, SendOptions};
use crate::bus::Core;
use crate::{Envelope, Error, ErrorKind, Layout, Result, Retry, TopicName};

/// The task of a window with nothing to do ends after this time and is started again when needed.
const IDLE: Duration = Duration::from_secs(1);

/// How a submitted message leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// At once where there is room, moved on by its receipt until that is dropped.
    Straight,
    /// By the window's task.
    Queued,
    /// By the window's task, once [`Window::depart`] is called or the window is full.
    Together,
}

pub(crate) struct Window {
    core: Arc<Core>,
    topic: TopicName,
    queue: bool,
    state: Mutex<State>,
    slots: Semaphore,
    bytes: Semaphore,
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
        self.lock().outstanding
    }

    /// Waits for room, then queues the message or sends it at once.
    ///
    /// Cancel safety: when dropped while it waits for room, nothing was sent.
    pub(crate) async fn submit(
        self: &Arc<Self>,
        envelope: Envelope,
        send: SendOptions,
        deadline: Instant,
        leave: Leave,
    ) -> Result<Receipt> {
        let cost = self.admit(&envelope, send)?;
        self.reserve(cost, deadline).await?;
        let (reply, outcome) = oneshot::channel();
        let mut state = self.lock();
        if state.closed {
            self.slots.add_permits(1);
            self.bytes.add_permits(cost as usize);
            return Err(closed(&self.topic));
        }
        // Until the topic is known to be plain, keys may have to keep their order.
        let plain = state.layout() == Some(Layout::Plain);
        let key = envelope.key().filter(|_| !plain).map(hash);
        let entry = state.number();
        let ticket =
            Ticket { entry, reply, deadline, cost, key, uncertain: false, last_error: None };
        state.outstanding += 1;
        let at_once = leave == Leave::Straight && state.waiting.is_empty();
        let flight = if at_once && state.may_depart(key) {
            let number = state.number();
            let mut cargo = Cargo { options: send, ..Cargo::default() };
            cargo.envelopes.push(envelope);
            cargo.tickets.push(ticket);
            state.out += 1;
            state.busy.extend(key);
            let flight = flight::depart(Arc::clone(self), number, cargo);
            state.loose.push((number, flight.clone()));
            Some(flight)
        } else {
            state.waiting.push_back((envelope, ticket, send));
            if leave != Leave::Together {
                self.engage(&mut state);
            }
            None
        };
        drop(state);
        Ok(Receipt::new(outcome, flight, Arc::clone(self), entry, deadline))
    }

    /// Refuses what can never be sent.
    fn admit(&self, envelope: &Envelope, send: SendOptions) -> Result<u32> {
        let size = envelope.size();
        let capabilities = self.core.broker.capabilities(Some(&self.topic));
        if send != SendOptions::default() {
            options::check(send, &capabilities).map_err(|error| self.name(error))?;
        }
        if let Some(limit) = capabilities.max_message_bytes.filter(|limit| size > *limit) {
            let error = Error::new(ErrorKind::TooLarge, "the message exceeds the broker's limit")
                .with_context("bytes", size)
                .with_context("limit", limit);
            return Err(self.name(error));
        }
        // A message larger than the whole window goes alone.
        let cost = size.min(self.core.settings.window.bytes);
        u32::try_from(cost).map_err(|_| self.name(Error::new(ErrorKind::TooLarge, "over 4 GiB")))
    }

    async fn reserve(self: &Arc<Self>, cost: u32, deadline: Instant) -> Result<()> {
        let full = || {
            self.name(
                Error::new(ErrorKind::Backpressure, "the window stayed full until the deadline")
                    .with_context("messages", self.core.settings.window.messages)
                    .with_context("bytes", self.core.settings.window.bytes)
                    .with_retry(Retry::Exhausted),
            )
        };
        let closed = |_| closed(&self.topic);
        let slot = match self.slots.try_acquire() {
            Ok(slot) => slot,
            Err(_) => {
                self.depart();
                tokio::time::timeout_at(deadline, self.slots.acquire())
                    .await
                    .map_err(|_| full())?
                    .map_err(closed)?
            }
        };
        let bytes = match self.bytes.try_acquire_many(cost) {
            Ok(bytes) => bytes,
            Err(_) => {
                self.depart();
                tokio::time::timeout_at(deadline, self.bytes.acquire_many(cost))
                    .await
                    .map_err(|_| full())?
                    .map_err(closed)?
            }
        };
        // Given back when the entry is resolved.
        slot.forget();
        bytes.forget();
        Ok(())
    }

    /// Lets what waits depart, after entries that were submitted to leave together.
    pub(super) fn depart(self: &Arc<Self>) {
        self.engage(&mut self.lock());
    }

    /// Takes an entry back that has not left yet.
    pub(super) fn withdraw(&self, entry: u64) -> bool {
        let mut state = self.lock();
        let Some(index) = state.waiting.iter().position(|(_, ticket, _)| ticket.entry == entry)
        else {
            return false;
        };
        if let Some((_, ticket, _)) = state.waiting.remove(index) {
            state.outstanding -= 1;
            drop(state);
            self.give_back(1, ticket.cost as usize);
        }
        true
    }

    /// Takes over a flight whose caller went away.
    pub(super) fn adopt(self: &Arc<Self>, flight: Flight) {
        if flight.peek().is_some() {
            return;
        }
        let mut state = self.lock();
        state.adopted.push(flight);
        self.engage(&mut state);
    }

    /// Books a landed flight and lets the next ones depart.
    pub(super) fn land(self: &Arc<Self>, number: u64, landed: &Landed) {
        let mut state = self.lock();
        state.out -= 1;
        state.outstanding -= landed.entries;
        state.loose.retain(|(loose, _)| *loose != number);
        for key in &landed.keys {
            state.busy.remove(key);
        }
        if !state.waiting.is_empty() {
            self.engage(&mut state);
        }
        drop(state);
        self.give_back(landed.entries, landed.bytes);
    }

    fn give_back(&self, entries: usize, bytes: usize) {
        self.slots.add_permits(entries);
        self.bytes.add_permits(bytes);
        self.landed.notify_waiters();
    }

    /// Lets waiting entries depart and has the task poll every flight.
    fn engage(self: &Arc<Self>, state: &mut State) {
        let loose = std::mem::take(&mut state.loose);
        state.adopted.extend(loose.into_iter().map(|(_, flight)| flight));
        while let Some(cargo) = state.load() {
            let number = state.number();
            let flight = flight::depart(Arc::clone(self), number, cargo);
            state.adopted.push(flight);
        }
        if state.adopted.is_empty() {
            return;
        }
        if state.driven {
            self.changed.notify_one();
        } else {
            state.driven = true;
            self.core.spawn(drive(Arc::clone(self)));
        }
    }

    /// Where the topic's messages go, found out once and again after it changed.
    pub(super) async fn destination(self: &Arc<Self>) -> Result<Arc<Destination>> {
        if let Some(known) = self.lock().destination.clone() {
            return Ok(known);
        }
        let found = self.core.resolve(&self.topic, self.queue).await?;
        let found = Arc::new(Destination::new(found.name, found.layout, found.queue));
        let mut state = self.lock();
        state.destination = Some(Arc::clone(&found));
        if !state.waiting.is_empty() {
            // What waited to know the topic may leave now.
            self.engage(&mut state);
        }
        drop(state);
        Ok(found)
    }

    pub(super) fn forget_destination(&self) {
        self.lock().destination = None;
    }

    /// Cancelled when the bus's close has run out of time: what is out is given up.
    pub(super) const fn aborted(&self) -> &CancellationToken {
        &self.aborted
    }

    /// Waits until everything that was submitted before is resolved.
    pub(crate) async fn flush(self: &Arc<Self>) {
        // A flight whose caller is not polled any more would never land.
        self.depart();
        loop {
            let landed = self.landed.notified();
            if self.outstanding() == 0 {
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
    pub(crate) fn abort(&self) {
        self.aborted.cancel();
        let mut state = self.lock();
        let waiting = std::mem::take(&mut state.waiting);
        state.outstanding -= waiting.len();
        drop(state);
        for (_, ticket, _) in waiting {
            let _ = ticket.reply.send(Err(closed(&self.topic)));
        }
        self.landed.notify_waiters();
        self.changed.notify_one();
    }

    fn name(&self, error: Error) -> Error {
        error.with_operation("publish").with_topic(&self.topic)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it was held can only come from an allocation that failed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Polls the flights that nobody else may be polling, until there are none for a while.
async fn drive(window: Arc<Window>) {
    let mut flights = FuturesUnordered::new();
    loop {
        {
            let mut state = window.lock();
            flights.extend(state.adopted.drain(..));
            if flights.is_empty() && state.closed {
                state.driven = false;
                return;
            }
        }
        if flights.is_empty() {
            let idle = tokio::time::timeout(IDLE, window.changed.notified()).await.is_err();
            let mut state = window.lock();
            if idle && state.adopted.is_empty() {
                state.driven = false;
                return;
            }
        } else {
            tokio::select! {
                _ = flights.next() => {}
                () = window.changed.notified() => {}
            }
        }
    }
}

#[cold]
fn closed(topic: &TopicName) -> Error {
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
