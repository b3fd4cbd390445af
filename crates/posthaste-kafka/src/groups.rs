//! Groups: the offsets that they have committed.
//!
//! A group exists when it has committed an offset; members alone do not make one. What it has
//! still to do lies between those offsets and the ends of the partitions.
//!
//! The broker lets somebody who is no member commit only while there are no members. So nothing
//! has to be asked before: what it refuses is a conflict, and who is in the way is asked then.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use posthaste_core::broker::{GroupInfo, Lag, Start};
use posthaste_core::{Error, ErrorKind, GroupName, Result, Retry, Timestamp, TopicName};
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::connect::Owned;
use crate::context::Signs;
use crate::error::{self, BROKER};
use crate::hub::Hub;
use crate::names;
use crate::properties::Role;
use crate::topology::{self, Found};
use crate::tracker::Progress;

/// How many groups are asked at once.
const ASKED_AT_ONCE: usize = 4;
/// How long the names of members are awaited, which only explain.
const ASIDE: Duration = Duration::from_secs(2);
/// The pause before a question is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// The group exists from now on, and gets everything that is confirmed from now on.
///
/// # Errors
/// What keeps the broker from answering.
pub(crate) async fn ensure(
    hub: &Hub,
    topic: &TopicName,
    found: &Found,
    group: &GroupName,
) -> Result<()> {
    let id = names::group_id(topic, group);
    ask(hub, &id, found, hub.deadline(), |offsets| {
        // The ends come first: if somebody else makes the group meanwhile, they are still not
        // behind what was confirmed after it existed, whoever commits last.
        let ends = offsets.places(Offset::End)?;
        if offsets.committed()?.iter().any(Option::is_some) {
            return Ok(());
        }
        match offsets.commit(&ends) {
            Err(native) if is_refused_by_members(&native) => Ok(()),
            committed => committed.map_err(|native| error::of(&native)),
        }
    })
    .await
}

/// # Errors
/// `NotFound` if the group has never committed an offset.
pub(crate) async fn verify(
    hub: &Hub,
    topic: &TopicName,
    found: &Found,
    group: &GroupName,
) -> Result<()> {
    let id = names::group_id(topic, group);
    ask(hub, &id, found, hub.deadline(), |offsets| offsets.existing().map(drop)).await
}

/// What the group has still to do.
///
/// # Errors
/// `NotFound`.
pub(crate) async fn lag(hub: &Hub, topic: &TopicName, group: &GroupName) -> Result<Lag> {
    let until = hub.deadline();
    let found = topology::find(hub, topic, until).await?;
    let mut lag = Lag::default();
    lag.ready = Some(behind(hub, &names::group_id(topic, group), &found, until).await?);
    Ok(lag)
}

/// How many offsets the group is behind.
async fn behind(hub: &Hub, id: &str, found: &Found, until: Instant) -> Result<u64> {
    ask(hub, id, found, until, |offsets| {
        let committed = offsets.existing()?;
        let (starts, ends) = (offsets.places(Offset::Beginning)?, offsets.places(Offset::End)?);
        let left = committed.iter().zip(starts).zip(ends).map(|((committed, start), end)| {
            // A partition without an offset came after the group, and is read from its start.
            // What was removed before it was read will not come.
            let from = committed.unwrap_or(start).max(start);
            u64::try_from(end.saturating_sub(from)).unwrap_or(0)
        });
        Ok(left.sum())
    })
    .await
}

/// Moves a group without members.
///
/// # Errors
/// `NotFound`; `Conflict` naming the members; `Invalid` for `Created`, and for a partition that is
/// not there.
pub(crate) async fn seek(hub: &Hub, topic: &TopicName, group: &GroupName, to: Start) -> Result<()> {
    let until = hub.deadline();
    let found = topology::find(hub, topic, until).await?;
    let id = names::group_id(topic, group);
    let moved = ask(hub, &id, &found, until, move |offsets| {
        let committed = offsets.existing()?;
        let mut wanted = offsets.starts(to)?;
        if let Start::AtOffset { partition: Some(only), .. } = to {
            // The others stay where they are.
            let starts = offsets.places(Offset::Beginning)?;
            for (at, (wanted, start)) in wanted.iter_mut().zip(starts).enumerate() {
                if u32::try_from(at) != Ok(only) {
                    *wanted = committed.get(at).copied().flatten().unwrap_or(start);
                }
            }
        }
        match offsets.commit(&wanted) {
            Err(native) if is_refused_by_members(&native) => Ok(false),
            committed => committed.map(|()| true).map_err(|native| error::of(&native)),
        }
    });
    if moved.await? { Ok(()) } else { Err(in_the_way(hub, &id).await) }
}

/// Deletes a group without members, and its private channel.
///
/// # Errors
/// `NotFound`; `Conflict` naming the members.
pub(crate) async fn delete(hub: &Hub, topic: &TopicName, group: &GroupName) -> Result<()> {
    let (until, id) = (hub.deadline(), names::group_id(topic, group));
    match delete_one(hub, &id, until).await? {
        None => {}
        Some(RDKafkaErrorCode::NonEmptyGroup) => return Err(in_the_way(hub, &id).await),
        Some(code) => return Err(topology::refused(code)),
    }
    topology::delete_named(hub, &[names::retry_topic(topic, group)], until).await
}

/// Deletes the groups of a topic that is being deleted. One with members ends with the last of
/// them: there is nothing that it could keep.
///
/// # Errors
/// `Auth`, `Connection`, `Timeout`.
pub(crate) async fn delete_all(hub: &Hub, topic: &TopicName, until: Instant) -> Result<()> {
    for (group, _) in list_of(hub, topic, until).await? {
        use RDKafkaErrorCode as C;
        match delete_one(hub, &names::group_id(topic, &group), until).await? {
            None | Some(C::NonEmptyGroup | C::GroupIdNotFound) => {}
            Some(code) => return Err(topology::refused(code)),
        }
    }
    Ok(())
}

