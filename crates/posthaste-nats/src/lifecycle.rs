//! What becomes of groups after their creation: listed, measured, moved, deleted.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::consumer::Info;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use posthaste_core::broker::{GroupInfo, Lag, Start};
use posthaste_core::{Error, ErrorKind, GroupName, Result, Timestamp, TopicName, Topology};
use serde::Deserialize;
use serde_json::json;

use crate::error::BROKER;
use crate::groups::{self, ConsumerSpec, Kind};
use crate::hub::Hub;
use crate::route::Route;
use crate::{names, presence, topology};

/// A member asks at least that often, so that one that is there is seen by two looks this far
/// apart.
const TWO_LOOKS: Duration = Duration::from_millis(300);

/// How many consumers are asked about at once: ordered topics have many.
const AT_ONCE: usize = 16;

/// The consumers of a group as they exist, the private one last.
async fn existing(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
) -> Result<(Route, bool, Vec<(ConsumerSpec, Info)>)> {
    let (info, _) = topology::describe(hub, topic).await?;
    let route = hub.route(topic);
    let specs = groups::consumers(&route, info.layout, group, None, Start::Created);
    let looks = specs.into_iter().map(|spec| async move {
        match groups::info(hub, &spec.stream, &spec.name).await {
            Ok(info) => Ok(Some((spec, info))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    });
    let found: Vec<_> = stream::iter(looks).buffered(AT_ONCE).try_collect().await?;
    let found: Vec<_> = found.into_iter().flatten().collect();
    if found.iter().all(|(spec, _)| spec.kind == Kind::Private) {
        return Err(Error::new(ErrorKind::NotFound, "the group does not exist").with_broker(BROKER));
    }
    Ok((route, info.queue, found))
}

#[derive(Deserialize)]
struct Page {
    total: usize,
    #[serde(default)]
    consumers: Option<Vec<Info>>,
}

/// Every consumer of a stream.
async fn all(hub: &Hub, stream: &str) -> Result<Vec<Info>> {
    let mut all = Vec::new();
    loop {
        let body = json!({ "offset": all.len() });
        let page: Page = hub.api.ask(&format!("CONSUMER.LIST.{stream}"), &body).await?;
        let consumers = page.consumers.unwrap_or_default();
        if consumers.is_empty() {
            return Ok(all);
        }
        all.extend(consumers);
        if all.len() >= page.total {
            return Ok(all);
        }
    }
}

/// The groups of a topic.
///
/// # Errors
/// `NotFound`.
pub(crate) async fn list(hub: &Hub, topic: &TopicName) -> Result<Vec<GroupInfo>> {
    topology::describe(hub, topic).await?;
    let route = hub.route(topic);
    let bound = |name: &str| {
        let consumers = &route.binding.as_ref()?.consumers;
        consumers.iter().find(|(_, consumer)| *consumer == name).map(|(group, _)| group.clone())
    };
    let mut by_group: BTreeMap<GroupName, Vec<Info>> = BTreeMap::new();
    for info in all(hub, &route.stream()).await? {
        // Consumers that go by themselves are nobody's group.
        if info.config.durable_name.is_none() {
            continue;
        }
        let group = match bound(&info.name) {
            Some(group) => GroupName::new(group).ok(),
            None => names::group_of_consumer(&info.name),
        };
        if let Some(group) = group {
            by_group.entry(group).or_default().push(info);
        }
    }
    let mut groups = Vec::with_capacity(by_group.len());
    let asked = by_group.keys().map(|group| presence::members(hub, topic, group));
    let answered = join_all(asked).await;
    for ((group, consumers), members) in by_group.into_iter().zip(answered) {
        groups.push(summary(group, &consumers, members?.len()));
    }
    Ok(groups)
}

fn summary(group: GroupName, consumers: &[Info], members: usize) -> GroupInfo {
    let mut summary = GroupInfo::new(group);
    // Members of other programs do not answer; that there is one shows by its requests.
    let waiting = consumers.iter().map(|info| info.num_waiting).max().unwrap_or(0);
    let members = members.max(waiting.min(1));
    summary.members = Some(members);
    let pinned = consumers.iter().map(|info| info.num_pending + info.num_ack_pending as u64);
    summary.pins = Some(pinned.sum());
    if members == 0 {
        let active = consumers.iter().flat_map(|info| {
            [Some(info.created), info.delivered.last_active, info.ack_floor.last_active]
        });
        let last = active.flatten().max().and_then(timestamp);
        summary.idle_for = last.map(|last| Timestamp::now().since(last));
    }
    summary
}

fn timestamp(time: async_nats::datetime::DateTime) -> Option<Timestamp> {
    i64::try_from(time.unix_timestamp_nanos() / 1_000).ok().map(Timestamp::from_micros)
}

/// What the group has still to do.
///
/// # Errors
/// `NotFound`.
pub(crate) async fn lag(hub: &Hub, topic: &TopicName, group: &GroupName) -> Result<Lag> {
    let (_, _, consumers) = existing(hub, topic, group).await?;
    let mut lag = Lag::default();
    lag.ready = Some(consumers.iter().map(|(_, info)| info.num_pending).sum());
    lag.in_flight = Some(consumers.iter().map(|(_, info)| info.num_ack_pending as u64).sum());
    // A stream keeps everything: there is nothing that only no group gets.
    lag.unrouted = Some(0);
    lag.exact = true;
    let mut oldest: Option<Timestamp> = None;
    for (spec, info) in &consumers {
        if info.num_pending == 0 && info.num_ack_pending == 0 {
            continue;
        }
        if let Some(time) = stored_at(hub, spec, info.ack_floor.stream_sequence + 1).await? {
            oldest = Some(oldest.map_or(time, |oldest| oldest.min(time)));
        }
    }
    lag.oldest_age = oldest.map(|oldest| Timestamp::now().since(oldest));
    Ok(lag)
}

/// When the first message at or behind that place was stored.
async fn stored_at(hub: &Hub, spec: &ConsumerSpec, from: u64) -> Result<Option<Timestamp>> {
    let filter = spec.filter.as_deref().unwrap_or(">");
    let body = json!({ "seq": from, "next_by_subj": filter });
    let found: Result<serde_json::Value> =
        hub.api.ask(&format!("STREAM.MSG.GET.{}", spec.stream), &body).await;
    match found {
        Ok(found) => Ok(found["message"]["time"].as_str().and_then(|time| time.parse().ok())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Deletes the group's consumers and its private channel.
///
/// # Errors
/// `NotFound`; `Conflict` naming live members; `Unsupported` for a bound consumer.
pub(crate) async fn delete(hub: &Hub, topic: &TopicName, group: &GroupName) -> Result<()> {
    let (route, _, consumers) = existing(hub, topic, group).await?;
    refuse_bound(&consumers)?;
    refuse_members(hub, topic, group, &consumers).await?;
    for (spec, _) in &consumers {
        delete_consumer(hub, spec).await?;
    }
    let records = format!("{}.>", names::lanes_prefix(topic, group));
    for (stream, subject) in [
        (route.private_stream(), names::private_subject(topic, group)),
        (names::lanes_stream(topic), records),
    ] {
        match topology::purge(hub, &stream, &subject).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            purged => drop(purged?),
        }
    }
    Ok(())
}

/// Moves the group: its consumers are made anew, because a consumer's start cannot be changed.
///
/// # Errors
/// `NotFound`; `Conflict` naming live members; `Unsupported` on queues and bound consumers;
/// `Invalid` for `Created`.
pub(crate) async fn seek(hub: &Hub, topic: &TopicName, group: &GroupName, to: Start) -> Result<()> {
    if to == Start::Created {
        return Err(Error::invalid("a group that exists cannot start where it was created")
            .with_broker(BROKER));
    }
    let (_, queue, consumers) = existing(hub, topic, group).await?;
    if queue {
        return Err(
            Error::unsupported("a queue keeps only what is not handled").with_broker(BROKER)
        );
    }
    refuse_bound(&consumers)?;
    refuse_members(hub, topic, group, &consumers).await?;
    for (spec, info) in consumers {
        let elsewhere = matches!(to, Start::AtOffset { partition: Some(only), .. }
            if Some(only) != spec.partition);
        if spec.kind == Kind::Private || elsewhere {
            continue;
        }
        delete_consumer(hub, &spec).await?;
        let spec = ConsumerSpec { start: to, lease: Some(info.config.ack_wait), ..spec };
        groups::ensure(hub, &spec, Topology::Create, queue).await?;
    }
    Ok(())
}

async fn delete_consumer(hub: &Hub, spec: &ConsumerSpec) -> Result<()> {
    let subject = format!("CONSUMER.DELETE.{}.{}", spec.stream, spec.name);
    let deleted: Result<serde_json::Value> = hub.api.ask(&subject, &json!({})).await;
    match deleted {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        deleted => deleted.map(drop),
    }
}

fn refuse_bound(consumers: &[(ConsumerSpec, Info)]) -> Result<()> {
    match consumers.iter().find(|(spec, _)| spec.bound) {
        None => Ok(()),
        Some((spec, _)) => Err(Error::unsupported("a bound consumer is never changed")
            .with_context("consumer", &spec.name)
            .with_broker(BROKER)),
    }
}

/// Refuses while there are members. Those of other programs show by their open requests alone.
async fn refuse_members(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
    consumers: &[(ConsumerSpec, Info)],
) -> Result<()> {
    let members = presence::members(hub, topic, group).await?;
    let mut waiting = consumers.iter().map(|(_, info)| info.num_waiting).max().unwrap_or(0);
    if members.is_empty() && waiting == 0 {
        tokio::time::sleep(TWO_LOOKS).await;
        for (spec, _) in consumers {
            let info = groups::info(hub, &spec.stream, &spec.name).await?;
            waiting = waiting.max(info.num_waiting);
        }
    }
    if members.is_empty() && waiting == 0 {
        return Ok(());
    }
    let error = Error::new(ErrorKind::Conflict, "the group has live members").with_broker(BROKER);
    Err(if members.is_empty() {
        error.with_context("open requests", waiting)
    } else {
        error.with_context("members", members.join(", "))
    })
}
