//! Brokers with a defect, to see whether the cases notice.
//!
//! A case that cannot fail proves nothing. [`Sabotage`] stands before any broker and breaks one
//! promise in one small way, a [`Mutant`]; [`hunt`] runs the cases of that promise until one fails.
//! A mutant that survives is a hole in the suite.
//!
//! Mutants sit at the adapter's seam. Some promises are kept above it, by core, once for all
//! adapters; their mutants are what an adapter can still do to break them:
//!
//! | promise | kept by core | what an adapter can break |
//! |---|---|---|
//! | P13 | the timer that extends | extending |
//! | P14 | the limit of attempts | the count, and what becomes of a release |
//! | P15 | the gate of each key | the order of a lane, and order on a plain topic |
//! | P21 | what becomes of an expired message | the time at which it expires |
//! | P30 | deadlines, the window, whoever is not polled | a call that never ends |
//! | P31 | windows and books apart from each other | drivers that wait for each other |
//! | P34 | nothing | binding has no seam: the native client has |

mod admin;
mod driver;
mod hunt;
mod mutant;
mod plot;
mod settle;

use std::any::Any;
use std::collections::HashSet;
use std::future::pending;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use posthaste_core::broker::{
    Admin, Destination, Order, Outcomes, Publish, SendOptions, Start, Stored, SubscribeRequest,
    Subscribed,
};
use posthaste_core::{Broker, Capabilities, Envelope, ErrorKind, Health, Result, TopicName};
use tokio::time::Instant;

use self::admin::SabotagedAdmin;
use self::driver::SabotagedDriver;
pub use self::hunt::{Catch, harmless, harness, hunt};
pub use self::mutant::Mutant;
use self::plot::Plot;
use self::settle::SabotagedSettler;

/// A broker with a defect.
#[derive(Debug)]
pub struct Sabotage {
    inner: Arc<dyn Broker>,
    mutant: Mutant,
    plot: Arc<Plot>,
    admin: SabotagedAdmin,
}

impl Sabotage {
    /// The broker with this defect.
    #[must_use]
    pub fn new(inner: Arc<dyn Broker>, mutant: Mutant) -> Self {
        Self::with_plot(inner, mutant, Arc::default(), "sabotage")
    }

    fn with_plot(inner: Arc<dyn Broker>, mutant: Mutant, plot: Arc<Plot>, secret: &str) -> Self {
        let admin = SabotagedAdmin { inner: Arc::clone(&inner), mutant, secret: secret.to_owned() };
        Self { inner, mutant, plot, admin }
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == mutant
    }

    async fn has_groups(&self, topic: &TopicName) -> bool {
        let groups = self.inner.admin().groups(topic).await;
        groups.is_ok_and(|groups| !groups.is_empty())
    }
}

#[async_trait]
impl Publish for Sabotage {
    async fn publish(
        &self,
        to: &Destination,
        batch: &mut [Envelope],
        options: &SendOptions,
    ) -> Result<Outcomes> {
        let mut options = *options;
        let confirmed =
            |entries: &[Envelope]| entries.iter().map(|_| Ok(Stored::default())).collect();
        match self.mutant {
            Mutant::PublishWithoutAnswer => pending::<()>().await,
            Mutant::DropWithoutGroups if !self.has_groups(&to.topic).await => {
                return Ok(confirmed(batch));
            }
            Mutant::DeliverAtOnce => options = options.deliver_at(None),
            Mutant::StoreTwice => options = options.deduplicate(false),
            _ => {}
        }
        if self.is(Mutant::ConfirmWithoutStoring) {
            return self.lose_every_seventh(to, batch, &options).await;
        }
        let unroutable = [ErrorKind::NotFound, ErrorKind::Unroutable];
        let hides = |kind: ErrorKind| match self.mutant {
            Mutant::FailuresAsSuccess => true,
            Mutant::SwallowUnroutable => unroutable.contains(&kind),
            _ => false,
        };
        let outcomes = match self.inner.publish(to, batch, &options).await {
            Err(error) if hides(error.kind()) => return Ok(confirmed(batch)),
            outcomes => outcomes?,
        };
        let mut outcomes: Vec<Result<Stored>> = outcomes
            .into_iter()
            .map(|outcome| match outcome {
                Err(error) if hides(error.kind()) => Ok(Stored::default()),
                outcome => outcome,
            })
            .collect();
        if self.is(Mutant::ShiftOutcomes) && outcomes.len() > 1 {
            outcomes.rotate_left(1);
        }
        Ok(outcomes.into_iter().collect())
    }
}

