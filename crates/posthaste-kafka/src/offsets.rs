//! Places in the partitions of a topic: where they start and end, what is where at a time, and what
//! a group has committed.

use std::error::Error as StdError;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use posthaste_core::broker::Start;
use posthaste_core::{Error, ErrorKind, Result, Retry, Timestamp};
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::connect::Owned;
use crate::context::Signs;
use crate::error::{self, BROKER};
use crate::hub::{Hub, check_there};
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
        consumer.context().signs.let_in(consumer.client())?;
        call(&Offsets { consumer: Rc::new(consumer), topic, partitions, until })
    });
    asked.await.map_err(|error| hub.explain(error))
}

/// Places in the partitions of a topic, one for each. Every call blocks.
#[derive(Debug)]
pub(crate) struct Offsets {
    // Lists of the client that are alive when it ends make it wait for ever: none is kept.
    consumer: Rc<Owned<BaseConsumer<ReadContext>>>,
    topic: String,
    partitions: i32,
    until: Instant,
}

/// What a group has committed for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) offset: i64,
    /// What is settled above the offset: runs that ascend, each from an offset to before another.
    settled: Vec<(i64, i64)>,
}

/// Such a client ends some time after it was dropped. Until then the hub counts it.
#[derive(Debug)]
pub(crate) struct ReadContext {
    signs: Arc<Signs>,
    _alive: TaskTrackerToken,
}

