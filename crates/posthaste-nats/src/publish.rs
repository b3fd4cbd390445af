//! Publishing: a whole batch is sent, then all of its confirmations are awaited.
//!
//! Nothing is sent again here. An entry whose confirmation does not come is unknown, and core
//! publishes it again; see [`resend`](crate::resend) for how that stores nothing twice.

use std::pin::Pin;

use async_nats::Subject;
use async_nats::header::{HeaderMap, HeaderValue, NATS_MESSAGE_ID};
use bytes::Bytes;
use posthaste_core::broker::{Destination, Outcomes, SendOptions, Stored};
use posthaste_core::{Envelope, Error, ErrorKind, Result};
use smallvec::SmallVec;
use tokio::time::{Instant, Sleep};

use crate::answers::{Answer, Waiting};
use crate::error::{self, BROKER};
use crate::hub::Hub;
use crate::resend::Number;
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
    let losses = hub.link.losses();
    let answers = hub.answers.expect(route.stream(), batch.len(), losses, until);
    let mut flight = Flight {
        hub,
        to,
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
        losses,
        start: Instant::now(),
        answers,
        sent: SmallVec::with_capacity(batch.len()),
    };
    flight.send(until).await;
    Ok(flight.land().await)
}

/// A batch on its way.
struct Flight<'a> {
    hub: &'a Hub,
    to: &'a Destination,
    route: Route,
    target: Option<Subject>,
    batch: &'a [Envelope],
    deduplicate: bool,
    schedule: Option<schedule::Plan>,
    losses: u64,
    start: Instant,
    answers: Waiting<'a>,
    sent: SmallVec<[Sent; 1]>,
}

/// What became of an entry so far.
enum Sent {
    /// It is on its way.
    Waits(Id),
    Done(Result<Stored>),
}

/// Under which id the server knows an entry.
enum Id {
    /// The envelope's own: the application asked for deduplication.
    Asked,
    /// One of ours, to be used again if the outcome stays unknown.
    Own(Number),
}

