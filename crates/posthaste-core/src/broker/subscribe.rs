//! Receiving: a driver that core polls for batches.

use std::fmt::Debug;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{Lane, Settler, Token};
use crate::{Difference, Envelope, GroupName, Result, Timestamp, TopicName, Topology};

/// What a subscription shall be. Made by [`Bus::subscribe`](crate::Bus::subscribe).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SubscribeRequest {
    /// The topics, at least one, each once.
    pub topics: Vec<TopicName>,
    /// The group; `None` is an ephemeral subscription of this process, gone when it ends.
    pub group: Option<GroupName>,
    /// Whether the topics are queues.
    pub queue: bool,
    /// Where a group starts that does not exist yet.
    pub start: Start,
    /// What order is asked for.
    pub order: Order,
    /// How much may be unsettled.
    pub prefetch: Prefetch,
    /// How long a delivery may stay unsettled without being extended.
    pub lease: Duration,
    /// When a delivery counts as settled. Under [`DeliveryMode::AtMostOnce`] the adapter settles a
    /// message before it returns it; core does not.
    pub mode: DeliveryMode,
    /// What is done about missing topics and groups. Under [`Topology::Create`] a missing topic is
    /// created as a plain one.
    pub topology: Topology,
    /// The member's name: unique among the members of the group.
    pub member: String,
}

impl SubscribeRequest {
    /// A request with the defaults.
    #[must_use]
    pub fn new(topics: Vec<TopicName>, group: Option<GroupName>, member: String) -> Self {
        Self {
            topics,
            group,
            queue: false,
            start: Start::Created,
            order: Order::None,
            prefetch: Prefetch::default(),
            lease: Duration::from_secs(30),
            mode: DeliveryMode::AtLeastOnce,
            topology: Topology::Create,
            member,
        }
    }
}

/// Where a new group starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Start {
    /// Everything that is confirmed after the group exists; earlier messages may come too.
    #[default]
    Created,
    /// Only what is published from now on.
    Latest,
    /// Everything the broker still has.
    Earliest,
    /// What was stored at that time or later.
    At(Timestamp),
    /// From that offset on, in one partition or, with `None`, in all.
    AtOffset {
        /// The partition.
        partition: Option<u32>,
        /// The first offset to deliver.
        offset: u64,
    },
}

/// What order a subscription asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Order {
    /// None.
    #[default]
    None,
    /// Messages of one key are handled in publish order; keys run in parallel. Only on topics
    /// that were created as ordered.
    PerKey,
    /// Messages of one partition are handled one after the other, whatever their keys. A failing
    /// one holds up its partition. Adapters see [`PerKey`](Self::PerKey).
    Partition,
}

/// When a delivery counts as settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum DeliveryMode {
    /// When the application says so: a crash repeats it.
    #[default]
    AtLeastOnce,
    /// Before the application sees it: a crash loses it.
    AtMostOnce,
}

/// How much of a subscription may be unsettled at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Prefetch {
    /// Deliveries, at least 1.
    pub count: usize,
    /// Bytes of payload and metadata, by running mean: overshoots at most one fetch.
    pub bytes: usize,
}

impl Prefetch {
    /// A bound from its parts.
    #[must_use]
    pub const fn new(count: usize, bytes: usize) -> Self {
        Self { count, bytes }
    }
}

impl Default for Prefetch {
    fn default() -> Self {
        Self::new(256, 16 << 20)
    }
}

/// What a started subscription gives to core.
#[derive(Debug)]
#[non_exhaustive]
pub struct Subscribed {
    /// The source of batches.
    pub driver: Box<dyn SubscriptionDriver>,
    /// The lease that is in force, which an existing group may have set.
    pub lease: Duration,
    /// Shared settings of the group that differ from the request and were left as they are.
    pub differences: Vec<Difference>,
}

impl Subscribed {
    /// A subscription whose settings are as requested.
    #[must_use]
    pub fn new(driver: Box<dyn SubscriptionDriver>, lease: Duration) -> Self {
        Self { driver, lease, differences: Vec::new() }
    }
}

