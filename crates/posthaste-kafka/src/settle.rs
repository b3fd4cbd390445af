//! Settling: verdicts change the books at once; the broker learns of them by the next commit.
//!
//! What fails comes again from memory, however long the delay is: a partition with too much of
//! that is read no further. What is given up is stored as a dead letter first.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use posthaste_core::broker::{
    Confirmation, Extended, SettleOutcome, SettleReport, Settlement, Settler, Token, Verdict,
};
use posthaste_core::{Cause, DeadLetter, Error, ErrorKind, Result};
use tokio::time::Instant;
use uuid::Uuid;

use crate::completion::{Fate, Waiting};
use crate::consumer::Shared;
use crate::error::BROKER;
use crate::hub::Hub;
use crate::producer::Record;
use crate::{convert, error, names};

/// When a message comes again whose dead letter could not be stored.
const AGAIN: Duration = Duration::from_secs(1);
/// What is kept of a cause that is too long for its message.
const SHORT_CAUSE: usize = 100;

/// The way back of one subscription.
pub(crate) struct KafkaSettler {
    hub: Arc<Hub>,
    shared: Arc<Shared>,
}

impl KafkaSettler {
    pub(crate) const fn new(hub: Arc<Hub>, shared: Arc<Shared>) -> Self {
        Self { hub, shared }
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
        let until = self.hub.deadline();
        let waiting = Waiting::for_batch(letters.len());
        let mut refused = Vec::with_capacity(letters.len());
        for (at, (_, _, letter)) in letters.iter().enumerate() {
            let sent = send(&self.hub, letter, &waiting, at, until).await;
            refused.push(sent.err());
        }
        waiting.complete().await;
        for (at, ((index, token, _), refused)) in letters.into_iter().zip(refused).enumerate() {
            let outcome = match (refused, waiting.fate(at)) {
                (None, Some(Fate::Stored { .. })) if self.shared.buried(token) => continue,
                (None, Some(Fate::Stored { .. })) => SettleOutcome::LeaseLost,
                (Some(error), _) => SettleOutcome::Failed(error),
                (None, Some(Fate::Failed { code, maybe_written })) => {
                    let error = error::publish(code, maybe_written);
                    SettleOutcome::Failed(self.hub.explain(error))
                }
                (None, None) => SettleOutcome::Failed(error::closed()),
            };
            if let SettleOutcome::Failed(_) = &outcome {
                self.shared.keep(token, AGAIN);
            }
            report.except(index, outcome);
        }
    }

    /// Waits until the broker has what was settled.
    async fn confirm(&self, settled: &[(usize, &Token)], report: &mut SettleReport) {
        for (indexes, answer) in self.shared.ask(settled) {
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
}

#[async_trait]
impl Settler for KafkaSettler {
    async fn settle(
        &self,
        batch: &[Settlement],
        confirmation: Confirmation,
    ) -> Result<SettleReport> {
        let mut report = SettleReport::done();
        let open = self.shared.book(batch);
        open.lost.iter().for_each(|index| report.except(*index, SettleOutcome::LeaseLost));
        if !open.letters.is_empty() {
            self.bury(batch, &open.letters, &mut report).await;
        }
        if confirmation == Confirmation::Broker {
            let settled = batch.iter().enumerate().filter(|(index, settlement)| {
                matches!(settlement.verdict, Verdict::Ack) && !open.lost.contains(index)
            });
            let settled: Vec<_> =
                settled.map(|(index, settlement)| (index, &settlement.token)).collect();
            self.confirm(&settled, &mut report).await;
        }
        Ok(report)
    }

    async fn extend(&self, tokens: &[Token]) -> Result<Extended> {
        Ok(Extended::except(self.shared.extend(tokens)))
    }
}

/// Hands a letter to the client. Its fate is told to `waiting`.
async fn send(
    hub: &Hub,
    letter: &DeadLetter,
    waiting: &Waiting,
    at: usize,
    until: Instant,
) -> Result<()> {
    let name = names::dead_letter_topic(&letter.topic, &letter.group);
    let producer = async { hub.producer(hub.find(&name, until).await?, until).await };
    let producer = match producer.await {
        Ok(producer) => producer,
        Err(error) => {
            waiting.forgo(1);
            return Err(error);
        }
    };
    // Each letter stays, also of a message that was given up before: only who names it removes it.
    let id = Uuid::now_v7().to_string();
    let record = Record {
        topic: &name,
        partition: None,
        key: Some(id.as_bytes()),
        payload: Some(letter.envelope.payload()),
        headers: convert::letter_headers(&fitting(letter, hub.config.max_message_bytes())),
    };
    // Also what the client does not take is told there.
    producer.send(record, waiting.ticket(at), until).await;
    Ok(())
}

/// The letter with no more of its cause than there is room for. Every publish keeps room for a
/// short one free.
fn fitting(letter: &DeadLetter, limit: usize) -> std::borrow::Cow<'_, DeadLetter> {
    /// As much as `convert` keeps free.
    const RESERVE: usize = 2_048;
    let Some(cause) = &letter.cause else { return std::borrow::Cow::Borrowed(letter) };
    let causes: usize = cause.chain().iter().map(String::len).sum();
    // What is no plain text in a header takes more.
    if convert::size(&letter.envelope) + RESERVE + 3 * causes <= limit {
        return std::borrow::Cow::Borrowed(letter);
    }
    let mut short = letter.clone();
    let text = cause.chain().first().map_or("", String::as_str);
    short.cause = Some(Cause::new(text.chars().take(SHORT_CAUSE).collect::<String>()));
    std::borrow::Cow::Owned(short)
}

#[cold]
fn ended() -> Error {
    Error::closed("the subscription ended before the broker confirmed").with_broker(BROKER)
}

impl fmt::Debug for KafkaSettler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSettler").field("books", &self.shared).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use posthaste_core::{Envelope, GroupName, Reason, TopicName};

    use super::*;

    #[test]
    fn a_cause_is_cut_where_the_message_leaves_no_room() {
        let envelope = Envelope::builder("t").source("/s").payload(vec![0; 5_000]).build().unwrap();
        let (topic, group) = (TopicName::new("t").unwrap(), GroupName::new("g").unwrap());
        let mut letter = DeadLetter::new(envelope, Reason::AttemptsExhausted, topic, group);
        letter.cause = Some(Cause::new("x".repeat(3_000)));
        let length = |limit| fitting(&letter, limit).cause.as_ref().unwrap().chain()[0].len();
        // Core has a bound of its own.
        assert!(length(20_000) > SHORT_CAUSE);
        assert_eq!(length(7_500), SHORT_CAUSE);
    }
}