impl Sabotage {
    async fn lose_every_seventh(
        &self,
        to: &Destination,
        batch: &[Envelope],
        options: &SendOptions,
    ) -> Result<Outcomes> {
        let lost: Vec<bool> =
            batch.iter().map(|_| self.plot.count_entry().is_multiple_of(7)).collect();
        let kept = batch.iter().zip(&lost).filter(|(_, lost)| !**lost);
        let mut kept: Vec<Envelope> = kept.map(|(entry, _)| entry.clone()).collect();
        let mut outcomes = if kept.is_empty() {
            Outcomes::default().into_iter()
        } else {
            self.inner.publish(to, &mut kept, options).await?.into_iter()
        };
        let next = |lost: bool| if lost { None } else { outcomes.next() };
        let all = lost.into_iter().map(next);
        Ok(all.map(|outcome| outcome.unwrap_or_else(|| Ok(Stored::default()))).collect())
    }
}

#[async_trait]
impl Broker for Sabotage {
    fn capabilities(&self, topic: Option<&TopicName>) -> Arc<Capabilities> {
        self.inner.capabilities(topic)
    }

    async fn subscribe(&self, mut request: SubscribeRequest) -> Result<Subscribed> {
        match self.mutant {
            Mutant::StartAtTheEarliest => request.start = Start::Earliest,
            Mutant::OrderOnAnyTopic => request.order = Order::None,
            _ => {}
        }
        let (lease, group, queue) = (request.lease, request.group.clone(), request.queue);
        let place = (request.topics[0].clone(), group.clone());
        let subscribed = self.inner.subscribe(request).await;
        let mut subscribed = subscribed.map_err(|error| self.admin.said(error))?;
        match self.mutant {
            Mutant::HideDifferingLeases => subscribed.differences.clear(),
            Mutant::TakeTheNewLease => subscribed.lease = lease,
            _ => {}
        }
        let (member, rank) = self.plot.join(&place);
        let settler = Arc::new(SabotagedSettler {
            inner: subscribed.driver.settler(),
            broker: Arc::clone(&self.inner),
            mutant: self.mutant,
            plot: Arc::clone(&self.plot),
            member,
            group,
            order: Mutex::default(),
        });
        let driver = SabotagedDriver {
            inner: subscribed.driver,
            settler,
            mutant: self.mutant,
            plot: Arc::clone(&self.plot),
            member,
            rank,
            queue,
            deaf: false,
            seen: 0,
            withheld: HashSet::new(),
            stopped: false,
        };
        let differences = subscribed.differences;
        let mut sabotaged = Subscribed::new(Box::new(driver), subscribed.lease);
        sabotaged.differences = differences;
        Ok(sabotaged)
    }

    fn admin(&self) -> &dyn Admin {
        &self.admin
    }

    async fn health(&self) -> Result<Health> {
        match self.mutant {
            Mutant::AlwaysLive => Ok(Health::Live),
            Mutant::HangInHealth => pending().await,
            _ => self.inner.health().await,
        }
    }

    async fn close(&self, deadline: Instant) -> Result<()> {
        self.inner.close(deadline).await
    }

    fn native(&self) -> Option<&(dyn Any + Send + Sync)> {
        if self.is(Mutant::HideTheNativeClient) { None } else { self.inner.native() }
    }
}
