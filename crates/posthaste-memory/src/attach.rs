//! Joining a group of a topic: the checks, the topology, and what there is to report.

use std::sync::Arc;
use std::time::Duration;

use posthaste_core::broker::{DriverEvent, Order, Start, SubscribeRequest};
use posthaste_core::{Difference, Error, Result, TopicSpec, Topology};

use crate::engine::{Engine, Port, State, Topic, Turn, is_ordered};
use crate::error;
use crate::settle::MemorySettler;
use crate::subscribe::QUEUE_GROUP;

/// One topic of a subscription, with our membership of its group.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) topic: Arc<Topic>,
    pub(crate) group: u64,
    pub(crate) member: u64,
    /// What tokens name as their lane.
    pub(crate) number: u32,
}

#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) source: Source,
    /// The lease in force.
    pub(crate) lease: Duration,
    /// How it differs from the one asked for.
    pub(crate) difference: Option<Difference>,
    /// What a deletion cost us.
    pub(crate) lost: Option<DriverEvent>,
}

/// Whether the topic can give what is asked for.
pub(crate) fn check(topic: &Topic, request: &SubscribeRequest) -> Result<()> {
    let settings = &topic.settings;
    let named_queue = request.group.as_ref().is_some_and(|name| name.as_str() == QUEUE_GROUP);
    if settings.queue && !named_queue {
        return Err(error::second_group(&topic.name));
    }
    if request.queue && !settings.queue {
        let difference = [Difference::new("queue", true, false)];
        return Difference::refuse(&difference)
            .map_err(|error| error.with_broker(error::BROKER).with_topic(&topic.name));
    }
    if request.order == Order::PerKey && !is_ordered(settings.layout) {
        return Err(error::not_ordered(&topic.name));
    }
    Ok(())
}

/// Joins the group of one topic. `former` is our membership before a disconnect or deletion.
pub(crate) fn attach(
    engine: &Arc<Engine>,
    request: &SubscribeRequest,
    at: usize,
    former: Option<&Source>,
    port: &Arc<Port>,
    settler: &MemorySettler,
) -> Result<Attached> {
    let Some(name) = request.topics.get(at) else {
        return Err(Error::invalid("a subscription needs a topic"));
    };
    loop {
        let topic = match engine.topic(name) {
            Some(topic) => topic,
            None if request.topology == Topology::Create => {
                engine.create(&missing(request, at, former)?)
            }
            None => return Err(error::no_topic(name)),
        };
        check(&topic, request)?;
        let member = engine.next_id();
        let joined = topic.turn(|state, turn| {
            let same = former.filter(|former| Arc::ptr_eq(&former.topic, &topic));
            let group = find_group(state, request, former.is_some(), same, turn)?;
            let Some(found) = state.groups.get_mut(&group) else {
                return Err(error::no_topic(name));
            };
            let lease = found.lease_or(request.lease);
            found.join(member, &request.member, port, turn);
            Ok((group, lease))
        });
        // Deleted in between: once more.
        let Some(joined) = joined else { continue };
        let (group, lease) = joined.map_err(|error| error.with_broker(error::BROKER))?;
        let number = settler.number(&topic, group);
        let difference = (lease != request.lease).then(|| {
            let found = format!("{lease:?} on {name}");
            Difference::new("lease", format!("{:?}", request.lease), found)
        });
        // The same topic with another group: ours was deleted while we were away.
        let replaced = former
            .is_some_and(|former| Arc::ptr_eq(&former.topic, &topic) && former.group != group);
        let lost = replaced.then(|| DriverEvent::Lost {
            topic: name.clone(),
            count: None,
            reason: "the group was deleted".to_owned(),
        });
        let source = Source { topic, group, member, number };
        return Ok(Attached { source, lease, difference, lost });
    }
}

/// The topic as it was before it was deleted, else a plain topic or a queue.
fn missing(request: &SubscribeRequest, at: usize, former: Option<&Source>) -> Result<TopicSpec> {
    let Some(name) = request.topics.get(at) else {
        return Err(Error::invalid("a subscription needs a topic"));
    };
    let mut spec = TopicSpec::plain(name.clone());
    spec.queue = request.queue;
    if let Some(former) = former {
        let settings = &former.topic.settings;
        spec.layout = settings.layout;
        spec.queue = settings.queue;
        spec.retention = settings.retention;
        spec.deduplication_window = Some(settings.deduplication_window);
    } else if request.order == Order::PerKey {
        return Err(error::not_ordered(name));
    }
    Ok(spec)
}

fn find_group(
    state: &mut State,
    request: &SubscribeRequest,
    again: bool,
    same: Option<&Source>,
    turn: &Turn,
) -> Result<u64> {
    let Some(name) = &request.group else {
        // An ephemeral group is found again by its number, as long as its topic is the same.
        let known = same.map(|same| same.group).filter(|id| state.groups.contains_key(id));
        let start = match request.start {
            Start::Created => Start::Latest,
            start => start,
        };
        return known.map_or_else(|| state.create_group(None, start, turn), Ok);
    };
    match state.existing(name) {
        Ok(group) => Ok(group.id),
        Err(_) if request.topology == Topology::Create => {
            // What comes after a deletion comes from its end on.
            let start = if again { Start::Created } else { request.start };
            state.create_group(Some(name.clone()), start, turn)
        }
        Err(missing) => Err(missing),
    }
}
