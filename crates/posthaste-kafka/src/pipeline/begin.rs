//! Where partitions begin: behind what the group has committed.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::Instant;

use crate::consumer::patiently;

/// Where the partitions begin. One without a commit is new in the topic: it is read from its first
/// message, and so is one whose next message was removed.
///
/// The answer waits for transactions that have committed offsets and are still open.
pub(super) fn begin<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partitions: &[i32],
    until: Instant,
) -> Result<Vec<(i32, i64)>, KafkaError> {
    let committed = patiently(until, |limit| committed(consumer, topic, partitions, limit))?;
    let mut beginnings = Vec::with_capacity(partitions.len());
    for partition in partitions {
        let at = committed.iter().find(|(one, _)| one == partition).map(|(_, offset)| *offset);
        let ends = patiently(until, |limit| consumer.fetch_watermarks(topic, *partition, limit))?;
        beginnings.push((*partition, place(topic, *partition, at, ends)));
    }
    Ok(beginnings)
}

/// Where a partition is read on, which is elsewhere if what came next was removed.
pub(super) fn place(topic: &str, partition: i32, at: Option<i64>, (first, end): (i64, i64)) -> i64 {
    match at {
        Some(at) if (first..=end).contains(&at) => at,
        Some(at) => {
            let lost = first.saturating_sub(at).max(0);
            tracing::warn!(topic, partition, lost, "messages were removed before they were read");
            first
        }
        None => first,
    }
}

fn committed<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partitions: &[i32],
    limit: Duration,
) -> Result<Vec<(i32, i64)>, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        list.add_partition(topic, *partition);
    }
    let list = consumer.committed_offsets(list, limit)?;
    let mut found = Vec::with_capacity(partitions.len());
    for element in list.elements() {
        element.error()?;
        if let Offset::Offset(offset) = element.offset() {
            found.push((element.partition(), offset));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_removed_is_skipped_and_what_is_new_is_read_from_its_start() {
        let at = |at| place("t", 0, at, (7, 20));
        assert_eq!(at(None), 7);
        assert_eq!(at(Some(7)), 7);
        assert_eq!(at(Some(20)), 20);
        assert_eq!(at(Some(3)), 7);
        // Behind the end: it is another topic of that name.
        assert_eq!(at(Some(21)), 7);
    }
}
