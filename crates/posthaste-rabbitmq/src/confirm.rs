//! A batch on a confirm channel: everything is written in order, then every answer is awaited.
//!
//! The client pairs a message that came back with whichever confirmation is resolved next, which
//! need not be its own. So a channel has one batch at a time, all of its answers are awaited, and
//! what came back is found by what it is. A batch that is given up leaves its answers to whoever
//! looks after the channel.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_core::Stream;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use lapin::message::BasicReturnMessage;
use lapin::options::BasicPublishOptions;
use lapin::{Channel, Confirmation};
use posthaste_core::{Error, ErrorKind, Result};
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::error::{self, BROKER};
use crate::outgoing::Outgoing;

/// One outcome for each message of a batch.
pub(crate) type Sent = SmallVec<[Result<()>; 1]>;

/// A confirm channel.
pub(crate) struct Way {
    channel: Channel,
    /// How many messages of the present batch are on their way.
    begun: AtomicUsize,
}

/// The answers that a batch did not stay for. Everything in it was written.
pub(crate) type Unanswered = Pin<Box<dyn Stream<Item = lapin::Result<Confirmation>> + Send>>;

impl Way {
    pub(crate) const fn new(channel: Channel) -> Self {
        Self { channel, begun: AtomicUsize::new(0) }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.channel.status().connected()
    }
}

/// Sends the batch and awaits its answers, at most until then. The second value says whether the
/// channel can be used again.
///
/// # Cancel safety
/// When dropped, each message may or may not be stored. The channel can be used again once what
/// `given_up` gets has come to its end; where it is not called, not at all.
pub(crate) async fn send(
    way: &Arc<Way>,
    batch: Vec<Outgoing>,
    until: Instant,
    given_up: impl FnOnce(Unanswered) + Send,
) -> (Sent, bool) {
    let mut answers: SmallVec<[lapin::Result<Confirmation>; 1]> = SmallVec::new();
    let size = batch.len();
    // What is needed to tell what came back; the text and the bytes are shared or short.
    let marks: Vec<Mark> = batch.iter().map(Mark::of).collect();
    way.begun.store(0, Ordering::Relaxed);
    let flying: FuturesOrdered<_> =
        batch.into_iter().map(|message| one(Arc::clone(way), message)).collect();
    let mut flight = Flight { way, size, flying: Some(flying), given_up: Some(given_up) };
    let awaiting = async {
        while let Some(flying) = &mut flight.flying
            && let Some(answer) = flying.next().await
        {
            answers.push(answer);
        }
    };
    let in_time = tokio::time::timeout_at(until, awaiting).await.is_ok();
    // It is answered, or it was waited for long enough.
    flight.flying = None;
    let reusable = in_time && way.is_open();
    (outcomes(answers, &marks, size), reusable)
}

/// A batch that is awaited. Its drop hands over what is not answered.
struct Flight<'a, S, F>
where
    S: Stream<Item = lapin::Result<Confirmation>> + Send + 'static,
    F: FnOnce(Unanswered),
{
    way: &'a Way,
    size: usize,
    flying: Option<S>,
    given_up: Option<F>,
}

impl<S, F> Drop for Flight<'_, S, F>
where
    S: Stream<Item = lapin::Result<Confirmation>> + Send + 'static,
    F: FnOnce(Unanswered),
{
    fn drop(&mut self) {
        // What was not written yet must not be written later, behind the back of its publisher.
        let all = self.way.begun.load(Ordering::Relaxed) == self.size;
        if let (Some(flying), Some(given_up), true) =
            (self.flying.take(), self.given_up.take(), all)
        {
            given_up(Box::pin(flying));
        }
    }
}

/// The first poll writes it.
async fn one(way: Arc<Way>, message: Outgoing) -> lapin::Result<Confirmation> {
    way.begun.fetch_add(1, Ordering::Relaxed);
    let Outgoing { exchange, routing_key, properties, body } = message;
    // Mandatory: without it, the broker confirms what no queue takes.
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let sent = way.channel.basic_publish(exchange, routing_key, options, &body, properties);
    let confirmed = sent.await?;
    drop(body);
    confirmed.await
}

/// What a message is known by.
struct Mark {
    id: Option<Box<str>>,
    body: bytes::Bytes,
}

impl Mark {
    fn of(message: &Outgoing) -> Self {
        let id = message.properties.message_id().as_ref();
        Self { id: id.map(|id| id.as_str().into()), body: message.body.clone() }
    }

    fn is(&self, returned: &BasicReturnMessage) -> bool {
        let id = returned.properties.message_id().as_ref().map(|id| id.as_str());
        self.id.as_deref() == id && returned.data == self.body
    }
}

