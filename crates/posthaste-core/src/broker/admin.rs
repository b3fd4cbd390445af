//! Administration: topology, groups, lag, seek, ranges, dead letters.

use std::time::Duration;

use async_trait::async_trait;

use super::{Position, Start};
use crate::{
    DeadLetter, Difference, Envelope, GroupName, LetterId, Result, TopicInfo, TopicName, TopicSpec,
    Topology,
};

/// What an adapter can be asked to do besides sending and receiving.
///
/// Every method is cancel safe unless it says otherwise, in that a dropped call has happened as
/// a whole or not at all for each thing it touches; which one is not known to the caller.
/// What the broker cannot do is [`Unsupported`](crate::ErrorKind::Unsupported).
#[async_trait]
pub trait Admin: Send + Sync {
    /// Brings about what the spec asks for, groups included. Idempotent. Groups start at
    /// `Created`. Under [`Topology::Verify`] only compares; under [`Topology::Assume`] asks nothing
    /// and takes the spec for the truth.
    ///
    /// # Errors
    /// `Conflict` naming setting, wanted and found where what exists differs, `NotFound` under
    /// `Verify`, `Unsupported` for a setting the broker does not have.
    async fn ensure(&self, topic: &TopicSpec, topology: Topology) -> Result<TopicInfo>;

    /// Compares only: what differs, an empty list if nothing does.
    ///
    /// # Errors
    /// `NotFound` if the topic or a group of the spec does not exist.
    async fn verify(&self, topic: &TopicSpec) -> Result<Vec<Difference>>;

    /// What the topic is.
    ///
    /// # Errors
    /// `NotFound` if it does not exist.
    async fn describe(&self, topic: &TopicName) -> Result<TopicInfo>;

    /// Deletes the topic with its groups and dead letters. Deleting nothing is no error.
    ///
    /// # Errors
    /// `Auth`, `Connection`, `Timeout`.
    async fn delete_topic(&self, topic: &TopicName) -> Result<()>;

    /// Removes all messages of the topic and says how many, where the broker tells.
    ///
    /// # Errors
    /// `NotFound`, `Unsupported`.
    async fn purge(&self, topic: &TopicName) -> Result<Option<u64>>;

    /// The groups of a topic.
    ///
    /// # Errors
    /// `NotFound`, `Unsupported`.
    async fn groups(&self, topic: &TopicName) -> Result<Vec<GroupInfo>>;

    /// Deletes a group with its private channel; its dead letters stay.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` naming live members; `Unsupported`.
    async fn delete_group(&self, topic: &TopicName, group: &GroupName) -> Result<()>;

    /// What the group has still to do.
    ///
    /// # Errors
    /// `NotFound`, `Unsupported`.
    async fn lag(&self, topic: &TopicName, group: &GroupName) -> Result<Lag>;

    /// Moves a group without live members.
    ///
    /// # Errors
    /// `Conflict` naming live members; `NotFound`; `Unsupported`; `Invalid` for
    /// [`Start::Created`], which says nothing about an existing group.
    async fn seek(&self, topic: &TopicName, group: &GroupName, to: Start) -> Result<()>;

    /// Reads retained messages without a group, oldest first.
    ///
    /// # Errors
    /// `NotFound`, `Unsupported`.
    async fn range(&self, topic: &TopicName, query: &RangeQuery) -> Result<Vec<Retained>>;

    /// Lists dead letters of a group, oldest first.
    ///
    /// # Errors
    /// `NotFound`, `Unsupported`.
    async fn dead_letters(
        &self,
        topic: &TopicName,
        group: &GroupName,
        query: &DeadLetterQuery,
    ) -> Result<DeadLetterPage>;

    /// Sends dead letters to the private channel of the group that failed, with the same message
    /// id, and removes each once its copy is confirmed. One outcome for each id, in order.
    ///
    /// # Errors
    /// Per entry `NotFound`; for the whole call `Unsupported`, `Connection`.
    ///
    /// # Cancel safety
    /// When dropped, a letter may have been replayed and not removed: it may be replayed again.
    async fn replay(
        &self,
        topic: &TopicName,
        group: &GroupName,
        letters: &[LetterId],
    ) -> Result<Vec<Result<()>>>;

