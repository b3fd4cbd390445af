//! From what the application says to what the adapter is told: attempt limits, per-key retries
//! in memory, dead-letter records, expiry.

use std::time::Duration;

use tokio::time::Instant;

use super::event::SubscriptionEvent;
use super::keep::lease_lost;
use super::ledger::{Ledger, Phase, Settled, Slot, State};
use super::stats::count;
use super::{Expired, KeyFailure, flush};
use crate::broker::{Confirmation, LaneState, SettleOutcome, Settlement, Verdict};
use crate::bus::{after, bounded};
use crate::{Cause, DeadLetter, Error, ErrorKind, Reason, Result, Timestamp};

/// What a failed delivery asks for.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// Again, soon.
    Requeue(Option<Cause>),
    /// Again, not before the delay is over.
    After(Duration, Option<Cause>),
    /// Never again.
    DeadLetter(Cause),
}

impl Failure {
    pub(crate) fn with_cause(self, cause: Cause) -> Self {
        match self {
            Self::Requeue(_) => Self::Requeue(Some(cause)),
            Self::After(delay, _) => Self::After(delay, Some(cause)),
            Self::DeadLetter(_) => Self::DeadLetter(cause),
        }
    }
}

/// The first delay of a delivery that was dropped; it doubles with each attempt.
const DROP_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DROP_DELAY: Duration = Duration::from_secs(30);

impl Ledger {
    /// The application has handled it.
    pub(crate) fn ack(&self, slot: usize) -> Result<()> {
        let mut state = self.lock();
        if state.finished {
            return self.still_ours(&mut state, slot);
        }
        // A late acknowledgement may still complete the message: the adapter decides.
        self.book(&mut state, slot, Verdict::Ack);
        Ok(())
    }

    /// Acknowledges and waits for the broker.
    pub(crate) async fn ack_confirmed(&self, slot: usize) -> Result<()> {
        let settlement = {
            let mut state = self.lock();
            if state.finished {
                return self.still_ours(&mut state, slot);
            }
            let entry = &mut state.slots[slot];
            entry.phase = Phase::Confirming;
            Settlement::new(entry.token.clone(), Verdict::Ack)
        };
        let unanswered = Unanswered { ledger: self, slot: Some(slot) };
        let settled =
            flush::settle(self, &[settlement], Confirmation::Broker, self.policy.patience).await;
        let outcome = match settled.map(|report| report.into_exceptions().pop()) {
            Ok(None | Some((_, SettleOutcome::DelayedBy(_)))) => {
                count(&self.counters.acked);
                Ok(())
            }
            Ok(Some((_, SettleOutcome::LeaseLost))) => Err(lease_lost(&self.lock().slots[slot])),
            Ok(Some((_, SettleOutcome::Failed(error)))) | Err(error) => {
                count(&self.counters.settle_failures);
                Err(error.with_operation("ack"))
            }
        };
        unanswered.answered();
        outcome
    }

    /// The application gives it back without fault.
    pub(crate) fn release(&self, slot: usize) -> Result<()> {
        let mut state = self.lock();
        self.still_ours(&mut state, slot)?;
        if self.rests_here(&state, slot) {
            // Given to the broker, it could come again behind the later ones of its key.
            count(&self.counters.released);
            self.rest(&mut state, slot, Duration::ZERO);
            return Ok(());
        }
        let parcel = state.slots[slot].parcel(None);
        self.book(&mut state, slot, Verdict::Release(parcel));
        Ok(())
    }

