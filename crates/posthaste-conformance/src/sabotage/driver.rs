//! Receiving gone wrong.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use posthaste_core::broker::{
    Attempt, Credit, DriverEvent, Polled, Received, Settler, SubscriptionDriver,
};
use posthaste_core::{Error, ErrorKind, Result};

use super::envelope;
use super::mutant::Mutant;
use super::plot::{Place, copied};
use super::saboteur::Saboteur;
use super::settler::SabotagedSettler;

#[derive(Debug)]
pub(super) struct SabotagedDriver {
    pub(super) inner: Box<dyn SubscriptionDriver>,
    pub(super) settler: Arc<SabotagedSettler>,
    pub(super) saboteur: Saboteur,
    pub(super) member: u64,
    pub(super) place: Place,
    /// Which of the topic's groups ours is, by age.
    pub(super) rank: usize,
    pub(super) queue: bool,
    /// How many topics were asked for.
    pub(super) topics: usize,
    /// Whether a subscription of the connection has failed.
    pub(super) failed: Arc<AtomicBool>,
    /// Nothing comes any more.
    pub(super) deaf: bool,
    pub(super) seen: usize,
    pub(super) stopped: bool,
    /// The ids of messages that are not passed on any more.
    pub(super) withheld: HashSet<String>,
    /// Whether the next batch is withheld.
    pub(super) withholds: bool,
    /// What is passed on when nothing else comes, or after another one.
    pub(super) later: Vec<Received>,
}

#[deny(clippy::missing_trait_methods)]
impl SubscriptionDriver for SabotagedDriver {
    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<Received>,
        credit: Credit,
    ) -> Poll<Result<Polled>> {
        if self.stopped {
            match self.saboteur.mutant {
                Mutant::HangInStop => return Poll::Pending,
                Mutant::FetchAfterAStop => return self.fetch_and_keep(cx),
                _ => return self.poll(cx, out, credit),
            }
        }
        let ends = self.saboteur.is(Mutant::OneEndsTheOthers);
        if ends && self.failed.load(Ordering::Acquire) {
            return Poll::Ready(Err(failed("sabotage: another subscription has failed")));
        }
        let stalls = self.saboteur.is(Mutant::OneSlowStallsTheOthers)
            && self.saboteur.plot.others_hold(self.member);
        if self.deaf || stalls {
            return Poll::Pending;
        }
        let copies = self.copies(credit);
        if !copies.is_empty() {
            out.extend(copies);
            return Poll::Ready(Ok(Polled::Batch));
        }
        let credit = self.credit(credit);
        self.poll(cx, out, credit)
    }

    fn stop(&mut self) {
        self.stopped = true;
        self.settler.stop();
        if !self.saboteur.is(Mutant::FetchAfterAStop) {
            self.inner.stop();
        }
    }

    fn settler(&self) -> Arc<dyn Settler> {
        Arc::clone(&self.settler) as Arc<dyn Settler>
    }
}

impl SabotagedDriver {
    const fn credit(&self, credit: Credit) -> Credit {
        let Credit { messages, bytes, .. } = credit;
        match self.saboteur.mutant {
            Mutant::ExceedTheCredit => Credit::new(messages.saturating_mul(2), bytes),
            Mutant::CreditForEachTopic => Credit::new(messages.saturating_mul(self.topics), bytes),
            Mutant::IgnoreTheBytes => Credit::new(messages, usize::MAX),
            _ => credit,
        }
    }

