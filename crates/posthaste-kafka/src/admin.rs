//! Administration: what core asks for, and ranges, which are read without a group.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use posthaste_core::broker::{
    Admin, DeadLetterPage, DeadLetterQuery, GroupInfo, Lag, Position, RangeQuery, Retained, Start,
};
use posthaste_core::{
    Difference, Error, ErrorKind, GroupName, LetterId, Result, Retry, TopicInfo, TopicName,
    TopicSpec, Topology,
};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::Instant;

use crate::convert::{self, Origin};
use crate::error::{self, BROKER};
use crate::hub::Hub;
use crate::offsets::{self, Offsets};
use crate::{dead_letter, groups, topology};

/// The client wants the name of a group also where it joins none and commits nothing.
const NO_GROUP: &str = "posthaste-range";

/// One look for messages: a deadline is noticed within it.
const LOOK: Duration = Duration::from_millis(100);

/// Administration over one connection.
#[derive(Debug)]
pub(crate) struct KafkaAdmin {
    hub: Arc<Hub>,
}

impl KafkaAdmin {
    pub(crate) const fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    fn hub(&self) -> Result<&Hub> {
        self.hub.open()?;
        Ok(&self.hub)
    }
}

#[async_trait]
impl Admin for KafkaAdmin {
    async fn ensure(&self, spec: &TopicSpec, topology: Topology) -> Result<TopicInfo> {
        let hub = self.hub()?;
        let named = |error: Error| error.with_operation("ensure").with_topic(&spec.name);
        let found = match topology {
            Topology::Assume => return Ok(topology::assume(hub, spec)),
            Topology::Verify => {
                let (differences, found) = topology::compare(hub, spec).await.map_err(named)?;
                Difference::refuse(&differences)
                    .map_err(|error| named(error).with_broker(BROKER))?;
                found
            }
            _ => topology::ensure(hub, spec).await.map_err(named)?,
        };
        for group in &spec.groups {
            let there = match topology {
                Topology::Verify => groups::verify(hub, &spec.name, &found, group).await,
                _ => groups::ensure(hub, &spec.name, &found, group).await,
            };
            there.map_err(|error| named(error).with_group(group))?;
        }
        Ok(found.info(&spec.name))
    }

    async fn verify(&self, spec: &TopicSpec) -> Result<Vec<Difference>> {
        let hub = self.hub()?;
        let named = |error: Error| error.with_operation("verify").with_topic(&spec.name);
        let (differences, found) = topology::compare(hub, spec).await.map_err(named)?;
        for group in &spec.groups {
            groups::verify(hub, &spec.name, &found, group)
                .await
                .map_err(|error| named(error).with_group(group))?;
        }
        Ok(differences)
    }

    async fn describe(&self, topic: &TopicName) -> Result<TopicInfo> {
        topology::describe(self.hub()?, topic).await
    }

    async fn delete_topic(&self, topic: &TopicName) -> Result<()> {
        let hub = self.hub()?;
        let until = hub.deadline();
        // Groups first: with the topic the broker removes their offsets, and then some of them.
        groups::delete_all(hub, topic, until).await.map_err(|error| error.with_topic(topic))?;
        topology::delete(hub, topic, until).await.map_err(|error| error.with_topic(topic))
    }

    async fn purge(&self, topic: &TopicName) -> Result<Option<u64>> {
        purge(self.hub()?, topic).await.map_err(|error| error.with_topic(topic))
    }

    async fn groups(&self, topic: &TopicName) -> Result<Vec<GroupInfo>> {
        groups::list(self.hub()?, topic).await.map_err(|error| error.with_topic(topic))
    }

    async fn delete_group(&self, topic: &TopicName, group: &GroupName) -> Result<()> {
        let hub = self.hub()?;
        groups::delete(hub, topic, group).await.map_err(|error| in_group(error, topic, group))
    }

    async fn lag(&self, topic: &TopicName, group: &GroupName) -> Result<Lag> {
        let hub = self.hub()?;
        groups::lag(hub, topic, group).await.map_err(|error| in_group(error, topic, group))
    }

    async fn seek(&self, topic: &TopicName, group: &GroupName, to: Start) -> Result<()> {
        let hub = self.hub()?;
        groups::seek(hub, topic, group, to).await.map_err(|error| in_group(error, topic, group))
    }

    async fn range(&self, topic: &TopicName, query: &RangeQuery) -> Result<Vec<Retained>> {
        range(self.hub()?, topic, query).await.map_err(|error| error.with_topic(topic))
    }

