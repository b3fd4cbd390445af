//! From what the application says to what the adapter is told: attempt limits, per-key retries
//! in memory, dead-letter records, expiry.

use std::time::Duration;

use tokio::time::Instant;

use super::event::SubscriptionEvent;
use super::ledger::{Ledger, Phase, Slot, State};
use super::stats::count;
use super::{Expired, KeyFailure};
use crate::broker::{Confirmation, LaneState, SettleOutcome, Settlement, Verdict};
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
            entry.phase = Phase::Settling;
            Settlement::new(entry.token.clone(), Verdict::Ack)
        };
        let unanswered = Unanswered { ledger: self, slot: Some(slot) };
        let settled = self.settler.settle(&[settlement], Confirmation::Broker).await;
        let key = unanswered.answered();
        let outcome = settled.map(|report| report.into_exceptions().pop());
        match outcome {
            Ok(None | Some((_, SettleOutcome::DelayedBy(_)))) => {
                count(&self.counters.acked);
                self.pass_next(&mut self.lock(), key);
                Ok(())
            }
            Ok(Some((_, SettleOutcome::LeaseLost))) => {
                self.pass_next(&mut self.lock(), key);
                Err(Error::new(ErrorKind::LeaseLost, "the delivery's lease ended before"))
            }
            Ok(Some((_, SettleOutcome::Failed(error)))) | Err(error) => {
                count(&self.counters.settle_failures);
                self.pass_next(&mut self.lock(), key);
                Err(error)
            }
        }
    }

    /// The application gives it back without fault.
    pub(crate) fn release(&self, slot: usize) -> Result<()> {
        let mut state = self.lock();
        self.still_ours(&mut state, slot)?;
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
                self.rest(&mut state, slot, Duration::ZERO, cause);
            }
            Failure::After(delay, cause) if entry.key.is_some() => {
                self.rest(&mut state, slot, delay, cause);
            }
            Failure::Requeue(cause) => {
                let parcel = entry.parcel(cause);
                self.book(&mut state, slot, Verdict::Requeue(parcel));
            }
            Failure::After(delay, cause) => {
                let parcel = entry.parcel(cause);
                self.book(&mut state, slot, Verdict::After(delay, parcel));
            }
        }
        Ok(())
    }

    /// The application dropped it: it comes again, later each time, so that nothing spins.
    pub(crate) fn abandon(&self, slot: usize) {
        let mut state = self.lock();
        if self.still_ours(&mut state, slot).is_err() {
            return;
        }
        let entry = &state.slots[slot];
        let doublings = entry.attempt.count.saturating_sub(1).min(16);
        let delay = (DROP_DELAY * 2_u32.pow(doublings)).min(LONGEST_DROP_DELAY);
        let stopping = state.stop.is_some();
        let entry = &state.slots[slot];
        if stopping {
            let parcel = entry.parcel(None);
            self.book(&mut state, slot, Verdict::Release(parcel));
        } else if entry.key.is_some() {
            self.rest(&mut state, slot, delay, None);
        } else {
            let parcel = entry.parcel(None);
            self.book(&mut state, slot, Verdict::After(delay, parcel));
        }
    }

    /// Whether the lease still holds; if not, the slot is freed.
    fn still_ours(&self, state: &mut State, slot: usize) -> Result<()> {
        let entry = &state.slots[slot];
        if !state.finished && !entry.lost && entry.lane.state() != LaneState::Lost {
            return Ok(());
        }
        let error = Error::new(
            ErrorKind::LeaseLost,
            "the delivery's lease ended before it was settled: somebody else may have it",
        )
        .with_context("id", entry.envelope.id())
        .with_topic(entry.lane.topic());
        self.forget(state, slot);
        Err(error)
    }

    /// Keeps a failed delivery of an ordered key in memory until its next attempt.
    fn rest(&self, state: &mut State, slot: usize, delay: Duration, cause: Option<Cause>) {
        let now = Instant::now();
        let entry = &mut state.slots[slot];
        let since = entry.first_failure.map_or(now, |(since, _)| since);
        if now + delay > since + self.policy.key_wait {
            let reason = Reason::AttemptsExhausted;
            return self.give_up(state, slot, reason, cause);
        }
        entry.phase = Phase::Resting;
        entry.handed_out = None;
        entry.attempt.count = entry.attempt.count.saturating_add(1);
        count(&self.counters.retried);
        state.resting.insert((now + delay, slot));
        self.keep_due.notify_one();
    }

    /// Brings back what has rested long enough.
    pub(super) fn wake_rested(&self, state: &mut State, now: Instant) {
        let mut woken = false;
        while let Some((due, slot)) = state.resting.first().copied().filter(|(due, _)| *due <= now)
        {
            state.resting.remove(&(due, slot));
            state.slots[slot].phase = Phase::Ready;
            state.ready.push_back(slot);
            woken = true;
        }
        if woken {
            state.wake_reader();
        }
    }

    /// Makes it a dead letter, together with what its key has waiting, by the policy.
    fn give_up(&self, state: &mut State, slot: usize, reason: Reason, cause: Option<Cause>) {
        let key = state.slots[slot].key;
        if key.is_some() && self.policy.key_failure == KeyFailure::StopLane {
            return self.stop_lane(state, slot);
        }
        let followers = key.map(|key| state.gate.take_waiting(key)).unwrap_or_default();
        let id = state.slots[slot].envelope.id().to_owned();
        self.bury(state, slot, reason, cause);
        for follower in followers {
            // The key was released above, and nobody else waits behind it.
            state.slots[follower].key = None;
            let cause = Cause::new(format!("an earlier message of the key was given up: {id}"));
            self.bury(state, follower, Reason::FollowsKey, Some(cause));
        }
    }

    /// Ends the subscription rather than the order of a key.
    fn stop_lane(&self, state: &mut State, slot: usize) {
        let entry = &state.slots[slot];
        let error = Error::new(ErrorKind::Fatal, "a message of an ordered key failed for good")
            .with_context("id", entry.envelope.id())
            .with_context("attempts", entry.attempt.count)
            .with_topic(entry.lane.topic());
        let parcel = entry.parcel(None);
        self.book(state, slot, Verdict::Release(parcel));
        state.failure = Some(error);
        state.stop = Some(Instant::now() + self.policy.drain);
        state.wake_reader();
        self.flush_due.notify_one();
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
    /// Frees the slot; returns the key that nobody is out of any more.
    fn answered(mut self) -> Option<u64> {
        let slot = self.slot.take()?;
        let key = self.ledger.lock().slots[slot].key.take();
        self.ledger.close_slots(std::iter::once(slot));
        key
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.ledger.book(&mut self.ledger.lock(), slot, Verdict::Ack);
        }
    }
}