    /// Removes dead letters for good. One outcome for each id, in order.
    ///
    /// # Errors
    /// Per entry `NotFound`; for the whole call `Unsupported`, `Connection`.
    async fn discard(
        &self,
        topic: &TopicName,
        group: &GroupName,
        letters: &[LetterId],
    ) -> Result<Vec<Result<()>>>;
}

/// What a group has still to do. `None` where the broker cannot tell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Lag {
    /// Messages that could be delivered now.
    pub ready: Option<u64>,
    /// Deliveries that are not settled.
    pub in_flight: Option<u64>,
    /// Messages that wait for their time.
    pub delayed: Option<u64>,
    /// Messages that no group gets.
    pub unrouted: Option<u64>,
    /// The age of the oldest message that is not settled.
    pub oldest_age: Option<Duration>,
    /// Whether the counts are exact.
    pub exact: bool,
}

impl Lag {
    /// Everything not yet settled, as far as it is known.
    #[must_use]
    pub fn total(&self) -> u64 {
        [self.ready, self.in_flight, self.delayed].into_iter().flatten().sum()
    }
}

/// A group as it exists at the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupInfo {
    /// Its name.
    pub name: GroupName,
    /// How many members fetch now, where the broker tells.
    pub members: Option<usize>,
    /// Since when no member has fetched, where the broker tells.
    pub idle_for: Option<Duration>,
    /// How many messages it keeps from being settled: what an abandoned group pins.
    pub pins: Option<u64>,
}

impl GroupInfo {
    /// A group of which only the name is known; the rest is set by assignment.
    #[must_use]
    pub const fn new(name: GroupName) -> Self {
        Self { name, members: None, idle_for: None, pins: None }
    }

    /// Whether no member has fetched for that long.
    #[must_use]
    pub fn is_abandoned(&self, after: Duration) -> bool {
        self.members == Some(0) && self.idle_for.is_some_and(|idle| idle >= after)
    }
}

/// Which retained messages to read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RangeQuery {
    /// The first to read. [`Start::Created`] and [`Start::Latest`] are `Invalid` here.
    pub from: Start,
    /// How many at most.
    pub limit: usize,
}

impl RangeQuery {
    /// A query from its parts.
    #[must_use]
    pub const fn new(from: Start, limit: usize) -> Self {
        Self { from, limit }
    }
}

/// A retained message that was read without a group.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Retained {
    /// The message.
    pub envelope: Envelope,
    /// Where the broker has it.
    pub position: Position,
}

impl Retained {
    /// A retained message from its parts.
    #[must_use]
    pub const fn new(envelope: Envelope, position: Position) -> Self {
        Self { envelope, position }
    }
}

/// Which dead letters to list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetterQuery {
    /// How many at most.
    pub limit: usize,
    /// Behind this one; `None` is from the start.
    pub after: Option<LetterId>,
}

impl DeadLetterQuery {
    /// The first page.
    #[must_use]
    pub const fn first(limit: usize) -> Self {
        Self { limit, after: None }
    }

    /// The page behind that letter.
    #[must_use]
    pub fn after(mut self, letter: LetterId) -> Self {
        self.after = Some(letter);
        self
    }
}

/// A page of dead letters.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeadLetterPage {
    /// The letters.
    pub letters: Vec<StoredLetter>,
    /// Whether the list is exact; `false` where the broker can only take a sample and give it
    /// back.
    pub exact: bool,
}

impl DeadLetterPage {
    /// A page from its parts.
    #[must_use]
    pub const fn new(letters: Vec<StoredLetter>, exact: bool) -> Self {
        Self { letters, exact }
    }
}

/// A dead letter with its name at the broker.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StoredLetter {
    /// Its name, for replay and discard.
    pub id: LetterId,
    /// The record.
    pub letter: DeadLetter,
}

impl StoredLetter {
    /// A stored letter from its parts.
    #[must_use]
    pub const fn new(id: LetterId, letter: DeadLetter) -> Self {
        Self { id, letter }
    }
}