    async fn dead_letters(
        &self,
        topic: &TopicName,
        group: &GroupName,
        query: &DeadLetterQuery,
    ) -> Result<DeadLetterPage> {
        let page = dead_letter::list(self.hub()?, topic, group, query).await;
        page.map_err(|error| in_group(error, topic, group))
    }

    async fn replay(
        &self,
        topic: &TopicName,
        group: &GroupName,
        letters: &[LetterId],
    ) -> Result<Vec<Result<()>>> {
        each_in_group(dead_letter::replay(self.hub()?, topic, group, letters).await, topic, group)
    }

    async fn discard(
        &self,
        topic: &TopicName,
        group: &GroupName,
        letters: &[LetterId],
    ) -> Result<Vec<Result<()>>> {
        each_in_group(dead_letter::discard(self.hub()?, topic, group, letters).await, topic, group)
    }
}

fn each_in_group(
    outcomes: Result<Vec<Result<()>>>,
    topic: &TopicName,
    group: &GroupName,
) -> Result<Vec<Result<()>>> {
    let named = |error| in_group(error, topic, group);
    let outcomes = outcomes.map_err(named)?;
    Ok(outcomes.into_iter().map(|outcome| outcome.map_err(named)).collect())
}

#[cold]
fn in_group(error: Error, topic: &TopicName, group: &GroupName) -> Error {
    error.with_topic(topic).with_group(group)
}

/// Removes everything up to the ends of the partitions, then what waits for groups in their private
/// topics, which was in the topic once. Says how many offsets of the topic that was: one for each
/// message, where no transactions and no compaction have made holes.
async fn purge(hub: &Hub, topic: &TopicName) -> Result<Option<u64>> {
    hub.check_ours(topic)?;
    let until = hub.deadline();
    let found = topology::find(hub, topic, until).await?;
    let starts =
        offsets::ask(hub, NO_GROUP, &found, until, |offsets| offsets.places(Offset::Beginning));
    let starts = starts.await?;
    let mut removed = 0;
    for (partition, after) in remove_all(hub, &found.native, found.partitions, until).await? {
        let before = usize::try_from(partition).ok().and_then(|at| starts.get(at));
        if let Some(before) = before {
            removed += u64::try_from(after.saturating_sub(*before)).unwrap_or(0);
        }
    }
    for (name, partitions) in groups::private_topics(hub, topic, until).await? {
        match remove_all(hub, &name, partitions, until).await {
            // It went with its group.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            removed => drop(removed?),
        }
    }
    Ok(Some(removed))
}

/// Removes what is in the partitions. Says where each begins then.
async fn remove_all(
    hub: &Hub,
    name: &str,
    partitions: i32,
    until: Instant,
) -> Result<Vec<(i32, i64)>> {
    let removing = {
        let mut ends = TopicPartitionList::new();
        for partition in 0..partitions {
            ends.add_partition_offset(name, partition, Offset::End)
                .map_err(|native| error::of(&native))?;
        }
        hub.admin()?.delete_records(&ends, &topology::options(until))
    };
    let left = topology::answered(hub, until, removing).await?;
    let mut begin = Vec::with_capacity(left.count());
    for one in left.elements() {
        one.error().map_err(|native| error::of(&native).with_context("name", name))?;
        if let Offset::Offset(at) = one.offset() {
            begin.push((one.partition(), at));
        }
    }
    Ok(begin)
}

async fn range(hub: &Hub, topic: &TopicName, query: &RangeQuery) -> Result<Vec<Retained>> {
    if matches!(query.from, Start::Created | Start::Latest) {
        let error = Error::invalid("a range begins at a time, an offset or the earliest");
        return Err(error.with_broker(BROKER));
    }
    let (from, limit, until) = (query.from, query.limit, hub.deadline());
    let found = topology::find(hub, topic, until).await?;
    if limit == 0 {
        return Ok(Vec::new());
    }
    offsets::ask(hub, NO_GROUP, &found, until, move |offsets| {
        let mut reading = Reading::begin(offsets, from, limit)?;
        while reading.open > 0 {
            reading.step()?;
        }
        let kept = reading.kept.into_sorted_vec();
        Ok(kept.into_iter().map(|kept| kept.retained).collect())
    })
    .await
}

/// A range that is being read. Of all partitions together it keeps the oldest, as many as were
/// asked for, so that memory follows what is returned and not what is retained.
struct Reading<'a> {
    offsets: &'a Offsets,
    parts: Vec<Part>,
    /// How many partitions are not read to their ends.
    open: usize,
    limit: usize,
    kept: BinaryHeap<Kept>,
}

