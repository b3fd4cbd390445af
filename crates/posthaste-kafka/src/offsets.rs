//! Places in the partitions of a topic: where they start and end, what is where at a time, and what
//! a group has committed.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use posthaste_core::broker::Start;
use posthaste_core::{Error, ErrorKind, Result, Retry, Timestamp};
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::connect::Owned;
use crate::context::Signs;
use crate::error::{self, BROKER};
use crate::hub::Hub;
use crate::properties::Role;
use crate::topology::Found;
use crate::tracker::Progress;

/// The pause before a question is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks for offsets with the id of a group, of which this client does not become a member.
///
/// # Errors
/// What the call says; what keeps the broker from answering.
pub(crate) async fn ask<T: Send + 'static>(
    hub: &Hub,
    id: &str,
    found: &Found,
    until: Instant,
    call: impl FnOnce(&Offsets) -> Result<T> + Send + 'static,
) -> Result<T> {
    let mut client = hub.config.client(Role::Consumer(id));
    // It never joins, so that it needs no name and no way to divide partitions.
    client.remove("group.instance.id").remove("group.protocol");
    // For so long the client keeps a commit for a coordinator that is not there.
    client.set("session.timeout.ms", hub.config.request_timeout.as_millis().to_string());
    client.set("enable.partition.eof", "true");
    // Who reads to the end waits for nothing more: while a fetch waits, no other place is read.
    client.set("fetch.wait.max.ms", "10");
    let context = ReadContext { signs: Arc::clone(&hub.signs), _alive: hub.tasks.token() };
    let (topic, partitions) = (found.native.clone(), found.partitions);
    let asked = hub.worker.run(until, move |_, _| {
        let consumer = BaseConsumer::from_config_and_context(&client, context);
        let consumer = Owned::new(consumer.map_err(|native| error::of(&native))?)?;
        call(&Offsets { consumer, topic, partitions, until })
    });
    asked.await.map_err(|error| hub.explain(error))
}

/// Places in the partitions of a topic, one for each. Every call blocks.
#[derive(Debug)]
pub(crate) struct Offsets {
    // Lists of the client that are alive when it ends make it wait for ever: none is kept.
    consumer: Owned<BaseConsumer<ReadContext>>,
    topic: String,
    partitions: i32,
    until: Instant,
}

/// Such a client ends some time after it was dropped. Until then the hub counts it.
#[derive(Debug)]
pub(crate) struct ReadContext {
    signs: Arc<Signs>,
    _alive: TaskTrackerToken,
}

impl ClientContext for ReadContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.signs.log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.signs.error(&error, reason);
    }
}

impl ConsumerContext for ReadContext {}

