//! The streams beside a topic's own: dead letters, lanes, and the private channels of bound topics.

use async_nats::jetstream::stream::Config;
use posthaste_core::{Error, ErrorKind, GroupName, Result, TopicName};

use crate::error::BROKER;
use crate::hub::Hub;
use crate::names;
use crate::topology::{base, create, info};

/// Creates the stream for a group's dead letters if it is missing. They are kept until they are
/// replayed or discarded.
///
/// # Errors
/// `Conflict` if the stream of that name holds something else.
pub(crate) async fn ensure_dead_letters(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
) -> Result<()> {
    let name = names::dead_letter_stream(topic, group);
    let subject = names::dead_letter_subject(topic, group);
    let spec = hub.known(topic).and_then(|known| known.spec);
    let replicas = spec.and_then(|spec| spec.replicas);
    let duplicate_window = hub.defaults.duplicate_window;
    ensure_side(
        hub,
        Config { name, subjects: vec![subject], duplicate_window, ..base(hub, replicas) },
    )
    .await
}

/// Creates the stream with the owners of an ordered topic's lanes if it is missing.
///
/// # Errors
/// `Conflict` if the stream of that name holds something else.
pub(crate) async fn ensure_lanes(hub: &Hub, topic: &TopicName) -> Result<()> {
    let name = names::lanes_stream(topic);
    let subjects = vec![names::lanes_filter(topic)];
    let spec = hub.known(topic).and_then(|known| known.spec);
    let replicas = spec.and_then(|spec| spec.replicas);
    // Only the last word on each lane and member counts.
    let max_messages_per_subject = 1;
    let config = Config { name, subjects, max_messages_per_subject, ..base(hub, replicas) };
    ensure_side(hub, config).await
}

/// Creates the stream for the private channels of a bound topic if it is missing.
///
/// # Errors
/// `Conflict` if the stream of that name holds something else.
pub(crate) async fn ensure_private(hub: &Hub, topic: &TopicName) -> Result<()> {
    let name = names::private_stream(topic);
    let subjects = vec![names::private_filter(topic)];
    let duplicate_window = hub.defaults.duplicate_window;
    let max_age = hub.defaults.max_age;
    ensure_side(hub, Config { name, subjects, duplicate_window, max_age, ..base(hub, None) }).await
}

async fn ensure_side(hub: &Hub, config: Config) -> Result<()> {
    let found = match info(hub, &config.name).await {
        Err(error) if error.kind() == ErrorKind::NotFound => match create(hub, &config).await {
            Err(error) if error.kind() == ErrorKind::Conflict => info(hub, &config.name).await?,
            created => created?,
        },
        found => found?,
    };
    if found.config.subjects == config.subjects {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, "the stream of that name holds something else")
        .with_context("stream", &config.name)
        .with_context("wanted", config.subjects.join(" "))
        .with_context("found", found.config.subjects.join(" "))
        .with_broker(BROKER))
}
