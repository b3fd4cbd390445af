//! Groups: a group of the same name on each stream of the topic, and a private channel.

use std::time::Duration;

use posthaste_core::broker::{GroupInfo, Lag, Start};
use posthaste_core::{Error, ErrorKind, GroupName, Result, TopicName, Topology};
use redis::Value;

use crate::error::{self, BROKER};
use crate::hub::{Hub, Known};
use crate::script::Script;
use crate::{id, topology, value};

/// Makes the group if it may, and says which lease is in force.
///
/// # Errors
/// `NotFound` for the topic, and for the group where none may be made.
pub(crate) async fn ensure(
    hub: &Hub,
    known: &Known,
    group: &str,
    lease: Option<Duration>,
    topology: Topology,
    start: Start,
) -> Result<Option<Duration>> {
    let mut keys = vec![known.keys.record.clone(), known.keys.group(group).private()];
    keys.extend(known.streams.iter().cloned());
    let made = hub.call(Script::Group, &keys, |call| {
        call.arg(group).arg(u8::from(topology == Topology::Create));
        call.arg(lease.map_or_else(String::new, |lease| lease.as_millis().to_string()));
        for stream in 0..known.streams.len() {
            call.arg(begin(known, stream, start, "created"));
        }
    });
    match value::int(&made.await?) {
        Some(-1) => Err(error::no_topic()),
        Some(-2) => Err(error::no_group()),
        Some(0) => Ok(None),
        found => {
            let millis = found.and_then(|millis| u64::try_from(millis).ok());
            Ok(millis.map(Duration::from_millis))
        }
    }
}

/// Up to where a stream counts as read. `else_` is said of streams that the start is not about.
fn begin(known: &Known, stream: usize, start: Start, else_: &str) -> String {
    match start {
        Start::Latest => "$".to_owned(),
        Start::Earliest => "0".to_owned(),
        Start::At(at) => {
            let millis = u64::try_from(at.as_micros() / 1_000).unwrap_or(0);
            id::before(id::pack(millis, 0))
        }
        Start::AtOffset { partition, offset } => {
            let lanes = known.layout.partitions().map_or(0, usize::from);
            let own = u32::try_from(stream).ok().filter(|_| stream < lanes);
            if partition.is_none() || partition == own {
                id::before(offset)
            } else {
                else_.to_owned()
            }
        }
        _ => else_.to_owned(),
    }
}

/// Moves a group without members.
///
/// # Errors
/// `Conflict` naming live members; `NotFound`; `Invalid` for `Created`.
pub(crate) async fn seek(hub: &Hub, topic: &TopicName, group: &GroupName, to: Start) -> Result<()> {
    if to == Start::Created {
        return Err(
            Error::invalid("Created says nothing about a group that exists").with_broker(BROKER)
        );
    }
    let known = topology::look(hub, topic).await?;
    let of = known.keys.group(group.as_str());
    let mut keys = vec![known.keys.record.clone(), of.members(), of.private()];
    keys.extend([of.waiting(), of.waiting_entries()]);
    keys.extend(known.streams.iter().cloned());
    let moved = hub.call(Script::Seek, &keys, |call| {
        call.arg(group.as_str());
        for stream in 0..known.streams.len() {
            call.arg(begin(&known, stream, to, ""));
        }
    });
    settled(moved.await?)
}

/// Deletes a group with its private channel; its dead letters stay.
///
/// # Errors
/// `NotFound`; `Conflict` naming live members.
pub(crate) async fn delete(hub: &Hub, topic: &TopicName, group: &GroupName) -> Result<()> {
    let known = topology::look(hub, topic).await?;
    let of = known.keys.group(group.as_str());
    let mut keys = vec![known.keys.record.clone(), of.members(), of.lanes(), of.private()];
    keys.extend([of.waiting(), of.waiting_entries(), of.letters()]);
    keys.extend(known.streams.iter().cloned());
    let deleted = hub.call(Script::DeleteGroup, &keys, |call| {
        call.arg(group.as_str());
    });
    settled(deleted.await?)
}

fn settled(answer: Value) -> Result<()> {
    match answer {
        Value::Int(0) => Ok(()),
        Value::Int(-1) => Err(error::no_topic()),
        Value::Int(_) => Err(error::no_group()),
        members => {
            let members = value::array(members)?;
            let names = members.iter().filter_map(value::text).map(member);
            Err(Error::new(ErrorKind::Conflict, "the group has live members")
                .with_context("members", names.collect::<Vec<_>>().join(", "))
                .with_broker(BROKER))
        }
    }
}

/// The name of a member, without what makes its consumer unique.
fn member(consumer: &str) -> &str {
    consumer.rsplit_once('~').map_or(consumer, |(member, _)| member)
}

/// The groups of a topic.
///
/// # Errors
/// `NotFound`.
pub(crate) async fn list(hub: &Hub, topic: &TopicName) -> Result<Vec<GroupInfo>> {
    let known = topology::look(hub, topic).await?;
    let mut keys = vec![known.keys.record.clone()];
    keys.extend(known.streams.iter().cloned());
    let found = hub.call(Script::Groups, &keys, |call| {
        call.arg(topology::groups_base(&known.keys));
    });
    let found = match found.await? {
        // A bound stream that nobody has read by a group.
        Value::Int(_) if hub.binding(topic).is_some() => return Ok(Vec::new()),
        Value::Int(_) => return Err(error::no_topic()),
        found => value::array(found)?,
    };
    let mut groups = Vec::with_capacity(found.len());
    for group in found {
        let mut parts = value::array(group)?.into_iter();
        let name = value::next(&mut parts, "groups")?;
        let Some(name) = value::text(&name).and_then(|name| GroupName::new(name).ok()) else {
            continue;
        };
        let mut info = GroupInfo::new(name);
        let members = value::next_count(&mut parts, "groups")?;
        info.members = usize::try_from(members).ok();
        let idle = value::next(&mut parts, "groups")?;
        info.idle_for = value::count(&idle).map(Duration::from_millis);
        info.pins = Some(value::next_count(&mut parts, "groups")?);
        groups.push(info);
    }
    Ok(groups)
}

/// What a group has to do.
///
/// # Errors
/// `NotFound`.
pub(crate) async fn lag(hub: &Hub, topic: &TopicName, group: &GroupName) -> Result<Lag> {
    let known = topology::look(hub, topic).await?;
    let of = known.keys.group(group.as_str());
    let mut keys = vec![known.keys.record.clone(), of.private(), of.waiting(), known.keys.later()];
    keys.extend(known.streams.iter().cloned());
    let found = hub.call(Script::Lag, &keys, |call| {
        call.arg(group.as_str());
    });
    let found = match found.await? {
        Value::Int(-1) => return Err(error::no_topic()),
        Value::Int(_) => return Err(error::no_group()),
        found => value::array(found)?,
    };
    let mut parts = found.into_iter();
    let mut next = || value::next(&mut parts, "lag");
    let mut lag = Lag::default();
    lag.ready = value::count(&next()?);
    lag.in_flight = value::count(&next()?);
    lag.delayed = value::count(&next()?);
    lag.unrouted = Some(0);
    lag.oldest_age = value::count(&next()?).map(Duration::from_millis);
    lag.exact = value::int(&next()?) == Some(1);
    Ok(lag)
}
