//! Settling: verdicts become answers on the subjects that the deliveries named.
//!
//! An answer reaches the server over any connection, so a settlement outlives a reconnect. The
//! server does not tell late answers from those of the present holder: verdicts other than an
//! acknowledgement are sent only while the lease lasts by our clock.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::Subject;
use async_nats::message::OutboundMessage;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use posthaste_core::broker::{
    Confirmation, Extended, Lane, LaneState, SettleOutcome, SettleReport, Settlement, Settler,
    Token, Verdict,
};
use posthaste_core::{Error, Result};
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::hub::Hub;
use crate::lease::LeaseClock;
use crate::{dead_letter, error};

pub(crate) const ACK: Bytes = Bytes::from_static(b"+ACK");
pub(crate) const PROGRESS: Bytes = Bytes::from_static(b"+WPI");
const NAK: Bytes = Bytes::from_static(b"-NAK");
const TERM: Bytes = Bytes::from_static(b"+TERM");

/// How many answers are awaited at once, where the server's confirmation is asked for.
const CONFIRMED_AT_ONCE: usize = 256;

/// The way back of one subscription.
pub(crate) struct NatsSettler {
    hub: Arc<Hub>,
    clock: LeaseClock,
    /// Lanes that can be lost, by their number in tokens.
    lanes: Mutex<HashMap<u32, Arc<Lane>>>,
}

impl NatsSettler {
    pub(crate) fn new(hub: Arc<Hub>, lease: Duration) -> Self {
        Self { hub, clock: LeaseClock::new(lease), lanes: Mutex::default() }
    }

    pub(crate) const fn clock(&self) -> &LeaseClock {
        &self.clock
    }

    /// Whether the delivery is not ours any more.
    fn is_lost(&self, token: &Token) -> bool {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = lanes.get(&token.lane).is_some_and(|lane| lane.state() == LaneState::Lost);
        drop(lanes);
        lost || self.clock.is_over(token)
    }

    /// Waits until something can be sent.
    async fn ready(&self) -> Result<()> {
        // What is settled late is settled all the same: core bounds the wait.
        self.hub.link.ready(Instant::now() + Duration::from_secs(60)).await
    }
}

/// The subject that takes the answer to a delivery.
pub(crate) fn reply(token: &Token) -> Option<Subject> {
    Subject::from_utf8(token.handle.clone()).ok()
}

pub(crate) const fn answer(subject: Subject, payload: Bytes) -> OutboundMessage {
    OutboundMessage { subject, reply: None, payload, headers: None }
}

/// What is to be answered to one delivery.
struct Answer {
    index: usize,
    subject: Subject,
    payload: Bytes,
}

#[async_trait]
impl Settler for NatsSettler {
    async fn settle(
        &self,
        batch: &[Settlement],
        confirmation: Confirmation,
    ) -> Result<SettleReport> {
        self.ready().await?;
        let mut report = SettleReport::done();
        let mut answers: SmallVec<[Answer; 1]> = SmallVec::with_capacity(batch.len());
        let mut letters = Vec::new();
        for (index, settlement) in batch.iter().enumerate() {
            let token = &settlement.token;
            let Some(subject) = reply(token) else {
                let error = Error::invalid("the token is none of this subscription");
                report.except(index, SettleOutcome::Failed(error));
                continue;
            };
            let late = !matches!(settlement.verdict, Verdict::Ack) && self.is_lost(token);
            if late {
                report.except(index, SettleOutcome::LeaseLost);
                continue;
            }
            let payload = match &settlement.verdict {
                Verdict::Ack => ACK,
                Verdict::Release(_) | Verdict::Requeue(_) => NAK,
                Verdict::After(delay, _) => delayed(*delay),
                Verdict::DeadLetter(letter) => {
                    letters.push((
                        letter.as_ref(),
                        Answer { index, subject, payload: TERM },
                        token,
                    ));
                    continue;
                }
                _ => {
                    let error = Error::unsupported("this verdict is not known here");
                    report.except(index, SettleOutcome::Failed(error));
                    continue;
                }
            };
            answers.push(Answer { index, subject, payload });
        }
        if !letters.is_empty() {
            let stored = letters.iter().map(|(letter, _, token)| (*letter, token.sequence));
            let outcomes = dead_letter::store(&self.hub, stored).await;
            for ((_, answer, token), outcome) in letters.into_iter().zip(outcomes) {
                match outcome {
                    // Storing took its time: the delivery may have gone to somebody else.
                    Ok(()) if self.is_lost(token) => {
                        report.except(answer.index, SettleOutcome::LeaseLost);
                    }
                    Ok(()) => answers.push(answer),
                    Err(error) => report.except(answer.index, SettleOutcome::Failed(error)),
                }
            }
        }
        match confirmation {
            Confirmation::Broker => self.confirm(answers, &mut report).await,
            _ => self.send(answers).await?,
        }
        batch.iter().for_each(|settlement| self.clock.forget(&settlement.token));
        Ok(report)
    }

    async fn extend(&self, tokens: &[Token]) -> Result<Extended> {
        self.ready().await?;
        let mut lost = Vec::new();
        for (index, token) in tokens.iter().enumerate() {
            let Some(subject) = reply(token).filter(|_| !self.is_lost(token)) else {
                lost.push(index);
                continue;
            };
            self.hub.client.publish(subject, PROGRESS).await.map_err(error::send)?;
            self.clock.prolong(token);
        }
        self.hub.client.flush().await.map_err(error::flush)?;
        Ok(Extended::except(lost))
    }
}

impl NatsSettler {
    /// Writes the answers, and sees that they leave.
    async fn send(&self, answers: SmallVec<[Answer; 1]>) -> Result<()> {
        if answers.is_empty() {
            return Ok(());
        }
        for answer in answers {
            let sent = self.hub.client.publish(answer.subject, answer.payload).await;
            sent.map_err(error::send)?;
        }
        self.hub.client.flush().await.map_err(error::flush)
    }

    /// Sends the answers and waits for what the server says to each.
    async fn confirm(&self, answers: SmallVec<[Answer; 1]>, report: &mut SettleReport) {
        let asked = answers.into_iter().map(|answer| async move {
            let Answer { index, subject, payload } = answer;
            (index, self.hub.api.raw(&subject, payload).await)
        });
        let mut asked = stream::iter(asked).buffer_unordered(CONFIRMED_AT_ONCE);
        while let Some((index, outcome)) = asked.next().await {
            if let Err(error) = outcome {
                report.except(index, SettleOutcome::Failed(error));
            }
        }
    }
}

fn delayed(delay: Duration) -> Bytes {
    // The server takes a signed number of nanoseconds.
    let nanos = i64::try_from(delay.as_nanos()).unwrap_or(i64::MAX / 2);
    format!("-NAK {{\"delay\": {nanos}}}").into()
}

impl fmt::Debug for NatsSettler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsSettler").field("clock", &self.clock).finish_non_exhaustive()
    }
}