impl ClientContext for ReadContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn StdError>> {
        self.signs.token()
    }

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

    /// The places in another topic, if it is there.
    pub(crate) fn beside(&self, topic: &str) -> Result<Option<Self>> {
        let partitions = self.patiently(|| {
            let metadata = self.consumer.fetch_metadata(Some(topic), self.left()?);
            let metadata = metadata.map_err(|native| error::of(&native))?;
            let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
                return Ok(0);
            };
            match check_there(found) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
                Err(error) => Err(error.with_context("name", topic)),
                Ok(()) => Ok(i32::try_from(found.partitions().len()).unwrap_or(i32::MAX)),
            }
        })?;
        // Nothing can be in one that is being made.
        Ok((partitions > 0).then(|| Self {
            consumer: Rc::clone(&self.consumer),
            topic: topic.to_owned(),
            partitions,
            until: self.until,
        }))
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
            Ok(in_order(read(&found.map_err(|native| error::of(&native))?)?))
        })
    }

    /// What the group has committed. `None` for a partition where it has not.
    pub(crate) fn committed(&self) -> Result<Vec<Option<Committed>>> {
        self.patiently(|| {
            let asked = self.list(Offset::Invalid)?;
            let found = self.consumer.committed_offsets(asked, self.left()?);
            let found = found.map_err(|native| error::of(&native))?;
            let with = |((partition, offset), metadata): (_, Option<String>)| {
                let committed = |offset| Committed::of(offset, metadata.as_deref());
                (partition, Option::map(offset, committed))
            };
            Ok(in_order(read(&found)?.into_iter().zip(metadata(&found)).map(with).collect()))
        })
    }

    /// How many offsets a group that has committed this has not settled.
    pub(crate) fn unsettled(&self, committed: &[Option<Committed>]) -> Result<u64> {
        // The ends come after what was committed, so that nothing of it lies behind them.
        let (starts, ends) = (self.places(Offset::Beginning)?, self.places(Offset::End)?);
        let places = committed.iter().zip(starts.into_iter().zip(ends));
        Ok(places.map(|(committed, place)| unsettled(committed.as_ref(), place)).sum())
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
    pub(crate) fn existing(&self) -> Result<Vec<Option<Committed>>> {
        let committed = self.committed()?;
        if committed.iter().any(Option::is_some) {
            return Ok(committed);
        }
        let missing = Error::new(ErrorKind::NotFound, "the group does not exist");
        Err(missing.with_broker(BROKER))
    }

    /// Commits these offsets for the group, one for each partition, as those that nobody has
    /// handled anything beyond. A partition without one stays as it is.
    pub(crate) fn commit(&self, offsets: &[Option<i64>]) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        let wanted = (0..).zip(offsets).filter_map(|(partition, at)| Some((partition, (*at)?)));
        for (partition, watermark) in wanted {
            let mut one = list.add_partition(&self.topic, partition);
            one.set_offset(Offset::Offset(watermark))?;
            let (settled, again, reach) = (Default::default(), Vec::new(), watermark);
            let progress =
                Progress { watermark, settled, starts: 0, clean: true, reach, owner: 0, again };
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

impl Committed {
    fn of(offset: i64, metadata: Option<&str>) -> Self {
        let progress = metadata.and_then(|text| Progress::decode(text, offset));
        let settled = progress.iter().flat_map(|progress| progress.settled.iter());
        Self { offset, settled: settled.map(|run| (run.start, run.end)).collect() }
    }
}

/// How many offsets a partition holds that are not settled: those that whoever owns it next gets.
fn unsettled(committed: Option<&Committed>, (start, end): (i64, i64)) -> u64 {
    let count = |from: i64, to: i64| u64::try_from(to.saturating_sub(from)).unwrap_or(0);
    let Some(Committed { offset, settled }) = committed else {
        // It came after the group, and is read from its start.
        return count(start, end);
    };
    if *offset > end {
        // What lies behind the end was in another topic of that name, or is cut off.
        return count(start, end);
    }
    // What was removed before it was read will not come.
    let from = (*offset).max(start);
    // Other records may be in the place of settled ones that were cut off.
    let is_cut = settled.last().is_some_and(|(_, to)| *to > end);
    let known = settled.iter().filter(|_| !is_cut);
    let done: u64 = known.map(|(first, to)| count((*first).max(from), *to)).sum();
    count(from, end).saturating_sub(done)
}

/// The offsets in an answer, in its order, with their partitions.
fn read(list: &TopicPartitionList) -> Result<Vec<(i32, Option<i64>)>> {
    let one = |one: &TopicPartitionListElem<'_>| match (one.error(), one.offset()) {
        (Err(native), _) => Err(error::of(&native)),
        (Ok(()), Offset::Offset(offset)) => Ok((one.partition(), Some(offset))),
        (Ok(()), _) => Ok((one.partition(), None)),
    };
    list.elements().iter().map(one).collect()
}

/// What was found, by partition.
fn in_order<T>(mut found: Vec<(i32, T)>) -> Vec<T> {
    found.sort_unstable_by_key(|(partition, _)| *partition);
    found.into_iter().map(|(_, found)| found).collect()
}

/// The metadata of each element. The client's own reading panics on what is not UTF-8, and any
/// program may have committed that.
#[expect(unsafe_code, reason = "the client has no reading of metadata as bytes")]
pub(crate) fn metadata(list: &TopicPartitionList) -> Vec<Option<String>> {
    let native = list.ptr();
    // SAFETY: the pointer is that of the list, which is borrowed and stays as it is meanwhile.
    let (elements, count) = unsafe { ((*native).elems, (*native).cnt) };
    let count = usize::try_from(count).unwrap_or(0);
    let read = |at: usize| {
        // SAFETY: the list has that many elements.
        let element = unsafe { &*elements.add(at) };
        if element.metadata.is_null() {
            return None;
        }
        // SAFETY: the metadata has that many bytes, and belongs to the list.
        let bytes = unsafe {
            std::slice::from_raw_parts(element.metadata.cast::<u8>(), element.metadata_size)
        };
        std::str::from_utf8(bytes).ok().map(str::to_owned)
    };
    (0..count).map(read).collect()
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

    #[test]
    fn what_is_settled_above_the_watermark_is_not_behind() {
        let left = |offset, settled: &[(i64, i64)], place| {
            unsettled(Some(&Committed { offset, settled: settled.to_vec() }), place)
        };
        assert_eq!(unsettled(None, (3, 10)), 7);
        assert_eq!(left(4, &[], (0, 10)), 6);
        assert_eq!(left(4, &[(5, 6), (8, 10)], (0, 10)), 3);
        // Half of the first run was removed.
        assert_eq!(left(4, &[(5, 8), (9, 10)], (7, 12)), 3);
        // All of it was.
        assert_eq!(left(4, &[(5, 8)], (12, 12)), 0);
        // The partition was cut: others may be in the place of what was settled.
        assert_eq!(left(4, &[(5, 6), (8, 11)], (0, 10)), 6);
        // It is another one, which is read from its start.
        assert_eq!(left(40, &[(50, 60)], (2, 10)), 8);
        assert_eq!(left(i64::MIN, &[(i64::MIN, i64::MAX)], (0, i64::MAX)), 0);
    }

    #[test]
    fn metadata_is_read_as_it_was_written() {
        let mut list = TopicPartitionList::new();
        list.add_partition("t", 0).set_metadata("ph1.x");
        list.add_partition("t", 1);
        assert_eq!(metadata(&list), [Some("ph1.x".to_owned()), None]);
        assert!(metadata(&TopicPartitionList::new()).is_empty());
    }
}
