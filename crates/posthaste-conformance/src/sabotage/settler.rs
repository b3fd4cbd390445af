//! Settling gone wrong.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use posthaste_core::broker::{
    Confirmation, Destination, Extended, Parcel, Received, SendOptions, SettleOutcome,
    SettleReport, Settlement, Settler, Token, Verdict,
};
use posthaste_core::{
    Broker, Cause, DeadLetter, Envelope, Error, ErrorKind, GroupName, Reason, Result, TopicName,
};
use tokio::time::timeout;

use super::mutant::Mutant;
use super::plot::is_copy;
use super::saboteur::Saboteur;

/// How long a settlement waits for other subscriptions at most: longer than a case is patient.
const STALL: Duration = Duration::from_secs(10);

pub(super) struct SabotagedSettler {
    inner: Arc<dyn Settler>,
    broker: Arc<dyn Broker>,
    saboteur: Saboteur,
    member: u64,
    group: Option<GroupName>,
    /// The tokens in the order in which they came.
    order: Mutex<Vec<Token>>,
    acknowledged: AtomicUsize,
    stopped: AtomicBool,
}

impl SabotagedSettler {
    pub(super) fn new(
        inner: Arc<dyn Settler>,
        broker: Arc<dyn Broker>,
        saboteur: Saboteur,
        member: u64,
        group: Option<GroupName>,
    ) -> Self {
        Self {
            inner,
            broker,
            saboteur,
            member,
            group,
            order: Mutex::default(),
            acknowledged: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        }
    }

    pub(super) fn inner(&self) -> Arc<dyn Settler> {
        Arc::clone(&self.inner)
    }

    /// Remembers the token, where its neighbours matter.
    pub(super) fn note(&self, received: &Received) {
        if matches!(
            self.saboteur.mutant,
            Mutant::AcknowledgeTheNeighbour
                | Mutant::AcknowledgeEverythingBefore
                | Mutant::ChokeOnStrangeTokens
        ) {
            self.tokens().push(received.token.clone());
        }
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    fn tokens(&self) -> MutexGuard<'_, Vec<Token>> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.saboteur.is(mutant)
    }

    /// What is told to the broker instead; nothing if it is told nothing.
    async fn twist(&self, settlement: &Settlement) -> Result<Option<Verdict>> {
        if self.is(Mutant::ForgetTheLastSettlements) && self.stopped.load(Ordering::Acquire) {
            return Ok(None);
        }
        Ok(Some(match (self.saboteur.mutant, &settlement.verdict) {
            (Mutant::ForgetAcknowledgements, Verdict::Ack) => {
                let number = self.acknowledged.fetch_add(1, Ordering::AcqRel) + 1;
                return Ok((!number.is_multiple_of(5)).then_some(Verdict::Ack));
            }
            (Mutant::RequeueWaitsForTheLease, Verdict::Requeue(_))
            | (Mutant::KeepWhatWasPrefetched, Verdict::Release(_)) => return Ok(None),
            (Mutant::NackIsAck, Verdict::Requeue(_))
            | (Mutant::DropTheLetter, Verdict::DeadLetter(_)) => Verdict::Ack,
            (Mutant::DelayIsNone, Verdict::After(_, parcel)) => Verdict::Requeue(parcel.clone()),
            (Mutant::DelayIsHalf, Verdict::After(delay, parcel)) => {
                Verdict::After(*delay / 2, parcel.clone())
            }
            (Mutant::SpinOnDrop, Verdict::After(_, parcel)) if parcel.cause.is_none() => {
                Verdict::Requeue(parcel.clone())
            }
            (Mutant::RequeueToAllGroups, Verdict::Requeue(parcel) | Verdict::After(_, parcel)) => {
                self.publish(parcel.lane.topic(), &parcel.envelope).await?;
                Verdict::Ack
            }
            (Mutant::DeadLetterIsRelease, Verdict::DeadLetter(_)) => {
                let parcel = self.saboteur.plot.parcel(self.member, &settlement.token);
                return Ok(parcel.map(Verdict::Requeue));
            }
            (Mutant::LetterWithoutCause, Verdict::DeadLetter(letter)) => {
                let mut letter = letter.clone();
                letter.cause = None;
                Verdict::DeadLetter(letter)
            }
            (Mutant::LetterWithoutItsAttempts, Verdict::DeadLetter(letter)) => {
                let mut letter = letter.clone();
                letter.attempts = 1;
                Verdict::DeadLetter(letter)
            }
            (Mutant::ReleaseIsFailure, Verdict::Release(parcel)) => self.bury(parcel),
            (Mutant::ReleaseCountsTwice, Verdict::Release(parcel)) => {
                self.saboteur.plot.released(parcel.lane.topic(), parcel.envelope.id());
                Verdict::Release(parcel.clone())
            }
            (_, verdict) => verdict.clone(),
        }))
    }

