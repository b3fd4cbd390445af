//! The errors of this broker. There is no client below, so none is translated: each is made here,
//! once, with its kind.

use posthaste_core::{Error, ErrorKind, GroupName, TopicName};

pub(crate) const BROKER: &str = "memory";

pub(crate) fn closed() -> Error {
    Error::closed("this connection was closed").with_broker(BROKER)
}

pub(crate) fn unreachable() -> Error {
    Error::new(ErrorKind::Connection, "the broker is down").with_broker(BROKER)
}

/// The connection went while an answer was awaited.
pub(crate) fn interrupted(topic: &TopicName) -> Error {
    Error::new(ErrorKind::Connection, "the broker was restarted before it answered")
        .with_may_be_stored(true)
        .with_broker(BROKER)
        .with_topic(topic)
}

pub(crate) fn injected(topic: &TopicName, stored: bool) -> Error {
    let message = if stored {
        "injected fault: the reply was lost"
    } else {
        "injected fault: the message was not stored"
    };
    Error::new(ErrorKind::Connection, message)
        .with_may_be_stored(stored)
        .with_broker(BROKER)
        .with_topic(topic)
}

pub(crate) fn no_topic(topic: &TopicName) -> Error {
    Error::new(ErrorKind::NotFound, "the topic does not exist")
        .with_broker(BROKER)
        .with_topic(topic)
}

pub(crate) fn no_group(topic: &TopicName, group: &GroupName) -> Error {
    Error::new(ErrorKind::NotFound, "the group does not exist")
        .with_broker(BROKER)
        .with_topic(topic)
        .with_group(group)
}

pub(crate) fn no_letter(topic: &TopicName, group: &GroupName, letter: &str) -> Error {
    Error::new(ErrorKind::NotFound, "there is no such dead letter")
        .with_broker(BROKER)
        .with_topic(topic)
        .with_group(group)
        .with_context("letter", letter.escape_debug())
}

/// The group is in use.
pub(crate) fn members<'a>(
    topic: &TopicName,
    group: &GroupName,
    names: impl Iterator<Item = &'a str>,
) -> Error {
    Error::new(ErrorKind::Conflict, "the group has live members")
        .with_broker(BROKER)
        .with_topic(topic)
        .with_group(group)
        .with_context("members", names.collect::<Vec<_>>().join(", "))
}

pub(crate) fn second_group(topic: &TopicName) -> Error {
    Error::unsupported("a queue has one group, which is named `queue`")
        .with_broker(BROKER)
        .with_topic(topic)
}

pub(crate) fn not_ordered(topic: &TopicName) -> Error {
    Error::unsupported("the topic was not created as ordered, so there is no order per key")
        .with_broker(BROKER)
        .with_topic(topic)
}

pub(crate) fn no_dead_letters(topic: &TopicName) -> Error {
    Error::unsupported("a subscription without a group has no dead letters")
        .with_broker(BROKER)
        .with_topic(topic)
}

pub(crate) fn full(topic: &TopicName, of: &'static str) -> Error {
    Error::new(ErrorKind::Backpressure, format!("the topic is full of {of}"))
        .with_broker(BROKER)
        .with_topic(topic)
}

pub(crate) fn too_large(topic: &TopicName, size: usize, limit: usize) -> Error {
    Error::new(ErrorKind::TooLarge, "the message is larger than the topic takes")
        .with_broker(BROKER)
        .with_topic(topic)
        .with_context("bytes", size)
        .with_context("limit", limit)
}
