//! Dead letters: a stream for each group, one message for each letter.

use std::str::FromStr as _;

use async_nats::header::{HeaderMap, HeaderValue, NATS_MESSAGE_ID};
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::RawMessage;
use futures_util::FutureExt as _;
use futures_util::stream::{self, StreamExt as _};
use posthaste_core::broker::{DeadLetterPage, DeadLetterQuery, StoredLetter};
use posthaste_core::{
    Cause, DeadLetter, Error, ErrorKind, GroupName, LetterId, Result, Timestamp, TopicName,
};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use crate::convert::Origin;
use crate::error::{self, BROKER};
use crate::fetch::Query;
use crate::hub::Hub;
use crate::{beside, convert, fetch, groups, names, topology};

/// How many letters are moved at once.
const AT_ONCE: usize = 16;
/// As much of an id is enough to tell letters apart, beside their place in the stream.
const ID_PART: usize = 64;

/// Stores letters with the places that their messages have in the stream. One outcome for each,
/// in order.
pub(crate) async fn store<'a>(
    hub: &Hub,
    letters: impl Iterator<Item = (&'a DeadLetter, u64)>,
) -> Vec<Result<()>> {
    let losses = hub.link.losses();
    let until = Instant::now() + hub.request_timeout;
    let mut sent = Vec::new();
    for (letter, sequence) in letters {
        sent.push((letter, sequence, send(hub, letter, sequence).await));
    }
    let mut outcomes = Vec::with_capacity(sent.len());
    // All wait together: what a lost connection has swallowed is not waited for one by one.
    let mut lost = std::pin::pin!(hub.link.lost_since(losses, until));
    let mut in_vain = false;
    for (letter, sequence, ack) in sent {
        let outcome = match ack {
            Ok(ack) => {
                let mut ack = std::pin::pin!(ack.into_future());
                let answer = if in_vain {
                    (&mut ack).now_or_never()
                } else {
                    tokio::select! {
                        biased;
                        answer = &mut ack => Some(answer),
                        () = &mut lost => {
                            in_vain = true;
                            (&mut ack).now_or_never()
                        }
                    }
                };
                let answer = answer.ok_or_else(unanswered);
                answer.and_then(|answer| answer.map(drop).map_err(error::publish))
            }
            Err(error) => Err(error),
        };
        let outcome = match outcome {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                store_late(hub, letter, sequence).await
            }
            outcome => outcome,
        };
        outcomes.push(outcome);
    }
    outcomes
}

#[cold]
fn unanswered() -> Error {
    Error::new(ErrorKind::Timeout, "the dead letter was not confirmed: the message comes again")
        .with_may_be_stored(true)
        .with_broker(BROKER)
}

/// The stream is not there: it is created once more, because nothing else could become of the
/// message.
async fn store_late(hub: &Hub, letter: &DeadLetter, sequence: u64) -> Result<()> {
    beside::ensure_dead_letters(hub, &letter.topic, &letter.group).await?;
    let ack = send(hub, letter, sequence).await?;
    ack.await.map(drop).map_err(error::publish)
}

async fn send(hub: &Hub, letter: &DeadLetter, sequence: u64) -> Result<PublishAckFuture> {
    let limit = hub.client.max_payload();
    let payload = letter.envelope.payload();
    let mut headers = convert::letter_headers(letter)?;
    mark(&mut headers, letter, &format!("{sequence}:dlq:{}", letter.group))?;
    if convert::wire_size(&headers, payload) > limit {
        // Room for a short cause is kept free by every publish; see `convert`.
        let mut short = letter.clone();
        short.cause = letter.cause.as_ref().map(|cause| {
            let text = cause.chain().first().map_or("", String::as_str);
            Cause::new(text.chars().take(100).collect::<String>())
        });
        headers = convert::letter_headers(&short)?;
        mark(&mut headers, letter, &format!("{sequence}:dlq:{}", letter.group))?;
    }
    convert::check_size(convert::wire_size(&headers, payload), limit)?;
    let subject = names::dead_letter_subject(&letter.topic, &letter.group);
    let message = PublishMessage::build().payload(payload.clone()).headers(headers);
    hub.jetstream.send_publish(subject, message).await.map_err(error::publish)
}

/// A letter that is written twice, because its message could not be settled, is one letter.
fn mark(headers: &mut HeaderMap, letter: &DeadLetter, place: &str) -> Result<()> {
    let id = letter.envelope.id();
    let part: String = id.chars().take(ID_PART).collect();
    let value = HeaderValue::from_str(&format!("{part}:{place}"));
    let value = value.map_err(|_| Error::invalid("the id cannot stand in a header"))?;
    headers.insert(NATS_MESSAGE_ID, value);
    Ok(())
}

