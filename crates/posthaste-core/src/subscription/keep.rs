//! The task that keeps leases while deliveries are held, and brings back what rests.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::ledger::{Ledger, Phase, Slot, State};
use crate::broker::Token;
use crate::bus::shielded;
use crate::{Error, ErrorKind, Result};

/// Leases that are prolonged by one call.
const BATCH: usize = 256;

pub(super) async fn run(ledger: Arc<Ledger>) {
    // Side by side, so that a slow call puts off neither what rests nor the end of a lease, and
    // nothing goes on once the subscription has ended.
    tokio::select! {
        _ = ledger.stopped() => {}
        () = keep_leases(&ledger) => {}
        () = end_leases(&ledger) => {}
        () = wake_rested(&ledger) => {}
    }
}

async fn keep_leases(ledger: &Ledger) {
    let tick = (ledger.policy.lease / 6).max(Duration::from_millis(5));
    let mut next = Instant::now() + tick;
    loop {
        tokio::time::sleep_until(next).await;
        next = Instant::now() + tick;
        ledger.give_back_going();
        let lease = ledger.lease_margined();
        let due = due(&ledger.lock(), lease, ledger.policy.max_handling);
        // One call that is slow must not cost the leases of the next.
        join_all(due.chunks(BATCH).map(|batch| prolong(ledger, batch, lease))).await;
    }
}

/// Cancels deliveries when their lease has ended here, before anyone else can get them.
async fn end_leases(ledger: &Ledger) {
    loop {
        // No lease that begins meanwhile can end before that, and none is ever cut short.
        let mut next = Instant::now() + ledger.lease_margined();
        {
            let mut state = ledger.lock();
            let now = Instant::now();
            let ours = |phase| !matches!(phase, Phase::Settling | Phase::Confirming);
            let kept = |slot: &&Slot| ours(slot.phase) && !slot.lost;
            let of =
                |(index, slot): (usize, &Slot)| kept(&slot).then_some((index, slot.lease_until));
            let leases: Vec<_> = state.slots.iter().filter_map(of).collect();
            let mut lost = false;
            for (slot, until) in leases {
                if until <= now {
                    ledger.lose_lease(&mut state, slot);
                    lost = true;
                } else {
                    next = next.min(until);
                }
            }
            if lost {
                ledger.lease_lost.notify_waiters();
            }
            ledger.end_gaps(&mut state, now);
            next = state.gaps.next_end().map_or(next, |end| next.min(end));
        }
        tokio::time::sleep_until(next).await;
    }
}

async fn wake_rested(ledger: &Ledger) {
    loop {
        let changed = ledger.rest_due.notified();
        let next = {
            let mut state = ledger.lock();
            let state = &mut *state;
            let now = Instant::now();
            while state.resting.first().is_some_and(|(due, _)| *due <= now)
                && let Some((_, slot)) = state.resting.pop_first()
            {
                state.slots[slot].phase = Phase::Ready;
                state.ready.push_back(slot);
                state.wake_reader();
            }
            state.resting.first().map(|(due, _)| *due)
        };
        match next {
            Some(due) => tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(due) => {}
            },
            None => changed.await,
        }
    }
}

impl Ledger {
    /// Prolongs one lease now, whatever `max_handling` says.
    pub(crate) async fn extend(&self, slot: usize) -> Result<()> {
        let token = {
            let state = self.lock();
            let Some(entry) = state.slots.get(slot) else { return Err(lease_over()) };
            if state.finished || entry.is_lost() {
                return Err(lease_lost(entry));
            }
            entry.token.clone()
        };
        let started = Instant::now();
        let lease = self.lease_margined();
        let patience = lease.min(self.policy.patience);
        let call = shielded(self.settler.extend(std::slice::from_ref(&token)));
        let extended = timeout(patience, call).await.unwrap_or_else(|_| Err(late()))?;
        let mut state = self.lock();
        // It may have been settled meanwhile, and its slot taken by another delivery.
        if state.slots.get(slot).is_none_or(|entry| entry.token != token) {
            return Err(lease_over());
        }
        if !extended.lost.is_empty() {
            self.lose_lease(&mut state, slot);
            self.lease_lost.notify_waiters();
        }
        let entry = &mut state.slots[slot];
        if entry.lost {
            return Err(lease_lost(entry));
        }
        entry.lease_until = started + lease;
        Ok(())
    }

