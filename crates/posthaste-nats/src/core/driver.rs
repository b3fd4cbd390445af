//! Receiving what comes while somebody listens.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_nats::Subscriber;
use async_trait::async_trait;
use futures_util::StreamExt as _;
use posthaste_core::Result;
use posthaste_core::broker::{
    Confirmation, Credit, DriverEvent, Extended, Lane, Polled, Received, SettleOutcome,
    SettleReport, Settlement, Settler, SubscriptionDriver, Token, Verdict,
};

use super::refused;
use crate::convert::{self, Origin};
use crate::error;
use crate::link_watch::LinkWatch;

pub(super) struct CoreDriver {
    link: LinkWatch,
    events: VecDeque<DriverEvent>,
    sources: Vec<(Arc<Lane>, Subscriber)>,
    stopping: bool,
}

impl CoreDriver {
    pub(super) fn new(link: LinkWatch, sources: Vec<(Arc<Lane>, Subscriber)>) -> Self {
        Self { link, events: VecDeque::new(), sources, stopping: false }
    }
}

impl SubscriptionDriver for CoreDriver {
    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<Received>,
        credit: Credit,
    ) -> Poll<Result<Polled>> {
        if self.stopping {
            return Poll::Ready(Ok(Polled::Stopped));
        }
        self.link.poll(cx, &mut self.events)?;
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(Ok(Polled::Event(event)));
        }
        let mut left = credit.messages;
        for (lane, subscriber) in &mut self.sources {
            while left > 0 {
                let Poll::Ready(message) = subscriber.poll_next_unpin(cx) else { break };
                let Some(message) = message else { return Poll::Ready(Err(error::closed())) };
                left -= 1;
                // The server gives such messages no place: an id is made up if there is none.
                let unique = format!("{:016x}", fastrand::u64(..));
                let subject = &message.subject;
                let origin = Origin { stream: &unique, subject, sequence: 0, stored_at: None };
                let headers = message.headers.as_ref();
                let envelope = convert::envelope(headers, message.payload, &origin);
                out.push(Received::new(envelope, Token::default(), Arc::clone(lane)));
            }
        }
        if left < credit.messages { Poll::Ready(Ok(Polled::Batch)) } else { Poll::Pending }
    }

    fn stop(&mut self) {
        self.stopping = true;
        self.sources.clear();
    }

    fn settler(&self) -> Arc<dyn Settler> {
        Arc::new(Nothing)
    }
}

/// There is nothing to settle: what was delivered is gone.
#[derive(Debug)]
struct Nothing;

#[async_trait]
impl Settler for Nothing {
    async fn settle(&self, batch: &[Settlement], _: Confirmation) -> Result<SettleReport> {
        let mut report = SettleReport::done();
        for (index, settlement) in batch.iter().enumerate() {
            if !matches!(settlement.verdict, Verdict::Ack) {
                report.except(index, SettleOutcome::Failed(refused("giving a message back")));
            }
        }
        Ok(report)
    }

    async fn extend(&self, _: &[Token]) -> Result<Extended> {
        Ok(Extended::default())
    }
}

impl fmt::Debug for CoreDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoreDriver").field("stopping", &self.stopping).finish_non_exhaustive()
    }
}