impl Flight<'_> {
    /// Gives everything to the client, in order.
    async fn send(&mut self, until: Instant) {
        let late = tokio::time::sleep_until(until);
        tokio::pin!(late);
        let mut broken: Option<Error> = None;
        for at in 0..self.batch.len() {
            let sent = match &broken {
                Some(error) => Sent::Done(Err(error.duplicate())),
                None => self.send_one(at, late.as_mut()).await,
            };
            if let Sent::Done(outcome) = &sent {
                self.answers.forgo();
                if let Err(error) = outcome
                    && matches!(error.kind(), ErrorKind::Connection | ErrorKind::Timeout)
                {
                    // The client takes nothing now. To wait for each of the others would add up.
                    broken.get_or_insert_with(|| error.duplicate());
                }
            }
            self.sent.push(sent);
        }
    }

    async fn send_one(&self, at: usize, late: Pin<&mut Sleep>) -> Sent {
        let envelope = &self.batch[at];
        let id = match self.deduplicate {
            true => Id::Asked,
            false => Id::Own(self.hub.resends.number(self.to.topic.as_str(), envelope)),
        };
        let (subject, headers, payload) = match self.message(envelope, &id) {
            Ok(message) => message,
            Err(error) => return self.not_sent(at, &id, error),
        };
        let reply = self.answers.reply(at);
        let client = &self.hub.client;
        let sending = client.publish_with_reply_and_headers(subject, reply, headers, payload);
        tokio::select! {
            biased;
            sent = sending => match sent {
                Ok(()) => Sent::Waits(id),
                // Nothing was sent, so that nothing is stored.
                Err(native) => self.not_sent(at, &id, error::send(native)),
            },
            () = late => self.not_sent(at, &id, self.hub.link.down()),
        }
    }

    #[cold]
    fn not_sent(&self, at: usize, id: &Id, error: Error) -> Sent {
        self.failed(at, id, false);
        Sent::Done(Err(error))
    }

    /// A try failed: what may be stored keeps its id.
    fn failed(&self, at: usize, id: &Id, may_be_stored: bool) {
        if let Id::Own(number) = id {
            let topic = self.to.topic.as_str();
            self.hub.resends.failed(topic, &self.batch[at], *number, may_be_stored);
        }
    }

    fn message(&self, envelope: &Envelope, id: &Id) -> Result<(Subject, HeaderMap, Bytes)> {
        let target = match &self.target {
            Some(target) => target.clone(),
            None => self.route.target(self.to.layout, self.to.layout.partition(envelope))?,
        };
        let mut headers = convert::headers(envelope)?;
        match id {
            Id::Asked => headers.insert(NATS_MESSAGE_ID, message_id(envelope.id())?),
            Id::Own(number) => headers.insert(NATS_MESSAGE_ID, self.hub.resends.id(*number)),
        }
        let subject = match &self.schedule {
            Some(plan) => plan.apply(&self.to.topic, &target, &mut headers),
            None => target,
        };
        let payload = envelope.payload().clone();
        let limit = self.hub.client.max_payload().saturating_sub(convert::RESERVE);
        if convert::may_exceed(envelope, limit) {
            convert::check_size(convert::wire_size(&headers, &payload), limit)?;
        }
        Ok((subject, headers, payload))
    }

    /// Awaits the confirmations.
    async fn land(mut self) -> Outcomes {
        self.answers.complete().await;
        let mut outcomes = Outcomes::with_capacity(self.sent.len());
        let mut no_stream: Option<Error> = None;
        for (at, answer) in self.answers.take().into_iter().enumerate() {
            let sent = std::mem::replace(&mut self.sent[at], Sent::Done(Err(error::closed())));
            let id = match sent {
                Sent::Waits(id) => id,
                Sent::Done(outcome) => {
                    outcomes.push(outcome);
                    continue;
                }
            };
            let outcome = match answer {
                Answer::Stored { sequence, duplicate } => Ok(self.stored(at, sequence, duplicate)),
                Answer::Elsewhere(found) => Err(self.elsewhere(found)),
                Answer::Nobody => {
                    if no_stream.is_none() {
                        no_stream = Some(self.explain().await);
                    }
                    Err(no_stream.as_ref().map_or_else(error::no_stream, Error::duplicate))
                }
                Answer::Refused(native) => Err(error::api(&native)),
                Answer::Unreadable => Err(error::unreadable()),
                Answer::None => Err(self.unanswered()),
            };
            if let Err(error) = &outcome {
                self.failed(at, &id, error.may_be_stored());
            }
            outcomes.push(outcome);
        }
        outcomes
    }

    fn stored(&self, at: usize, sequence: u64, duplicate: bool) -> Stored {
        let mut stored = Stored::default();
        stored.partition = self.to.layout.partition(&self.batch[at]).map(u32::from);
        // A message for later gets its place when its time has come.
        stored.offset = self.schedule.is_none().then_some(sequence);
        stored.duplicate = self.deduplicate && duplicate;
        stored
    }

    #[cold]
    fn elsewhere(&self, found: String) -> Error {
        Error::new(ErrorKind::Conflict, "another stream took the message")
            .with_context("wanted", self.route.stream())
            .with_context("found", found)
            .with_may_be_stored(true)
            .with_broker(BROKER)
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

/// What is not known when the publish is dropped is remembered for the next try.
impl Drop for Flight<'_> {
    fn drop(&mut self) {
        for (at, sent) in self.sent.iter().enumerate() {
            if let Sent::Waits(id) = sent {
                self.failed(at, id, true);
            }
        }
    }
}

fn message_id(id: &str) -> Result<HeaderValue> {
    id.parse().map_err(|_| Error::invalid("the id cannot stand in a header").with_broker(BROKER))
}