    /// As [`extend`](Self::extend), if that hand-out is not over.
    pub(crate) async fn extend_hand(&self, slot: usize, hand: Hand) -> Result<()> {
        if self.is_over(slot, hand) { Err(lease_over()) } else { self.extend(slot).await }
    }

    pub(crate) fn is_lost(&self, slot: usize) -> bool {
        self.lock().slots[slot].lost
    }

    /// Which hand-out of which delivery the slot is of now.
    pub(crate) fn hand(&self, slot: usize) -> Option<Hand> {
        self.lock().slots.get(slot).map(Slot::hand)
    }

    /// Whether that hand-out is over: settled, given back, or its lease lost.
    pub(crate) fn is_over(&self, slot: usize, hand: Hand) -> bool {
        let state = self.lock();
        let held = |entry: &&Slot| matches!(entry.phase, Phase::Held | Phase::Confirming);
        let entry = state.slots.get(slot).filter(|entry| entry.hand() == hand).filter(held);
        entry.is_none_or(|entry| entry.is_lost())
    }

    /// Waits until that hand-out's lease is lost.
    pub(crate) async fn over(&self, slot: usize, hand: Hand) {
        loop {
            let changed = self.lease_lost.notified();
            if self.is_over(slot, hand) {
                return;
            }
            changed.await;
        }
    }

    /// Waits until the lease is lost.
    pub(crate) async fn lost(&self, slot: usize) {
        loop {
            let changed = self.lease_lost.notified();
            if self.is_lost(slot) {
                return;
            }
            changed.await;
        }
    }
}

/// A hand-out of a delivery: slots are used again, and so are deliveries of ordered keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hand {
    arrival: u64,
    attempt: u32,
}

impl Slot {
    const fn hand(&self) -> Hand {
        Hand { arrival: self.arrival, attempt: self.attempt.count }
    }
}

#[cold]
fn lease_over() -> Error {
    Error::new(ErrorKind::LeaseLost, "the delivery was settled: its lease is over")
}

#[cold]
fn late() -> Error {
    Error::new(ErrorKind::Timeout, "the broker did not prolong the lease in time")
}

#[cold]
pub(super) fn lease_lost(slot: &Slot) -> Error {
    let message = "the delivery's lease ended: somebody else may have it";
    Error::new(ErrorKind::LeaseLost, message)
        .with_context("id", slot.envelope.id())
        .with_topic(slot.lane.topic())
}

async fn prolong(ledger: &Ledger, batch: &[(usize, Token)], lease: Duration) {
    let tokens: Vec<Token> = batch.iter().map(|(_, token)| token.clone()).collect();
    let started = Instant::now();
    // A call that outlasts this leaves time for one more.
    let call = timeout(lease / 3, shielded(ledger.settler.extend(&tokens)));
    let extended = match call.await.unwrap_or_else(|_| Err(late())) {
        Ok(extended) => extended,
        Err(error) => {
            tracing::debug!(%error, entries = batch.len(), "leases were not prolonged");
            return;
        }
    };
    let mut lost = extended.lost;
    lost.sort_unstable();
    let mut state = ledger.lock();
    for (index, (slot, token)) in batch.iter().enumerate() {
        // It may have been settled meanwhile, and its slot taken by another delivery.
        let entry = state.slots.get_mut(*slot).filter(|entry| entry.token == *token);
        let Some(entry) = entry else { continue };
        if lost.binary_search(&index).is_err() {
            entry.lease_until = started + lease;
        } else if entry.phase != Phase::Confirming {
            ledger.lose_lease(&mut state, *slot);
        }
    }
    if !lost.is_empty() {
        ledger.lease_lost.notify_waiters();
    }
}

/// Deliveries whose lease has run for a third, and that may be held longer.
fn due(state: &State, lease: Duration, max_handling: Duration) -> Vec<(usize, Token)> {
    let now = Instant::now();
    let prolonged = |phase| !matches!(phase, Phase::Settling | Phase::TakenBack);
    state
        .slots
        .iter()
        .filter(|(_, slot)| prolonged(slot.phase) && !slot.is_lost())
        .filter(|(_, slot)| slot.lease_until <= now + lease.mul_f64(0.7))
        .filter(|(_, slot)| slot.handed_out.is_none_or(|since| now < since + max_handling))
        .map(|(index, slot)| (index, slot.token.clone()))
        .collect()
}
