//! The books of a subscription: what is outstanding, in which state, and what is to be settled.
//!
//! Shared by the subscription, its deliveries and its two tasks: [`flush`](super::flush) carries
//! settlements to the broker, [`keep`](super::keep) prolongs leases. Every delivery has its slot
//! from arrival until its settlement is flushed, so the number of slots is what prefetch bounds,
//! and neither a settlement nor a drop ever waits for room.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use slab::Slab;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::Instant;

use super::builder::{Policy, report};
use super::event::SubscriptionEvent;
use super::gate::KeyGate;
use super::stats::{Counters, count};
use super::{flush, keep};
use crate::broker::{
    Attempt, Lane, Parcel, Position, Settlement, Settler, Subscribed, SubscriptionDriver, Token,
    Verdict,
};
use crate::bus::Core;
use crate::{Cause, Envelope, GroupName, Result, Timestamp};

/// Events that are kept for a reader that lags.
const EVENTS: usize = 256;
/// Settlements that are flushed without waiting for more.
const FLUSH_COUNT: usize = 256;

pub(crate) struct Ledger {
    pub(super) policy: Policy,
    pub(super) settler: Arc<dyn Settler>,
    pub(super) counters: Counters,
    state: Mutex<State>,
    // Polled by the reader, and by the flush task once the subscription is stopped.
    pub(super) driver: Mutex<Option<Box<dyn SubscriptionDriver>>>,
    /// Wakes the task that flushes.
    pub(super) flush_due: Notify,
    /// Wakes the task that keeps leases.
    pub(super) keep_due: Notify,
    /// Wakes those who watch the drain's deadline.
    stop_changed: Notify,
    /// Wakes those who wait for a lease to be lost.
    pub(super) lease_lost: Notify,
    events: broadcast::Sender<SubscriptionEvent>,
    stopped: watch::Sender<Option<usize>>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) slots: Slab<Slot>,
    /// Slots to be handed out, in order.
    pub(super) ready: VecDeque<usize>,
    pub(super) gate: KeyGate<usize>,
    /// Failed deliveries of ordered keys that wait in memory for their next attempt.
    pub(super) resting: BTreeSet<(Instant, usize)>,
    /// What is to be carried to the broker, with the slot that it frees.
    pub(super) buffer: Vec<(Option<usize>, Settlement)>,
    pub(super) buffered_since: Option<Instant>,
    pub(super) bytes: usize,
    pub(super) reader: Option<Waker>,
    /// The reader waits: whatever is settled gives it room.
    pub(super) parked: bool,
    pub(super) stop: Option<Instant>,
    pub(super) failure: Option<crate::Error>,
    /// The drain is over: nothing reaches the broker any more.
    pub(super) finished: bool,
}

/// One outstanding delivery.
pub(super) struct Slot {
    pub(super) envelope: Envelope,
    pub(super) token: Token,
    pub(super) lane: Arc<Lane>,
    pub(super) position: Position,
    pub(super) attempt: Attempt,
    pub(super) key: Option<u64>,
    pub(super) phase: Phase,
    pub(super) lease_until: Instant,
    /// When the application got it.
    pub(super) handed_out: Option<Instant>,
    pub(super) first_failure: Option<(Instant, Timestamp)>,
    pub(super) lost: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// In `ready`.
    Ready,
    /// Behind another of its key.
    Waiting,
    /// With the application.
    Held,
    /// With the application, but taken back at the end of a drain.
    TakenBack,
    /// In memory until its next attempt.
    Resting,
    /// In the buffer, or on its way to the broker.
    Settling,
}

impl Ledger {
    /// Opens the books and starts the tasks.
    pub(super) fn start(core: &Core, policy: Policy, subscribed: Subscribed) -> Result<Arc<Self>> {
        let Subscribed { driver, lease: _, differences } = subscribed;
        let (events, _) = broadcast::channel(EVENTS);
        let ledger = Arc::new(Self {
            settler: driver.settler(),
            policy,
            counters: Counters::default(),
            state: Mutex::default(),
            driver: Mutex::new(Some(driver)),
            flush_due: Notify::new(),
            keep_due: Notify::new(),
            stop_changed: Notify::new(),
            lease_lost: Notify::new(),
            events,
            stopped: watch::Sender::new(None),
        });
        core.register(&ledger)?;
        report(&differences);
        differences
            .into_iter()
            .for_each(|difference| ledger.tell(SubscriptionEvent::Differs(difference)));
        core.spawn(flush::run(Arc::clone(&ledger)));
        core.spawn(keep::run(Arc::clone(&ledger)));
        Ok(ledger)
    }

    /// Puts a verdict into the buffer and lets the next one of the key pass.
    pub(super) fn book(&self, state: &mut State, slot: usize, verdict: Verdict) {
        if state.finished {
            return state.free(slot);
        }
        let entry = &mut state.slots[slot];
        entry.phase = Phase::Settling;
        let key = entry.key.take();
        let settlement = Settlement::new(entry.token.clone(), verdict);
        match &settlement.verdict {
            Verdict::Ack => count(&self.counters.acked),
            Verdict::Release(_) => count(&self.counters.released),
            Verdict::Requeue(_) | Verdict::After(..) => count(&self.counters.retried),
            Verdict::DeadLetter(_) => count(&self.counters.dead_lettered),
        }
        self.buffer(state, Some(slot), settlement);
        self.pass_next(state, key);
    }