/// The source of a subscription's batches.
///
/// Polled by whoever awaits the subscription, and by its task once it is stopped. Dropping the
/// poll's caller MUST lose nothing: what is under way stays in `self`.
pub trait SubscriptionDriver: Debug + Send {
    /// Appends received messages to `out`.
    ///
    /// `credit` is how much may be outstanding at most, over what was returned before: requested,
    /// buffered and appended messages together MUST stay within it. It is at least one message.
    /// When nothing is there, MUST arrange for `cx` to be woken.
    ///
    /// # Errors
    /// An `Err` ends the subscription: only what no reconnect can repair, for example `Closed`
    /// after `close`, or `NotFound` where the topic is gone and not to be created. Troubles are
    /// events.
    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<Received>,
        credit: Credit,
    ) -> Poll<Result<Polled>>;

    /// No new fetch from now on. Synchronous and idempotent. `poll_batch` then returns what was
    /// already on its way, and ends with [`Polled::Stopped`]. Core releases what it returned, and
    /// what is still held at the deadline, when the driver is [`Polled::Quiet`]: before, a request
    /// that is still open at the broker would get it again.
    fn stop(&mut self);

    /// The way back for verdicts. Outlives the driver.
    fn settler(&self) -> Arc<dyn Settler>;
}

/// What a driver may have outstanding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Credit {
    /// Messages.
    pub messages: usize,
    /// Bytes, a bound for the next fetch by running mean.
    pub bytes: usize,
}

impl Credit {
    /// A credit from its parts.
    #[must_use]
    pub const fn new(messages: usize, bytes: usize) -> Self {
        Self { messages, bytes }
    }
}

/// What a poll brought.
#[derive(Debug)]
#[non_exhaustive]
pub enum Polled {
    /// Messages were appended.
    Batch,
    /// Something to tell the application; poll again.
    Event(DriverEvent),
    /// After a stop: what was asked for before is answered or taken back, so what core gives back
    /// from now on goes to others. Only a driver that has still something else to do says so, for
    /// example hand over lanes whose deliveries are still held; [`Stopped`](Self::Stopped) implies
    /// it.
    Quiet,
    /// The end after a stop: nothing will come any more.
    Stopped,
}

/// What an adapter has to tell.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum DriverEvent {
    /// The connection was lost; the adapter is reconnecting.
    Disconnected {
        /// Why.
        reason: String,
    },
    /// The connection is back.
    Reconnected,
    /// The lane is ours now.
    LaneAssigned(Arc<Lane>),
    /// The lane goes or is gone.
    LaneRevoked(Arc<Lane>),
    /// Messages were removed before this group read them.
    Lost {
        /// The topic.
        topic: TopicName,
        /// How many, where known.
        count: Option<u64>,
        /// What removed them.
        reason: String,
    },
    /// A shared setting of the group differs.
    Differs(Difference),
}

/// One received message with its adapter's handle.
#[derive(Debug)]
#[non_exhaustive]
pub struct Received {
    /// The message.
    pub envelope: Envelope,
    /// The adapter's handle of the delivery.
    pub token: Token,
    /// The lane it came by.
    pub lane: Arc<Lane>,
    /// Which delivery of the message to this group it is.
    pub attempt: Attempt,
    /// Where the broker has it.
    pub position: Position,
}

impl Received {
    /// A first delivery; attempt and position are set by assignment where they are known.
    #[must_use]
    pub fn new(envelope: Envelope, token: Token, lane: Arc<Lane>) -> Self {
        let attempt = Attempt::exact(1);
        Self { envelope, token, lane, attempt, position: Position::default() }
    }

    /// Sets the attempt.
    #[must_use]
    pub const fn with_attempt(mut self, attempt: Attempt) -> Self {
        self.attempt = attempt;
        self
    }

    /// Sets the position.
    #[must_use]
    pub const fn with_position(mut self, position: Position) -> Self {
        self.position = position;
        self
    }
}

/// Which delivery of a message to a group it is, from 1. Every delivery counts, also one that was
/// released: what is given back without fault costs a message nothing, because core gives up only
/// on a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// The count; 2 or more means that it was delivered before.
    pub count: u32,
    /// Whether the broker counts exactly.
    pub exact: bool,
}

impl Attempt {
    /// An exact count.
    #[must_use]
    pub const fn exact(count: u32) -> Self {
        Self { count, exact: true }
    }

    /// A count that may be off.
    #[must_use]
    pub const fn approximate(count: u32) -> Self {
        Self { count, exact: false }
    }
}

/// Where the broker has a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Position {
    /// The partition of an ordered topic or log.
    pub partition: Option<u32>,
    /// The offset or sequence.
    pub offset: Option<u64>,
    /// When the broker stored it.
    pub stored_at: Option<Timestamp>,
}

impl Position {
    /// An offset.
    #[must_use]
    pub const fn offset(offset: u64) -> Self {
        Self { partition: None, offset: Some(offset), stored_at: None }
    }

    /// The same in a partition.
    #[must_use]
    pub const fn in_partition(mut self, partition: Option<u32>) -> Self {
        self.partition = partition;
        self
    }

    /// The same with the time it was stored.
    #[must_use]
    pub const fn stored_at(mut self, at: Option<Timestamp>) -> Self {
        self.stored_at = at;
        self
    }
}
