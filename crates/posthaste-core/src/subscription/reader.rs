//! From the driver to the application: admits what arrives, hands out what may be handled.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};

use tokio::time::Instant;

use super::builder::{Policy, report};
use super::event::SubscriptionEvent;
use super::ledger::{Ledger, Phase, Slot, State};
use super::stats::add;
use crate::broker::{
    Attempt, Credit, DeliveryMode, DriverEvent, Lane, LaneState, Order, Polled, Position, Received,
    Verdict,
};
use crate::{Envelope, Result, Timestamp};

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
        scratch: &mut Vec<Received>,
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
                Some(credit) => self.poll_driver(cx, scratch, credit),
                None => Poll::Pending,
            };
            match polled {
                Poll::Pending => {
                    self.park();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(Polled::Batch)) => {
                    if self.policy.mode == DeliveryMode::AtMostOnce {
                        // Settled by the adapter already: nothing to keep books of.
                        out.extend(scratch.drain(..).map(Handout::settled));
                        add(&self.counters.received, out.len() as u64);
                        return Poll::Ready(Some(Ok(())));
                    }
                    self.admit(scratch);
                }
                Poll::Ready(Ok(Polled::Event(event))) => self.pass_on(event),
                Poll::Ready(Ok(Polled::Stopped)) => {
                    self.stop(Instant::now() + self.policy.drain);
                    return Poll::Ready(None);
                }
                Poll::Ready(Err(error)) => {
                    self.stop(Instant::now() + self.policy.drain);
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }

    pub(super) fn poll_driver(
        &self,
        cx: &mut Context<'_>,
        out: &mut Vec<Received>,
        credit: Credit,
    ) -> Poll<Result<Polled>> {
        let mut driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *driver {
            Some(driver) => driver.poll_batch(cx, out, credit),
            None => Poll::Ready(Ok(Polled::Stopped)),
        }
    }

    /// Tells the driver to fetch nothing more.
    pub(super) fn stop_driver(&self) {
        let mut driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(driver) = &mut *driver {
            driver.stop();
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
    pub(super) fn admit(&self, received: &mut Vec<Received>) {
        let now = Instant::now();
        let lease_until = now + self.lease_margined();
        let keyed = self.policy.order == Order::PerKey;
        let mut state = self.lock();
        for Received { envelope, token, lane, attempt, position } in received.drain(..) {
            state.bytes += envelope.size();
            let key = envelope.key().filter(|_| keyed).map(hash);
            let slot = state.slots.insert(Slot {
                envelope,
                token,
                lane,
                position,
                attempt,
                key,
                phase: Phase::Waiting,
                lease_until,
                handed_out: None,
                first_failure: None,
                lost: false,
            });
            let passed = match key {
                Some(key) => state.gate.offer(key, slot),
                None => Some(slot),
            };
            if let Some(slot) = passed {
                state.slots[slot].phase = Phase::Ready;
                state.ready.push_back(slot);
            }
        }
    }

    /// Moves ready deliveries to the application; what may not be handled goes its own way.
    fn hand_out(&self, state: &mut State, out: &mut VecDeque<Handout>, max: usize) {
        let now = Instant::now();
        let mut handed = 0;
        while out.len() < max {
            let Some(slot) = state.ready.pop_front() else { break };
            let entry = &mut state.slots[slot];
            if entry.lost || entry.lane.state() == LaneState::Lost {
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
            out.push_back(Handout {
                slot: Some(slot),
                envelope: entry.envelope.clone(),
                lane: Arc::clone(&entry.lane),
                position: entry.position,
                attempt: entry.attempt,
            });
            handed += 1;
        }
        add(&self.counters.received, handed);
    }

    pub(super) fn pass_on(&self, event: DriverEvent) {
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

impl State {
    /// What the driver may have outstanding; `None` if nothing.
    fn credit(&self, policy: &Policy) -> Option<Credit> {
        let messages = policy.prefetch.count.saturating_sub(self.slots.len());
        let bytes = policy.prefetch.bytes.saturating_sub(self.bytes);
        (messages > 0 && bytes > 0).then_some(Credit::new(messages, bytes))
    }
}

fn hash(key: &[u8]) -> u64 {
    // FNV-1a. Two keys that meet in it wait for each other, and lose nothing but time.
    key.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