fn outcomes(
    answers: SmallVec<[lapin::Result<Confirmation>; 1]>,
    marks: &[Mark],
    size: usize,
) -> Sent {
    let mut returned = Vec::new();
    let mut sent: Sent = SmallVec::with_capacity(size);
    for answer in answers {
        sent.push(match answer {
            Ok(Confirmation::Ack(message)) => {
                returned.extend(message);
                Ok(())
            }
            Ok(Confirmation::Nack(message)) => {
                returned.extend(message);
                Err(refused())
            }
            Ok(Confirmation::NotRequested) => Err(Error::new(
                ErrorKind::Fatal,
                "a message was sent on a channel without confirmations",
            )
            .with_may_be_stored(true)
            .with_broker(BROKER)),
            Err(native) => Err(error::publish(native)),
        });
    }
    while sent.len() < size {
        sent.push(Err(unanswered()));
    }
    for message in returned {
        // Messages that are alike are interchangeable: each that came back marks one of them.
        let found = marks
            .iter()
            .zip(&mut sent)
            .find(|(mark, outcome)| !is_unroutable(outcome) && mark.is(&message));
        if let Some((_, outcome)) = found {
            *outcome = Err(unroutable(&message));
        }
    }
    sent
}

fn is_unroutable(outcome: &Result<()>) -> bool {
    outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::Unroutable)
}

#[cold]
fn unroutable(message: &BasicReturnMessage) -> Error {
    Error::new(ErrorKind::Unroutable, "no queue takes the message")
        .with_context("broker said", message.reply_text.as_str().escape_debug())
        .with_broker(BROKER)
}

/// One of the queues did not take it; others may have.
#[cold]
fn refused() -> Error {
    Error::new(ErrorKind::Backpressure, "a queue is full, or cannot take messages now")
        .with_may_be_stored(true)
        .with_broker(BROKER)
}

#[cold]
fn unanswered() -> Error {
    Error::new(ErrorKind::Timeout, "the broker did not confirm the message in time")
        .with_may_be_stored(true)
        .with_broker(BROKER)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use lapin::BasicProperties;
    use lapin::message::Delivery;
    use lapin::types::ShortString;

    use super::*;

    fn mark(id: &str, body: &'static [u8]) -> Mark {
        Mark { id: Some(id.into()), body: Bytes::from_static(body) }
    }

    fn returned(id: &str, body: &[u8]) -> BasicReturnMessage {
        let (exchange, key) = (ShortString::from("e"), ShortString::from("k"));
        let mut delivery = Delivery::mock(0, exchange, key, false, body.to_vec());
        delivery.properties = BasicProperties::default().with_message_id(ShortString::from(id));
        BasicReturnMessage { delivery, reply_code: 312, reply_text: ShortString::from("NO_ROUTE") }
    }

    fn kinds(sent: &Sent) -> Vec<Option<ErrorKind>> {
        sent.iter().map(|outcome| outcome.as_ref().err().map(Error::kind)).collect()
    }

    /// The client gives the second's message to the first, and the third's to the fourth.
    #[test]
    fn what_came_back_is_told_by_what_it_is() {
        let marks = [mark("a", b"1"), mark("b", b"2"), mark("c", b"3"), mark("d", b"4")];
        let answers = [
            Ok(Confirmation::Ack(Some(returned("b", b"2")))),
            Ok(Confirmation::Ack(None)),
            Ok(Confirmation::Ack(None)),
            Ok(Confirmation::Nack(Some(returned("c", b"3")))),
        ];
        let sent = outcomes(answers.into_iter().collect(), &marks, 4);
        let gone = Some(ErrorKind::Unroutable);
        assert_eq!(kinds(&sent), [None, gone, gone, Some(ErrorKind::Backpressure)]);
        assert!(sent.iter().flat_map(Result::as_ref).count() == 1);
    }

    #[test]
    fn messages_that_are_alike_come_back_one_by_one() {
        let marks = [mark("a", b"1"), mark("a", b"1"), mark("a", b"2")];
        let answers = [
            Ok(Confirmation::Ack(Some(returned("a", b"1")))),
            Ok(Confirmation::Ack(Some(returned("a", b"1")))),
            Ok(Confirmation::Ack(None)),
        ];
        let sent = outcomes(answers.into_iter().collect(), &marks, 3);
        let gone = Some(ErrorKind::Unroutable);
        assert_eq!(kinds(&sent), [gone, gone, None]);
    }

    #[test]
    fn what_was_not_answered_may_be_stored() {
        let marks = [mark("a", b"1"), mark("b", b"2")];
        let answers = [Ok(Confirmation::Ack(None))];
        let sent = outcomes(answers.into_iter().collect(), &marks, 2);
        assert_eq!(kinds(&sent), [None, Some(ErrorKind::Timeout)]);
        assert!(sent[1].as_ref().is_err_and(Error::may_be_stored));
    }
}
