//! Committing: what is settled goes to the broker, with what the next owner has to know.
//!
//! A list of partitions caches references into the client, and one that is still alive when the
//! client ends may let that hang for ever. So each is built, used and dropped in one function.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::topics::Topics;
use crate::offsets::metadata;
use crate::tracker::Progress;

/// What is committed for one partition, by its number in the row of [`Topics`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) metadata: String,
}

impl Entry {
    pub(super) fn of(partition: i32, progress: &Progress) -> Self {
        let metadata = progress.encode(Progress::LIMIT);
        Self { partition, offset: progress.watermark, metadata }
    }
}

/// Commits for partitions. With [`CommitMode::Sync`] the thread stands still until the
/// broker has answered.
pub(super) fn commit<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topics: &Topics,
    entries: &[Entry],
    mode: CommitMode,
) -> Result<(), KafkaError> {
    if entries.is_empty() {
        return Ok(());
    }
    let mut list = TopicPartitionList::with_capacity(entries.len());
    for entry in entries {
        let (topic, partition) = topics.place(entry.partition);
        let mut element = list.add_partition(topic, partition);
        element.set_offset(Offset::Offset(entry.offset))?;
        if !entry.metadata.is_empty() {
            element.set_metadata(&entry.metadata);
        }
    }
    match consumer.commit(&list, mode) {
        // Nothing had to be committed.
        Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => Ok(()),
        other => other,
    }
}

/// What is committed for a partition, if anything is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Committed {
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// What the last owner left, if it was one of this library.
    pub(super) progress: Option<Progress>,
}

/// Asks what is committed for the partitions. Those without a commit are left out.
pub(super) fn committed<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topics: &Topics,
    partitions: &[i32],
    limit: Duration,
) -> Result<Vec<Committed>, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        let (topic, partition) = topics.place(*partition);
        list.add_partition(topic, partition);
    }
    let list = consumer.committed_offsets(list, limit)?;
    let mut found = Vec::with_capacity(partitions.len());
    for (element, metadata) in list.elements().iter().zip(metadata(&list)) {
        element.error()?;
        if let Offset::Offset(offset) = element.offset() {
            let progress = metadata.and_then(|text| Progress::decode(&text, offset));
            let partition = topics.number(element.topic(), element.partition());
            found.push(Committed { partition, offset, progress });
        }
    }
    Ok(found)
}
