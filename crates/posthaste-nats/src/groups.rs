//! Groups: the durable pull consumers that they are.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Config, DeliverPolicy, Info};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use posthaste_core::broker::Start;
use posthaste_core::{
    Difference, Error, ErrorKind, GroupName, Layout, Result, Timestamp, TopicName, Topology,
};
use serde::Serialize;

use crate::error::BROKER;
use crate::hub::Hub;
use crate::names;
use crate::route::Route;
use crate::version::Version;
use crate::{beside, topology};

/// The lease of groups that were created without a subscription, until their first member says
/// which one it wants.
const DEFAULT_LEASE: Duration = Duration::from_secs(30);
/// Marks such a group, in the consumer's description.
const NO_LEASE: &str = "posthaste: no member has chosen the lease yet";
/// An ephemeral consumer goes when nobody has asked it for that long.
const EPHEMERAL: Duration = Duration::from_secs(300);

/// One consumer that a group needs.
#[derive(Debug, Clone)]
pub(crate) struct ConsumerSpec {
    pub(crate) stream: String,
    pub(crate) name: String,
    /// `None` is everything in the stream.
    pub(crate) filter: Option<String>,
    /// `None` leaves it to the first member.
    pub(crate) lease: Option<Duration>,
    pub(crate) start: Start,
    pub(crate) kind: Kind,
    /// It is somebody else's: never created, changed or deleted.
    pub(crate) bound: bool,
    pub(crate) partition: Option<u32>,
    /// It reads all that is published to its stream, so that a place it did not get is a loss.
    pub(crate) reads_all: bool,
}

/// What a consumer delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The topic.
    Data,
    /// The topic, for as long as this process asks.
    Ephemeral,
    /// The group's private channel.
    Private,
}

/// The consumers of a group.
pub(crate) fn consumers(
    route: &Route,
    layout: Layout,
    group: &GroupName,
    lease: Option<Duration>,
    start: Start,
) -> Vec<ConsumerSpec> {
    let data = |name, filter, partition| ConsumerSpec {
        stream: route.stream(),
        name,
        filter,
        lease,
        start,
        kind: Kind::Data,
        bound: false,
        partition,
        reads_all: reads_all(route, layout),
    };
    let mut consumers: Vec<_> = match layout.partitions() {
        Some(n) => {
            let lanes = (0..n).map(|partition| {
                let filter = names::lane_subject(&route.topic, n, partition);
                let name = names::lane_consumer(group, n, partition);
                data(name, Some(filter), Some(u32::from(partition)))
            });
            let beside = names::beside(&route.topic, n);
            lanes.chain([data(names::beside_consumer(group), Some(beside), None)]).collect()
        }
        None => {
            let bound = route.is_consumer_bound(group);
            vec![ConsumerSpec { bound, ..data(route.consumer(group), route.filter(layout), None) }]
        }
    };
    consumers.push(ConsumerSpec {
        stream: route.private_stream(),
        name: names::private_consumer(group),
        filter: Some(names::private_subject(&route.topic, group)),
        lease,
        start: Start::Earliest,
        kind: Kind::Private,
        bound: false,
        partition: None,
        reads_all: false,
    });
    consumers
}

/// Private channels and messages for later lie in the stream too, but they are few.
fn reads_all(route: &Route, layout: Layout) -> bool {
    match route.is_bound() {
        true => route.filter(layout).is_none(),
        false => layout.partitions().is_none(),
    }
}

/// The consumer of a subscription without a group.
pub(crate) fn ephemeral(
    route: &Route,
    layout: Layout,
    lease: Duration,
    start: Start,
) -> ConsumerSpec {
    ConsumerSpec {
        stream: route.stream(),
        name: format!("ephemeral-{:016x}", fastrand::u64(..)),
        filter: route.filter(layout),
        lease: Some(lease),
        start,
        kind: Kind::Ephemeral,
        bound: false,
        partition: None,
        // One consumer for all partitions.
        reads_all: reads_all(route, Layout::Plain),
    }
}

