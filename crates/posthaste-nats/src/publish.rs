//! Publishing: a whole batch is sent, then its confirmations are awaited in order.
//!
//! Nothing is sent again here. An entry whose confirmation does not come is unknown, and core
//! publishes it again; see [`resend`](crate::resend) for how that stores nothing twice.

use async_nats::Subject;
use async_nats::header::{HeaderValue, NATS_MESSAGE_ID};
use async_nats::jetstream::context::{PublishAckFuture, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use futures_util::FutureExt as _;
use posthaste_core::broker::{Destination, Outcomes, SendOptions, Stored};
use posthaste_core::{Envelope, Error, ErrorKind, Result};
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::error::{self, BROKER};
use crate::hub::Hub;
use crate::route::Route;
use crate::{convert, schedule, topology};

pub(crate) async fn publish(
    hub: &Hub,
    to: &Destination,
    batch: &[Envelope],
    options: &SendOptions,
) -> Result<Outcomes> {
    hub.open()?;
    let route = hub.route(&to.topic);
    let schedule = schedule::plan(hub, &route, options.deliver_at).await?;
    if route.is_bound() {
        topology::check_interest(hub, &to.topic).await?;
    }
    let until = Instant::now() + hub.request_timeout;
    if let Err(error) = hub.link.ready(until).await {
        return Ok(Outcomes::failed(batch.len(), &error));
    }
    let mut flight = Flight {
        hub,
        to,
        stream: route.stream(),
        // On a plain topic all go to one subject; a copy of it costs nothing.
        target: to
            .layout
            .partitions()
            .is_none()
            .then(|| route.target(to.layout, None))
            .transpose()?,
        route,
        batch,
        deduplicate: options.deduplicate,
        schedule,
        losses: hub.link.losses(),
        start: Instant::now(),
        sent: SmallVec::with_capacity(batch.len()),
    };
    flight.send().await;
    Ok(flight.land(until).await)
}

/// A batch on its way.
struct Flight<'a> {
    hub: &'a Hub,
    to: &'a Destination,
    route: Route,
    stream: String,
    target: Option<Subject>,
    batch: &'a [Envelope],
    deduplicate: bool,
    schedule: Option<schedule::Plan>,
    losses: u64,
    start: Instant,
    sent: SmallVec<[Sent; 1]>,
}

/// What became of an entry so far.
enum Sent {
    Waits { ack: PublishAckFuture, id: Id },
    Done(Result<Stored>),
}

/// Under which id the server knows an entry.
enum Id {
    /// The envelope's own: the application asked for deduplication.
    Asked,
    /// One of ours, to be used again if the outcome stays unknown.
    Own(String),
}

