//! Settling: verdicts become answers on the subjects that the deliveries named.
//!
//! An answer reaches the server over any connection, so a settlement outlives a reconnect. The
//! server does not tell late answers from those of the present holder: verdicts other than an
//! acknowledgement are sent only while the lease lasts by our clock.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::Subject;
use async_nats::message::OutboundMessage;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use posthaste_core::broker::{
    Confirmation, Extended, SettleOutcome, SettleReport, Settlement, Settler, Token, Verdict,
};
use posthaste_core::{Error, Result};
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::hub::Hub;
use crate::lanes::handle::LaneHandle;
use crate::lease::LeaseClock;
use crate::{dead_letter, error};

pub(crate) const ACK: Bytes = Bytes::from_static(b"+ACK");
pub(crate) const PROGRESS: Bytes = Bytes::from_static(b"+WPI");
pub(crate) const NAK: Bytes = Bytes::from_static(b"-NAK");
const TERM: Bytes = Bytes::from_static(b"+TERM");

/// How many answers are awaited at once, where the server's confirmation is asked for.
const CONFIRMED_AT_ONCE: usize = 256;

/// The way back of one subscription.
pub(crate) struct NatsSettler {
    hub: Arc<Hub>,
    clock: LeaseClock,
    /// Ordered lanes, by their number in tokens.
    lanes: Mutex<HashMap<u32, Arc<LaneHandle>>>,
    next_lane: AtomicU32,
}

impl NatsSettler {
    pub(crate) fn new(hub: Arc<Hub>, lease: Duration) -> Self {
        let next_lane = AtomicU32::new(0);
        Self { hub, clock: LeaseClock::new(lease), lanes: Mutex::default(), next_lane }
    }

    pub(crate) const fn clock(&self) -> &LeaseClock {
        &self.clock
    }

    /// The number of the next lane, for tokens.
    pub(crate) fn number(&self) -> u32 {
        self.next_lane.fetch_add(1, Ordering::Relaxed)
    }

    /// Keeps the books of an ordered lane from now on.
    pub(crate) fn keep(&self, handle: &Arc<LaneHandle>) {
        self.lanes().insert(handle.number, Arc::clone(handle));
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<u32, Arc<LaneHandle>>> {
        // Nothing panics while it is held but an allocation that failed.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lane(&self, token: &Token) -> Option<Arc<LaneHandle>> {
        let lanes = self.lanes();
        if lanes.is_empty() { None } else { lanes.get(&token.lane).cloned() }
    }

    /// Whether the delivery is not ours any more.
    fn is_lost(&self, token: &Token) -> bool {
        self.lane(token).is_some_and(|lane| lane.is_lost()) || self.clock.is_over(token)
    }

    /// Notes what becomes of a delivery of an ordered lane. Before the server is told: what is
    /// settled must not be handed out again if that word is lost.
    fn note(&self, token: &Token, outcome: Noted) {
        let Some(lane) = self.lane(token) else { return };
        lane.update(|book| match outcome {
            Noted::Settled => book.settle(token.sequence, token.handle.clone()),
            Noted::GivenBack => book.give_back(token.sequence),
        });
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

/// What becomes of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Noted {
    Settled,
    GivenBack,
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
        let _telling = Telling { settler: self, batch };
        for (index, settlement) in batch.iter().enumerate() {
            let token = &settlement.token;
            let Some(subject) = reply(token) else {
                let error = Error::invalid("the token is none of this subscription");
                report.except(index, SettleOutcome::Failed(error));
                continue;
            };
            let late = !matches!(settlement.verdict, Verdict::Ack) && self.is_lost(token);
            if late {
                self.note(token, Noted::GivenBack);
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
            let settled = payload == ACK;
            self.note(token, if settled { Noted::Settled } else { Noted::GivenBack });
            answers.push(Answer { index, subject, payload });
        }
        if !letters.is_empty() {
            let stored = letters.iter().map(|(letter, _, token)| (*letter, token.sequence));
            let outcomes = dead_letter::store(&self.hub, stored).await;
            for ((_, answer, token), outcome) in letters.into_iter().zip(outcomes) {
                match outcome {
                    // Storing took its time: the delivery may have gone to somebody else.
                    Ok(()) if self.is_lost(token) => {
                        self.note(token, Noted::GivenBack);
                        report.except(answer.index, SettleOutcome::LeaseLost);
                    }
                    Ok(()) => {
                        self.note(token, Noted::Settled);
                        answers.push(answer);
                    }
                    Err(error) => {
                        self.note(token, Noted::GivenBack);
                        report.except(answer.index, SettleOutcome::Failed(error));
                    }
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

/// The server is being told of a batch; when this goes, it was, or it could not be.
struct Telling<'a> {
    settler: &'a NatsSettler,
    batch: &'a [Settlement],
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        for Settlement { token, .. } in self.batch {
            if let Some(lane) = self.settler.lane(token) {
                lane.update(|book| book.told(token.sequence));
            }
        }
    }
}

pub(crate) fn delayed(delay: Duration) -> Bytes {
    // The server takes a signed number of nanoseconds.
    let nanos = i64::try_from(delay.as_nanos()).unwrap_or(i64::MAX / 2);
    format!("-NAK {{\"delay\": {nanos}}}").into()
}

impl fmt::Debug for NatsSettler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsSettler").field("clock", &self.clock).finish_non_exhaustive()
    }
}