    fn copies(&self, credit: Credit) -> Vec<Received> {
        match self.saboteur.mutant {
            Mutant::DeliverToASecondMember
            | Mutant::TakeFromTheHolder
            | Mutant::TwoHoldersOfAKey => self.saboteur.plot.copies(self.member, credit.messages),
            _ => Vec::new(),
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<Received>,
        credit: Credit,
    ) -> Poll<Result<Polled>> {
        loop {
            let mut fresh = Vec::new();
            match self.inner.poll_batch(cx, &mut fresh, credit) {
                Poll::Ready(Ok(Polled::Batch)) => {
                    let chokes = self.saboteur.is(Mutant::ChokeOnForeign);
                    if chokes && fresh.iter().any(|received| received.envelope.is_foreign()) {
                        let error = Error::new(ErrorKind::Decode, "sabotage: not one of ours");
                        return Poll::Ready(Err(error));
                    }
                    let before = out.len();
                    out.extend(self.twist(fresh));
                    if out.len() > before {
                        return Poll::Ready(Ok(Polled::Batch));
                    }
                }
                Poll::Ready(Ok(Polled::Event(event))) => match self.tell(event) {
                    Some(Ok(event)) => return Poll::Ready(Ok(Polled::Event(event))),
                    Some(Err(error)) => return Poll::Ready(Err(error)),
                    None if self.deaf => return Poll::Pending,
                    None => {}
                },
                Poll::Ready(Ok(polled)) => return Poll::Ready(Ok(polled)),
                Poll::Ready(Err(error)) => {
                    self.failed.store(true, Ordering::Release);
                    let vanished = error.kind() == ErrorKind::NotFound;
                    if vanished && self.saboteur.is(Mutant::VanishInSilence) {
                        self.deaf = true;
                        return Poll::Pending;
                    }
                    return Poll::Ready(Err(self.saboteur.said(error)));
                }
                Poll::Pending
                    if self.later.is_empty() || self.saboteur.is(Mutant::SwapTwoOfAKey) =>
                {
                    return Poll::Pending;
                }
                Poll::Pending => {
                    out.append(&mut self.later);
                    return Poll::Ready(Ok(Polled::Batch));
                }
            }
        }
    }

    /// Until everything that was passed on is settled, more is fetched, and passed on to nobody.
    fn fetch_and_keep(&mut self, cx: &mut Context<'_>) -> Poll<Result<Polled>> {
        let mut kept = Vec::new();
        loop {
            match self.inner.poll_batch(cx, &mut kept, Credit::new(10, usize::MAX)) {
                Poll::Ready(Ok(Polled::Batch | Polled::Event(_))) => {}
                Poll::Pending if !self.saboteur.plot.held(self.member).is_empty() => {
                    return Poll::Pending;
                }
                Poll::Ready(_) | Poll::Pending => return Poll::Ready(Ok(Polled::Stopped)),
            }
        }
    }

    /// What is told of an event: something, nothing, or that it is the end.
    fn tell(&mut self, event: DriverEvent) -> Option<Result<DriverEvent>> {
        match (self.saboteur.mutant, event) {
            (Mutant::HideLoss, DriverEvent::Lost { .. })
            | (Mutant::HideDifferingLeases, DriverEvent::Differs(_))
            | (Mutant::HideTheReturn, DriverEvent::Reconnected) => None,
            (Mutant::LoseOneMore, DriverEvent::Lost { topic, count, reason }) => {
                let count = count.map(|count| count.saturating_sub(1));
                Some(Ok(DriverEvent::Lost { topic, count, reason }))
            }
            (Mutant::EndAtADisconnect, DriverEvent::Disconnected { .. }) => {
                Some(Err(failed("sabotage: the connection was lost")))
            }
            (Mutant::StayAway, event @ DriverEvent::Disconnected { .. }) => {
                self.deaf = true;
                Some(Ok(event))
            }
            (Mutant::LoseWhatWasInFlight, event @ DriverEvent::Disconnected { .. }) => {
                self.withheld.extend(self.saboteur.plot.held(self.member));
                self.withholds = true;
                Some(Ok(event))
            }
            (_, event) => Some(Ok(event)),
        }
    }

    fn twist(&mut self, batch: Vec<Received>) -> Vec<Received> {
        if std::mem::take(&mut self.withholds) {
            let ids = batch.iter().map(|received| received.envelope.id().to_owned());
            self.withheld.extend(ids);
        }
        let mut kept = Vec::with_capacity(batch.len());
        for mut received in batch {
            self.seen += 1;
            if self.drops(&received) {
                continue;
            }
            received.attempt = self.attempt(&received);
            if self.saboteur.is(Mutant::NameAnotherPartition) {
                let beside = received.position.partition.map(|partition| partition ^ 1);
                received.position = received.position.in_partition(beside);
            }
            if let Some(envelope) = envelope::twisted(self.saboteur.mutant, &received.envelope) {
                received.envelope = envelope;
            }
            self.settler.note(&received);
            self.saboteur.plot.note(self.member, &received);
            let double = self.queue && self.saboteur.is(Mutant::DoubleCommands);
            let second = double.then(|| {
                let Received { envelope, lane, attempt, position, .. } = &received;
                copied(envelope, lane, *attempt, *position)
            });
            let again = received.attempt.count > 1 && received.envelope.key().is_some();
            if again && self.saboteur.is(Mutant::RequeueToTheEnd) {
                self.later.push(received);
            } else {
                kept.push(received);
            }
            kept.extend(second);
        }
        if self.saboteur.is(Mutant::SwapTwoOfAKey) && !swap_two_of_a_key(&mut kept) {
            self.swap_with_a_later_one(&mut kept);
        }
        kept
    }

    /// Where batches are too small to hold two messages of a key, one waits for the next of its key.
    fn swap_with_a_later_one(&mut self, batch: &mut Vec<Received>) {
        let Some(waits) = self.later.pop() else {
            let keyed =
                |one: &Received| one.lane.partition().is_some() && one.envelope.key().is_some();
            self.later.extend(batch.iter().position(keyed).map(|at| batch.remove(at)));
            return;
        };
        match batch.iter().position(|one| one.envelope.key() == waits.envelope.key()) {
            Some(before) => batch.insert(before + 1, waits),
            None => self.later.push(waits),
        }
    }

    /// Dropped without a word: it stays unsettled at the broker.
    fn drops(&self, received: &Received) -> bool {
        match self.saboteur.mutant {
            Mutant::NeverAgain => received.attempt.count > 1,
            Mutant::SkipAGroup => self.rank > 0 && self.seen.is_multiple_of(5),
            Mutant::DropForeign => received.envelope.is_foreign(),
            Mutant::LoseWhatWasInFlight => self.withheld.contains(received.envelope.id()),
            _ => false,
        }
    }

    fn attempt(&self, received: &Received) -> Attempt {
        let Attempt { count, exact, .. } = received.attempt;
        let (count, exact) = match self.saboteur.mutant {
            Mutant::ForgetTheFlag => (1, exact),
            Mutant::AttemptsEndAtTwo => (count.min(2), exact),
            Mutant::ReleaseCountsTwice => {
                let topic = received.lane.topic();
                let releases = self.saboteur.plot.releases(topic, received.envelope.id());
                (count.saturating_add(releases), exact)
            }
            Mutant::DenyExactness => (count, !exact),
            _ => return received.attempt,
        };
        if exact { Attempt::exact(count) } else { Attempt::approximate(count) }
    }
}

impl Drop for SabotagedDriver {
    fn drop(&mut self) {
        let held = self.saboteur.plot.leave(self.member);
        match self.saboteur.mutant {
            Mutant::LeaveTakesEverything => self.saboteur.plot.rob(&self.place, self.member),
            Mutant::BuryWithTheHolder if !self.stopped && !held.is_empty() => {
                self.saboteur.plot.inherit((self.settler.inner(), held));
            }
            _ => {}
        }
    }
}

fn failed(message: &'static str) -> Error {
    Error::new(ErrorKind::Connection, message)
}

/// Whether there were two.
fn swap_two_of_a_key(batch: &mut [Received]) -> bool {
    let same = |one: &Received, two: &Received| {
        one.envelope.key().is_some() && one.envelope.key() == two.envelope.key()
    };
    for second in 1..batch.len() {
        let (before, rest) = batch.split_at_mut(second);
        let Some(second) = rest.first_mut() else { return false };
        if let Some(first) = before.iter_mut().rev().find(|first| same(first, second)) {
            std::mem::swap(first, second);
            return true;
        }
    }
    false
}
