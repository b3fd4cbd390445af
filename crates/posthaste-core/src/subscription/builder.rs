//! Settings of a subscription.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{Expired, KeyFailure, Ledger, Subscription};
use crate::broker::{DeliveryMode, Order, Prefetch, Start, SubscribeRequest, Subscribed};
use crate::{
    Bus, Capabilities, Difference, Error, GroupName, Promise, Result, TopicName, Topology,
};

/// What a subscription does with its deliveries, above the adapter.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) group: Option<GroupName>,
    pub(super) prefetch: Prefetch,
    pub(super) order: Order,
    pub(super) lease: Duration,
    pub(super) max_handling: Duration,
    pub(super) max_attempts: u32,
    pub(super) expired: Expired,
    pub(super) key_failure: KeyFailure,
    pub(super) key_wait: Duration,
    pub(super) mode: DeliveryMode,
    pub(super) drain: Duration,
    pub(super) handover: Duration,
    /// How long an answer of the broker is awaited.
    pub(super) patience: Duration,
}

/// Builds a subscription. From [`Bus::subscribe`].
#[must_use = "a builder does nothing until `start` is called"]
pub struct SubscribeBuilder {
    bus: Bus,
    topics: Vec<String>,
    group: Option<String>,
    queue: bool,
    start: Option<Start>,
    order: Order,
    prefetch: Prefetch,
    lease: Duration,
    max_handling: Duration,
    max_attempts: u32,
    expired: Expired,
    key_failure: KeyFailure,
    key_wait: Option<Duration>,
    mode: DeliveryMode,
    required: Vec<Promise>,
    topology: Option<Topology>,
    member: Option<String>,
}

impl SubscribeBuilder {
    pub(crate) fn new(bus: Bus, topics: Vec<String>, queue: bool) -> Self {
        Self {
            bus,
            topics,
            group: None,
            queue,
            start: None,
            order: Order::None,
            prefetch: Prefetch::default(),
            lease: Duration::from_secs(30),
            max_handling: Duration::from_secs(15 * 60),
            max_attempts: 5,
            expired: Expired::DeadLetter,
            key_failure: KeyFailure::DeadLetterKey,
            key_wait: None,
            mode: DeliveryMode::AtLeastOnce,
            required: Vec::new(),
            topology: None,
            member: None,
        }
    }

    /// The group whose member this is. Without a group the subscription is ephemeral: it gets what
    /// is published while it lives, and leaves nothing behind.
    pub fn group(mut self, name: impl Into<String>) -> Self {
        self.group = Some(name.into());
        self
    }

    /// Where a group starts that does not exist yet. Default: [`Start::Created`]; without a group
    /// [`Start::Latest`].
    pub const fn from(mut self, start: Start) -> Self {
        self.start = Some(start);
        self
    }

    /// What order is kept. Default: none.
    pub const fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// How many deliveries may be unsettled. Default: 256.
    pub const fn prefetch(mut self, count: usize) -> Self {
        self.prefetch.count = count;
        self
    }

    /// How many bytes may be unsettled, by running mean. Default: 16 MiB.
    pub const fn prefetch_bytes(mut self, bytes: usize) -> Self {
        self.prefetch.bytes = bytes;
        self
    }

    /// How long a delivery stays ours without a sign of life. It is prolonged while the delivery
    /// is held, up to [`max_handling`](Self::max_handling). Default: 30 s. An existing group's
    /// own lease stays in force and is reported as [`Event::Differs`](super::SubscriptionEvent::Differs).
    pub const fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How long a delivery may be held at most. Default: 15 min.
    pub const fn max_handling(mut self, time: Duration) -> Self {
        self.max_handling = time;
        self
    }

    /// After how many failed deliveries a message becomes a dead letter. Default: 5.
    pub const fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// What becomes of a message that expired before it was handled. Default: a dead letter.
    pub const fn expired(mut self, expired: Expired) -> Self {
        self.expired = expired;
        self
    }

