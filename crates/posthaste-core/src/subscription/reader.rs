//! From the driver to the application: admits what arrives, hands out what may be handled.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};

use tokio::time::Instant;

use super::builder::{Policy, report};
use super::event::SubscriptionEvent;
use super::ledger::{Ledger, Phase, Slot, State};
use super::stats::{add, count};
use crate::broker::{
    Attempt, Credit, DeliveryMode, DriverEvent, Lane, LaneState, Order, Polled, Position, Received,
    SubscriptionDriver, Verdict,
};
use crate::bus::{after, shielded_call};
use crate::keygate::hash;
use crate::{Delivery, Envelope, Result, Timestamp};

/// A delivery as it is handed out.
pub(crate) struct Handout {
    pub(crate) slot: Option<usize>,
    pub(crate) envelope: Envelope,
    pub(crate) lane: Arc<Lane>,
    pub(crate) position: Position,
    pub(crate) attempt: Attempt,
}

impl Handout {
    fn settled(received: Received) -> Self {
        let Received { envelope, lane, attempt, position, .. } = received;
        Self { slot: None, envelope, lane, position, attempt }
    }
}

impl Ledger {
    /// Hands out up to `max` deliveries, after polling the driver if none is ready.
    pub(super) fn poll_handout(
        &self,
        cx: &mut Context<'_>,
        settled: &mut Vec<Received>,
        out: &mut VecDeque<Handout>,
        max: usize,
    ) -> Poll<Option<Result<()>>> {
        loop {
            let credit = {
                let mut state = self.lock();
                state.parked = false;
                if let Some(failure) = state.failure.take() {
                    return Poll::Ready(Some(Err(failure)));
                }
                if state.stop.is_some() {
                    return Poll::Ready(None);
                }
                self.hand_out(&mut state, out, max);
                if !out.is_empty() {
                    return Poll::Ready(Some(Ok(())));
                }
                let credit = state.credit(&self.policy);
                // Registered before the driver is polled, so that no change in between is missed.
                state.reader = Some(cx.waker().clone());
                credit
            };
            let polled = match credit {
                Some(credit) => self.poll_unless_stopped(cx, settled, credit),
                None => Poll::Pending,
            };
            match polled {
                Poll::Pending => {
                    self.park();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(Polled::Batch)) => {
                    self.take_settled(settled, out);
                    if !out.is_empty() {
                        return Poll::Ready(Some(Ok(())));
                    }
                }
                Poll::Ready(Ok(Polled::Event(event))) => self.pass_on(event),
                // Said after a stop, which only the draining task waits for.
                Poll::Ready(Ok(Polled::Quiet)) => {}
                Poll::Ready(Ok(Polled::Stopped)) => {
                    if !self.is_stopped() {
                        self.stop(after(self.policy.drain));
                    }
                    return Poll::Ready(None);
                }
                Poll::Ready(Err(error)) => {
                    self.stop(after(self.policy.drain));
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }

    /// Gives it to the application.
    pub(super) fn deliver(self: &Arc<Self>, handout: Handout) -> Delivery {
        count(&self.counters.received);
        Delivery::new(self, handout)
    }

    /// Polls the driver for the reader, who must not take its wake-up from the task that drains.
    fn poll_unless_stopped(
        &self,
        cx: &mut Context<'_>,
        settled: &mut Vec<Received>,
        credit: Credit,
    ) -> Poll<Result<Polled>> {
        let mut driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_stopped() {
            return Poll::Ready(Ok(Polled::Stopped));
        }
        self.poll(&mut driver, cx, settled, credit)
    }

    /// Polls the driver and books what it brings. Under at-most-once it goes to `settled` instead.
    pub(super) fn poll_driver(
        &self,
        cx: &mut Context<'_>,
        settled: &mut Vec<Received>,
        credit: Credit,
    ) -> Poll<Result<Polled>> {
        let mut driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
        self.poll(&mut driver, cx, settled, credit)
    }

    fn poll(
        &self,
        driver: &mut Option<Box<dyn SubscriptionDriver>>,
        cx: &mut Context<'_>,
        received: &mut Vec<Received>,
        credit: Credit,
    ) -> Poll<Result<Polled>> {
        let Some(driver) = driver else { return Poll::Ready(Ok(Polled::Stopped)) };
        let panicked = |error| Poll::Ready(Err(error));
        let polled = shielded_call(|| driver.poll_batch(cx, received, credit), panicked);
        if self.policy.mode == DeliveryMode::AtLeastOnce {
            // While the driver is locked, so that nothing is booked after the drain has ended.
            self.admit(received);
        }
        polled
    }

    /// Tells the driver to fetch nothing more.
    pub(super) fn stop_driver(&self) {
        let mut driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(driver) = &mut *driver {
            shielded_call(|| driver.stop(), |error| tracing::warn!(%error, "could not stop"));
        }
    }

    /// Drops the driver. Nothing is polled any more.
    pub(super) fn drop_driver(&self) {
        drop(self.driver.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// The reader waits: what is settled goes to the broker at once.
    fn park(&self) {
        let mut state = self.lock();
        state.parked = true;
        let due = !state.buffer.is_empty();
        drop(state);
        if due {
            self.flush_due.notify_one();
        }
    }

    /// Books what arrived.
    fn admit(&self, received: &mut Vec<Received>) {
        if received.is_empty() {
            return;
        }
        let now = Instant::now();
        let lease_until = now + self.lease_margined();
        let mut guard = self.lock();
        let state = &mut *guard;
        for Received { envelope, token, lane, attempt, position } in received.drain(..) {
            state.bytes += envelope.size();
            state.arrived += 1;
            let arrival = state.arrived;
            let key = gate_key(self.policy.order, &envelope, &lane);
            let slot = state.slots.insert(Slot {
                envelope,
                token,
                lane,
                position,
                attempt,
                arrival,
                key,
                phase: Phase::Waiting,
                lease_until,
                handed_out: None,
                again: false,
                first_failure: None,
                lost: false,
            });
            match key {
                Some(key) => self.arrive(state, key, slot),
                None => state.make_ready(slot),
            }
        }
    }

    /// Moves what was settled on arrival to the application, but for what has expired.
    fn take_settled(&self, settled: &mut Vec<Received>, out: &mut VecDeque<Handout>) {
        let now = Timestamp::now();
        for received in settled.drain(..) {
            if received.envelope.expires_at().is_some_and(|at| at <= now) {
                count(&self.counters.expired);
                let id = received.envelope.id().to_owned();
                self.tell(SubscriptionEvent::Expired { id });
            } else {
                out.push_back(Handout::settled(received));
            }
        }
    }

    /// Moves ready deliveries to the application; what may not be handled goes its own way.
    fn hand_out(&self, state: &mut State, out: &mut VecDeque<Handout>, max: usize) {
        let now = Instant::now();
        while out.len() < max {
            let Some(slot) = state.ready.pop_front() else { break };
            let entry = &mut state.slots[slot];
            if entry.is_lost() {
                self.forget(state, slot);
                continue;
            }
            if let LaneState::Draining(_) = entry.lane.state() {
                let parcel = entry.parcel(None);
                self.book(state, slot, Verdict::Release(parcel));
                continue;
            }
            if entry.envelope.expires_at().is_some_and(|at| at <= Timestamp::now()) {
                self.expire(state, slot);
                continue;
            }
            entry.phase = Phase::Held;
            entry.handed_out = Some(now);
            if std::mem::take(&mut entry.again) {
                entry.attempt.count = entry.attempt.count.saturating_add(1);
            }
            out.push_back(Handout {
                slot: Some(slot),
                envelope: entry.envelope.clone(),
                lane: Arc::clone(&entry.lane),
                position: entry.position,
                attempt: entry.attempt,
            });
        }
    }

    pub(super) fn pass_on(&self, event: DriverEvent) {
        if let DriverEvent::LaneRevoked(_) = event {
            self.give_back_going();
        }
        self.tell(match event {
            DriverEvent::Disconnected { reason } => SubscriptionEvent::Disconnected { reason },
            DriverEvent::Reconnected => SubscriptionEvent::Reconnected,
            DriverEvent::LaneAssigned(lane) => SubscriptionEvent::LaneAssigned {
                topic: lane.topic().clone(),
                partition: lane.partition(),
            },
            DriverEvent::LaneRevoked(lane) => SubscriptionEvent::LaneRevoked {
                topic: lane.topic().clone(),
                partition: lane.partition(),
            },
            DriverEvent::Lost { topic, count, reason } => {
                tracing::warn!(%topic, ?count, reason, "messages were lost");
                add(&self.counters.lost, count.unwrap_or(1));
                SubscriptionEvent::Lost { topic, count, reason }
            }
            DriverEvent::Differs(difference) => {
                report(std::slice::from_ref(&difference));
                SubscriptionEvent::Differs(difference)
            }
        });
    }
}

/// Under which key a delivery waits for others, if it has to.
fn gate_key(order: Order, envelope: &Envelope, lane: &Lane) -> Option<u64> {
    let topic = lane.topic().as_str().as_bytes();
    match order {
        Order::None => None,
        Order::PerKey => envelope.key().map(|key| hash(&[topic, key])),
        // What this library did not write has a lane of its own, without a number.
        Order::Partition => {
            Some(hash(&[topic, &lane.partition().unwrap_or(u32::MAX).to_be_bytes()]))
        }
    }
}

impl State {
    /// What the driver may have outstanding; `None` if nothing.
    fn credit(&self, policy: &Policy) -> Option<Credit> {
        let messages = policy.prefetch.count.saturating_sub(self.slots.len());
        let bytes = policy.prefetch.bytes.saturating_sub(self.bytes);
        (messages > 0 && bytes > 0).then_some(Credit::new(messages, bytes))
    }
}
