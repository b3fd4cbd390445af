//! Starting a subscription: everything that can be refused is, before the first message.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use posthaste_core::broker::{
    Credit, Order, Polled, Received, Settler, SubscribeRequest, Subscribed, SubscriptionDriver,
};
use posthaste_core::{
    Error, ErrorKind, GroupName, Result, Timestamp, TopicName, TopicSpec, Topology,
};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::consumer::{self, Hop, Job, Keeping, Private, Shared, Topics, UNSETTLED_BYTES, Wish};
use crate::dead_letter;
use crate::error::{self, BROKER};
use crate::groups;
use crate::hub::Hub;
use crate::names::{self, QUEUE_GROUP};
use crate::private::{self, Copy};
use crate::properties::{READ_AHEAD, Role};
use crate::settle::KafkaSettler;
use crate::topology::{self, Found};

/// How long members that hand over partitions wait for their handlers, at most.
const DRAIN: Duration = Duration::from_secs(5);
/// How long a broker waits for a member's sign, unless the properties say otherwise.
const SESSION: Duration = Duration::from_secs(45);
/// How often settled copies are removed from a private topic: those that were settled the time
/// before.
const TRIM_EVERY: Duration = Duration::from_secs(15);
/// How long a first start may take besides the questions it asks.
const STARTING: Duration = Duration::from_secs(10);

/// # Errors
/// `Invalid`, `Unsupported`, `NotFound`, `Conflict`, `Auth`, `Connection`, `Timeout`.
///
/// # Cancel safety
/// Leaves nothing behind but topics that were created, and the start of a group.
pub(crate) async fn subscribe(hub: &Arc<Hub>, request: SubscribeRequest) -> Result<Subscribed> {
    hub.open()?;
    check(&request)?;
    let until = hub.deadline();
    let mut plans = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let plan = plan(hub, topic, &request, until).await;
        plans.push(plan.map_err(|error| error.with_topic(topic))?);
    }
    let ordered = request.order == Order::PerKey;
    // A copy that waits elsewhere is overtaken, so what is ordered waits in memory.
    let keeping = |plan: &Plan| Keeping { spills: plan.private.is_some() && !ordered, ordered };
    let keeping: Vec<_> = plans.iter().map(keeping).collect();
    let shared = Arc::new(Shared::new(&keeping, request.lease, request.mode));
    tell_memory(&request, &plans);
    // From here on, whatever is started ends with the driver.
    let group = request.group.clone();
    let driver = Driver { hub: Arc::clone(hub), shared: Arc::clone(&shared), group };
    let until = Instant::now() + hub.config.request_timeout + STARTING;
    let mut started = VecDeque::with_capacity(plans.len());
    for (source, (topic, plan)) in request.topics.iter().zip(plans).enumerate() {
        let job = job(hub, &request, (source, topic, plan), &shared, until);
        started.push_back((topic, start(hub, job)?));
    }
    while let Some((topic, told)) = started.pop_front() {
        let answer = tokio::time::timeout_at(until, told).await;
        let answer = answer.unwrap_or_else(|_| Ok(Err(consumer::not_in_time())));
        let answer = answer.unwrap_or_else(|_| Err(error::closed()));
        answer.map_err(|error| hub.explain(error).with_topic(topic))?;
    }
    Ok(Subscribed::new(Box::new(driver), request.lease))
}

/// Says how much memory the subscription takes at most.
fn tell_memory(request: &SubscribeRequest, plans: &[Plan]) {
    let partitions: i32 = plans.iter().map(|plan| plan.found.partitions).sum();
    let partitions = usize::try_from(partitions).unwrap_or(0);
    tracing::debug!(
        member = request.member,
        prefetch_bytes = request.prefetch.bytes,
        // One in the client's queue, one that is coming.
        read_ahead_bytes = 2 * READ_AHEAD * plans.len(),
        unsettled_bytes = UNSETTLED_BYTES * partitions,
        "a subscription holds no more than that; unsettled is what failed and waits, if all fails"
    );
}

fn check(request: &SubscribeRequest) -> Result<()> {
    if request.topics.is_empty() || request.topics.len() > consumer::MOST_TOPICS {
        return Err(Error::invalid("a subscription needs a topic, and takes 4096 at most")
            .with_broker(BROKER));
    }
    if request.lease < Duration::from_millis(100) || request.prefetch.count == 0 {
        return Err(Error::invalid("a lease is at least 100 ms, and prefetch at least 1")
            .with_broker(BROKER));
    }
    let group = request.group.as_ref().map(GroupName::as_str);
    if request.queue && group.is_some_and(|group| group != QUEUE_GROUP) {
        return Err(Error::unsupported("a queue has one group, named queue").with_broker(BROKER));
    }
    Ok(())
}

/// A topic as it can be read.
struct Plan {
    found: Found,
    /// The private topic of the group, if it is there.
    private: Option<Private>,
}

