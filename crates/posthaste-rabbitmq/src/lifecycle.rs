//! The life of groups: which there are, what they have still to do, and their end.

use std::time::Duration;

use posthaste_core::broker::{GroupInfo, Lag};
use posthaste_core::{Error, ErrorKind, GroupName, Result, TopicInfo, TopicName};
use tokio::time::Instant;

use crate::declare::{Desk, QueueState};
use crate::error::{self, BROKER};
use crate::groups::{self, Queues};
use crate::hub::Hub;
use crate::{names, registry, topology};

/// How long the broker may count a member that has gone.
const PATIENCE: Duration = Duration::from_secs(1);

/// The groups of a topic.
///
/// # Errors
/// `NotFound` for the topic; `Unsupported` for one that is bound, which has no records.
pub(crate) async fn list(hub: &Hub, topic: &TopicName) -> Result<Vec<GroupInfo>> {
    let info = topology::describe(hub, topic).await?;
    if hub.binding(topic).is_some() {
        return Err(Error::unsupported("there are no records of the groups of a bound exchange")
            .with_topic(topic)
            .with_broker(BROKER));
    }
    let records = registry::list(hub, topic).await?.unwrap_or_default();
    let mut desk = Desk::new(hub);
    let mut groups = Vec::new();
    for record in records.into_iter().filter(|record| !record.gone) {
        // A group whose queue was deleted by somebody else is none.
        let Some(state) = state(hub, &mut desk, &info, &record.group).await? else { continue };
        let mut group = GroupInfo::new(record.group);
        group.members = usize::try_from(state.consumers).ok();
        group.pins = Some(state.ready);
        groups.push(group);
    }
    desk.close().await;
    Ok(groups)
}

/// The sum over the queues of the group; `None` if it has none.
async fn state(
    hub: &Hub,
    desk: &mut Desk<'_>,
    info: &TopicInfo,
    group: &GroupName,
) -> Result<Option<QueueState>> {
    let Queues { own, lanes } = groups::queues(hub, &info.name, group, info.layout, info.queue);
    let Some(mut sum) = desk.queue_state(&own).await? else { return Ok(None) };
    for lane in &lanes {
        if let Some(state) = desk.queue_state(lane).await? {
            sum.ready += state.ready;
            // Each member reads all of them.
            sum.consumers = sum.consumers.max(state.consumers);
        }
    }
    Ok(Some(sum))
}

/// Deletes a group. Its dead letters stay.
///
/// # Errors
/// `NotFound`; `Conflict` while it has members.
pub(crate) async fn delete(hub: &Hub, topic: &TopicName, group: &GroupName) -> Result<()> {
    let info = topology::describe(hub, topic).await?;
    if hub.bound_queue(topic, group).is_some() {
        return Err(Error::unsupported("a bound queue is never deleted").with_broker(BROKER));
    }
    let mut desk = Desk::new(hub);
    let patience = Instant::now() + PATIENCE;
    let state = loop {
        let Some(state) = state(hub, &mut desk, &info, group).await? else {
            return Err(error::no_group());
        };
        if state.consumers == 0 || Instant::now() >= patience {
            break state;
        }
        tokio::time::sleep(PATIENCE / 10).await;
    };
    if state.consumers > 0 {
        // The protocol counts members and does not name them.
        return Err(Error::new(ErrorKind::Conflict, "the group has live members")
            .with_context("members", state.consumers)
            .with_broker(BROKER));
    }
    groups::delete(hub, &mut desk, topic, group, info.layout, info.queue).await?;
    desk.close().await;
    if hub.binding(topic).is_none() {
        registry::note_gone(hub, topic, group).await?;
    }
    Ok(())
}

/// What the group has still to do, as far as the protocol tells.
///
/// # Errors
/// `NotFound`.
pub(crate) async fn lag(hub: &Hub, topic: &TopicName, group: &GroupName) -> Result<Lag> {
    let info = topology::describe(hub, topic).await?;
    let mut desk = Desk::new(hub);
    let Some(state) = state(hub, &mut desk, &info, group).await? else {
        return Err(error::no_group());
    };
    let mut lag = Lag::default();
    lag.ready = Some(state.ready);
    if !info.queue && hub.binding(topic).is_none() {
        let unrouted = desk.queue_state(&names::unrouted_queue(topic)).await?;
        lag.unrouted = unrouted.map(|state| state.ready);
    }
    desk.close().await;
    lag.exact = true;
    Ok(lag)
}
