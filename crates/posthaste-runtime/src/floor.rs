//! What the workers of a consumer share.
//!
//! Workers take turns at the subscription: who has it, the *lead*, takes a delivery and polls its
//! handler once. A handler that is done by then costs no more than a loop over the subscription
//! does. One that has to wait gets its worker for itself: the lead goes to the next who is free.

use std::sync::{Arc, Mutex as Plain, PoisonError};
use std::time::Duration;

use posthaste_core::{
    Cause, Delivery, Error, ErrorKind, Nack, Reason, Result, Stats, Stopper, Subscription,
    Timestamp,
};
use tokio::sync::{Mutex, watch};

use crate::control::{Control, Phase};
use crate::publish::Outbox;
use crate::report::{Counters, count};
use crate::route::{Found, Route, Routes};
use crate::slot::Panicked;
use crate::test_bus::Journal;
use crate::verdict::{Facts, Step, step};
use crate::{HandlerError, Outcome, Replies, Reply, Report, RetryPolicy, Unknown};

pub(crate) struct Floor {
    pub(crate) routes: Routes,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) policy: RetryPolicy,
    pub(crate) time_limit: Option<Duration>,
    pub(crate) unknown: Unknown,
    /// Under at-most-once, where nothing can be given back.
    pub(crate) settled_first: bool,
    pub(crate) counters: Counters,
    pub(crate) control: Control,
    journal: Option<Arc<Journal>>,
    pub(crate) stopper: Stopper,
    pub(crate) intake: Mutex<Intake>,
    failure: Plain<Option<Error>>,
}

/// Where deliveries come from: whoever holds it has the lead.
pub(crate) struct Intake {
    pub(crate) subscription: Subscription,
    /// Taken while a batch was gathered, and not of it.
    pub(crate) carry: Option<Delivery>,
    pub(crate) phase: watch::Receiver<Phase>,
}

/// What a floor is made of.
pub(crate) struct Parts {
    pub(crate) routes: Routes,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) policy: RetryPolicy,
    pub(crate) time_limit: Option<Duration>,
    pub(crate) unknown: Unknown,
    pub(crate) settled_first: bool,
    pub(crate) control: Control,
    pub(crate) journal: Option<Arc<Journal>>,
    pub(crate) subscription: Subscription,
}