/// The groups of a topic.
///
/// # Errors
/// `NotFound` if there is no such topic.
pub(crate) async fn list(hub: &Hub, topic: &TopicName) -> Result<Vec<GroupInfo>> {
    let until = hub.deadline();
    let found = &topology::find(hub, topic, until).await?;
    let groups = list_of(hub, topic, until).await?;
    let describe = |(name, members)| async move {
        let pins = match behind(hub, &names::group_id(topic, &name), found, until).await {
            Ok(pins) => Some(pins),
            // Its members have not committed anything yet.
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let mut info = GroupInfo::new(name);
        (info.members, info.pins) = (members, pins);
        Ok(info)
    };
    let described = stream::iter(groups).map(describe).buffered(ASKED_AT_ONCE);
    described.try_collect().await
}

/// The groups of a topic, with how many members each has, where the broker tells.
async fn list_of(
    hub: &Hub,
    topic: &TopicName,
    until: Instant,
) -> Result<Vec<(GroupName, Option<usize>)>> {
    let topic = topic.clone();
    let listed = hub.worker.run(until, move |client, left| {
        let list = client.fetch_group_list(None, left).map_err(|native| error::of(&native))?;
        let of_topic = list.groups().iter().filter_map(|group| {
            let (of, name) = names::parse_group_id(group.name())?;
            // A group of the newer protocol looks dead to this question.
            let members = (group.state() != "Dead").then(|| group.members().len());
            (of == topic).then_some((name, members))
        });
        let mut groups: Vec<_> = of_topic.collect();
        groups.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
        Ok(groups)
    });
    listed.await.map_err(|error| hub.explain(error))
}

/// What the broker has against it, if it has.
async fn delete_one(hub: &Hub, id: &str, until: Instant) -> Result<Option<RDKafkaErrorCode>> {
    let deleting = hub.admin()?.delete_groups(&[id], &topology::options(until));
    let outcomes = topology::answered(hub, until, deleting).await?;
    Ok(outcomes.into_iter().find_map(|outcome| outcome.err().map(|(_, code)| code)))
}

/// Names the members that keep a group from being changed.
#[cold]
async fn in_the_way(hub: &Hub, id: &str) -> Error {
    let asked = id.to_owned();
    let members = hub.worker.run(Instant::now() + ASIDE, move |client, left| {
        let list = client.fetch_group_list(Some(&asked), left);
        let list = list.map_err(|native| error::of(&native))?;
        let members = list.groups().iter().flat_map(rdkafka::groups::GroupInfo::members);
        let shown = members.map(|one| format!("{} at {}", one.id(), one.client_host()));
        Ok(shown.collect::<Vec<_>>())
    });
    let error = Error::new(ErrorKind::Conflict, "the group has live members").with_broker(BROKER);
    match members.await {
        Ok(members) if !members.is_empty() => {
            error.with_context("members", members.join(", ").escape_debug())
        }
        _ => error,
    }
}

/// Whether a commit was refused because the group has members, or gets some.
fn is_refused_by_members(native: &KafkaError) -> bool {
    use RDKafkaErrorCode as C;
    matches!(
        native.rdkafka_error_code(),
        Some(
            C::UnknownMemberId
                | C::IllegalGeneration
                | C::RebalanceInProgress
                | C::StaleMemberEpoch
                | C::FencedMemberEpoch
        )
    )
}

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
    fn committed(&self) -> Result<Vec<Option<i64>>> {
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
    fn existing(&self) -> Result<Vec<Option<i64>>> {
        let committed = self.committed()?;
        if committed.iter().any(Option::is_some) {
            return Ok(committed);
        }
        let missing = Error::new(ErrorKind::NotFound, "the group does not exist");
        Err(missing.with_broker(BROKER))
    }

    /// Commits these offsets for the group, as one that nobody has handled anything beyond.
    fn commit(&self, offsets: &[i64]) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (partition, &watermark) in (0..).zip(offsets) {
            let mut one = list.add_partition(&self.topic, partition);
            one.set_offset(Offset::Offset(watermark))?;
            let settled = Default::default();
            let progress =
                Progress { watermark, settled, starts: 0, clean: true, reach: watermark };
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
    use posthaste_core::TopicConfig;

    use super::*;

    #[test]
    fn the_group_of_a_queue_is_called_as_core_calls_it() {
        let queue = TopicConfig::queue("jobs").check().unwrap();
        let names: Vec<_> = queue.groups.iter().map(GroupName::as_str).collect();
        assert_eq!(names, [names::QUEUE_GROUP]);
    }

    #[test]
    fn a_time_within_a_millisecond_is_the_next_one() {
        for (micros, expected) in
            [(0, 0), (1, 1), (999, 1), (1_000, 1), (1_001, 2), (-1, 0), (-1_000, -1), (-1_001, -1)]
        {
            assert_eq!(millis(Timestamp::from_micros(micros)), expected, "{micros}");
        }
    }

    #[test]
    fn a_refusal_for_members_is_told_from_others() {
        let failed = |code| is_refused_by_members(&KafkaError::ConsumerCommit(code));
        assert!(failed(RDKafkaErrorCode::UnknownMemberId));
        assert!(failed(RDKafkaErrorCode::RebalanceInProgress));
        assert!(!failed(RDKafkaErrorCode::GroupAuthorizationFailed));
        assert!(is_refused_by_members(&KafkaError::OffsetFetch(
            RDKafkaErrorCode::IllegalGeneration
        )));
    }
}
