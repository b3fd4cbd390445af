//! Starting a subscription: everything that can be refused is, before the first message.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use posthaste_core::broker::{DriverEvent, Lane, Order, Start, SubscribeRequest, Subscribed};
use posthaste_core::{
    Difference, Error, ErrorKind, GroupName, Layout, Result, TopicName, TopicSpec, Topology,
};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::driver::{Driver, KeeperLink, Parts};
use crate::error::BROKER;
use crate::groups::{self, ConsumerSpec, Found};
use crate::hub::Hub;
use crate::lanes::handle::{LaneHandle, Validity};
use crate::lanes::keeper::{Keeper, Wish};
use crate::lanes::store::Store;
use crate::names::{self, QUEUE_GROUP};
use crate::settle::NatsSettler;
use crate::source::Source;
use crate::{beside, loss, presence, topology};

/// # Errors
/// `Unsupported`, `NotFound`, `Conflict`, `Auth`, `Connection`, `Timeout`.
///
/// # Cancel safety
/// Leaves nothing behind but topology that was created.
pub(crate) async fn subscribe(hub: &Arc<Hub>, request: SubscribeRequest) -> Result<Subscribed> {
    check(&request)?;
    hub.link.ready(Instant::now() + hub.request_timeout).await?;
    let mut plans = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        plans.push(plan(hub, topic, &request).await.map_err(|error| error.with_topic(topic))?);
    }
    let lease = plans.iter().filter_map(|plan| plan.lease).min().unwrap_or(request.lease);
    let settler = Arc::new(NatsSettler::new(Arc::clone(hub), lease));
    let mut started = Started::new(settler);
    for plan in plans {
        let topic = plan.topic.clone();
        started.start(hub, plan, &request).await.map_err(|error| error.with_topic(topic))?;
    }
    for topic in &request.topics {
        if let Some(group) = &request.group {
            let announced = presence::announce(hub, topic, group, &request.member).await;
            started.parts.presence.push(announced?);
        }
    }
    // Nothing is awaited from here on: what is started now is stopped by the driver's end.
    let Started { differences, keepers, mut parts } = started;
    for keeper in keepers {
        parts.keepers.push(keep(hub, &request, &parts, keeper));
    }
    let driver = Driver::new(Arc::clone(hub), request, parts);
    let mut subscribed = Subscribed::new(Box::new(driver), lease);
    subscribed.differences = differences;
    Ok(subscribed)
}

/// Starts the keeper of a topic's lanes.
fn keep(
    hub: &Arc<Hub>,
    request: &SubscribeRequest,
    parts: &Parts,
    lanes: OrderedTopic,
) -> KeeperLink {
    let OrderedTopic { topic, group, consumers, lease } = lanes;
    // A member that died is missed for no longer than a message it held, and than 10 s.
    let lasts = lease.clamp(Duration::from_secs(1), Duration::from_secs(10));
    let store = Store::new(Arc::clone(hub), &topic, &group, lasts / 3);
    let (opener, opened) = mpsc::channel(consumers.len());
    let (wish, wishes) = watch::channel(Wish::Keep);
    let keeper = Keeper {
        hub: Arc::clone(hub),
        topic,
        store,
        // A name may be used again by the next process: this one has its own.
        member: format!("{}~{:08x}", request.member, fastrand::u32(..)),
        lasts,
        consumers,
        settler: Arc::clone(&parts.settler),
        signals: Arc::clone(&parts.signals),
        opened: opener,
        wish: wishes,
    };
    hub.tasks.spawn(keeper.run());
    KeeperLink { opened, wish }
}

fn check(request: &SubscribeRequest) -> Result<()> {
    if request.topics.is_empty() {
        return Err(Error::invalid("a subscription needs a topic").with_broker(BROKER));
    }
    // The server's clock for leases ticks in whole milliseconds and is late by some.
    if request.lease < Duration::from_millis(100) || request.prefetch.count == 0 {
        return Err(Error::invalid("a lease is at least 100 ms, and prefetch at least 1")
            .with_broker(BROKER));
    }
    Ok(())
}

/// A topic of the subscription, as it was found.
struct Plan {
    topic: TopicName,
    layout: Layout,
    consumers: Vec<(ConsumerSpec, Found)>,
    /// The shortest lease of its consumers: core prolongs all alike.
    lease: Option<Duration>,
}

async fn plan(hub: &Hub, topic: &TopicName, request: &SubscribeRequest) -> Result<Plan> {
    let found = match (hub.known(topic), request.topology) {
        (Some(known), _) => (known.layout, known.queue),
        // Nothing is asked, unless it has to be known.
        (None, Topology::Assume) if request.order == Order::None => (Layout::Plain, request.queue),
        (None, _) => match topology::describe(hub, topic).await {
            Ok((info, _)) => (info.layout, info.queue),
            Err(error)
                if error.kind() == ErrorKind::NotFound
                    && request.topology == Topology::Create
                    && request.order == Order::None =>
            {
                let mut spec = TopicSpec::plain(topic.clone());
                spec.queue = request.queue;
                let info = topology::ensure(hub, &spec).await?;
                (info.layout, info.queue)
            }
            Err(error) => return Err(error),
        },
    };
    let (layout, queue) = found;
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
    if queue {
        let group = request.group.as_ref().map(|group| group.as_str());
        if group.is_some_and(|group| group != QUEUE_GROUP) {
            return Err(
                Error::unsupported("a queue has one group, named queue").with_broker(BROKER)
            );
        }
        if matches!(request.start, Start::At(_) | Start::AtOffset { .. }) {
            return Err(
                Error::unsupported("a queue is read from its beginning").with_broker(BROKER)
            );
        }
    }
    let consumers = consumers(hub, topic, layout, queue, request).await?;
    let lease = consumers.iter().map(|(_, found)| found.info.config.ack_wait).min();
    Ok(Plan { topic: topic.clone(), layout, consumers, lease })
}