    /// The application failed on it.
    pub(crate) fn fail(&self, slot: usize, failure: Failure) -> Result<()> {
        let mut state = self.lock();
        self.still_ours(&mut state, slot)?;
        let entry = &mut state.slots[slot];
        entry.first_failure.get_or_insert_with(|| (Instant::now(), Timestamp::now()));
        let last = entry.attempt.count >= self.policy.max_attempts;
        match failure {
            Failure::DeadLetter(cause) => {
                let reason = cause.reason();
                self.give_up(&mut state, slot, reason, Some(cause));
            }
            Failure::Requeue(cause) | Failure::After(_, cause) if last => {
                self.give_up(&mut state, slot, Reason::AttemptsExhausted, cause);
            }
            Failure::Requeue(cause) if entry.key.is_some() => {
                self.retry_key(&mut state, slot, Duration::ZERO, cause);
            }
            Failure::After(delay, cause) if entry.key.is_some() => {
                self.retry_key(&mut state, slot, delay, cause);
            }
            Failure::Requeue(cause) => {
                let parcel = entry.parcel(cause);
                self.book(&mut state, slot, Verdict::Requeue(parcel));
            }
            Failure::After(delay, cause) => {
                let parcel = entry.parcel(cause);
                self.book(&mut state, slot, Verdict::After(bounded(delay), parcel));
            }
        }
        Ok(())
    }

    /// The application dropped it: it comes again, later each time, so that nothing spins. That
    /// is no failure, so nothing is given up for it.
    pub(crate) fn abandon(&self, slot: usize) {
        let mut state = self.lock();
        if self.still_ours(&mut state, slot).is_err() {
            return;
        }
        let entry = &state.slots[slot];
        let doublings = entry.attempt.count.saturating_sub(1).min(16);
        let delay = (DROP_DELAY * 2_u32.pow(doublings)).min(LONGEST_DROP_DELAY);
        let going = state.stop.is_some() || entry.lane.state() != LaneState::Live;
        if self.rests_here(&state, slot) {
            self.again(&mut state, slot, delay);
        } else if going {
            let parcel = entry.parcel(None);
            self.book(&mut state, slot, Verdict::Release(parcel));
        } else {
            let parcel = entry.parcel(None);
            self.book(&mut state, slot, Verdict::After(delay, parcel));
        }
    }

    /// Whether the lease still holds; if not, the slot is freed.
    fn still_ours(&self, state: &mut State, slot: usize) -> Result<()> {
        let entry = &state.slots[slot];
        if !state.finished && !entry.is_lost() {
            return Ok(());
        }
        let error = lease_lost(entry);
        self.forget(state, slot);
        Err(error)
    }

    /// Whether a delivery that comes again does so from memory: it is of an ordered key, and
    /// stays ours.
    fn rests_here(&self, state: &State, slot: usize) -> bool {
        let entry = &state.slots[slot];
        entry.key.is_some() && state.stop.is_none() && entry.lane.state() == LaneState::Live
    }

    /// Tries a failed delivery of an ordered key again after the delay, as long as its key may
    /// wait for it.
    fn retry_key(&self, state: &mut State, slot: usize, delay: Duration, cause: Option<Cause>) {
        if !self.rests_here(state, slot) {
            // It goes to somebody else, and those behind it follow.
            let mut parcel = state.slots[slot].parcel(cause);
            parcel.rest = bounded(delay);
            return self.book(state, slot, Verdict::Release(parcel));
        }
        let failing_for = state.slots[slot]
            .first_failure
            .map_or(Duration::ZERO, |(since, _)| Instant::now().saturating_duration_since(since));
        if failing_for.saturating_add(delay) > self.policy.key_wait {
            return self.give_up(state, slot, Reason::AttemptsExhausted, cause);
        }
        self.again(state, slot, delay);
    }

    /// Keeps a delivery in memory until its next attempt.
    fn again(&self, state: &mut State, slot: usize, delay: Duration) {
        count(&self.counters.retried);
        self.rest(state, slot, delay);
    }

    /// Hands it out again after the delay: one more delivery, whyever.
    fn rest(&self, state: &mut State, slot: usize, delay: Duration) {
        let entry = &mut state.slots[slot];
        entry.again = true;
        entry.phase = Phase::Resting;
        entry.handed_out = None;
        state.resting.insert((after(delay), slot));
        self.rest_due.notify_one();
    }

