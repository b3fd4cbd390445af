//! The task that carries settlements to the broker, and drains the subscription at its end.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::event::SubscriptionEvent;
use super::ledger::{Ledger, Phase};
use super::stats::{add, count};
use crate::broker::{
    Confirmation, Credit, DeliveryMode, DriverEvent, Polled, Received, SettleOutcome, Settlement,
    Verdict,
};
use crate::{Error, ErrorKind, Result};

/// How long settlements wait for company.
const LINGER: Duration = Duration::from_millis(5);
/// How long a batch of settlements may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn run(ledger: Arc<Ledger>) {
    while !ledger.is_stopped() {
        let due = ledger.flush_due.notified();
        let (now, later) = {
            let state = ledger.lock();
            (state.is_flush_due(&ledger.policy), state.buffered_since.map(|since| since + LINGER))
        };
        match later {
            _ if now => flush(&ledger).await,
            Some(at) if at <= Instant::now() => flush(&ledger).await,
            Some(at) => {
                tokio::select! {
                    () = due => {}
                    () = tokio::time::sleep_until(at) => {}
                }
            }
            None => due.await,
        }
    }
    let held = drain(&ledger).await;
    ledger.finish(held);
}

/// Carries out what is buffered.
async fn flush(ledger: &Ledger) {
    let (slots, batch) = ledger.lock().take_buffer();
    if !batch.is_empty() {
        settle(ledger, &batch).await;
        ledger.close_slots(slots.into_iter().flatten());
    }
}

/// Settles a batch and tells what was not done. Never waits longer than [`PATIENCE`], nor much
/// longer than the drain's deadline.
async fn settle(ledger: &Ledger, batch: &[Settlement]) {
    let late = || Error::new(ErrorKind::Timeout, "the broker did not take the settlements in time");
    let settled = tokio::select! {
        settled = ledger.settler.settle(batch, Confirmation::Sent) => settled,
        () = tokio::time::sleep(PATIENCE) => Err(late()),
        () = grace(ledger) => Err(late()),
    };
    tell(ledger, batch, settled);
}

/// Waits until the drain's deadline and the time for a last flush have passed.
async fn grace(ledger: &Ledger) {
    ledger.out_of_time().await;
    tokio::time::sleep(ledger.last_call()).await;
}

fn tell(ledger: &Ledger, batch: &[Settlement], settled: Result<crate::broker::SettleReport>) {
    let exceptions = match settled {
        Ok(report) => report.into_exceptions(),
        Err(error) => {
            add(&ledger.counters.settle_failures, batch.len() as u64);
            tracing::warn!(%error, entries = batch.len(), "settlements failed");
            let ids = batch.iter().filter_map(id).collect();
            return ledger.tell(SubscriptionEvent::SettleFailed { ids, reason: error.to_string() });
        }
    };
    for (index, outcome) in exceptions {
        let id = batch.get(index).and_then(id).unwrap_or_default();
        match outcome {
            SettleOutcome::DelayedBy(by) => {
                ledger.tell(SubscriptionEvent::SettleDelayed { id, by })
            }
            SettleOutcome::LeaseLost => {
                count(&ledger.counters.leases_lost);
                ledger.tell(SubscriptionEvent::LeaseLost { id });
            }
            SettleOutcome::Failed(error) => {
                count(&ledger.counters.settle_failures);
                tracing::warn!(%error, id, "a settlement failed");
                ledger.tell(SubscriptionEvent::SettleFailed {
                    ids: vec![id],
                    reason: error.to_string(),
                });
            }
        }
    }
}

fn id(settlement: &Settlement) -> Option<String> {
    match &settlement.verdict {
        Verdict::Ack => None,
        Verdict::Release(parcel) | Verdict::Requeue(parcel) | Verdict::After(_, parcel) => {
            Some(parcel.envelope.id().to_owned())
        }
        Verdict::DeadLetter(letter) => Some(letter.envelope.id().to_owned()),
    }
}

