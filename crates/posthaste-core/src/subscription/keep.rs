//! The task that keeps leases while deliveries are held, and brings back what rests.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::event::SubscriptionEvent;
use super::ledger::{Ledger, Phase, Slot, State};
use super::stats::count;
use crate::broker::Token;
use crate::{Error, ErrorKind, Result};

/// Leases that are prolonged by one call.
const BATCH: usize = 256;

pub(super) async fn run(ledger: Arc<Ledger>) {
    let tick = (ledger.policy.lease / 6).max(Duration::from_millis(5));
    let mut next_tick = Instant::now() + tick;
    loop {
        let due = ledger.keep_due.notified();
        let rested = {
            let state = ledger.lock();
            if state.finished {
                return;
            }
            state.resting.first().map(|(due, _)| *due)
        };
        let until = rested.map_or(next_tick, |rested| rested.min(next_tick));
        tokio::select! {
            () = due => {}
            () = tokio::time::sleep_until(until) => {}
        }
        let now = Instant::now();
        ledger.wake_rested(&mut ledger.lock(), now);
        if now >= next_tick {
            next_tick = now + tick;
            keep(&ledger, now).await;
        }
    }
}

impl Ledger {
    /// Prolongs one lease now, whatever `max_handling` says.
    pub(crate) async fn extend(&self, slot: usize) -> Result<()> {
        let token = {
            let state = self.lock();
            let entry = &state.slots[slot];
            if state.finished || entry.lost {
                return Err(lease_lost(entry));
            }
            entry.token.clone()
        };
        let started = Instant::now();
        let extended = self.settler.extend(std::slice::from_ref(&token)).await?;
        let mut state = self.lock();
        let entry = &mut state.slots[slot];
        if !extended.lost.is_empty() || entry.lost {
            entry.lease_until = started;
            return Err(lease_lost(entry));
        }
        entry.lease_until = started + self.lease_margined();
        Ok(())
    }

    pub(crate) fn is_lost(&self, slot: usize) -> bool {
        self.lock().slots[slot].lost
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

#[cold]
fn lease_lost(slot: &Slot) -> Error {
    Error::new(ErrorKind::LeaseLost, "the delivery's lease ended: somebody else may have it")
        .with_context("id", slot.envelope.id())
        .with_topic(slot.lane.topic())
}

/// Prolongs what is due, and gives up what could not be prolonged.
async fn keep(ledger: &Ledger, now: Instant) {
    lose(ledger, now);
    let lease = ledger.lease_margined();
    let due = {
        let state = ledger.lock();
        due(&state, now, lease, ledger.policy.max_handling)
    };
    for batch in due.chunks(BATCH) {
        let tokens: Vec<Token> = batch.iter().map(|(_, token)| token.clone()).collect();
        let started = Instant::now();
        // A call that outlasts the tick leaves no time for the next; the lease decides then.
        let extended = tokio::time::timeout(lease / 3, ledger.settler.extend(&tokens)).await;
        let lost = match extended {
            Ok(Ok(extended)) => extended.lost,
            Ok(Err(error)) => {
                tracing::debug!(%error, "leases were not prolonged");
                continue;
            }
            Err(_) => continue,
        };
        let mut state = ledger.lock();
        for (index, (slot, token)) in batch.iter().enumerate() {
            // It may have been settled meanwhile, and its slot taken by another delivery.
            let entry = state.slots.get_mut(*slot).filter(|entry| entry.token == *token);
            let Some(entry) = entry else { continue };
            if lost.contains(&index) {
                entry.lease_until = started;
            } else {
                entry.lease_until = started + lease;
            }
        }
    }
    lose(ledger, Instant::now());
}

/// Deliveries whose lease has run for a third, and that may be held longer.
fn due(
    state: &State,
    now: Instant,
    lease: Duration,
    max_handling: Duration,
) -> Vec<(usize, Token)> {
    let prolonged = |phase| !matches!(phase, Phase::Settling | Phase::TakenBack);
    state
        .slots
        .iter()
        .filter(|(_, slot)| prolonged(slot.phase) && !slot.lost)
        .filter(|(_, slot)| slot.lease_until <= now + lease.mul_f64(0.7))
        .filter(|(_, slot)| slot.handed_out.is_none_or(|since| now < since + max_handling))
        .map(|(index, slot)| (index, slot.token.clone()))
        .collect()
}

/// Cancels deliveries whose lease has ended here, before anyone else can get them.
fn lose(ledger: &Ledger, now: Instant) {
    let mut state = ledger.lock();
    let ended =
        |slot: &Slot| !slot.lost && slot.lease_until <= now && slot.phase != Phase::Settling;
    let ended: Vec<_> =
        state.slots.iter().filter(|(_, slot)| ended(slot)).map(|(index, _)| index).collect();
    if ended.is_empty() {
        return;
    }
    for slot in ended {
        let entry = &mut state.slots[slot];
        entry.lost = true;
        count(&ledger.counters.leases_lost);
        ledger.tell(SubscriptionEvent::LeaseLost { id: entry.envelope.id().to_owned() });
    }
    // What was not handed out is dropped when its turn comes.
    state.wake_reader();
    drop(state);
    ledger.lease_lost.notify_waiters();
}