/// How far a partition is read.
struct Part {
    /// Where it ended when the reading began: it ends also while somebody publishes.
    end: i64,
    open: bool,
    /// The latest time so far. Clocks of producers differ, and the order of a partition counts.
    time: i64,
}

/// A message, ordered by time, then by its place.
struct Kept {
    order: (i64, i32, i64),
    retained: Retained,
}

impl<'a> Reading<'a> {
    fn begin(offsets: &'a Offsets, from: Start, limit: usize) -> Result<Self> {
        let ends = offsets.places(Offset::End)?;
        let only = match from {
            Start::AtOffset { partition, .. } => partition,
            _ => None,
        };
        // In a partition that is not there, there is nothing.
        let starts = match only {
            Some(partition) if usize::try_from(partition).is_ok_and(|at| at >= ends.len()) => {
                ends.clone()
            }
            _ => offsets.starts(from)?,
        };
        let mut parts = Vec::with_capacity(ends.len());
        let mut list = TopicPartitionList::new();
        for (partition, (&start, end)) in (0..).zip(starts.iter().zip(ends)) {
            let wanted = only.is_none_or(|only| i64::from(only) == i64::from(partition));
            let open = wanted && start < end;
            if open {
                list.add_partition_offset(offsets.topic(), partition, Offset::Offset(start))
                    .map_err(|native| error::of(&native))?;
            }
            parts.push(Part { end, open, time: i64::MIN });
        }
        let open = parts.iter().filter(|part| part.open).count();
        offsets.consumer().assign(&list).map_err(|native| error::of(&native))?;
        Ok(Self { offsets, parts, open, limit, kept: BinaryHeap::new() })
    }

    /// Takes one message or one end of a partition.
    fn step(&mut self) -> Result<()> {
        let offsets = self.offsets;
        match offsets.consumer().poll(LOOK.min(offsets.left()?)) {
            None => Ok(()),
            Some(Ok(message)) => self.take(&message),
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                self.end(partition);
                Ok(())
            }
            Some(Err(native)) => match native.rdkafka_error_code() {
                // Reading needs no right to the group, which is none.
                Some(RDKafkaErrorCode::GroupAuthorizationFailed) => Ok(()),
                // The client tries again by itself.
                Some(code) if error::code(code).1 == Retry::Transient => Ok(()),
                _ => Err(error::of(&native)),
            },
        }
    }

    fn take(&mut self, message: &BorrowedMessage<'_>) -> Result<()> {
        let (number, offset) = (message.partition(), message.offset());
        let at = usize::try_from(number).ok();
        let Some(part) = at.and_then(|at| self.parts.get_mut(at)).filter(|part| part.open) else {
            return Ok(());
        };
        part.time = part.time.max(message.timestamp().to_millis().unwrap_or(i64::MIN));
        let order = (part.time, number, offset);
        let is_last = offset.saturating_add(1) >= part.end;
        let is_within = offset < part.end;
        let full = self.kept.len() >= self.limit;
        // What comes later in this partition is later still.
        let too_late = full && self.kept.peek().is_some_and(|last| last.order < order);
        if is_within && !too_late {
            if full {
                self.kept.pop();
            }
            self.kept.push(Kept { order, retained: retained(message) });
        }
        if is_last || too_late {
            self.end(number);
            if !is_last {
                self.stop_fetching(number)?;
            }
        }
        Ok(())
    }

    fn end(&mut self, partition: i32) {
        let at = usize::try_from(partition).ok();
        if let Some(part) = at.and_then(|at| self.parts.get_mut(at))
            && part.open
        {
            part.open = false;
            self.open -= 1;
        }
    }

    fn stop_fetching(&self, partition: i32) -> Result<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition(self.offsets.topic(), partition);
        self.offsets.consumer().pause(&list).map_err(|native| error::of(&native))
    }
}

fn retained(message: &BorrowedMessage<'_>) -> Retained {
    let stored_at = convert::stored_at(message.timestamp());
    let origin = Origin {
        topic: message.topic(),
        partition: message.partition(),
        offset: message.offset(),
        stored_at,
    };
    let payload = message.payload().map(Bytes::copy_from_slice);
    let envelope = convert::envelope(message.headers(), message.key(), payload, &origin);
    let position = Position::offset(u64::try_from(message.offset()).unwrap_or(0))
        .in_partition(u32::try_from(message.partition()).ok())
        .stored_at(stored_at);
    Retained::new(envelope, position)
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Kept {}

impl PartialOrd for Kept {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Kept {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order.cmp(&other.order)
    }
}