    /// What becomes of a key whose message fails for good, under [`Order::PerKey`]. Default:
    /// [`KeyFailure::DeadLetterKey`].
    pub const fn key_failure(mut self, failure: KeyFailure) -> Self {
        self.key_failure = failure;
        self
    }

    /// How long a failing key may wait at most, under [`Order::PerKey`]. Default:
    /// [`max_handling`](Self::max_handling).
    pub const fn key_wait(mut self, wait: Duration) -> Self {
        self.key_wait = Some(wait);
        self
    }

    /// Settles each message before the application sees it: a crash loses what is in hand.
    pub const fn at_most_once(mut self) -> Self {
        self.mode = DeliveryMode::AtMostOnce;
        self
    }

    /// Refuses to start where this promise is not kept.
    pub fn require(mut self, promise: Promise) -> Self {
        self.required.push(promise);
        self
    }

    /// What is done about missing topics and groups, instead of the bus's setting.
    pub const fn topology(mut self, topology: Topology) -> Self {
        self.topology = Some(topology);
        self
    }

    /// The member's name, unique within the group. Default: the executable's name, the process id
    /// and a random part.
    pub fn member(mut self, name: impl Into<String>) -> Self {
        self.member = Some(name.into());
        self
    }

    /// Starts the subscription: login, topology and capability are checked before it returns.
    ///
    /// # Errors
    /// `Invalid` for a malformed name or number; `Unsupported` for what this broker or topic
    /// cannot do, `NotFound` and `Conflict` by the topology, `Auth`, `Connection`, `Timeout`,
    /// `Closed`. It ends by the bus's call deadline, 20 s by default.
    ///
    /// # Cancel safety
    /// When dropped, the topic and the group may have been created; nothing is held.
    pub async fn start(self) -> Result<Subscription> {
        let request = self.check()?;
        self.bus.open()?;
        let core = Arc::clone(self.bus.core());
        let first = request.topics[0].clone();
        let (policy, subscribed) = core
            .answer(self.subscribe(&request))
            .await
            .map_err(|error| name(error, &request, &first))?;
        let ledger = Ledger::start(&core, policy, subscribed)?;
        Ok(Subscription::new(self.bus, ledger, request.member))
    }

    async fn subscribe(&self, request: &SubscribeRequest) -> Result<(Policy, Subscribed)> {
        let core = self.bus.core();
        for topic in &request.topics {
            self.require_of(&core.broker.capabilities(Some(topic)), request)
                .map_err(|error| name(error, request, topic))?;
        }
        if request.topology != Topology::Assume {
            for topic in &request.topics {
                let found = core.resolve_as(topic, self.queue, request.topology).await;
                let found = found.map_err(|error| name(error, request, topic))?;
                if request.order == Order::PerKey && found.layout.partitions().is_none() {
                    let error =
                        Error::unsupported("order per key: the topic was not created as ordered");
                    return Err(name(error, request, topic));
                }
            }
        }
        let can = core.broker.capabilities(request.topics.first());
        let subscribed = core.broker.subscribe(request.clone()).await?;
        let lease = subscribed.lease.clamp(SHORTEST, LONGEST);
        Ok((Policy { lease, ..self.policy(request, &can) }, subscribed))
    }

