//! Starting a subscription: everything that can be refused is, before the first message.

use std::sync::Arc;
use std::time::Duration;

use posthaste_core::broker::{DeliveryMode, Order, Start, SubscribeRequest, Subscribed};
use posthaste_core::{
    Difference, Error, ErrorKind, GroupName, Layout, Result, TopicName, TopicSpec, Topology,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::attach::{attach, check_start};
use crate::driver::Driver;
use crate::error::BROKER;
use crate::groups::{self, Queues};
use crate::hub::Hub;
use crate::line::Line;
use crate::names::{self, QUEUE_GROUP};
use crate::topology;

/// What a subscription reads, and how.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) topics: Vec<TopicPlan>,
    pub(crate) lease: Duration,
    pub(crate) prefetch: usize,
    pub(crate) mode: DeliveryMode,
    pub(crate) topology: Topology,
    ordered: bool,
}

/// One topic of it.
#[derive(Debug)]
pub(crate) struct TopicPlan {
    pub(crate) topic: TopicName,
    pub(crate) group: Option<GroupName>,
    pub(crate) layout: Layout,
    pub(crate) queue: bool,
    pub(crate) queues: Queues,
}

impl Plan {
    /// Whether the order of what it reads must hold.
    pub(crate) const fn is_ordered(&self) -> bool {
        self.ordered
    }

    pub(crate) fn topic(&self, topic: &TopicName) -> Option<&TopicPlan> {
        self.topics.iter().find(|planned| planned.topic == *topic)
    }
}

/// # Errors
/// `Unsupported`, `NotFound`, `Conflict`, `Auth`, `Connection`, `Timeout`.
///
/// # Cancel safety
/// Leaves nothing behind but topology that was created.
pub(crate) async fn subscribe(hub: &Arc<Hub>, request: SubscribeRequest) -> Result<Subscribed> {
    check(&request)?;
    let mut topics = Vec::with_capacity(request.topics.len());
    let mut differences: Vec<Difference> = Vec::new();
    let mut lease = request.lease;
    for topic in &request.topics {
        let named = |error: Error| error.with_topic(topic);
        let planned = plan(hub, topic, &request, &mut differences).await.map_err(named)?;
        if let Some(group) = &request.group {
            let found = groups::lease(hub, topic, group, request.lease, request.topology).await;
            let (found, difference) = found.map_err(named)?;
            lease = lease.min(found);
            differences.extend(difference);
        }
        topics.push(planned);
    }
    // An ordered topic is read in order by whoever reads it: its lanes are handed over.
    let lanes = topics.iter().any(|planned| !planned.queues.lanes.is_empty());
    let plan = Plan {
        topics,
        lease,
        prefetch: request.prefetch.count,
        mode: request.mode,
        topology: request.topology,
        ordered: lanes && request.order == Order::PerKey,
    };
    let line = Arc::new(Line::new(Arc::clone(hub), plan));
    // Its task closes what is opened, also if this is given up; it ends with the driver.
    let ended = CancellationToken::new();
    hub.tasks.spawn(Arc::clone(&line).keep(ended.clone()));
    let ended = ended.drop_guard();
    let attached = attach(&line, false).await?;
    let driver = Driver::new(line, attached, ended);
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
    check_start(request.start)
}

async fn plan(
    hub: &Hub,
    topic: &TopicName,
    request: &SubscribeRequest,
    differences: &mut Vec<Difference>,
) -> Result<TopicPlan> {
    let (layout, queue) = find(hub, topic, request).await?;
    if queue != request.queue {
        let word = |queue: bool| if queue { "a queue" } else { "a topic" };
        return Err(Error::new(ErrorKind::Conflict, "queues and topics are read differently")
            .with_context("wanted", word(request.queue))
            .with_context("found", word(queue))
            .with_broker(BROKER));
    }
    if request.order == Order::PerKey && layout.partitions().is_none() {
        return Err(Error::unsupported("order per key: the topic was not created as ordered")
            .with_broker(BROKER));
    }
    let group = request.group.as_ref();
    if queue && group.is_some_and(|group| group.as_str() != QUEUE_GROUP) {
        return Err(topology::second_group());
    }
    let queues = match group {
        Some(group) => {
            let latest = request.start == Start::Latest;
            let found =
                groups::ensure(hub, topic, group, layout, queue, request.topology, latest).await?;
            differences.extend(found);
            groups::queues(hub, topic, group, layout, queue)
        }
        None if queue => Queues { own: topic.to_string(), lanes: Vec::new() },
        None => {
            let unique = Uuid::new_v4().simple().to_string();
            Queues { own: names::ephemeral(topic, &unique), lanes: Vec::new() }
        }
    };
    Ok(TopicPlan { topic: topic.clone(), group: group.cloned(), layout, queue, queues })
}

async fn find(hub: &Hub, topic: &TopicName, request: &SubscribeRequest) -> Result<(Layout, bool)> {
    if request.topology == Topology::Assume {
        if let Some(known) = hub.known(topic) {
            return Ok((known.layout, known.queue));
        }
        // Nothing is asked, unless it has to be known.
        if request.order == Order::None {
            return Ok((Layout::Plain, request.queue));
        }
    }
    let wanted = hub.known(topic).and_then(|known| known.spec);
    match topology::describe(hub, topic).await {
        Ok(info) => Ok((info.layout, info.queue)),
        Err(error)
            if error.kind() == ErrorKind::NotFound
                && request.topology == Topology::Create
                && (request.order == Order::None || wanted.is_some()) =>
        {
            let mut spec = match &wanted {
                Some(asked) => TopicSpec::clone(asked),
                None => TopicSpec::plain(topic.clone()),
            };
            spec.queue = request.queue;
            if spec.queue {
                spec.groups = vec![GroupName::new(QUEUE_GROUP)?];
            }
            let info = topology::ensure(hub, &spec).await?;
            Ok((info.layout, info.queue))
        }
        Err(error) => Err(error),
    }
}
