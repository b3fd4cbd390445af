//! The end of a subscription: nothing is fetched any more, what is held has until the deadline,
//! and the rest is given back.

use std::collections::BTreeMap;
use std::future::poll_fn;

use tokio::time::Instant;

use super::flush::flush;
use super::ledger::{Ledger, Phase, State};
use super::stats::count;
use crate::broker::{Credit, DriverEvent, Polled, Received, Settlement, Verdict};
use crate::{Result, TopicName};

/// Waits for what is held until the deadline, releases the rest as soon as it cannot come back to
/// this member, flushes, and ends the driver. Returns how many deliveries were still held.
pub(super) async fn drain(ledger: &Ledger) -> usize {
    ledger.lock().fetching = true;
    ledger.stop_driver();
    let mut ended = false;
    loop {
        let due = ledger.flush_due.notified();
        ledger.give_back_all();
        flush(ledger).await;
        let deadline = {
            let state = ledger.lock();
            if ended && state.is_drained() {
                break;
            }
            state.stop.unwrap_or_else(Instant::now)
        };
        let polled = tokio::select! {
            polled = fetch(ledger), if !ended => Some(polled),
            () = due => None,
            () = tokio::time::sleep_until(deadline) => break,
        };
        ended |= polled.is_some_and(|polled| has_ended(ledger, polled));
    }
    let held = take_back(ledger);
    flush(ledger).await;
    // What the driver has still to hand over gets its time even if the deadline has passed, and
    // half of it to come to rest: the other half is for what is given back.
    let (deadline, last_call) =
        (ledger.lock().stop.unwrap_or_else(Instant::now), ledger.last_call());
    while !ended {
        let time = if ledger.lock().fetching { last_call / 2 } else { last_call };
        let polled = tokio::time::timeout_at(deadline + time, fetch(ledger)).await;
        let Ok(polled) = polled else { break };
        ended = has_ended(ledger, polled);
        ledger.give_back_all();
        flush(ledger).await;
        if Instant::now() >= deadline + last_call {
            break;
        }
    }
    if std::mem::take(&mut ledger.lock().fetching) {
        // It did not come to rest: what is given back must not be sent to it.
        ledger.drop_driver();
    }
    // What was acknowledged late all the same.
    flush(ledger).await;
    ledger.drop_driver();
    held
}

/// Notes what a poll of the stopped driver brought. Returns whether it was the last.
fn has_ended(ledger: &Ledger, polled: Result<Polled>) -> bool {
    let ended = match polled {
        Ok(Polled::Batch) => return false,
        Ok(Polled::Event(event)) => {
            ledger.pass_on(event);
            return false;
        }
        Ok(Polled::Quiet) => false,
        Ok(Polled::Stopped) => true,
        Err(error) => {
            tracing::warn!(%error, "a subscription ended with an error while it drained");
            true
        }
    };
    ledger.lock().fetching = false;
    ended
}

/// Polls a stopped driver, and books what it brings.
async fn fetch(ledger: &Ledger) -> Result<Polled> {
    // A stopped driver fetches nothing: the credit only lets it give what it has.
    let all = Credit::new(usize::MAX, usize::MAX);
    let mut settled = Vec::new();
    let polled = poll_fn(|cx| ledger.poll_driver(cx, &mut settled, all)).await;
    // Under at-most-once they are settled by the adapter already, and nobody will see them.
    ledger.lose_settled(settled.iter().map(|received: &Received| received.lane.topic()));
    polled
}

/// Takes back what is held at the deadline: it is released, and its verdict comes too late. What
/// waits behind it follows.
fn take_back(ledger: &Ledger) -> usize {
    let mut state = ledger.lock();
    let mut held: Vec<_> = state.in_phase(Phase::Held).collect();
    held.sort_unstable_by_key(|slot| state.slots[*slot].arrival);
    for slot in &held {
        let entry = &mut state.slots[*slot];
        entry.phase = Phase::TakenBack;
        entry.lost = true;
        let key = entry.key.take();
        let release = Settlement::new(entry.token.clone(), Verdict::Release(entry.parcel(None)));
        ledger.buffer(&mut state, None, release);
        count(&ledger.counters.released);
        ledger.pass_next(&mut state, key);
    }
    // Behind an acknowledgement whose answer is still awaited, too.
    let mut others = state.gate.take_all();
    others.sort_unstable_by_key(|slot| state.slots[*slot].arrival);
    for slot in others {
        state.slots[slot].key = None;
        state.slots[slot].phase = Phase::Ready;
        state.ready.push_back(slot);
    }
    ledger.give_back_rest(&mut state);
    drop(state);
    ledger.lease_lost.notify_waiters();
    held.len()
}

impl State {
    /// Whether nothing is left to wait for.
    fn is_drained(&self) -> bool {
        let busy = |phase| self.in_phase(phase).next().is_some();
        !busy(Phase::Held)
            && !busy(Phase::Confirming)
            && self.ready.is_empty()
            && self.buffer.is_empty()
    }
}

impl Ledger {
    /// Tells of messages that were settled and that nobody will see.
    pub(super) fn lose_settled<'a>(&self, topics: impl Iterator<Item = &'a TopicName>) {
        let mut counts = BTreeMap::new();
        topics.for_each(|topic| *counts.entry(topic.clone()).or_insert(0) += 1);
        for (topic, count) in counts {
            self.pass_on(DriverEvent::Lost {
                topic,
                count: Some(count),
                reason: "an at-most-once subscription ended before they were handled".to_owned(),
            });
        }
    }
}