/// A page of a group's letters.
///
/// # Errors
/// `NotFound` if there is no such group; `Invalid` for a name that is none of a letter.
pub(crate) async fn list(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
    query: &DeadLetterQuery,
) -> Result<DeadLetterPage> {
    let after = query.after.as_ref().map(sequence).transpose()?.unwrap_or(0);
    let stream = names::dead_letter_stream(topic, group);
    let from = DeliverPolicy::ByStartSequence { start_sequence: after + 1 };
    let fetched = match fetch::retained(hub, &stream, Query::new(None, from, query.limit)).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // Nobody has failed yet; but is there anybody?
            let consumer = any_consumer(hub, topic, group).await?;
            groups::info(hub, &consumer.0, &consumer.1).await?;
            Vec::new()
        }
        fetched => fetched?,
    };
    let letters = fetched.into_iter().filter_map(|fetched| {
        let id = LetterId::new(fetched.delivered.stream_sequence.to_string());
        let headers = fetched.message.headers.as_ref();
        let payload = fetched.message.payload.clone();
        let letter = convert::letter(headers, payload, &fetched.origin(&stream))?;
        Some(StoredLetter::new(id, letter))
    });
    Ok(DeadLetterPage::new(letters.collect(), true))
}

async fn any_consumer(hub: &Hub, topic: &TopicName, group: &GroupName) -> Result<(String, String)> {
    let (info, native) = topology::describe(hub, topic).await?;
    let consumer = match info.layout.partitions() {
        Some(n) => names::lane_consumer(group, n, 0),
        None => hub.route(topic).consumer(group),
    };
    Ok((native.config.name, consumer))
}

fn sequence(letter: &LetterId) -> Result<u64> {
    letter.as_str().parse().map_err(|_| {
        // Names are opaque to applications: one that is no number is that of no letter.
        Error::new(ErrorKind::NotFound, "there is no such dead letter")
            .with_context("letter", letter.as_str().escape_debug())
            .with_broker(BROKER)
    })
}

#[derive(Deserialize)]
struct Got {
    message: RawMessage,
}

/// Sends letters to the group's private channel, and removes each that has arrived there.
pub(crate) async fn replay(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
    letters: &[LetterId],
) -> Vec<Result<()>> {
    let letters = letters.to_vec();
    let moves = letters.into_iter().map(|letter| replay_one(hub, topic, group, letter));
    stream::iter(moves).buffered(AT_ONCE).collect().await
}

async fn replay_one(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
    letter: LetterId,
) -> Result<()> {
    let (stream, place) = (names::dead_letter_stream(topic, group), sequence(&letter)?);
    let body = json!({ "seq": place });
    let got: Got = hub.api.ask(&format!("STREAM.MSG.GET.{stream}"), &body).await?;
    let found = StreamMessage::try_from(got.message).map_err(|error| {
        Error::new(ErrorKind::Fatal, "a dead letter could not be read")
            .with_context("letter", place)
            .with_source(error)
            .with_broker(BROKER)
    })?;
    let stored_at = i64::try_from(found.time.unix_timestamp_nanos() / 1_000).ok();
    let origin = Origin {
        stream: &stream,
        subject: &found.subject,
        sequence: place,
        stored_at: stored_at.map(Timestamp::from_micros),
    };
    let record = convert::letter(Some(&found.headers), found.payload.clone(), &origin);
    let Some(record) = record else {
        return Err(Error::new(ErrorKind::NotFound, "there is no dead letter of that name")
            .with_context("letter", place)
            .with_broker(BROKER));
    };
    let mut headers = convert::headers(&record.envelope)?;
    // When it is tried again after a failure, the copy that is there already counts.
    let again = format!("{place}:replay:{group}:{}", record.failed_at.as_micros());
    mark(&mut headers, &record, &again)?;
    let message = PublishMessage::build().payload(found.payload).headers(headers);
    let subject = names::private_subject(topic, group);
    let sent = hub.jetstream.send_publish(subject, message).await.map_err(error::publish)?;
    sent.await.map_err(error::publish)?;
    delete(hub, &stream, place).await
}

/// Removes letters for good.
pub(crate) async fn discard(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
    letters: &[LetterId],
) -> Vec<Result<()>> {
    let stream = &names::dead_letter_stream(topic, group);
    let letters = letters.to_vec();
    let removals = letters
        .into_iter()
        .map(|letter| async move { delete(hub, stream, sequence(&letter)?).await });
    stream::iter(removals).buffered(AT_ONCE).collect().await
}

async fn delete(hub: &Hub, stream: &str, place: u64) -> Result<()> {
    // What is in a dead letter is not overwritten with random bytes: that costs seconds.
    let body = json!({ "seq": place, "no_erase": true });
    let deleted: Result<serde_json::Value> =
        hub.api.ask(&format!("STREAM.MSG.DELETE.{stream}"), &body).await;
    deleted.map(drop)
}

#[derive(Deserialize)]
struct Names {
    #[serde(default)]
    streams: Option<Vec<String>>,
}

/// The streams with the dead letters of all groups of a topic.
///
/// # Errors
/// `Auth`, `Connection`, `Timeout`.
pub(crate) async fn streams(hub: &Hub, topic: &TopicName) -> Result<Vec<String>> {
    let subject = format!("{topic}.__dlq.*");
    let prefix = format!("{}__", names::stream(topic));
    let mut all = Vec::new();
    loop {
        let body = json!({ "subject": subject, "offset": all.len() });
        let page: Names = hub.api.ask("STREAM.NAMES", &body).await?;
        let page = page.streams.unwrap_or_default();
        if page.is_empty() {
            // A stream of somebody else may listen there too.
            all.retain(|name: &String| name.starts_with(&prefix) && name.ends_with("__dlq"));
            return Ok(all);
        }
        all.extend(page);
    }
}
