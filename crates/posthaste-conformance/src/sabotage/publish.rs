//! Publishing gone wrong.

use std::future::pending;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use posthaste_core::broker::{Destination, Outcomes, Publish, SendOptions, Stored};
use posthaste_core::{Envelope, Error, ErrorKind, Result, Retry, TopicName, TopicSpec, Topology};
use tokio::time::Instant;

use super::broker::Sabotage;
use super::mutant::Mutant;

/// For how long a connection recognises its own messages: no longer than any case wants it.
const WINDOW: Duration = Duration::from_secs(1);

/// An entry that is confirmed, and stored with the next one.
pub(super) type Late = (Destination, Envelope, SendOptions);

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Publish for Sabotage {
    async fn publish(
        &self,
        to: &Destination,
        batch: &mut [Envelope],
        options: &SendOptions,
    ) -> Result<Outcomes> {
        let options = self.before(to, batch, options).await?;
        // What is not sent has its outcome already.
        let mut outcomes = Vec::with_capacity(batch.len());
        for entry in &*batch {
            outcomes.push(self.pretend(to, entry, options).await);
        }
        let going = batch.iter().zip(&outcomes).filter(|(_, pretended)| pretended.is_none());
        let mut going: Vec<Envelope> = going.map(|(entry, _)| entry.clone()).collect();
        let mut sent = if going.is_empty() {
            Vec::new().into_iter()
        } else {
            self.send(to, &mut going, &options).await?.into_iter()
        };
        let missing = || Err(Error::new(ErrorKind::Fatal, "the adapter returned too few outcomes"));
        let outcomes = outcomes.into_iter().map(|pretended| match pretended {
            Some(stored) => Ok(stored),
            None => sent.next().unwrap_or_else(missing),
        });
        Ok(self.after(outcomes.collect()).into_iter().collect())
    }
}

impl Sabotage {
    /// What is done first, and with which options the batch then goes.
    async fn before(
        &self,
        to: &Destination,
        batch: &[Envelope],
        options: &SendOptions,
    ) -> Result<SendOptions> {
        match self.saboteur.mutant {
            Mutant::HangInPublish => pending().await,
            Mutant::SendTwice => self.inner.publish(to, &mut batch.to_vec(), options).await?,
            Mutant::DeliverNowAndThen if options.deliver_at.is_some() => {
                let now = options.deliver_at(None);
                self.inner.publish(to, &mut batch.to_vec(), &now).await?
            }
            Mutant::DeliverAtOnce => return Ok(options.deliver_at(None)),
            Mutant::StoreTwice | Mutant::KnowOnlyOnesOwn => return Ok(options.deduplicate(false)),
            _ => return Ok(*options),
        };
        Ok(*options)
    }

    /// What is said of an entry that is not sent; nothing for one that is.
    async fn pretend(
        &self,
        to: &Destination,
        entry: &Envelope,
        options: SendOptions,
    ) -> Option<Stored> {
        let stored = match self.saboteur.mutant {
            Mutant::ConfirmWithoutStoring => self.saboteur.plot.count_entry().is_multiple_of(7),
            Mutant::DropWithoutGroups => !self.has_groups(&to.topic).await,
            Mutant::StoreWithTheNext => {
                let before = lock(&self.late).replace((to.clone(), entry.clone(), options));
                if let Some((to, entry, options)) = before {
                    // Its outcome was told already, whatever it is.
                    let _ = self.inner.publish(&to, &mut [entry], &options).await;
                }
                true
            }
            Mutant::KnowOnlyOnesOwn => {
                let mut known = lock(&self.known);
                known.retain(|_, at| at.elapsed() < WINDOW);
                let id = (to.topic.clone(), entry.id().to_owned());
                if known.contains_key(&id) {
                    return Some(as_duplicate(Stored::default(), true));
                }
                known.insert(id, Instant::now());
                return None;
            }
            _ => false,
        };
        stored.then(Stored::default)
    }

    async fn has_groups(&self, topic: &TopicName) -> bool {
        let groups = self.inner.admin().groups(topic).await;
        groups.is_ok_and(|groups| !groups.is_empty())
    }

