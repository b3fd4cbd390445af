//! Starting a subscription: everything that can be refused is, before the first message.

use std::sync::Arc;
use std::time::Duration;

use posthaste_core::broker::{Order, Start, SubscribeRequest, Subscribed};
use posthaste_core::{Difference, Error, ErrorKind, Result, TopicName, TopicSpec, Topology};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::driver::Driver;
use crate::error::{self, BROKER};
use crate::hub::{Hub, Known};
use crate::line::{Line, Plan, TopicPlan};
use crate::names::{EPHEMERAL, QUEUE_GROUP};
use crate::{groups, topology, upkeep};

/// # Errors
/// `Unsupported`, `NotFound`, `Conflict`, `Auth`, `Connection`, `Timeout`.
///
/// # Cancel safety
/// Leaves nothing behind but topology that was created.
pub(crate) async fn subscribe(hub: &Arc<Hub>, request: SubscribeRequest) -> Result<Subscribed> {
    check(&request)?;
    let unique = Uuid::new_v4().simple().to_string();
    let name = match &request.group {
        Some(group) => group.to_string(),
        None => format!("{EPHEMERAL}{unique}"),
    };
    let mut topics = Vec::with_capacity(request.topics.len());
    let mut differences: Vec<Difference> = Vec::new();
    let (mut lease, mut first) = (request.lease, 0);
    for topic in &request.topics {
        let named = |error: Error| error.with_topic(topic);
        let known = find(hub, topic, &request).await.map_err(named)?;
        check_topic(&known, &request).map_err(named)?;
        if request.group.is_some() {
            let (wanted, how) = (Some(request.lease), request.topology);
            let found = groups::ensure(hub, &known, &name, wanted, how, request.start).await;
            let found = found.map_err(named)?.unwrap_or(request.lease);
            if found != request.lease {
                let millis = |time: Duration| format!("{} ms", time.as_millis());
                differences.push(Difference::new("lease", millis(request.lease), millis(found)));
            }
            lease = lease.min(found);
        }
        let lanes = request.group.is_some() && known.layout.partitions().is_some();
        let keys = known.keys.group(&name);
        let next = first + known.streams.len() + 1;
        topics.push(TopicPlan { topic: topic.clone(), known, keys, first, lanes });
        first = next;
    }
    // Two members of one name are two consumers all the same.
    let consumer = format!("{}~{}", request.member, &unique[..12]);
    let plan = Plan {
        topics,
        group: request.group.clone(),
        name,
        consumer,
        lease,
        prefetch: request.prefetch.count,
        mode: request.mode,
        topology: request.topology,
    };
    let line = Arc::new(Line::new(Arc::clone(hub), plan));
    // Its task undoes what is begun here, also if this is given up; it ends with the driver.
    let ended = CancellationToken::new();
    hub.lines.spawn(upkeep::run(Arc::clone(&line), ended.clone()));
    let ended = ended.drop_guard();
    for planned in line.plan.topics.iter().filter(|_| line.plan.group.is_none()) {
        let (start, how) = (Start::Latest, Topology::Create);
        groups::ensure(hub, &planned.known, &line.plan.name, None, how, start).await?;
    }
    let reader = hub.reader().await?;
    let driver = Driver::new(line, reader, ended);
    let mut subscribed = Subscribed::new(Box::new(driver), lease);
    subscribed.differences = differences;
    Ok(subscribed)
}

fn check(request: &SubscribeRequest) -> Result<()> {
    if request.topics.is_empty() {
        return Err(Error::invalid("a subscription needs a topic").with_broker(BROKER));
    }
    if request.lease < Duration::from_millis(100) || request.prefetch.count == 0 {
        return Err(Error::invalid("a lease is at least 100 ms, and prefetch at least 1")
            .with_broker(BROKER));
    }
    Ok(())
}

fn check_topic(known: &Known, request: &SubscribeRequest) -> Result<()> {
    if known.queue != request.queue {
        let word = |queue: bool| if queue { "a queue" } else { "a topic" };
        return Err(Error::new(ErrorKind::Conflict, "queues and topics are read differently")
            .with_context("wanted", word(request.queue))
            .with_context("found", word(known.queue))
            .with_broker(BROKER));
    }
    if request.order == Order::PerKey && known.layout.partitions().is_none() {
        return Err(Error::unsupported("order per key: the topic was not created as ordered")
            .with_broker(BROKER));
    }
    let group = request.group.as_ref();
    if known.queue && group.is_some_and(|group| group.as_str() != QUEUE_GROUP) {
        return Err(topology::second_group());
    }
    Ok(())
}

async fn find(hub: &Hub, topic: &TopicName, request: &SubscribeRequest) -> Result<Arc<Known>> {
    match topology::look(hub, topic).await {
        Err(error) if error::is_gone(&error) && request.topology == Topology::Create => {}
        found => return found,
    }
    let wanted = hub.asked_for(topic);
    if request.order == Order::PerKey && wanted.is_none() {
        return Err(error::no_topic());
    }
    let mut spec = wanted.map_or_else(|| TopicSpec::plain(topic.clone()), |spec| (*spec).clone());
    spec.queue = request.queue;
    spec.groups.clear();
    topology::ensure(hub, &spec).await?;
    hub.known(topic).ok_or_else(error::no_topic)
}