impl Flight<'_> {
    /// Gives everything to the client, in order.
    async fn send(&mut self) {
        let mut broken: Option<Error> = None;
        for at in 0..self.batch.len() {
            let sent = match &broken {
                Some(error) => Sent::Done(Err(error.duplicate())),
                None => self.send_one(at).await,
            };
            if let Sent::Done(Err(error)) = &sent
                && matches!(error.kind(), ErrorKind::Connection | ErrorKind::Timeout)
            {
                // The client takes nothing now. To wait for each of the others would add up.
                broken.get_or_insert_with(|| error.duplicate());
            }
            self.sent.push(sent);
        }
    }

    async fn send_one(&self, at: usize) -> Sent {
        let (subject, message, id) = match self.message(&self.batch[at]) {
            Ok(message) => message,
            Err(error) => return Sent::Done(Err(error)),
        };
        match self.hub.jetstream.send_publish(subject, message).await {
            Ok(ack) => Sent::Waits { ack, id },
            // Nothing was sent, so that nothing is stored.
            Err(native) if native.kind() == PublishErrorKind::TimedOut => {
                Sent::Done(Err(self.hub.link.down()))
            }
            Err(native) => Sent::Done(Err(error::publish(native))),
        }
    }

    fn message(&self, envelope: &Envelope) -> Result<(Subject, PublishMessage, Id)> {
        let target = match &self.target {
            Some(target) => target.clone(),
            None => self.route.target(self.to.layout, self.to.layout.partition(envelope))?,
        };
        let mut headers = convert::headers(envelope)?;
        let id = if self.deduplicate {
            headers.insert(NATS_MESSAGE_ID, message_id(envelope.id())?);
            Id::Asked
        } else {
            let id = self.hub.resends.id(self.to.topic.as_str(), envelope);
            headers.insert(NATS_MESSAGE_ID, message_id(&id)?);
            Id::Own(id)
        };
        let subject = match &self.schedule {
            Some(plan) => plan.apply(&self.to.topic, &target, &mut headers),
            None => target,
        };
        let payload = envelope.payload().clone();
        let limit = self.hub.client.max_payload().saturating_sub(convert::RESERVE);
        if convert::may_exceed(envelope, limit) {
            convert::check_size(convert::wire_size(&headers, &payload), limit)?;
        }
        Ok((subject, PublishMessage::build().payload(payload).headers(headers), id))
    }

    /// Awaits the confirmations.
    async fn land(mut self, until: Instant) -> Outcomes {
        let mut outcomes = Outcomes::with_capacity(self.sent.len());
        let lost = self.hub.link.lost_since(self.losses, until);
        tokio::pin!(lost);
        let mut is_lost = false;
        let mut no_stream: Option<Error> = None;
        for at in 0..self.sent.len() {
            let waits = std::mem::replace(&mut self.sent[at], Sent::Done(Err(error::closed())));
            let (ack, id) = match waits {
                Sent::Done(outcome) => {
                    outcomes.push(outcome);
                    continue;
                }
                Sent::Waits { ack, id } => (ack, id),
            };
            let mut waiting = Waiting { flight: &self, at, id: Some(id) };
            let mut ack = ack.into_future();
            let answered = if is_lost {
                ack.now_or_never()
            } else {
                tokio::select! {
                    biased;
                    answered = &mut ack => Some(answered),
                    () = &mut lost => {
                        is_lost = true;
                        None
                    }
                }
            };
            let outcome = match answered {
                None => Err(self.unanswered()),
                Some(Ok(stored)) => {
                    waiting.id = None;
                    self.stored(at, &stored)
                }
                Some(Err(native)) if native.kind() == PublishErrorKind::StreamNotFound => {
                    waiting.id = None;
                    if no_stream.is_none() {
                        no_stream = Some(self.explain().await);
                    }
                    Err(no_stream.as_ref().map_or_else(error::no_stream, Error::duplicate))
                }
                Some(Err(native)) => {
                    let error = error::publish(native);
                    if !error.may_be_stored() {
                        waiting.id = None;
                    }
                    Err(self.refused().unwrap_or(error))
                }
            };
            drop(waiting);
            outcomes.push(outcome);
        }
        outcomes
    }

    fn stored(&self, at: usize, ack: &PublishAck) -> Result<Stored> {
        if ack.stream != self.stream {
            return Err(Error::new(ErrorKind::Conflict, "another stream took the message")
                .with_context("wanted", &self.stream)
                .with_context("found", &ack.stream)
                .with_may_be_stored(true)
                .with_broker(BROKER));
        }
        let mut stored = Stored::default();
        stored.partition = self.to.layout.partition(&self.batch[at]).map(u32::from);
        // A message for later gets its place when its time has come.
        stored.offset = self.schedule.is_none().then_some(ack.sequence);
        stored.duplicate = self.deduplicate && ack.duplicate;
        Ok(stored)
    }

    /// No answer came.
    #[cold]
    fn unanswered(&self) -> Error {
        if let Some(refused) = self.refused() {
            return refused;
        }
        let lost = self.hub.link.losses() != self.losses;
        let made = if lost {
            Error::new(ErrorKind::Connection, "the connection was lost before the confirmation")
        } else {
            Error::new(ErrorKind::Timeout, "the server did not confirm the message in time")
        };
        made.with_may_be_stored(true).with_broker(BROKER)
    }

    /// The server does not answer a publish that it forbids.
    fn refused(&self) -> Option<Error> {
        let target = self.route.target(self.to.layout, self.to.layout.partitions().map(|_| 0));
        self.hub.link.refusal_of(target.ok()?.as_str(), self.start)
    }

    /// Nobody listens on the subject: why?
    #[cold]
    async fn explain(&self) -> Error {
        match topology::describe(self.hub, &self.to.topic).await {
            Ok((found, _)) if found.layout != self.to.layout || found.queue != self.to.queue => {
                Error::new(ErrorKind::Conflict, "the topic is laid out in another way")
                    .with_context("wanted", format!("{:?}", self.to.layout))
                    .with_context("found", format!("{:?}", found.layout))
                    .with_broker(BROKER)
            }
            // It is there, and nobody leads it at the moment.
            Ok(_) => Error::new(ErrorKind::Connection, "the stream has no leader now")
                .with_broker(BROKER),
            Err(error) => error,
        }
    }
}

/// While it lives, the entry's outcome is not known: what ends it so, also when the publish is
/// dropped, is remembered for the next try.
struct Waiting<'f, 'a> {
    flight: &'f Flight<'a>,
    at: usize,
    id: Option<Id>,
}

impl Drop for Waiting<'_, '_> {
    fn drop(&mut self) {
        if let Some(Id::Own(id)) = self.id.take() {
            let (flight, at) = (self.flight, self.at);
            flight.hub.resends.keep(flight.to.topic.as_str(), &flight.batch[at], id);
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        for (at, sent) in self.sent.iter_mut().enumerate() {
            if let Sent::Waits { id: Id::Own(id), .. } = sent {
                let id = std::mem::take(id);
                self.hub.resends.keep(self.to.topic.as_str(), &self.batch[at], id);
            }
        }
    }
}

fn message_id(id: &str) -> Result<HeaderValue> {
    id.parse().map_err(|_| Error::invalid("the id cannot stand in a header").with_broker(BROKER))
}
