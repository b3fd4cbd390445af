//! Consumers: one on a thread that stores offsets, and one that commits each message.
//!
//! To join a group takes longer than some runs: the first message is read before the clock starts.

use std::sync::Arc;

use posthaste::Result;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, StreamConsumer};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::Instant;

use super::topic::{Topic, blocking, client};
use super::{PATIENCE, failed};
use crate::clock::{Sample, timed};
use crate::raw::{How, Load, Seen};

/// How many attributes a message with an envelope has.
const ATTRIBUTES: usize = 5;

/// Reads on a thread of its own and stores the offset of each batch, which the client commits
/// every second and when it ends.
pub(super) async fn in_batches(topic: &Topic, load: &Load, how: How) -> Result<Sample> {
    let mut config = config(topic);
    config.set("enable.auto.commit", "true");
    config.set("auto.commit.interval.ms", "1000");
    let (name, expected) = (topic.name().to_owned(), Expected::of(load, how.envelope));
    let (consumer, name) = blocking(move || {
        let consumer: BaseConsumer = config.create().map_err(failed)?;
        consumer.subscribe(&[&name]).map_err(failed)?;
        let first = next(&consumer)?;
        expected.check(&first)?;
        store(&consumer, &name, first.offset() + 1)?;
        drop(first);
        Ok((Arc::new(consumer), name))
    })
    .await?;
    let left = load.messages - 1;
    let reader = Arc::clone(&consumer);
    let sample = timed(left, async {
        blocking(move || {
            let mut stored = 0;
            for number in 1..=left as usize {
                let message = next(&reader)?;
                expected.check(&message)?;
                if number - stored == how.window || number == left as usize {
                    store(&reader, &name, message.offset() + 1)?;
                    stored = number;
                }
            }
            Ok(())
        })
        .await
    })
    .await?;
    // What is stored is committed.
    blocking(move || {
        drop(consumer);
        Ok(())
    })
    .await?;
    Ok(sample)
}

/// One task that reads a message and commits it, without waiting for the broker's answer.
pub(super) async fn one_by_one(topic: &Topic, load: &Load, envelope: bool) -> Result<Sample> {
    let mut config = config(topic);
    config.set("enable.auto.commit", "false");
    let (name, expected) = (topic.name().to_owned(), Expected::of(load, envelope));
    let consumer = blocking(move || {
        let consumer: StreamConsumer = config.create().map_err(failed)?;
        consumer.subscribe(&[&name]).map_err(failed)?;
        Ok(consumer)
    })
    .await?;
    let read = async || {
        let message = consumer.recv().await.map_err(failed)?;
        expected.check(&message)?;
        consumer.commit_message(&message, CommitMode::Async).map_err(failed)
    };
    read().await?;
    let sample = timed(load.messages - 1, async {
        for _ in 1..load.messages {
            read().await?;
        }
        Ok(())
    })
    .await?;
    // Waits for the answers.
    blocking(move || {
        drop(consumer);
        Ok(())
    })
    .await?;
    Ok(sample)
}

/// The first message of a topic, as anybody reads it.
pub(super) async fn first(load: &Load, topic: &str) -> Result<Seen> {
    let (mut config, topic) = (client(load), topic.to_owned());
    // It is not joined.
    config.set("group.id", "bench-looks");
    config.set("enable.auto.commit", "false");
    blocking(move || {
        let consumer: BaseConsumer = config.create().map_err(failed)?;
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(&topic, 0, Offset::Beginning).map_err(failed)?;
        consumer.assign(&from).map_err(failed)?;
        drop(from);
        let message = next(&consumer)?;
        let headers = message.headers().into_iter().flat_map(rdkafka::message::Headers::iter);
        let mut headers: Vec<_> = headers
            .map(|header| (header.key.to_owned(), header.value.map_or(0, <[u8]>::len)))
            .collect();
        headers.sort();
        // A key has no name.
        headers.extend(message.key().map(|key| (String::new(), key.len())));
        Ok(Seen { headers, payload: message.payload_len() })
    })
    .await
}

/// What has to come.
#[derive(Debug, Clone, Copy)]
struct Expected {
    payload: usize,
    headers: usize,
}

impl Expected {
    const fn of(load: &Load, envelope: bool) -> Self {
        Self { payload: load.payload.len(), headers: if envelope { ATTRIBUTES } else { 0 } }
    }

    /// Reads what both sides need of a message: its payload, and each header. Nothing is copied.
    fn check(&self, message: &BorrowedMessage<'_>) -> Result<()> {
        let headers = message.headers().map_or(0, |headers| {
            headers
                .iter()
                .filter(|header| header.value.is_some_and(|value| !value.is_empty()))
                .count()
        });
        let payload = message.payload().map_or(0, <[u8]>::len);
        if (headers, payload) == (self.headers, self.payload) {
            return Ok(());
        }
        Err(failed("a message came that was not sent"))
    }
}

/// The next message. An empty poll may have served the group.
fn next(consumer: &BaseConsumer) -> Result<BorrowedMessage<'_>> {
    if let Some(message) = consumer.poll(PATIENCE) {
        return message.map_err(failed);
    }
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(message) = consumer.poll(PATIENCE) {
            return message.map_err(failed);
        }
    }
    Err(failed("no message came"))
}

fn store(consumer: &BaseConsumer, topic: &str, next: i64) -> Result<()> {
    // It must not outlive the client.
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition_offset(topic, 0, Offset::Offset(next)).map_err(failed)?;
    consumer.store_offsets(&list).map_err(failed)
}

fn config(topic: &Topic) -> ClientConfig {
    let mut config = topic.client();
    config.set("group.id", topic.group());
    config.set("auto.offset.reset", "earliest");
    config.set("enable.auto.offset.store", "false");
    // A second by default, for which it would stand still after its queue was full.
    config.set("fetch.queue.backoff.ms", "20");
    config
}