/// The consumer's description.
///
/// # Errors
/// `NotFound`, and whatever stands between us and the server.
pub(crate) async fn info(hub: &Hub, stream: &str, consumer: &str) -> Result<Info> {
    hub.api.ask(&format!("CONSUMER.INFO.{stream}.{consumer}"), &serde_json::json!({})).await
}

/// What a consumer is, after it was created if it had to be.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) info: Info,
    pub(crate) differences: Vec<Difference>,
    pub(crate) created: bool,
}

/// Finds the consumer, or creates it under [`Topology::Create`].
///
/// # Errors
/// `NotFound`; `Conflict` where what exists cannot be used.
pub(crate) async fn ensure(
    hub: &Hub,
    spec: &ConsumerSpec,
    topology: Topology,
    queue: bool,
) -> Result<Found> {
    match info(hub, &spec.stream, &spec.name).await {
        Ok(found) => {
            let choose = topology == Topology::Create
                && !spec.bound
                && found.config.description.as_deref() == Some(NO_LEASE);
            match spec.lease.filter(|_| choose) {
                Some(lease) => accept(spec, choose_lease(hub, spec, &found, lease).await?, false),
                None => accept(spec, found, false),
            }
        }
        Err(error)
            if error.kind() == ErrorKind::NotFound
                && topology == Topology::Create
                && !spec.bound =>
        {
            match create(hub, spec, queue).await {
                // Somebody else was faster: what is there now decides.
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    match info(hub, &spec.stream, &spec.name).await {
                        Ok(found) => accept(spec, found, false),
                        Err(_) => Err(error),
                    }
                }
                created => accept(spec, created?, true),
            }
        }
        Err(error) => Err(error.with_context("consumer", &spec.name)),
    }
}

fn accept(spec: &ConsumerSpec, info: Info, created: bool) -> Result<Found> {
    let config = &info.config;
    let mut refused = Vec::new();
    if config.deliver_subject.is_some() {
        refused.push(Difference::new("delivery", "pull", "push"));
    }
    if config.ack_policy != AckPolicy::Explicit {
        let found = format!("{:?}", config.ack_policy).to_lowercase();
        refused.push(Difference::new("acknowledgement", "explicit", found));
    }
    let wanted = spec.filter.as_deref().unwrap_or_default();
    let found = match &config.filter_subjects[..] {
        [] => config.filter_subject.clone(),
        several => several.join(" "),
    };
    if !spec.bound && wanted != found {
        refused.push(Difference::new("filter", wanted, &found));
    }
    Difference::refuse(&refused)
        .map_err(|error| error.with_context("consumer", &spec.name).with_broker(BROKER))?;
    let mut differences = Vec::new();
    if let Some(lease) = spec.lease.filter(|lease| *lease != config.ack_wait) {
        let seconds = |time: Duration| format!("{} s", time.as_secs_f64());
        differences.push(Difference::new("lease", seconds(lease), seconds(config.ack_wait)));
    }
    if config.max_deliver > 0 {
        differences.push(Difference::new("max_deliver", "unlimited", config.max_deliver));
    }
    Ok(Found { info, differences, created })
}

#[derive(Serialize)]
struct CreateConsumer<'a> {
    stream_name: &'a str,
    config: &'a Config,
    /// Refuses to change an existing consumer; servers before 2.10 do not know it.
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'static str>,
}

async fn create(hub: &Hub, spec: &ConsumerSpec, queue: bool) -> Result<Info> {
    let mut config = config(hub, spec, queue)?;
    if config.deliver_policy == DeliverPolicy::New && spec.kind == Kind::Data {
        // The same, and the place where the group began can be read back: what was removed before
        // its first delivery is then known.
        let start_sequence = topology::info(hub, &spec.stream).await?.state.last_sequence + 1;
        config.deliver_policy = DeliverPolicy::ByStartSequence { start_sequence };
    }
    put(hub, spec, &config, "create").await
}

