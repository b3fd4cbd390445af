//! Starting a subscription: everything that can be refused is, before the first message.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use posthaste_core::broker::{DriverEvent, Lane, Order, Start, SubscribeRequest, Subscribed};
use posthaste_core::{
    Difference, Error, ErrorKind, Layout, Result, TopicName, TopicSpec, Topology,
};
use tokio::time::Instant;

use crate::driver::Driver;
use crate::error::BROKER;
use crate::groups::{self, ConsumerSpec, Found};
use crate::hub::Hub;
use crate::names::QUEUE_GROUP;
use crate::settle::NatsSettler;
use crate::source::Source;
use crate::{loss, roll, topology};

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
    let mut started = Started::default();
    for plan in &plans {
        let topic = &plan.topic;
        started.start(hub, plan, &request).await.map_err(|error| error.with_topic(topic))?;
    }
    let lease = started.lease.unwrap_or(request.lease);
    let settler = Arc::new(NatsSettler::new(Arc::clone(hub), lease));
    let mut roll = Vec::new();
    if let Some(group) = &request.group {
        for topic in &request.topics {
            roll.push(roll::answer(hub, topic, group, &request.member).await);
        }
    }
    let Started { sources, events, differences, .. } = started;
    let driver = Driver::new(Arc::clone(hub), request, sources, settler, events, roll);
    let mut subscribed = Subscribed::new(Box::new(driver), lease);
    subscribed.differences = differences;
    Ok(subscribed)
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
    queue: bool,
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
    Ok(Plan { topic: topic.clone(), layout, queue })
}

/// What was started so far.
#[derive(Default)]
struct Started {
    sources: Vec<Source>,
    lease: Option<Duration>,
    differences: Vec<Difference>,
    events: VecDeque<DriverEvent>,
}

impl Started {
    async fn start(
        &mut self,
        hub: &Arc<Hub>,
        plan: &Plan,
        request: &SubscribeRequest,
    ) -> Result<()> {
        let route = hub.route(&plan.topic);
        let Some(group) = &request.group else {
            let spec = groups::ephemeral(&route, plan.layout, request.lease, request.start);
            let found = groups::ensure(hub, &spec, Topology::Create, plan.queue).await?;
            let lane = Arc::new(Lane::new(plan.topic.clone(), None));
            return self.open(hub, &plan.topic, spec, found, lane).await;
        };
        let consumers = groups::consumers(&route, plan.layout, group, request.lease, request.start);
        let topology = request.topology;
        let found =
            groups::ensure_all(hub, &plan.topic, group, &consumers, topology, plan.queue).await?;
        let lane = Arc::new(Lane::new(plan.topic.clone(), None));
        for (spec, found) in consumers.into_iter().zip(found) {
            self.open(hub, &plan.topic, spec, found, Arc::clone(&lane)).await?;
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
    ) -> Result<()> {
        let lease = found.info.config.ack_wait;
        // The shortest holds for all: core prolongs them alike.
        self.lease = Some(self.lease.map_or(lease, |before| before.min(lease)));
        for difference in found.differences {
            if !self.differences.contains(&difference) {
                self.differences.push(difference);
            }
        }
        let looks = spec.reads_all && !found.created;
        let first = match looks {
            true => self.look_for_loss(hub, topic, &spec, &found.info).await?,
            false => 0,
        };
        let number = u32::try_from(self.sources.len()).unwrap_or(u32::MAX);
        let mut source = Source::open(hub, spec, topic.clone(), lane, number, &found.info).await?;
        source.loss.advance(first.saturating_sub(1));
        self.sources.push(source);
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
            self.events.push_back(DriverEvent::Lost {
                topic: topic.clone(),
                count: Some(removed),
                reason: "messages were removed from the stream before the group read them".into(),
            });
        }
        Ok(first)
    }
}