    fn check(&self) -> Result<SubscribeRequest> {
        let mut topics: Vec<TopicName> = Vec::with_capacity(self.topics.len());
        for topic in &self.topics {
            let topic = TopicName::new(topic)?;
            if topics.contains(&topic) {
                return Err(Error::invalid("a topic is named twice").with_topic(topic));
            }
            topics.push(topic);
        }
        if topics.is_empty() {
            return Err(Error::invalid("a subscription has at least one topic"));
        }
        let group = self.group.as_deref().map(GroupName::new).transpose()?;
        let numbers = [
            ("prefetch", self.prefetch.count == 0),
            ("prefetch_bytes", self.prefetch.bytes == 0),
            ("lease", self.lease.is_zero()),
            ("max_handling", self.max_handling.is_zero()),
            ("max_attempts", self.max_attempts == 0),
            ("key_wait", self.key_wait == Some(Duration::ZERO)),
        ];
        if let Some((setting, _)) = numbers.into_iter().find(|(_, is_zero)| *is_zero) {
            return Err(Error::invalid("a setting of a subscription must be greater than zero")
                .with_context("setting", setting));
        }
        if self.lease > LONGEST || self.max_handling > LONGEST {
            return Err(Error::invalid("lease and max_handling are at most 30 days"));
        }
        let default_start = if group.is_some() { Start::Created } else { Start::Latest };
        let member = self.member.clone().unwrap_or_else(random_member);
        if member.is_empty()
            || member.len() > 120
            || !member.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        {
            return Err(Error::invalid("a member's name is 1 to 120 of A-Z a-z 0-9 - _ .")
                .with_context("name", member.escape_debug()));
        }
        let mut request = SubscribeRequest::new(topics, group, member);
        request.queue = self.queue;
        request.start = self.start.unwrap_or(default_start);
        // What comes by one lane is in order either way; who waits for whom is decided here.
        request.order = if self.order == Order::None { Order::None } else { Order::PerKey };
        request.prefetch = self.prefetch;
        request.lease = self.lease;
        request.mode = self.mode;
        request.topology = self.topology.unwrap_or(self.bus.core().settings.topology);
        Ok(request)
    }

    fn require_of(&self, can: &Capabilities, request: &SubscribeRequest) -> Result<()> {
        for promise in &self.required {
            let what = format!("{promise} ({})", promise.title());
            can.promise(*promise).require(&what)?;
        }
        if request.mode == DeliveryMode::AtLeastOnce {
            can.at_least_once.require("at least once")?;
        }
        if request.order == Order::PerKey {
            can.order.require("order per key")?;
        }
        match request.start {
            Start::Earliest => can.start_earliest.require("start at the earliest message"),
            Start::At(_) => can.start_at_time.require("start at a time"),
            Start::AtOffset { .. } => can.start_at_offset.require("start at an offset"),
            Start::Created | Start::Latest => Ok(()),
        }
    }

    fn policy(&self, request: &SubscribeRequest, can: &Capabilities) -> Policy {
        Policy {
            group: request.group.clone(),
            prefetch: self.prefetch,
            order: self.order,
            lease: self.lease,
            max_handling: self.max_handling,
            max_attempts: self.max_attempts,
            expired: self.expired,
            key_failure: self.key_failure,
            key_wait: self.key_wait.unwrap_or(self.max_handling),
            mode: self.mode,
            drain: self.bus.core().settings.drain,
            handover: can.handover,
            patience: self.bus.core().settings.call_deadline,
        }
    }
}

const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);
/// No lease can be kept that is shorter than a round trip.
const SHORTEST: Duration = Duration::from_millis(10);

fn random_member() -> String {
    let name = std::env::current_exe().ok();
    let name = name.as_deref().and_then(|path| path.file_stem()).and_then(|name| name.to_str());
    let legal = |c: &char| c.is_ascii_alphanumeric() || "-_".contains(*c);
    let name: String = name.unwrap_or("member").chars().filter(legal).take(60).collect();
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("{name}-{}-{}", std::process::id(), &random[..8])
}

#[cold]
fn name(error: Error, request: &SubscribeRequest, topic: &TopicName) -> Error {
    let error = error.with_operation("subscribe").with_topic(topic);
    match &request.group {
        Some(group) => error.with_group(group),
        None => error,
    }
}

/// Differences of a group that a subscription reports when it starts.
pub(super) fn report(differences: &[Difference]) {
    for difference in differences {
        tracing::warn!(%difference, "a shared setting of the group differs and was left as it is");
    }
}

impl fmt::Debug for SubscribeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscribeBuilder")
            .field("topics", &self.topics)
            .field("group", &self.group)
            .field("start", &self.start)
            .field("order", &self.order)
            .field("prefetch", &self.prefetch)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}