impl Floor {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { routes, outbox, policy, time_limit, unknown, settled_first, .. } = parts;
        let (control, journal, subscription) = (parts.control, parts.journal, parts.subscription);
        Self {
            routes,
            outbox,
            policy,
            time_limit,
            unknown,
            settled_first,
            counters: Counters::default(),
            journal,
            stopper: subscription.stopper(),
            intake: Mutex::new(Intake { subscription, carry: None, phase: control.watch() }),
            control,
            failure: Plain::default(),
        }
    }

    /// Ends the consumer: with the first error that it is told.
    pub(crate) fn fail(&self, error: Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.stopper.stop();
        self.control.stop();
    }

    pub(crate) fn failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(crate) fn report(&self, stats: Stats) -> Report {
        self.counters.report(stats)
    }

    /// Settles a delivery by what its handler made of it. Never waits.
    pub(crate) async fn settle(&self, delivery: Delivery, outcome: &Outcome, route: &Route) {
        let settled = match outcome {
            Outcome::Ack => {
                count(&self.counters.handled);
                if let Some(journal) = &self.journal {
                    journal.note(delivery.envelope());
                }
                delivery.ack().await
            }
            failed => self.settle_failed(delivery, failed, route).await,
        };
        if let Err(error) = settled {
            note(&error, route);
        }
    }

    async fn settle_failed(
        &self,
        delivery: Delivery,
        outcome: &Outcome,
        route: &Route,
    ) -> Result<()> {
        let facts =
            Facts { attempt: delivery.attempt(), age: age(&delivery), handler: route.handler };
        match step(&self.policy, outcome, facts) {
            Step::Ack => delivery.ack().await,
            Step::Discard => {
                count(&self.counters.discarded);
                delivery.ack().await
            }
            Step::Nack(nack) => {
                count(&self.counters.failed);
                tracing::debug!(
                    id = delivery.id(),
                    attempt = delivery.attempt(),
                    handler = route.handler,
                    ?outcome,
                    "a handler failed"
                );
                self.nack(delivery, nack).await
            }
        }
    }

    async fn nack(&self, delivery: Delivery, nack: Nack) -> Result<()> {
        if self.settled_first {
            tracing::warn!(id = delivery.id(), "a message that failed is lost: it is at most once");
            return Ok(());
        }
        delivery.nack(nack).await
    }

    /// Gives up a message that the handler's arguments cannot be made of.
    pub(crate) async fn refuse(&self, delivery: Delivery, error: Error, route: &Route) {
        count(&self.counters.failed);
        tracing::warn!(id = delivery.id(), handler = route.handler, %error, "cannot be handled");
        let cause = Cause::from(error).with_reason(Reason::Undecodable).handler(route.handler);
        if let Err(error) = self.nack(delivery, Nack::dead_letter(cause)).await {
            note(&error, route);
        }
    }

    /// What becomes of a message that no handler takes. `false` if the consumer ends.
    pub(crate) async fn unknown(&self, delivery: Delivery, found: Found) -> bool {
        let what = match found {
            Found::UnknownVersion => "no handler takes this version of the event",
            Found::UnknownType | Found::Route(_) => "no handler takes this type of event",
        };
        let (topic, envelope) = (delivery.topic().clone(), delivery.envelope().clone());
        let (event, version) = (envelope.event_type(), envelope.schema_version());
        if self.routes.is_news(&topic) {
            tracing::warn!(%topic, event, ?version, policy = ?self.unknown, "{what}");
        }
        let error = || {
            Error::new(ErrorKind::Decode, what)
                .with_topic(&topic)
                .with_context("type", event)
                .with_context("version", version.unwrap_or(0))
        };
        let settled = match (self.unknown, found) {
            (Unknown::Fail, _) => {
                self.fail(error().with_context("id", envelope.id()));
                // Given back; under at-most-once there is nothing to give.
                drop(delivery.release().await);
                return false;
            }
            (Unknown::Skip, Found::UnknownType | Found::Route(_)) => {
                count(&self.counters.skipped);
                delivery.ack().await
            }
            (Unknown::Skip | Unknown::DeadLetter, _) => {
                self.nack(delivery, Nack::dead_letter(error())).await
            }
        };
        if let Err(error) = settled {
            tracing::debug!(%error, "a message without a handler could not be settled");
        }
        true
    }

    /// Publishes what a handler returned, before its outcome counts. If that fails, the handler
    /// has failed.
    pub(crate) async fn publish(&self, batch: &[Delivery], reply: &mut Reply, route: &Route) {
        let messages = std::mem::take(&mut reply.messages);
        let Some(delivery) = batch.first().filter(|_| !messages.is_empty()) else { return };
        let published = messages.len() as u64;
        match self.outbox.send(delivery, route.handler, messages).await {
            Ok(()) => {
                let counter = &self.counters.published;
                counter.fetch_add(published, std::sync::atomic::Ordering::Relaxed);
            }
            Err(error) => reply.outcome = Outcome::Failed(error.into()),
        }
    }

    pub(crate) fn panicked(&self, panic: &Panicked) -> Replies {
        count(&self.counters.panicked);
        failed(format!("the handler panicked: {}", panic.0))
    }

    pub(crate) fn timed_out(&self) -> Replies {
        count(&self.counters.timed_out);
        let limit = self.time_limit.unwrap_or_default();
        failed(format!("the handler took longer than {limit:?}"))
    }
}

/// All failed for that reason.
pub(crate) fn failed(text: String) -> Replies {
    Replies::All(Reply::of(Outcome::Failed(HandlerError::new(text))))
}

/// How old a message is, where that is known.
fn age(delivery: &Delivery) -> Option<Duration> {
    let born = delivery.stored_at().or_else(|| delivery.envelope().time())?;
    Some(Timestamp::now().since(born))
}

/// A delivery that could not be settled comes again; its subscription has counted it.
#[cold]
fn note(error: &Error, route: &Route) {
    tracing::debug!(%error, handler = route.handler, "a delivery could not be settled");
}