    pub(super) fn buffer(&self, state: &mut State, slot: Option<usize>, settlement: Settlement) {
        state.buffer.push((slot, settlement));
        let first = state.buffered_since.is_none();
        if first {
            state.buffered_since = Some(Instant::now());
        }
        if first || state.is_flush_due(&self.policy) {
            self.flush_due.notify_one();
        }
    }

    /// The key's delivery is settled: the next one is ready.
    pub(super) fn pass_next(&self, state: &mut State, key: Option<u64>) {
        let Some(next) = key.and_then(|key| state.gate.release(key)) else { return };
        state.slots[next].phase = Phase::Ready;
        state.ready.push_back(next);
        state.wake_reader();
    }

    /// Frees the slot of a delivery that is not ours any more.
    pub(super) fn forget(&self, state: &mut State, slot: usize) {
        let key = state.slots[slot].key.take();
        state.free(slot);
        self.pass_next(state, key);
    }

    /// Frees the slots of settlements that were carried out.
    pub(super) fn close_slots(&self, slots: impl Iterator<Item = usize>) {
        let mut state = self.lock();
        slots.for_each(|slot| state.free(slot));
        state.wake_reader();
        if state.stop.is_some() {
            self.flush_due.notify_one();
        }
    }

    /// Stops: hands nothing out any more; those held have until the deadline.
    pub(crate) fn stop(&self, deadline: Instant) {
        let mut state = self.lock();
        let sooner = state.stop.is_none_or(|before| deadline < before);
        if sooner {
            state.stop = Some(deadline);
        }
        state.wake_reader();
        drop(state);
        self.stop_changed.notify_waiters();
        self.flush_due.notify_one();
        self.keep_due.notify_one();
    }

    /// Waits until the drain's deadline has passed.
    pub(super) async fn out_of_time(&self) {
        loop {
            let changed = self.stop_changed.notified();
            let stop = self.lock().stop;
            match stop {
                Some(deadline) => tokio::select! {
                    () = tokio::time::sleep_until(deadline) => return,
                    () = changed => {}
                },
                None => changed.await,
            }
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.lock().stop.is_some()
    }

    /// Waits until the drain is over; how many deliveries were still held at the deadline.
    pub(crate) async fn stopped(&self) -> usize {
        let mut stopped = self.stopped.subscribe();
        // The sender is `self`, so it cannot be gone.
        stopped.wait_for(Option::is_some).await.ok().and_then(|held| *held).unwrap_or(0)
    }

    pub(super) fn finish(&self, held: usize) {
        let mut state = self.lock();
        state.finished = true;
        state.wake_reader();
        drop(state);
        self.stopped.send_replace(Some(held));
        self.keep_due.notify_one();
    }

    pub(super) fn subscribe_events(&self) -> broadcast::Receiver<SubscriptionEvent> {
        self.events.subscribe()
    }

    pub(super) fn tell(&self, event: SubscriptionEvent) {
        tracing::debug!(group = ?self.policy.group, ?event, "subscription");
        // Nobody has to listen.
        let _ = self.events.send(event);
    }

    pub(crate) const fn group(&self) -> Option<&GroupName> {
        self.policy.group.as_ref()
    }

    /// What a last flush and the handing over of lanes get beyond the deadline.
    pub(super) fn last_call(&self) -> Duration {
        self.policy.handover.max(Duration::from_secs(1))
    }

    pub(super) const fn drain(&self) -> Duration {
        self.policy.drain
    }

    /// The lease as it is counted here: it ends a little before the broker's does.
    pub(super) fn lease_margined(&self) -> Duration {
        let lease = self.policy.lease;
        lease - (lease / 20).min(Duration::from_millis(500))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held but an allocation that failed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether what is buffered should go now instead of waiting for more.
    pub(super) fn is_flush_due(&self, policy: &Policy) -> bool {
        let enough = FLUSH_COUNT.min(policy.prefetch.count.div_ceil(2));
        !self.buffer.is_empty()
            && (self.parked || self.stop.is_some() || self.buffer.len() >= enough)
    }

    /// Takes what is to be carried to the broker.
    pub(super) fn take_buffer(&mut self) -> (Vec<Option<usize>>, Vec<Settlement>) {
        self.buffered_since = None;
        self.buffer.drain(..).unzip()
    }

    pub(super) fn held(&self) -> impl Iterator<Item = usize> {
        self.slots.iter().filter(|(_, slot)| slot.phase == Phase::Held).map(|(index, _)| index)
    }

    pub(super) fn free(&mut self, slot: usize) {
        if let Some(slot) = self.slots.try_remove(slot) {
            self.bytes = self.bytes.saturating_sub(slot.envelope.size());
        }
    }

    pub(super) fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl Slot {
    pub(super) fn parcel(&self, cause: Option<Cause>) -> Box<Parcel> {
        Box::new(Parcel::new(
            self.envelope.clone(),
            self.position,
            Arc::clone(&self.lane),
            self.attempt.count,
            cause,
        ))
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("policy", &self.policy).finish_non_exhaustive()
    }
}
