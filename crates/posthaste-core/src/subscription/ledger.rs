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
use super::event::{Events, SubscriptionEvent};
use super::gap::Gaps;
use super::stats::{Counters, add, count};
use super::{flush, keep};
use crate::broker::{
    Attempt, Lane, LaneState, Parcel, Position, Settlement, Settler, Subscribed,
    SubscriptionDriver, Token, Verdict,
};
use crate::bus::Core;
use crate::keygate::KeyGate;
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
    // Polled by the reader, and by the flush task once the subscription is stopped. Whoever holds
    // it may lock the state, not the other way round.
    pub(super) driver: Mutex<Option<Box<dyn SubscriptionDriver>>>,
    /// Wakes the task that flushes.
    pub(super) flush_due: Notify,
    /// Wakes the task that brings back what rests.
    pub(super) rest_due: Notify,
    /// Wakes those who watch the drain's deadline.
    stop_changed: Notify,
    /// Wakes those who wait for a lease to be lost.
    pub(super) lease_lost: Notify,
    events: broadcast::Sender<SubscriptionEvent>,
    /// Has what was told since the start, for the first who listens.
    first_listener: Mutex<Option<broadcast::Receiver<SubscriptionEvent>>>,
    stopped: watch::Sender<Option<usize>>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) slots: Slab<Slot>,
    /// Slots to be handed out, in order.
    pub(super) ready: VecDeque<usize>,
    pub(super) gate: KeyGate<usize>,
    /// What of ordered keys has to come again.
    pub(super) gaps: Gaps,
    /// Failed deliveries of ordered keys that wait in memory for their next attempt.
    pub(super) resting: BTreeSet<(Instant, usize)>,
    /// What is to be carried to the broker, with the slot that it frees.
    pub(super) buffer: Vec<(Option<usize>, Settlement)>,
    pub(super) buffered_since: Option<Instant>,
    pub(super) bytes: usize,
    /// Deliveries so far.
    pub(super) arrived: u64,
    pub(super) reader: Option<Waker>,
    /// The reader waits: whatever is settled gives it room.
    pub(super) parked: bool,
    pub(super) stop: Option<Instant>,
    /// The driver is stopped, but what it asked for before may still be answered: what is given
    /// back now would come to us again.
    pub(super) fetching: bool,
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
    /// Its place in the order of arrival.
    pub(super) arrival: u64,
    /// While others of its key wait for it, or it for them.
    pub(super) key: Option<u64>,
    pub(super) phase: Phase,
    pub(super) lease_until: Instant,
    /// When the application got it.
    pub(super) handed_out: Option<Instant>,
    /// The next hand-out is another attempt that the broker does not know of.
    pub(super) again: bool,
    pub(super) first_failure: Option<(Instant, Timestamp)>,
    /// The lease has ended here.
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
    /// Acknowledged by the application, which waits for the broker's answer.
    Confirming,
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
        let (events, first_listener) = broadcast::channel(EVENTS);
        let ledger = Arc::new(Self {
            settler: driver.settler(),
            policy,
            counters: Counters::default(),
            state: Mutex::default(),
            driver: Mutex::new(Some(driver)),
            flush_due: Notify::new(),
            rest_due: Notify::new(),
            stop_changed: Notify::new(),
            lease_lost: Notify::new(),
            events,
            first_listener: Mutex::new(Some(first_listener)),
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

    /// Puts a verdict into the buffer. The next one of the key passes, unless this one becomes a
    /// dead letter: that has to be stored first, for else it could come again.
    pub(super) fn book(&self, state: &mut State, slot: usize, verdict: Verdict) {
        if state.finished {
            return state.free(slot);
        }
        if matches!(verdict, Verdict::Ack) && state.slots[slot].lost {
            self.fill_gap(state, slot);
        }
        let entry = &mut state.slots[slot];
        entry.phase = Phase::Settling;
        let passes = !matches!(verdict, Verdict::DeadLetter(_));
        let key = if passes { entry.key.take() } else { None };
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

    /// Frees slots whose settlement was carried out, or failed for good.
    pub(super) fn close(&self, slots: impl Iterator<Item = (usize, Settled)>) {
        let mut state = self.lock();
        for (slot, settled) in slots {
            let Some(key) = state.slots.get(slot).map(|entry| entry.key) else { continue };
            match (key, settled) {
                (Some(key), Settled::Failed) => {
                    let behind = state.gate.take_waiting(key);
                    self.open_gap(&mut state, key, slot, behind);
                }
                (Some(_), Settled::Done) => self.fill_gap(&mut state, slot),
                (None, _) => {}
            }
            state.free(slot);
            self.pass_next(&mut state, key);
        }
        state.wake_reader();
        if state.stop.is_some() {
            self.flush_due.notify_one();
        }
    }

    /// Stops: hands nothing out any more; those held have until the deadline.
    pub(crate) fn stop(&self, deadline: Instant) {
        self.begin_stop(&mut self.lock(), deadline);
    }

    pub(super) fn begin_stop(&self, state: &mut State, deadline: Instant) {
        state.stop = Some(state.stop.map_or(deadline, |before| before.min(deadline)));
        state.wake_reader();
        self.stop_changed.notify_waiters();
        self.flush_due.notify_one();
    }

    /// Waits until the drain's deadline, and that much more, has passed.
    pub(super) async fn out_of_time(&self, more: Duration) {
        loop {
            let changed = self.stop_changed.notified();
            let stop = self.lock().stop;
            match stop {
                Some(deadline) => tokio::select! {
                    () = tokio::time::sleep_until(deadline + more) => return,
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
        // Settled so late that it is not carried to the broker any more.
        let (slots, late) = state.take_buffer();
        if !late.is_empty() {
            let ids = state.ids(&slots, &late);
            add(&self.counters.settle_failures, ids.len() as u64);
            let reason = "the subscription has ended".to_owned();
            self.tell(SubscriptionEvent::SettleFailed { ids, reason });
        }
        slots.into_iter().flatten().for_each(|slot| state.free(slot));
        state.wake_reader();
        drop(state);
        self.stopped.send_replace(Some(held));
    }

    pub(super) fn events(&self) -> Events {
        let first = self.first_listener.lock().unwrap_or_else(PoisonError::into_inner).take();
        let receiver = first.unwrap_or_else(|| self.events.subscribe());
        Events::new(receiver, self.stopped.subscribe())
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

/// How a settlement ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    Done,
    /// The message comes again.
    Failed,
}

impl State {
    /// Whether what is buffered should go now instead of waiting for more.
    pub(super) fn is_flush_due(&self, policy: &Policy) -> bool {
        let enough = FLUSH_COUNT.min(policy.prefetch.count.div_ceil(2));
        !self.buffer.is_empty()
            && (self.parked || self.stop.is_some() || self.buffer.len() >= enough)
    }

    /// Takes what is to be carried to the broker now.
    pub(super) fn take_buffer(&mut self) -> (Vec<Option<usize>>, Vec<Settlement>) {
        self.buffered_since = None;
        if !self.fetching {
            return self.buffer.drain(..).unzip();
        }
        let now = |(_, settlement): &mut (_, Settlement)| {
            !matches!(settlement.verdict, Verdict::Release(_) | Verdict::Requeue(_))
        };
        self.buffer.extract_if(.., now).unzip()
    }

    /// The ids of the messages of settlements that are not closed yet.
    pub(super) fn ids(&self, slots: &[Option<usize>], batch: &[Settlement]) -> Vec<String> {
        let both = slots.iter().zip(batch);
        both.filter_map(|(slot, settlement)| self.id(*slot, settlement)).collect()
    }

    pub(super) fn id(&self, slot: Option<usize>, settlement: &Settlement) -> Option<String> {
        let envelope = match &settlement.verdict {
            Verdict::Release(parcel) | Verdict::Requeue(parcel) | Verdict::After(_, parcel) => {
                &parcel.envelope
            }
            Verdict::DeadLetter(letter) => &letter.envelope,
            Verdict::Ack => &self.slots.get(slot?)?.envelope,
        };
        Some(envelope.id().to_owned())
    }

    pub(super) fn in_phase(&self, phase: Phase) -> impl Iterator<Item = usize> {
        self.slots.iter().filter(move |(_, slot)| slot.phase == phase).map(|(index, _)| index)
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
        // What came and was not handed out is not delivered yet.
        let is_unseen = self.handed_out.is_none() && !self.again;
        Box::new(Parcel::new(
            self.envelope.clone(),
            self.position,
            Arc::clone(&self.lane),
            self.attempt.count.saturating_sub(u32::from(is_unseen)),
            cause,
        ))
    }

    /// Whether somebody else may have the message.
    pub(super) fn is_lost(&self) -> bool {
        self.lost || self.lane.state() == LaneState::Lost
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("policy", &self.policy).finish_non_exhaustive()
    }
}
