//! Groups: the offsets that they have committed.
//!
//! A group exists when it has committed an offset; members alone do not make one. What it has
//! still to do lies between those offsets and the ends of the partitions, less what its members
//! say, in the metadata of their commits, to be settled there; and it lies in its private topic.
//!
//! The broker lets somebody who is no member commit only while there are no members. So nothing
//! has to be asked before: what it refuses is a conflict, and who is in the way is asked then.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use posthaste_core::broker::{GroupInfo, Lag, Start};
use posthaste_core::{Error, ErrorKind, GroupName, Result, TopicName};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::Offset;
use tokio::time::Instant;

use crate::error::{self, BROKER};
use crate::hub::Hub;
use crate::names;
use crate::offsets::ask;
use crate::topology::{self, Found};

/// How many groups are asked at once.
const ASKED_AT_ONCE: usize = 4;
/// How long the names of members are awaited, which only explain.
const ASIDE: Duration = Duration::from_secs(2);

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
    let id = hub.group_id(topic, group);
    ask(hub, &id, found, hub.deadline(), |offsets| {
        // The ends come first: if somebody else makes the group meanwhile, they are still not
        // behind what was confirmed after it existed, whoever commits last.
        let ends = offsets.places(Offset::End)?;
        if offsets.committed()?.iter().any(Option::is_some) {
            return Ok(());
        }
        let ends: Vec<_> = ends.into_iter().map(Some).collect();
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
    let id = hub.group_id(topic, group);
    ask(hub, &id, found, hub.deadline(), |offsets| offsets.existing().map(drop)).await
}

/// What the group has still to do. What its members hold cannot be told from what is ready, and
/// what waits in memory not from either, so that all is in one count.
///
/// # Errors
/// `NotFound`.
pub(crate) async fn lag(hub: &Hub, topic: &TopicName, group: &GroupName) -> Result<Lag> {
    let until = hub.deadline();
    let found = topology::find(hub, topic, until).await?;
    let mut lag = Lag::default();
    lag.ready = Some(behind(hub, (topic, group), &found, until).await?);
    Ok(lag)
}

/// How many offsets the group has not settled, in the topic and in its private one.
async fn behind(
    hub: &Hub,
    (topic, group): (&TopicName, &GroupName),
    found: &Found,
    until: Instant,
) -> Result<u64> {
    let private = names::retry_topic(topic, group);
    ask(hub, &hub.group_id(topic, group), found, until, move |offsets| {
        let of_topic = offsets.unsettled(&offsets.existing()?)?;
        // A message is settled in the topic when its copy is in the private one. So in this order
        // it may be counted twice, but is never missed.
        let of_private = match offsets.beside(&private)? {
            Some(private) => private.unsettled(&private.committed()?)?,
            None => 0,
        };
        Ok(of_topic.saturating_add(of_private))
    })
    .await
}

/// Moves a group without members. Its private topic stays as it is: what waits there still comes.
///
/// # Errors
/// `NotFound`; `Conflict` naming the members; `Invalid` for `Created`, and for a partition that is
/// not there.
pub(crate) async fn seek(hub: &Hub, topic: &TopicName, group: &GroupName, to: Start) -> Result<()> {
    let until = hub.deadline();
    let found = topology::find(hub, topic, until).await?;
    let id = hub.group_id(topic, group);
    let moved = ask(hub, &id, &found, until, move |offsets| {
        offsets.existing()?;
        let mut wanted: Vec<_> = offsets.starts(to)?.into_iter().map(Some).collect();
        if let Start::AtOffset { partition: Some(only), .. } = to {
            // The others stay where they are, with what is settled there.
            for (_, other) in (0_u32..).zip(&mut wanted).filter(|(at, _)| *at != only) {
                *other = None;
            }
        }
        match offsets.commit(&wanted) {
            Err(native) if is_refused_by_members(&native) => Ok(false),
            committed => committed.map(|()| true).map_err(|native| error::of(&native)),
        }
    });
    if moved.await? { Ok(()) } else { Err(in_the_way(hub, &id).await) }
}

/// Deletes a group without members, and its private channel. The group goes first: the broker
/// refuses that while there are members.
///
/// # Errors
/// `NotFound`, when what was left of such a group is deleted; `Conflict` naming the members;
/// `Unsupported` for a group that is bound.
pub(crate) async fn delete(hub: &Hub, topic: &TopicName, group: &GroupName) -> Result<()> {
    if let Some(id) = hub.bindings.bound_id(topic, group) {
        return Err(Error::unsupported("a bound group is never deleted")
            .with_context("group id", id.escape_debug())
            .with_broker(BROKER));
    }
    let (until, id) = (hub.deadline(), hub.group_id(topic, group));
    let missing = match delete_one(hub, &id, until).await? {
        None => None,
        // It may have been deleted by a call that could not go on, or expired. A group of that
        // name would get the old copies.
        Some(code @ RDKafkaErrorCode::GroupIdNotFound) => Some(topology::refused(code)),
        Some(RDKafkaErrorCode::NonEmptyGroup) => return Err(in_the_way(hub, &id).await),
        Some(code) => return Err(topology::refused(code)),
    };
    topology::delete_named(hub, &[names::retry_topic(topic, group)], until).await?;
    missing.map_or(Ok(()), Err)
}

/// Deletes the groups of a topic that is being deleted. One with members ends with the last of
/// them: there is nothing that it could keep.
///
/// # Errors
/// `Auth`, `Connection`, `Timeout`; `Unsupported` for a topic that is bound.
pub(crate) async fn delete_all(hub: &Hub, topic: &TopicName, until: Instant) -> Result<()> {
    hub.check_ours(topic)?;
    for (group, _) in list_of(hub, topic, until).await? {
        use RDKafkaErrorCode as C;
        match delete_one(hub, &hub.group_id(topic, &group), until).await? {
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
        let pins = match behind(hub, (topic, &name), found, until).await {
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
    let (topic, bindings) = (topic.clone(), Arc::clone(&hub.bindings));
    let listed = hub.worker.run(until, move |client, left| {
        let list = client.fetch_group_list(None, left).map_err(|native| error::of(&native))?;
        let of_topic = list.groups().iter().filter_map(|group| {
            let name = bindings.group_of_id(&topic, group.name())?;
            // A group of the newer protocol looks dead to this question.
            let members = (group.state() != "Dead").then(|| group.members().len());
            Some((name, members))
        });
        let mut groups: Vec<_> = of_topic.collect();
        groups.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
        Ok(groups)
    });
    listed.await.map_err(|error| hub.explain(error))
}

/// The private topics of a topic's groups, also of those that are gone, with their partitions.
///
/// # Errors
/// What keeps the broker from answering.
pub(crate) async fn private_topics(
    hub: &Hub,
    topic: &TopicName,
    until: Instant,
) -> Result<Vec<(String, i32)>> {
    let topic = topic.clone();
    let listed = hub.worker.run(until, move |client, left| {
        let metadata = client.fetch_metadata(None, left).map_err(|native| error::of(&native))?;
        let private = metadata.topics().iter().filter_map(|found| {
            let name = found.name();
            let group = name.strip_prefix(topic.as_str())?.strip_prefix("__")?;
            let group = GroupName::new(group.strip_suffix("__retry")?).ok()?;
            // One that is being made has none yet.
            let partitions = i32::try_from(found.partitions().len()).ok().filter(|n| *n > 0)?;
            (names::retry_topic(&topic, &group) == name).then(|| (name.to_owned(), partitions))
        });
        Ok(private.collect())
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
pub(crate) fn is_refused_by_members(native: &KafkaError) -> bool {
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