    async fn send(
        &self,
        to: &Destination,
        batch: &mut [Envelope],
        options: &SendOptions,
    ) -> Result<Vec<Result<Stored>>> {
        let outcomes = self.try_once(to, batch, options).await?;
        let is_gone = |outcome: &Result<Stored>| {
            outcome.as_ref().is_err_and(|error| is_unroutable(error.kind()))
        };
        if !self.saboteur.is(Mutant::CreateByPublishing) || !outcomes.iter().any(is_gone) {
            return Ok(outcomes);
        }
        let mut spec = TopicSpec::plain(to.topic.clone());
        (spec.layout, spec.queue) = (to.layout, to.queue);
        self.inner.admin().ensure(&spec, Topology::Create).await?;
        self.try_once(to, batch, options).await
    }

    /// An error of the whole call is one of each entry where entries are lied about.
    async fn try_once(
        &self,
        to: &Destination,
        batch: &mut [Envelope],
        options: &SendOptions,
    ) -> Result<Vec<Result<Stored>>> {
        let lies = matches!(
            self.saboteur.mutant,
            Mutant::FailuresAsSuccess
                | Mutant::OutcomesOfOthers
                | Mutant::SwallowUnroutable
                | Mutant::SwallowTheTooLarge
                | Mutant::CreateByPublishing
                | Mutant::GiveUpAtOnce
        );
        match self.inner.publish(to, batch, options).await {
            Ok(outcomes) => Ok(outcomes.into_iter().collect()),
            Err(error) if lies => Ok(batch.iter().map(|_| Err(error.duplicate())).collect()),
            Err(error) => Err(self.saboteur.said(error)),
        }
    }

    /// What is said of what was sent.
    fn after(&self, mut outcomes: Vec<Result<Stored>>) -> Vec<Result<Stored>> {
        match self.saboteur.mutant {
            Mutant::ShiftOutcomes if outcomes.len() > 1 => outcomes.rotate_left(1),
            Mutant::OutcomesOfOthers => {
                if let Some(last) = outcomes.last_mut() {
                    let own = last.as_ref().cloned().map_err(Error::duplicate);
                    if let Some(before) = lock(&self.before).replace(own) {
                        *last = before;
                    }
                }
            }
            Mutant::OneSpoilsTheBatch => {
                let refused = outcomes.iter().find_map(|outcome| outcome.as_ref().err());
                let refused = refused.filter(|error| error.retry() == Retry::Never);
                if let Some(error) = refused.map(Error::duplicate) {
                    outcomes = outcomes.iter().map(|_| Err(error.duplicate())).collect();
                }
            }
            _ => {}
        }
        outcomes.into_iter().map(|outcome| self.say(outcome)).collect()
    }

    fn say(&self, outcome: Result<Stored>) -> Result<Stored> {
        match (self.saboteur.mutant, outcome) {
            (Mutant::DenyWhatIsStored, Ok(_))
                if self.saboteur.plot.count_entry().is_multiple_of(5) =>
            {
                Err(Error::new(ErrorKind::Backpressure, "sabotage: it is stored"))
            }
            (Mutant::HideTheDuplicate, Ok(stored)) => Ok(as_duplicate(stored, false)),
            (Mutant::FailuresAsSuccess, Err(_)) => Ok(Stored::default()),
            (Mutant::SwallowUnroutable, Err(error)) if is_unroutable(error.kind()) => {
                Ok(Stored::default())
            }
            (Mutant::SwallowTheTooLarge, Err(error)) if error.kind() == ErrorKind::TooLarge => {
                Ok(Stored::default())
            }
            (Mutant::GiveUpAtOnce, Err(error)) if error.kind() == ErrorKind::Connection => {
                Err(error.with_retry(Retry::Never))
            }
            (_, outcome) => outcome.map_err(|error| self.saboteur.said(error)),
        }
    }
}

fn as_duplicate(mut stored: Stored, duplicate: bool) -> Stored {
    stored.duplicate = duplicate;
    stored
}

const fn is_unroutable(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::Unroutable)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