    /// A dead letter for what was given back more than twice.
    fn bury(&self, parcel: &Parcel) -> Verdict {
        let topic = parcel.lane.topic().clone();
        let releases = self.saboteur.plot.released(&topic, parcel.envelope.id());
        let Some(group) = self.group.clone().filter(|_| releases > 2) else {
            return Verdict::Release(Box::new(parcel.clone()));
        };
        let reason = Reason::AttemptsExhausted;
        let mut letter = DeadLetter::new(parcel.envelope.clone(), reason, topic, group);
        letter.cause = Some(Cause::new("sabotage"));
        Verdict::DeadLetter(Box::new(letter))
    }

    async fn publish(&self, topic: &TopicName, envelope: &Envelope) -> Result<()> {
        let found = self.broker.admin().describe(topic).await?;
        let to = Destination::new(topic.clone(), found.layout, found.queue);
        let mut batch = [envelope.clone()];
        let outcomes = self.broker.publish(&to, &mut batch, &SendOptions::default()).await?;
        outcomes.into_iter().try_for_each(|outcome| outcome.map(drop))
    }

    /// Further acknowledgements that go with one.
    fn with(&self, token: &Token) -> Vec<Token> {
        let order = self.tokens();
        let Some(at) = order.iter().position(|known| known == token) else { return Vec::new() };
        match self.saboteur.mutant {
            Mutant::AcknowledgeTheNeighbour => order[at.saturating_sub(1)..at].to_vec(),
            Mutant::AcknowledgeEverythingBefore => order[..at].to_vec(),
            _ => Vec::new(),
        }
    }

    /// What is done, and said, of a lost lease.
    async fn late(&self, settlement: &Settlement) -> Result<Option<SettleOutcome>> {
        if self.is(Mutant::LateVerdictsPass) {
            return Ok(None);
        }
        if self.is(Mutant::LateVerdictsAct) {
            match &settlement.verdict {
                Verdict::Release(parcel) | Verdict::Requeue(parcel) | Verdict::After(_, parcel) => {
                    self.publish(parcel.lane.topic(), &parcel.envelope).await?;
                }
                Verdict::DeadLetter(letter) => {
                    self.publish(&letter.topic, &letter.envelope).await?
                }
                // A late acknowledgement may complete the message.
                _ => {}
            }
        }
        Ok(Some(SettleOutcome::LeaseLost))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Settler for SabotagedSettler {
    async fn settle(
        &self,
        batch: &[Settlement],
        confirmation: Confirmation,
    ) -> Result<SettleReport> {
        if self.is(Mutant::SettlingWaitsForTheOthers) {
            // In vain if it takes too long.
            let _ = timeout(STALL, self.saboteur.plot.others_are_done(self.member)).await;
        }
        if self.is(Mutant::ChokeOnStrangeTokens) {
            let order = self.tokens();
            if batch.iter().any(|settlement| !order.contains(&settlement.token)) {
                return Err(Error::new(ErrorKind::Fatal, "sabotage: a strange token"));
            }
        }
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
            if let Some(verdict) = self.twist(settlement).await? {
                sent.push(Settlement::new(settlement.token.clone(), verdict));
                stands_for.push(Some((index, settlement)));
            }
            self.saboteur.plot.settled(self.member, &settlement.token);
        }
        let mut report = SettleReport::done();
        if sent.is_empty() {
            return Ok(report);
        }
        for (at, outcome) in self.inner.settle(&sent, confirmation).await?.into_exceptions() {
            let Some((index, settlement)) = stands_for.get(at).copied().flatten() else { continue };
            let said = match outcome {
                SettleOutcome::LeaseLost => self.late(settlement).await?,
                outcome => Some(outcome),
            };
            if let Some(outcome) = said {
                report.except(index, outcome);
            }
        }
        Ok(report)
    }

    async fn extend(&self, tokens: &[Token]) -> Result<Extended> {
        if self.is(Mutant::ExtendDoesNothing) {
            return Ok(Extended::default());
        }
        let known = tokens.iter().enumerate().filter(|(_, token)| !is_copy(token));
        let (indexes, sent): (Vec<usize>, Vec<Token>) =
            known.map(|(index, token)| (index, token.clone())).unzip();
        if sent.is_empty() {
            return Ok(Extended::default());
        }
        let lost = self.inner.extend(&sent).await?.lost;
        match self.saboteur.mutant {
            Mutant::LateExtendsPass => Ok(Extended::default()),
            Mutant::EveryLeaseIsLost => Ok(Extended::except((0..tokens.len()).collect())),
            _ => {
                let index = |at: usize| indexes.get(at).copied();
                Ok(Extended::except(lost.into_iter().filter_map(index).collect()))
            }
        }
    }
}

impl fmt::Debug for SabotagedSettler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SabotagedSettler")
            .field("saboteur", &self.saboteur)
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