impl Offsets {
    pub(crate) fn consumer(&self) -> &BaseConsumer<ReadContext> {
        &self.consumer
    }

    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    /// # Errors
    /// `Timeout` if nothing is left.
    pub(crate) fn left(&self) -> Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(late()) } else { Ok(left) }
    }

    /// Where the partitions start or end. Everything that is confirmed lies before the end.
    pub(crate) fn places(&self, place: Offset) -> Result<Vec<i64>> {
        // The broker counts these two as times: the client asks each leader once for all of its
        // partitions, where it would ask for the two ends of each partition otherwise.
        let found = self.at(place)?;
        found.into_iter().map(|offset| offset.ok_or_else(|| self.unknown())).collect()
    }

    /// Where to read from, in each partition: nothing before the start, nothing behind the end.
    pub(crate) fn starts(&self, start: Start) -> Result<Vec<i64>> {
        match start {
            Start::Earliest => self.places(Offset::Beginning),
            Start::Latest => self.places(Offset::End),
            Start::At(time) => {
                let ends = self.places(Offset::End)?;
                let found = self.at(Offset::Offset(millis(time)))?;
                // Nothing is as late as that.
                Ok(found.into_iter().zip(ends).map(|(found, end)| found.unwrap_or(end)).collect())
            }
            Start::AtOffset { partition, offset } => {
                self.check_partition(partition)?;
                let (first, end) = (self.places(Offset::Beginning)?, self.places(Offset::End)?);
                let offset = i64::try_from(offset).unwrap_or(i64::MAX);
                Ok(first
                    .into_iter()
                    .zip(end)
                    .map(|(first, end)| offset.min(end).max(first))
                    .collect())
            }
            _ => Err(Error::invalid("a group that exists is not created").with_broker(BROKER)),
        }
    }

    fn check_partition(&self, partition: Option<u32>) -> Result<()> {
        match partition {
            Some(partition) if i64::from(partition) >= i64::from(self.partitions) => {
                Err(Error::invalid("the topic has no such partition")
                    .with_context("partition", partition)
                    .with_context("partitions", self.partitions)
                    .with_broker(BROKER))
            }
            _ => Ok(()),
        }
    }

    /// The first offsets at that time or later; `None` where there is none.
    fn at(&self, time: Offset) -> Result<Vec<Option<i64>>> {
        self.patiently(|| {
            let asked = self.list(time)?;
            let found = self.consumer.offsets_for_times(asked, self.left()?);
            read(&found.map_err(|native| error::of(&native))?)
        })
    }

    /// What the group has committed. `None` for a partition where it has not.
    pub(crate) fn committed(&self) -> Result<Vec<Option<i64>>> {
        self.patiently(|| {
            let asked = self.list(Offset::Invalid)?;
            let found = self.consumer.committed_offsets(asked, self.left()?);
            read(&found.map_err(|native| error::of(&native))?)
        })
    }

    /// Asks again while the cluster is not ready: the leader of a partition that was just made may
    /// be known before it leads, and so it is with the coordinator of a group.
    fn patiently<T>(&self, ask: impl Fn() -> Result<T>) -> Result<T> {
        loop {
            match ask() {
                Err(error)
                    if error.kind() == ErrorKind::Connection
                        && error.retry() == Retry::Transient
                        && self.left()? > PAUSE =>
                {
                    thread::park_timeout(PAUSE);
                }
                answer => return answer,
            }
        }
    }

    /// The same of a group that is there.
    pub(crate) fn existing(&self) -> Result<Vec<Option<i64>>> {
        let committed = self.committed()?;
        if committed.iter().any(Option::is_some) {
            return Ok(committed);
        }
        let missing = Error::new(ErrorKind::NotFound, "the group does not exist");
        Err(missing.with_broker(BROKER))
    }

    /// Commits these offsets for the group, as one that nobody has handled anything beyond.
    pub(crate) fn commit(&self, offsets: &[i64]) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (partition, &watermark) in (0..).zip(offsets) {
            let mut one = list.add_partition(&self.topic, partition);
            one.set_offset(Offset::Offset(watermark))?;
            let settled = Default::default();
            let progress =
                Progress { watermark, settled, starts: 0, clean: true, reach: watermark, owner: 0 };
            one.set_metadata(progress.encode(Progress::LIMIT));
        }
        self.consumer.commit(&list, CommitMode::Sync)?;
        list.elements().iter().try_for_each(|one| one.error())
    }

    fn list(&self, offset: Offset) -> Result<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for partition in 0..self.partitions {
            let added = list.add_partition_offset(&self.topic, partition, offset);
            added.map_err(|native| error::of(&native))?;
        }
        Ok(list)
    }

    #[cold]
    fn unknown(&self) -> Error {
        Error::new(ErrorKind::Connection, "the broker does not tell where a partition ends")
            .with_context("name", &self.topic)
            .with_broker(BROKER)
    }
}

#[cold]
fn late() -> Error {
    Error::new(ErrorKind::Timeout, "the broker did not answer in time").with_broker(BROKER)
}

/// The offsets in an answer, by partition.
fn read(list: &TopicPartitionList) -> Result<Vec<Option<i64>>> {
    let mut found: Vec<_> = list
        .elements()
        .iter()
        .map(|one| match (one.error(), one.offset()) {
            (Err(native), _) => Err(error::of(&native)),
            (Ok(()), Offset::Offset(offset)) => Ok((one.partition(), Some(offset))),
            (Ok(()), _) => Ok((one.partition(), None)),
        })
        .collect::<Result<_>>()?;
    found.sort_unstable_by_key(|(partition, _)| *partition);
    Ok(found.into_iter().map(|(_, offset)| offset).collect())
}

/// The broker counts in milliseconds: what is as late as the time is, not the millisecond before.
fn millis(time: Timestamp) -> i64 {
    let micros = time.as_micros();
    micros.div_euclid(1_000) + i64::from(micros.rem_euclid(1_000) > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_within_a_millisecond_is_the_next_one() {
        for (micros, expected) in
            [(0, 0), (1, 1), (999, 1), (1_000, 1), (1_001, 2), (-1, 0), (-1_000, -1), (-1_001, -1)]
        {
            assert_eq!(millis(Timestamp::from_micros(micros)), expected, "{micros}");
        }
    }
}
