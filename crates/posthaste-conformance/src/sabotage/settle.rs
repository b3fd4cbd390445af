//! Settling gone wrong.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use posthaste_core::broker::{
    Confirmation, Destination, Extended, Parcel, Received, SendOptions, SettleOutcome,
    SettleReport, Settlement, Settler, Token, Verdict,
};
use posthaste_core::{Broker, Cause, DeadLetter, GroupName, Reason, Result};

use super::mutant::Mutant;
use super::plot::{Plot, is_copy};

pub(super) struct SabotagedSettler {
    pub(super) inner: Arc<dyn Settler>,
    pub(super) broker: Arc<dyn Broker>,
    pub(super) mutant: Mutant,
    pub(super) plot: Arc<Plot>,
    pub(super) member: u64,
    pub(super) group: Option<GroupName>,
    /// The tokens in the order in which they came.
    pub(super) order: Mutex<Vec<Token>>,
}

impl SabotagedSettler {
    pub(super) fn note(&self, received: &Received) {
        lock(&self.order).push(received.token.clone());
    }

    /// What is told to the broker instead; nothing if it is told nothing.
    async fn twist(&self, settlement: &Settlement) -> Result<Option<Settlement>> {
        let Settlement { token, verdict, .. } = settlement;
        let verdict = match (self.mutant, verdict) {
            (Mutant::NackIsAck, Verdict::Requeue(_)) => Verdict::Ack,
            (Mutant::DelayIsNone, Verdict::After(_, parcel)) => Verdict::Requeue(parcel.clone()),
            (Mutant::SpinOnDrop, Verdict::After(_, parcel)) if parcel.cause.is_none() => {
                Verdict::Requeue(parcel.clone())
            }
            (Mutant::RequeueToAllGroups, Verdict::Requeue(parcel) | Verdict::After(_, parcel)) => {
                self.publish(parcel).await?;
                Verdict::Ack
            }
            (Mutant::DeadLetterIsRelease, Verdict::DeadLetter(_)) => {
                return Ok(self
                    .parcel(token)
                    .map(|parcel| Settlement::new(token.clone(), Verdict::Requeue(parcel))));
            }
            (Mutant::LetterWithoutCause, Verdict::DeadLetter(letter)) => {
                let mut letter = letter.clone();
                letter.cause = None;
                Verdict::DeadLetter(letter)
            }
            (Mutant::DropTheLetter, Verdict::DeadLetter(_)) => Verdict::Ack,
            (Mutant::KeepWhatWasPrefetched, Verdict::Release(_)) => return Ok(None),
            (Mutant::ReleaseIsFailure, Verdict::Release(parcel)) => self.bury(parcel),
            (_, verdict) => verdict.clone(),
        };
        Ok(Some(Settlement::new(token.clone(), verdict)))
    }

    /// A dead letter for what was given back twice.
    fn bury(&self, parcel: &Parcel) -> Verdict {
        let releases = self.plot.count_release(self.group.as_ref(), &parcel.envelope);
        let Some(group) = self.group.clone().filter(|_| releases > 2) else {
            return Verdict::Release(Box::new(parcel.clone()));
        };
        let topic = parcel.lane.topic().clone();
        let reason = Reason::AttemptsExhausted;
        let mut letter = DeadLetter::new(parcel.envelope.clone(), reason, topic, group);
        letter.cause = Some(Cause::new("sabotage"));
        Verdict::DeadLetter(Box::new(letter))
    }

    fn parcel(&self, token: &Token) -> Option<Box<Parcel>> {
        self.plot.parcel(self.member, token)
    }

    async fn publish(&self, parcel: &Parcel) -> Result<()> {
        let topic = parcel.lane.topic();
        let found = self.broker.admin().describe(topic).await?;
        let to = Destination::new(topic.clone(), found.layout, found.queue);
        let mut batch = [parcel.envelope.clone()];
        let outcomes = self.broker.publish(&to, &mut batch, &SendOptions::default()).await?;
        outcomes.into_iter().try_for_each(|outcome| outcome.map(drop))
    }

    /// Further acknowledgements that go with one.
    fn with(&self, token: &Token) -> Vec<Token> {
        let order = lock(&self.order);
        let Some(at) = order.iter().position(|known| known == token) else { return Vec::new() };
        match self.mutant {
            Mutant::AcknowledgeTheNeighbour => order[at.saturating_sub(1)..at].to_vec(),
            Mutant::AcknowledgeEverythingBefore => order[..at].to_vec(),
            _ => Vec::new(),
        }
    }
}

#[async_trait]
impl Settler for SabotagedSettler {
    async fn settle(
        &self,
        batch: &[Settlement],
        confirmation: Confirmation,
    ) -> Result<SettleReport> {
        let mut sent = Vec::with_capacity(batch.len());
        // Which entry of the batch each one that is sent stands for.
        let mut stands_for = Vec::with_capacity(batch.len());
        for (index, settlement) in batch.iter().enumerate() {
            if is_copy(&settlement.token) {
                continue;
            }
            if matches!(settlement.verdict, Verdict::Ack) {
                for token in self.with(&settlement.token) {
                    sent.push(Settlement::new(token, Verdict::Ack));
                    stands_for.push(None);
                }
            }
            if let Some(twisted) = self.twist(settlement).await? {
                sent.push(twisted);
                stands_for.push(Some(index));
            }
            self.plot.settled(self.member, &settlement.token);
        }
        let mut report = SettleReport::done();
        if sent.is_empty() {
            return Ok(report);
        }
        for (at, outcome) in self.inner.settle(&sent, confirmation).await?.into_exceptions() {
            let Some(index) = stands_for.get(at).copied().flatten() else { continue };
            let hidden = self.mutant == Mutant::LateVerdictsPass
                && matches!(outcome, SettleOutcome::LeaseLost);
            if !hidden {
                report.except(index, outcome);
            }
        }
        Ok(report)
    }

    async fn extend(&self, tokens: &[Token]) -> Result<Extended> {
        if self.mutant == Mutant::ExtendDoesNothing {
            return Ok(Extended::default());
        }
        let known: Vec<(usize, Token)> = tokens
            .iter()
            .enumerate()
            .filter(|(_, token)| !is_copy(token))
            .map(|(index, token)| (index, token.clone()))
            .collect();
        let sent: Vec<Token> = known.iter().map(|(_, token)| token.clone()).collect();
        if sent.is_empty() {
            return Ok(Extended::default());
        }
        let lost = self.inner.extend(&sent).await?.lost;
        if self.mutant == Mutant::LateExtendsPass {
            return Ok(Extended::default());
        }
        let index = |at: usize| known.get(at).map(|(index, _)| *index);
        Ok(Extended::except(lost.into_iter().filter_map(index).collect()))
    }
}

impl fmt::Debug for SabotagedSettler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SabotagedSettler")
            .field("mutant", &self.mutant)
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
