//! The task that carries settlements to the broker.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::drain::drain;
use super::event::SubscriptionEvent;
use super::ledger::{Ledger, Settled};
use super::stats::{add, count};
use crate::broker::{Confirmation, SettleOutcome, SettleReport, Settlement};
use crate::bus::shielded;
use crate::{Error, ErrorKind, Result};

/// How long settlements wait for company.
const LINGER: Duration = Duration::from_millis(5);
/// How long settlements may take before they count as failed.
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

/// Carries out what is buffered. Never waits longer than [`PATIENCE`], nor beyond the last call
/// after the drain's deadline.
pub(super) async fn flush(ledger: &Ledger) {
    let (slots, batch) = ledger.lock().take_buffer();
    if batch.is_empty() {
        return;
    }
    let settled = tokio::select! {
        biased;
        settled = settle(ledger, &batch, Confirmation::Sent, PATIENCE) => settled,
        () = ledger.out_of_time(ledger.last_call()) => Err(late()),
    };
    let failed = tell(ledger, &slots, &batch, settled);
    let outcome = |index| if failed.contains(index) { Settled::Failed } else { Settled::Done };
    let closed = slots.iter().enumerate();
    ledger.close(closed.filter_map(|(index, slot)| Some(((*slot)?, outcome(index)))));
}

/// Hands a batch to the adapter, and waits so long for it.
pub(super) async fn settle(
    ledger: &Ledger,
    batch: &[Settlement],
    confirmation: Confirmation,
    patience: Duration,
) -> Result<SettleReport> {
    let call = shielded(ledger.settler.settle(batch, confirmation));
    tokio::time::timeout(patience, call).await.unwrap_or_else(|_| Err(late()))
}

/// Which entries of a batch come again.
enum Failed {
    All,
    /// In order.
    These(Vec<usize>),
}

impl Failed {
    fn contains(&self, index: usize) -> bool {
        match self {
            Self::All => true,
            Self::These(indexes) => indexes.binary_search(&index).is_ok(),
        }
    }
}

/// Tells the application what was not done.
fn tell(
    ledger: &Ledger,
    slots: &[Option<usize>],
    batch: &[Settlement],
    settled: Result<SettleReport>,
) -> Failed {
    let exceptions = match settled {
        Ok(report) => report.into_exceptions(),
        Err(error) => {
            add(&ledger.counters.settle_failures, batch.len() as u64);
            tracing::warn!(%error, entries = batch.len(), "settlements failed");
            let ids = ledger.lock().ids(slots, batch);
            ledger.tell(SubscriptionEvent::SettleFailed { ids, reason: error.to_string() });
            return Failed::All;
        }
    };
    let mut failed = Vec::new();
    for (index, outcome) in exceptions {
        let (Some(slot), Some(settlement)) = (slots.get(index), batch.get(index)) else { continue };
        let (id, known_lost) = {
            let state = ledger.lock();
            let entry = slot.and_then(|slot| state.slots.get(slot));
            let id = state.id(*slot, settlement).unwrap_or_default();
            // What is taken back is known to be lost, and has no slot any more.
            (id, entry.is_none_or(|entry| entry.lost))
        };
        match outcome {
            SettleOutcome::DelayedBy(by) => {
                ledger.tell(SubscriptionEvent::SettleDelayed { id, by });
                continue;
            }
            SettleOutcome::LeaseLost if known_lost => {}
            SettleOutcome::LeaseLost => {
                count(&ledger.counters.leases_lost);
                ledger.tell(SubscriptionEvent::LeaseLost { id });
            }
            SettleOutcome::Failed(error) => {
                count(&ledger.counters.settle_failures);
                tracing::warn!(%error, id, "a settlement failed");
                let reason = error.to_string();
                ledger.tell(SubscriptionEvent::SettleFailed { ids: vec![id], reason });
            }
        }
        failed.push(index);
    }
    failed.sort_unstable();
    Failed::These(failed)
}

#[cold]
fn late() -> Error {
    Error::new(ErrorKind::Timeout, "the broker did not take the settlements in time")
}
