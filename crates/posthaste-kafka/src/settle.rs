//! Settling: verdicts change the books at once; the broker learns of them by the next commit.
//!
//! What fails comes again from memory if that is soon. Else a copy goes to the private topic of the
//! group, and what is given up is stored as a dead letter: both before the message is settled.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use posthaste_core::broker::{
    Confirmation, Extended, SettleOutcome, SettleReport, Settlement, Settler, Token, Verdict,
};
use posthaste_core::{Error, ErrorKind, GroupName, Result, Timestamp, TopicName};
use tokio::time::Instant;

use crate::consumer::{Answer, Shared};
use crate::dead_letter;
use crate::error::BROKER;
use crate::hub::Hub;
use crate::private::{self, Copy};

/// When a message comes again whose dead letter could not be stored.
const AGAIN: Duration = Duration::from_secs(1);

/// The way back of one subscription.
pub(crate) struct KafkaSettler {
    hub: Arc<Hub>,
    shared: Arc<Shared>,
    /// Without one, there is no private topic.
    group: Option<GroupName>,
}

impl KafkaSettler {
    pub(crate) const fn new(hub: Arc<Hub>, shared: Arc<Shared>, group: Option<GroupName>) -> Self {
        Self { hub, shared, group }
    }

    /// Stores copies in the private topics, then settles their messages. What cannot be stored
    /// waits in memory.
    async fn put_off(
        &self,
        batch: &[Settlement],
        copies: &[(usize, Duration)],
        report: &mut SettleReport,
    ) {
        let Some(group) = &self.group else { return };
        let (now, time) = (Instant::now(), Timestamp::now());
        let mut topics: Vec<(&TopicName, Vec<PutOff<'_>>)> = Vec::new();
        for (index, delay) in copies {
            let Some(Settlement { token, verdict, .. }) = batch.get(*index) else { continue };
            let (Verdict::Requeue(parcel) | Verdict::After(_, parcel)) = verdict else { continue };
            let due = (!delay.is_zero()).then(|| time + *delay);
            let copy = Copy { envelope: &parcel.envelope, attempts: parcel.attempt, due };
            let one = (*index, token, *delay, copy);
            let topic = parcel.lane.topic();
            match topics.iter_mut().find(|(of, _)| *of == topic) {
                Some((_, all)) => all.push(one),
                None => topics.push((topic, vec![one])),
            }
        }
        for (topic, all) in topics {
            let copies: Vec<_> = all.iter().map(|(.., copy)| *copy).collect();
            let outcomes = private::store(&self.hub, topic, group, &copies).await;
            for ((index, token, delay, _), outcome) in all.into_iter().zip(outcomes) {
                match outcome {
                    Ok(()) if self.shared.buried(token) => {}
                    Ok(()) => report.except(index, SettleOutcome::LeaseLost),
                    Err(error) => {
                        tracing::debug!(%topic, %error, "a copy was not stored");
                        let left = (now + delay).saturating_duration_since(Instant::now());
                        self.shared.keep(token, left);
                    }
                }
            }
        }
    }

    /// Stores dead letters, then settles their messages.
    async fn bury(&self, batch: &[Settlement], indexes: &[usize], report: &mut SettleReport) {
        let letters = indexes.iter().filter_map(|index| {
            let settlement = batch.get(*index)?;
            match &settlement.verdict {
                Verdict::DeadLetter(letter) => Some((*index, &settlement.token, &**letter)),
                _ => None,
            }
        });
        let letters: Vec<_> = letters.collect();
        let all: Vec<_> = letters.iter().map(|(.., letter)| *letter).collect();
        let outcomes = dead_letter::store(&self.hub, &all).await;
        for ((index, token, _), outcome) in letters.into_iter().zip(outcomes) {
            match outcome {
                Ok(()) if self.shared.buried(token) => {}
                Ok(()) => report.except(index, SettleOutcome::LeaseLost),
                Err(error) => {
                    self.shared.keep(token, AGAIN);
                    report.except(index, SettleOutcome::Failed(error));
                }
            }
        }
    }
}

#[async_trait]
impl Settler for KafkaSettler {
    async fn settle(
        &self,
        batch: &[Settlement],
        confirmation: Confirmation,
    ) -> Result<SettleReport> {
        let mut report = SettleReport::done();
        let open = self.shared.book(batch, confirmation);
        open.lost.iter().for_each(|index| report.except(*index, SettleOutcome::LeaseLost));
        if !open.letters.is_empty() {
            self.bury(batch, &open.letters, &mut report).await;
        }
        if !open.copies.is_empty() {
            self.put_off(batch, &open.copies, &mut report).await;
        }
        confirm(open.asked, &mut report).await;
        Ok(report)
    }

    async fn extend(&self, tokens: &[Token]) -> Result<Extended> {
        Ok(Extended::except(self.shared.extend(tokens)))
    }
}

/// Waits until the broker has what was settled.
async fn confirm(asked: Vec<(Vec<usize>, Answer)>, report: &mut SettleReport) {
    for (indexes, answer) in asked {
        let answer = answer.await.unwrap_or_else(|_| Err(ended()));
        let Err(failed) = answer else { continue };
        for index in indexes {
            report.except(
                index,
                match failed.kind() {
                    ErrorKind::LeaseLost => SettleOutcome::LeaseLost,
                    _ => SettleOutcome::Failed(failed.duplicate()),
                },
            );
        }
    }
}

/// A message that waits for long: its place in the batch, its token, how long, its copy.
type PutOff<'a> = (usize, &'a Token, Duration, Copy<'a>);

#[cold]
fn ended() -> Error {
    Error::closed("the subscription ended before the broker confirmed").with_broker(BROKER)
}

impl fmt::Debug for KafkaSettler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSettler").field("books", &self.shared).finish_non_exhaustive()
    }
}
