//! Publishing in cases: messages with numbers, so that it shows what arrived.

use std::collections::BTreeSet;
use std::time::Duration;

use posthaste_core::broker::{Destination, SendOptions};
use posthaste_core::{
    Broker, Bus, Confirmed, Envelope, Publisher, Result, Sharing, Start, TopicConfig,
};
use tokio::time::timeout;

use crate::failure::{Failed, Outcome, ensure_eq};
use crate::scene::SOURCE;

/// The type of numbered messages.
pub(crate) const NUMBERED: &str = "conformance.numbered";

/// A message whose id is `m-<number>` and whose payload is the number as text.
pub(crate) fn numbered(number: usize) -> Envelope {
    built(Envelope::builder(NUMBERED).source(SOURCE).id(format!("m-{number}")), number)
}

/// A numbered message of a key.
pub(crate) fn keyed(key: &str, number: usize) -> Envelope {
    let id = format!("m-{key}-{number}");
    built(Envelope::builder(NUMBERED).source(SOURCE).id(id).key(key.to_owned()), number)
}

/// A numbered message with so many bytes of payload, of which the first are the number.
pub(crate) fn sized(number: usize, bytes: usize) -> Envelope {
    let mut payload = number.to_string().into_bytes();
    payload.resize(bytes.max(payload.len()), b' ');
    numbered(number).with_payload(payload)
}

fn built(builder: posthaste_core::EnvelopeBuilder<'_>, number: usize) -> Envelope {
    let builder = builder.payload(number.to_string());
    // All parts are legal; an envelope without a payload would fail the case that gets it.
    builder.build().unwrap_or_else(|_| posthaste_core::EnvelopeBuilder::lenient().build_lenient())
}

/// The number in the payload of a numbered message.
#[track_caller]
pub(crate) fn number(envelope: &Envelope) -> Outcome<usize> {
    let text = std::str::from_utf8(envelope.payload()).unwrap_or("").trim();
    text.parse().map_err(|_| {
        Failed::new(format!("the payload of {} is not the number it was sent with", envelope.id()))
    })
}

/// Publishes the numbers, and waits until all are confirmed.
pub(crate) async fn publish(
    publisher: &Publisher,
    numbers: impl IntoIterator<Item = usize>,
) -> Outcome<Vec<Confirmed>> {
    publish_each(publisher, numbers.into_iter().map(numbered).collect()).await
}

/// The start at the offset of that one of the messages from 0 on, and which of them lie from there
/// on. An offset is one of a partition, where there are several.
pub(crate) fn from_offset(confirmed: &[Confirmed], at: usize) -> Outcome<(Start, BTreeSet<usize>)> {
    let first = confirmed.get(at);
    let Some(offset) = first.and_then(Confirmed::offset) else {
        return Err(Failed::new("a broker with offsets confirms without one"));
    };
    let own = first.and_then(Confirmed::partition);
    let partition = own.filter(|_| confirmed.iter().any(|other| other.partition() != own));
    let follows = |other: &Confirmed| {
        (partition.is_none() || other.partition() == own) && other.offset() >= Some(offset)
    };
    let all = (0..).zip(confirmed).filter(|(_, other)| follows(other)).map(|(n, _)| n);
    Ok((Start::AtOffset { partition, offset }, all.collect()))
}

/// Publishes the messages, and waits until all are confirmed.
pub(crate) async fn publish_each(
    publisher: &Publisher,
    envelopes: Vec<Envelope>,
) -> Outcome<Vec<Confirmed>> {
    let count = envelopes.len();
    let report = publisher.publish_all_envelopes(envelopes).await;
    ensure_eq!(report.len(), count, "outcomes of a batch");
    Ok(report.into_result()?)
}

/// Creates a topic with these groups, so that it keeps what is published for them.
pub(crate) async fn topic_with(bus: &Bus, topic: &str, groups: &[&str]) -> Outcome<()> {
    let config = groups.iter().fold(TopicConfig::new(topic), |topic, group| topic.group(*group));
    bus.ensure(config).await?;
    Ok(())
}

/// Where members share lanes, the one that joins takes some of them away, and what is held there
/// moves. For cases in which it shall stay, the topic has one lane.
pub(crate) async fn with_one_lane(bus: &Bus, topic: &str) -> Outcome {
    if bus.capabilities(Some(topic))?.sharing == Sharing::Lanes {
        bus.ensure(TopicConfig::new(topic).ordered(1)).await?;
    }
    Ok(())
}

/// The set of the numbers from 0.
pub(crate) fn up_to(count: usize) -> BTreeSet<usize> {
    (0..count).collect()
}

/// Publishes by the adapter's own call, and expects every entry to be confirmed.
pub(crate) async fn send(
    broker: &dyn Broker,
    to: &Destination,
    mut batch: Vec<Envelope>,
) -> Outcome<()> {
    let count = batch.len();
    let outcomes = broker.publish(to, &mut batch, &SendOptions::default()).await?;
    ensure_eq!(outcomes.len(), count, "outcomes of a batch");
    for outcome in outcomes {
        outcome?;
    }
    Ok(())
}

/// A call that has to end by itself; what hangs is an error like any other.
pub(crate) async fn ends<T>(
    what: &str,
    within: Duration,
    call: impl Future<Output = T>,
) -> Outcome<T> {
    match timeout(within, call).await {
        Ok(value) => Ok(value),
        Err(_) => Err(Failed::new(format!("{what} did not end within {within:?}"))),
    }
}

/// Waits for what an asynchronous question says, by asking again and again.
pub(crate) async fn until<T, F, Fut>(what: &str, within: Duration, check: F) -> Outcome<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    Ok(crate::fault::wait::until(what, within, check).await?)
}