/// Releases what was not handed out, waits for what is held until the deadline, flushes, and ends
/// the driver. Returns how many deliveries were still held.
async fn drain(ledger: &Ledger) -> usize {
    ledger.stop_driver();
    let mut ended = false;
    let mut scratch = Vec::new();
    loop {
        let due = ledger.flush_due.notified();
        release_idle(ledger, &mut scratch);
        flush(ledger).await;
        let deadline = {
            let state = ledger.lock();
            if ended && state.held().next().is_none() && state.buffer.is_empty() {
                break;
            }
            state.stop.unwrap_or_else(Instant::now)
        };
        let polled = tokio::select! {
            polled = fetch(ledger, &mut scratch), if !ended => Some(polled),
            () = due => None,
            () = tokio::time::sleep_until(deadline) => break,
        };
        match polled {
            Some(Ok(Polled::Event(event))) => ledger.pass_on(event),
            Some(Ok(Polled::Stopped)) => ended = true,
            Some(Err(error)) => {
                tracing::warn!(%error, "a subscription ended with an error while it drained");
                ended = true;
            }
            Some(Ok(Polled::Batch)) | None => {}
        }
    }
    let held = take_back(ledger);
    release_idle(ledger, &mut scratch);
    flush(ledger).await;
    // What the driver has still to hand over gets its time even if the deadline has passed.
    let last = Instant::now() + ledger.last_call();
    while !ended {
        match tokio::time::timeout_at(last, fetch(ledger, &mut scratch)).await {
            Ok(Ok(Polled::Batch)) => {
                release_idle(ledger, &mut scratch);
                flush(ledger).await;
            }
            Ok(Ok(Polled::Event(event))) => ledger.pass_on(event),
            Ok(Ok(Polled::Stopped)) | Ok(Err(_)) | Err(_) => ended = true,
        }
    }
    ledger.drop_driver();
    held
}

/// Polls a stopped driver.
async fn fetch(ledger: &Ledger, out: &mut Vec<Received>) -> Result<Polled> {
    // A stopped driver fetches nothing: the credit only lets it give what it has.
    let all = Credit::new(usize::MAX, usize::MAX);
    poll_fn(|cx| match ledger.poll_driver(cx, out, all) {
        Poll::Ready(polled) => Poll::Ready(polled),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Books the release of everything that the application does not hold.
fn release_idle(ledger: &Ledger, scratch: &mut Vec<Received>) {
    if !scratch.is_empty() {
        if ledger.policy.mode == DeliveryMode::AtMostOnce {
            // Settled by the adapter already, and nobody will see them.
            return lose(ledger, scratch);
        }
        ledger.admit(scratch);
    }
    let mut state = ledger.lock();
    state.ready.clear();
    state.resting.clear();
    state.gate.take_all();
    let idle: Vec<_> = state
        .slots
        .iter()
        .filter(|(_, slot)| matches!(slot.phase, Phase::Ready | Phase::Waiting | Phase::Resting))
        .map(|(index, slot)| (index, slot.lost))
        .collect();
    for (slot, lost) in idle {
        state.slots[slot].key = None;
        if lost {
            state.free(slot);
        } else {
            let parcel = state.slots[slot].parcel(None);
            ledger.book(&mut state, slot, Verdict::Release(parcel));
        }
    }
}

fn lose(ledger: &Ledger, settled: &mut Vec<Received>) {
    for received in settled.drain(..) {
        ledger.pass_on(DriverEvent::Lost {
            topic: received.lane.topic().clone(),
            count: Some(1),
            reason: "an at-most-once subscription ended before it was handed out".to_owned(),
        });
    }
}

/// Takes back what is held at the deadline: it is released, and its verdict comes too late.
fn take_back(ledger: &Ledger) -> usize {
    let mut state = ledger.lock();
    let held: Vec<_> = state.held().collect();
    for slot in &held {
        let entry = &mut state.slots[*slot];
        entry.phase = Phase::TakenBack;
        entry.lost = true;
        let release = Settlement::new(entry.token.clone(), Verdict::Release(entry.parcel(None)));
        ledger.buffer(&mut state, None, release);
        count(&ledger.counters.released);
    }
    drop(state);
    ledger.lease_lost.notify_waiters();
    held.len()
}
