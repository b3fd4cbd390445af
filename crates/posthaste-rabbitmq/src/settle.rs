//! Settling: acknowledgements and rejections on the channel of the delivery, and copies that are
//! confirmed before their original goes.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use posthaste_core::broker::{
    Confirmation, Extended, Parcel, SettleOutcome, SettleReport, Settlement, Settler, Token,
    Verdict,
};
use posthaste_core::{DeadLetter, Error, Result};
use tokio::time::Instant;

use crate::line::{Line, Told};
use crate::outgoing::{Outgoing, short};
use crate::{convert, dead_letter, delay, groups, names};

/// The way back of one subscription.
#[derive(Debug)]
pub(crate) struct RabbitmqSettler {
    line: Arc<Line>,
}

impl RabbitmqSettler {
    pub(crate) const fn new(line: Arc<Line>) -> Self {
        Self { line }
    }

    /// The copy that comes to the group again after the delay.
    async fn later(&self, delay: Duration, parcel: &Parcel) -> Result<Outgoing> {
        let hub = &self.line.hub;
        let topic = parcel.lane.topic();
        let Some(planned) = self.line.plan.topic(topic) else {
            return Err(Error::invalid("the message is none of this subscription"));
        };
        let to = match &planned.group {
            Some(group) => groups::private_route(hub, topic, group, &planned.queues.own).await?,
            None => names::to_queue(&planned.queues.own, names::EPHEMERAL_LIFE),
        };
        let (exchange, routing_key) = delay::route(delay, &to)?;
        let properties = convert::retried(&parcel.envelope, parcel.attempt)?;
        Ok(Outgoing { exchange, routing_key, properties, body: parcel.envelope.payload().clone() })
    }

    fn letter(letter: &DeadLetter) -> Result<Outgoing> {
        Ok(Outgoing {
            exchange: short("exchange", "")?,
            routing_key: short("routing key", names::dead_letters(&letter.topic, &letter.group))?,
            properties: convert::letter_properties(letter, &dead_letter::new_id())?,
            body: letter.envelope.payload().clone(),
        })
    }
}

/// What is sent before its original is acknowledged.
struct Copies<'a> {
    of: Vec<(usize, &'a Token)>,
    messages: Vec<Outgoing>,
}

#[async_trait]
impl Settler for RabbitmqSettler {
    async fn settle(
        &self,
        batch: &[Settlement],
        confirmation: Confirmation,
    ) -> Result<SettleReport> {
        let mut report = SettleReport::done();
        let mut told: Vec<(usize, &Token, Told)> = Vec::with_capacity(batch.len());
        let mut copies = Copies { of: Vec::new(), messages: Vec::new() };
        for (index, settlement) in batch.iter().enumerate() {
            let (token, verdict) = (&settlement.token, &settlement.verdict);
            if !self.line.is_ours(token) {
                report.except(index, SettleOutcome::LeaseLost);
                continue;
            }
            let copy = match verdict {
                Verdict::Ack => {
                    told.push((index, token, Told::Ack));
                    continue;
                }
                Verdict::Release(_) => {
                    told.push((index, token, Told::Release));
                    continue;
                }
                Verdict::Requeue(_) => {
                    told.push((index, token, Told::Requeue));
                    continue;
                }
                Verdict::After(delay, parcel) => self.later(*delay, parcel).await,
                Verdict::DeadLetter(letter) => Self::letter(letter),
                _ => Err(convert::unknown_verdict()),
            };
            match copy {
                Ok(message) => {
                    copies.of.push((index, token));
                    copies.messages.push(message);
                }
                Err(error) => {
                    told.push((index, token, Told::Requeue));
                    report.except(index, SettleOutcome::Failed(error));
                }
            }
        }
        if !copies.messages.is_empty() {
            let sent = self.line.hub.pool.send(copies.messages).await;
            for ((index, token), outcome) in copies.of.into_iter().zip(sent) {
                match outcome {
                    // Storing took its time: the delivery may have gone to somebody else.
                    Ok(()) if !self.line.is_ours(token) => {
                        report.except(index, SettleOutcome::LeaseLost);
                    }
                    Ok(()) => told.push((index, token, Told::Ack)),
                    Err(error) => {
                        told.push((index, token, Told::Requeue));
                        report.except(index, SettleOutcome::Failed(error));
                    }
                }
            }
        }
        self.tell(told, confirmation, &mut report).await;
        Ok(report)
    }

    async fn extend(&self, tokens: &[Token]) -> Result<Extended> {
        let until = Instant::now() + self.line.plan.lease;
        let lost = tokens.iter().enumerate();
        let lost = lost.filter(|(_, token)| !self.line.prolong(token, until));
        Ok(Extended::except(lost.map(|(index, _)| index).collect()))
    }
}

impl RabbitmqSettler {
    async fn tell(
        &self,
        told: Vec<(usize, &Token, Told)>,
        confirmation: Confirmation,
        report: &mut SettleReport,
    ) {
        let Some(generation) = told.first().map(|(_, token, _)| token.generation) else { return };
        let frames = told.iter().map(|(_, token, how)| (token.sequence, *how)).collect();
        let mut outcome = self.line.tell(frames, generation).await;
        if outcome.is_ok() && confirmation == Confirmation::Broker {
            outcome = self.line.barrier(generation).await;
        }
        if let Err(error) = outcome {
            for (index, _, _) in told {
                report.except(index, SettleOutcome::Failed(error.duplicate()));
            }
        }
    }
}