    /// Makes it a dead letter, together with what its key has waiting, by the policy.
    fn give_up(&self, state: &mut State, slot: usize, reason: Reason, cause: Option<Cause>) {
        let entry = &state.slots[slot];
        let (key, topic) = (entry.key, entry.lane.topic().clone());
        if key.is_some() && self.policy.key_failure == KeyFailure::StopLane {
            return self.stop_lane(state, slot);
        }
        let first = entry.envelope.clone();
        self.bury(state, slot, reason, cause);
        let Some(key) = key else { return };
        for follower in state.gate.take_waiting(key) {
            let entry = &mut state.slots[follower];
            let same = first.key().is_some() && entry.envelope.key() == first.key();
            if !same || *entry.lane.topic() != topic {
                // Another key, of the same hash or the same partition: it waits on.
                if let Some(passed) = state.gate.offer(key, follower) {
                    state.slots[passed].phase = Phase::Ready;
                    state.ready.push_back(passed);
                }
                continue;
            }
            // The key stays with the first one.
            entry.key = None;
            let what = format!("an earlier message of the key was given up: {}", first.id());
            self.bury(state, follower, Reason::FollowsKey, Some(Cause::new(what)));
        }
    }

    /// Ends the subscription rather than the order of a key.
    fn stop_lane(&self, state: &mut State, slot: usize) {
        let entry = &state.slots[slot];
        let error = Error::new(ErrorKind::Fatal, "a message of an ordered key failed for good")
            .with_context("id", entry.envelope.id())
            .with_context("attempts", entry.attempt.count)
            .with_topic(entry.lane.topic());
        state.failure.get_or_insert(error);
        self.begin_stop(state, after(self.policy.drain));
        let parcel = state.slots[slot].parcel(None);
        self.book(state, slot, Verdict::Release(parcel));
    }

    pub(super) fn expire(&self, state: &mut State, slot: usize) {
        count(&self.counters.expired);
        self.tell(SubscriptionEvent::Expired { id: state.slots[slot].envelope.id().to_owned() });
        match self.policy.expired {
            Expired::DeadLetter => self.bury(state, slot, Reason::Expired, None),
            Expired::Drop => self.book(state, slot, Verdict::Ack),
        }
    }

    fn bury(&self, state: &mut State, slot: usize, reason: Reason, cause: Option<Cause>) {
        let entry = &state.slots[slot];
        let verdict = match self.record(entry, reason, cause) {
            Some(letter) => Verdict::DeadLetter(Box::new(letter)),
            None => {
                // Without a group there is no place for it; it is said instead.
                count(&self.counters.discarded);
                let id = entry.envelope.id().to_owned();
                tracing::warn!(id, "a message was given up by a subscription without a group");
                self.tell(SubscriptionEvent::Discarded { id });
                Verdict::Ack
            }
        };
        self.book(state, slot, verdict);
    }

    fn record(&self, entry: &Slot, reason: Reason, cause: Option<Cause>) -> Option<DeadLetter> {
        let group = self.policy.group.clone()?;
        let topic = entry.lane.topic().clone();
        let mut letter = DeadLetter::new(entry.envelope.clone(), reason, topic, group);
        letter.cause = cause;
        letter.attempts = entry.attempt.count;
        letter.first_failed_at = entry.first_failure.map(|(_, at)| at);
        Some(letter)
    }
}

/// An acknowledgement whose answer is awaited. Dropped without one, it is booked like any other,
/// so that the delivery is not held for ever.
struct Unanswered<'a> {
    ledger: &'a Ledger,
    slot: Option<usize>,
}

impl Unanswered<'_> {
    /// Frees the slot and lets the next one of the key pass: whatever the answer is, the
    /// application has handled this one.
    fn answered(mut self) {
        let slot = self.slot.take();
        self.ledger.close(slot.into_iter().map(|slot| (slot, Settled::Done)));
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.ledger.book(&mut self.ledger.lock(), slot, Verdict::Ack);
        }
    }
}