/// Finds a topic, or creates a plain one, and makes sure that it can be read as asked.
async fn plan(
    hub: &Hub,
    topic: &TopicName,
    request: &SubscribeRequest,
    until: Instant,
) -> Result<Plan> {
    let found = match topology::find(hub, topic, until).await {
        Err(error)
            if error.kind() == ErrorKind::NotFound
                && request.topology == Topology::Create
                && request.order == Order::None =>
        {
            let mut spec = TopicSpec::plain(topic.clone());
            spec.queue = request.queue;
            topology::ensure(hub, &spec).await?
        }
        found => found?,
    };
    if found.queue != request.queue {
        let word = |queue: bool| if queue { "a queue" } else { "a topic" };
        return Err(Error::new(ErrorKind::Conflict, "queues and topics are read differently")
            .with_context("wanted", word(request.queue))
            .with_context("found", word(found.queue))
            .with_broker(BROKER));
    }
    if request.order == Order::PerKey && found.layout.partitions().is_none() {
        return Err(Error::unsupported("order per key: the topic was not created as ordered")
            .with_broker(BROKER));
    }
    let mut private = None;
    if let Some(group) = &request.group {
        if request.topology == Topology::Verify {
            groups::verify(hub, topic, &found, group).await.map_err(|e| e.with_group(group))?;
        }
        if request.topology == Topology::Create {
            dead_letter::ensure(hub, topic, group, until).await?;
            private::ensure(hub, topic, group, until).await?;
        }
        let name = names::retry_topic(topic, group);
        private = match hub.find(&name, until).await {
            Ok(known) => Some(Private { name, partitions: known.partitions }),
            Err(error)
                if error.kind() == ErrorKind::NotFound && request.topology != Topology::Create =>
            {
                None
            }
            Err(error) => return Err(error),
        };
    }
    Ok(Plan { found, private })
}

fn job(
    hub: &Hub,
    request: &SubscribeRequest,
    (source, topic, plan): (usize, &TopicName, Plan),
    shared: &Arc<Shared>,
    until: Instant,
) -> Job {
    let id = match &request.group {
        Some(group) => hub.group_id(topic, group),
        None => format!("{topic}__ephemeral-{}", Uuid::now_v7()),
    };
    let mut client = hub.config.client(Role::Consumer(&id));
    // Members of a group that are called alike can make it divide its partitions without an end.
    client.set("client.id", format!("{}-{}", hub.config.client_id, request.member));
    let session = client.get("session.timeout.ms").and_then(|millis| millis.parse().ok());
    let session = session.map_or(SESSION, Duration::from_millis);
    Job {
        client,
        signs: Arc::clone(&hub.signs),
        concerns: Arc::clone(&hub.concerns),
        shared: Arc::clone(shared),
        source,
        topics: Topics { topic: topic.clone(), main: plan.found.native, private: plan.private },
        partitions: plan.found.partitions,
        group: request.group.clone(),
        start: request.start,
        topology: request.topology,
        drain: DRAIN.min(session / 3),
        until,
    }
}

/// Starts a consumer that ends with the hub at the latest.
fn start(hub: &Arc<Hub>, job: Job) -> Result<oneshot::Receiver<Result<()>>> {
    let (tell, told) = oneshot::channel();
    let (ended, shared) = (CancellationToken::new(), Arc::clone(&job.shared));
    let (source, topic, group) = (job.source, job.topics.topic.clone(), job.group.clone());
    let private = job.topics.private.as_ref().map(|private| private.name.clone());
    consumer::spawn(job, tell, ended.clone())?;
    let hub = Arc::clone(hub);
    let tasks = hub.tasks.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = ended.cancelled() => return,
            () = hub.closing() => shared.wish(Wish::Drop),
            () = bring(&hub, &shared, source, &topic, group.as_ref()) => {}
            () = trim(&hub, &shared, source, private) => {}
        }
        ended.cancelled().await;
    });
    Ok(told)
}

/// Brings copies of what waits for long to the private topic, for as long as it is polled.
async fn bring(
    hub: &Hub,
    shared: &Shared,
    source: usize,
    topic: &TopicName,
    group: Option<&GroupName>,
) {
    let Some(group) = group else { return std::future::pending().await };
    loop {
        let hops = shared.hops(source).await;
        let copies: Vec<_> = hops.iter().map(copy).collect();
        let outcomes = private::store(hub, topic, group, &copies).await;
        for (hop, outcome) in hops.iter().zip(outcomes) {
            match outcome {
                Ok(()) => drop(shared.buried(&hop.token)),
                Err(error) => {
                    tracing::debug!(%topic, %error, "a copy was not stored");
                    let left = hop.due.since(Timestamp::now());
                    shared.stay(&hop.token, Instant::now() + left);
                }
            }
        }
    }
}

/// Removes from the private topic what was settled a while ago, for as long as it is polled. By
/// then it is committed: the next owner does not miss it.
async fn trim(hub: &Hub, shared: &Shared, source: usize, private: Option<String>) {
    let Some(name) = private else { return std::future::pending().await };
    let (mut before, mut removed) = (BTreeMap::new(), BTreeMap::new());
    loop {
        tokio::time::sleep(TRIM_EVERY).await;
        let now = shared.settled_copies(source);
        let ours = before.into_iter().filter(|(partition, _)| now.contains_key(partition));
        let due: Vec<_> = ours.filter(|one| removed.get(&one.0) != Some(&one.1)).collect();
        before = now;
        if due.is_empty() {
            continue;
        }
        match private::forget(hub, &name, &due).await {
            Ok(()) => removed.extend(due),
            Err(error) => tracing::debug!(topic = name, %error, "settled copies were not removed"),
        }
    }
}

const fn copy(hop: &Hop) -> Copy<'_> {
    Copy { envelope: &hop.envelope, attempts: hop.attempts, due: Some(hop.due) }
}

/// The source of a subscription's batches.
struct Driver {
    hub: Arc<Hub>,
    shared: Arc<Shared>,
    group: Option<GroupName>,
}

impl SubscriptionDriver for Driver {
    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<Received>,
        credit: Credit,
    ) -> Poll<Result<Polled>> {
        self.shared.poll(cx, out, credit)
    }

    fn stop(&mut self) {
        self.shared.wish(Wish::Stop);
    }

    fn settler(&self) -> Arc<dyn Settler> {
        let (hub, shared) = (Arc::clone(&self.hub), Arc::clone(&self.shared));
        Arc::new(KafkaSettler::new(hub, shared, self.group.clone()))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.wish(Wish::Drop);
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("books", &self.shared).finish_non_exhaustive()
    }
}