/// The first member of a group that was created without one chooses its lease.
async fn choose_lease(
    hub: &Hub,
    spec: &ConsumerSpec,
    found: &Info,
    lease: Duration,
) -> Result<Info> {
    let config = Config { ack_wait: lease, description: None, ..found.config.clone() };
    put(hub, spec, &config, "update").await
}

async fn put(
    hub: &Hub,
    spec: &ConsumerSpec,
    config: &Config,
    action: &'static str,
) -> Result<Info> {
    let strict = hub.version() >= Version::METADATA;
    let body =
        CreateConsumer { stream_name: &spec.stream, config, action: strict.then_some(action) };
    // The filter stands in the subject too, so that permissions can tell consumers apart.
    let subject = match &spec.filter {
        Some(filter) => format!("CONSUMER.CREATE.{}.{}.{filter}", spec.stream, spec.name),
        None => format!("CONSUMER.CREATE.{}.{}", spec.stream, spec.name),
    };
    hub.api.ask(&subject, &body).await
}

fn config(hub: &Hub, spec: &ConsumerSpec, queue: bool) -> Result<Config> {
    let durable = spec.kind != Kind::Ephemeral;
    Ok(Config {
        name: Some(spec.name.clone()),
        durable_name: durable.then(|| spec.name.clone()),
        deliver_policy: deliver_policy(spec, queue)?,
        ack_policy: AckPolicy::Explicit,
        ack_wait: spec.lease.unwrap_or(DEFAULT_LEASE),
        description: spec.lease.is_none().then(|| NO_LEASE.to_owned()),
        max_deliver: -1,
        filter_subject: spec.filter.clone().unwrap_or_default(),
        max_ack_pending: i64::from(hub.defaults.max_ack_pending),
        inactive_threshold: if durable { Duration::ZERO } else { EPHEMERAL },
        ..Config::default()
    })
}

fn deliver_policy(spec: &ConsumerSpec, queue: bool) -> Result<DeliverPolicy> {
    // A work queue is read from its beginning; what was handled is not in it any more.
    if queue {
        return Ok(DeliverPolicy::All);
    }
    start_policy(spec.start, spec.partition)
}

/// Where to begin, in the server's words.
///
/// # Errors
/// `Invalid` for a time or an offset that cannot be written.
pub(crate) fn start_policy(start: Start, partition: Option<u32>) -> Result<DeliverPolicy> {
    Ok(match start {
        Start::Earliest => DeliverPolicy::All,
        Start::At(time) => DeliverPolicy::ByStartTime { start_time: date_time(time)? },
        Start::AtOffset { partition: only, offset } => {
            if only.is_none() || only == partition {
                DeliverPolicy::ByStartSequence { start_sequence: offset.max(1) }
            } else {
                DeliverPolicy::New
            }
        }
        // `Created` and `Latest`: from the creation of the consumer.
        _ => DeliverPolicy::New,
    })
}

fn date_time(time: Timestamp) -> Result<async_nats::datetime::DateTime> {
    let nanos = i128::from(time.as_micros()) * 1_000;
    async_nats::datetime::from_nanos(nanos).map_err(|error| {
        Error::invalid("the time to start at is out of range")
            .with_context("time", time)
            .with_source(error)
            .with_broker(BROKER)
    })
}

/// Brings about everything that a group needs besides its topic, or verifies it.
///
/// # Errors
/// `NotFound`, `Conflict`.
pub(crate) async fn ensure_all(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
    consumers: &[ConsumerSpec],
    topology: Topology,
    queue: bool,
) -> Result<Vec<Found>> {
    let route = hub.route(topic);
    if topology == Topology::Create {
        if route.is_bound() {
            beside::ensure_private(hub, topic).await?;
        }
        beside::ensure_dead_letters(hub, topic, group).await?;
    }
    // Ordered topics have many; a few at a time keep the round trips from adding up.
    let all = consumers.iter().cloned();
    let all = all.map(|consumer| async move { ensure(hub, &consumer, topology, queue).await });
    stream::iter(all).buffered(16).try_collect().await
}
