//! The private channel of a group: copies that only this group gets.

use std::time::Duration;

use posthaste_core::{Envelope, ErrorKind, GroupName, Result, Timestamp, TopicName, wire};
use rdkafka::admin::{NewTopic, TopicReplication};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::Header;
use tokio::time::Instant;

use crate::completion::{Fate, Waiting};
use crate::hub::{Hub, Known};
use crate::producer::Record;
use crate::{convert, error, names, topology};

/// The pause between two looks for a topic that was just made.
const PAUSE: Duration = Duration::from_millis(20);

/// A copy of a message for one group.
pub(crate) struct Copy<'a> {
    pub(crate) envelope: &'a Envelope,
    /// Deliveries before this copy.
    pub(crate) attempts: u32,
    /// Not before that.
    pub(crate) due: Option<Timestamp>,
}

/// Stores copies. One outcome for each, in order.
///
/// # Cancel safety
/// When dropped, each copy is stored or not.
pub(crate) async fn store(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
    copies: &[Copy<'_>],
) -> Vec<Result<()>> {
    let (name, until) = (names::retry_topic(topic, group), hub.deadline());
    let producer = async { hub.producer(ensure(hub, &name, until).await?, until).await };
    let producer = match producer.await {
        Ok(producer) => producer,
        Err(error) => return copies.iter().map(|_| Err(error.duplicate())).collect(),
    };
    let waiting = Waiting::for_batch(copies.len());
    for (at, copy) in copies.iter().enumerate() {
        let mut headers = convert::headers(copy.envelope);
        let attempts = (copy.attempts > 0).then(|| (wire::ATTEMPT, copy.attempts.to_string()));
        let due = copy.due.map(|due| (wire::DELIVER_AT, due.to_string()));
        for (key, value) in attempts.iter().chain(&due) {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let (key, payload) = (copy.envelope.key(), Some(&copy.envelope.payload()[..]));
        let record = Record { topic: &name, partition: None, key, payload, headers };
        producer.send(record, waiting.ticket(at), until).await;
    }
    waiting.complete().await;
    let outcome = |at| match waiting.fate(at) {
        Some(Fate::Stored { .. }) => Ok(()),
        Some(Fate::Failed { code, maybe_written }) => {
            hub.forget(&name);
            Err(hub.explain(error::publish(code, maybe_written)))
        }
        None => Err(error::closed()),
    };
    (0..copies.len()).map(outcome).collect()
}

/// Creates the topic unless it is there.
async fn ensure(hub: &Hub, name: &str, until: Instant) -> Result<Known> {
    match hub.find(name, until).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        found => return found,
    }
    let replicas = TopicReplication::Fixed(hub.config.replicas.map_or(-1, i32::from));
    let wanted = NewTopic::new(name, 1, replicas);
    let making = hub.admin()?.create_topics([&wanted], &topology::options(until));
    let made = topology::answered(hub, until, making).await?;
    match made.into_iter().find_map(std::result::Result::err) {
        None | Some((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
        Some((_, code)) => return Err(topology::refused(code).with_context("name", name)),
    }
    loop {
        match hub.find(name, until).await {
            Err(error) if error.kind() == ErrorKind::NotFound && Instant::now() + PAUSE < until => {
                tokio::time::sleep(PAUSE).await;
            }
            found => return found,
        }
    }
}