/// Finds or creates the consumers of the group, or the one of a subscription without a group.
async fn consumers(
    hub: &Hub,
    topic: &TopicName,
    layout: Layout,
    queue: bool,
    request: &SubscribeRequest,
) -> Result<Vec<(ConsumerSpec, Found)>> {
    let route = hub.route(topic);
    let Some(group) = &request.group else {
        let spec = groups::ephemeral(&route, layout, request.lease, request.start);
        let found = groups::ensure(hub, &spec, Topology::Create, queue).await?;
        return Ok(vec![(spec, found)]);
    };
    let consumers = groups::consumers(&route, layout, group, Some(request.lease), request.start);
    let topology = request.topology;
    let found = groups::ensure_all(hub, topic, group, &consumers, topology, queue).await?;
    if layout.partitions().is_some() {
        match topology {
            Topology::Create => beside::ensure_lanes(hub, topic).await?,
            _ => drop(topology::info(hub, &names::lanes_stream(topic)).await?),
        }
    }
    Ok(consumers.into_iter().zip(found).collect())
}

/// What was started so far.
struct Started {
    differences: Vec<Difference>,
    keepers: Vec<OrderedTopic>,
    parts: Parts,
}

/// A topic whose lanes are shared between the members.
struct OrderedTopic {
    topic: TopicName,
    group: GroupName,
    consumers: Vec<ConsumerSpec>,
    lease: Duration,
}

impl Started {
    fn new(settler: Arc<NatsSettler>) -> Self {
        let parts = Parts {
            sources: Vec::new(),
            keepers: Vec::new(),
            signals: Arc::default(),
            presence: Vec::new(),
            settler,
            events: VecDeque::new(),
        };
        Self { differences: Vec::new(), keepers: Vec::new(), parts }
    }

    async fn start(
        &mut self,
        hub: &Arc<Hub>,
        plan: Plan,
        request: &SubscribeRequest,
    ) -> Result<()> {
        for (_, found) in &plan.consumers {
            for difference in &found.differences {
                if !self.differences.contains(difference) {
                    self.differences.push(difference.clone());
                }
            }
        }
        let Plan { topic, layout, consumers, lease, .. } = plan;
        if let (Some(group), Some(_)) = (&request.group, layout.partitions()) {
            self.keepers.push(OrderedTopic {
                topic,
                group: group.clone(),
                consumers: consumers.into_iter().map(|(spec, _)| spec).collect(),
                lease: lease.unwrap_or(request.lease),
            });
            return Ok(());
        }
        let lane = Arc::new(Lane::new(topic.clone(), None));
        for (spec, found) in consumers {
            self.open(hub, &topic, spec, found, Arc::clone(&lane), request.order).await?;
        }
        Ok(())
    }

    async fn open(
        &mut self,
        hub: &Hub,
        topic: &TopicName,
        spec: ConsumerSpec,
        found: Found,
        lane: Arc<Lane>,
        order: Order,
    ) -> Result<()> {
        let looks = spec.reads_all && !found.created;
        let first = match looks {
            true => self.look_for_loss(hub, topic, &spec, &found.info).await?,
            false => 0,
        };
        let settler = &self.parts.settler;
        let number = settler.number();
        let mut source =
            Source::open(hub, spec, topic.clone(), Arc::clone(&lane), number, &found.info).await?;
        source.loss.advance(first.saturating_sub(1));
        if order == Order::PerKey {
            // The only reader there is: nobody takes it away.
            let (validity, signals) = (Validity::forever(), Arc::clone(&self.parts.signals));
            let handle = Arc::new(LaneHandle::new(lane, number, Arc::new(validity), 0, signals));
            settler.keep(&handle);
            source.order_by(handle, &found.info);
        }
        self.parts.sources.push(source);
        Ok(())
    }

    /// What was removed while no member was there. Returns the first place the stream still has.
    async fn look_for_loss(
        &mut self,
        hub: &Hub,
        topic: &TopicName,
        spec: &ConsumerSpec,
        info: &async_nats::jetstream::consumer::Info,
    ) -> Result<u64> {
        let first = topology::info(hub, &spec.stream).await?.state.first_sequence;
        let read = loss::read_up_to(info);
        let removed = first.saturating_sub(read + 1);
        if removed > 0 {
            self.parts.events.push_back(DriverEvent::Lost {
                topic: topic.clone(),
                count: Some(removed),
                reason: "messages were removed from the stream before the group read them".into(),
            });
        }
        Ok(first)
    }
}
