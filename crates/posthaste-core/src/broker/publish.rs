//! Publishing: one batch in, one outcome for each of its entries.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use smallvec::SmallVec;

use crate::{Envelope, Error, Layout, Result, Timestamp, TopicName};

/// Sends batches. Split from [`Broker`](super::Broker) so that what only publishes can wrap it.
#[async_trait]
pub trait Publish: Debug + Send + Sync + 'static {
    /// Resolves when the broker has taken responsibility for every entry that is not failed.
    ///
    /// Many calls may be in flight. MUST keep the order of the batch towards the broker, MUST NOT
    /// send an envelope twice, MUST NOT keep the slice. An entry whose answer did not come is
    /// failed with [`may_be_stored`](Error::may_be_stored). An `Err` of the whole call holds for
    /// every entry. Core sends transient and unknown outcomes again, with the same id.
    ///
    /// A topic that does not exist is `NotFound` for each entry. A message that no group could get
    /// is kept for the first group, or failed as `Unroutable`: never confirmed and then skipped.
    ///
    /// # Errors
    /// `Closed` after `close`, `Unsupported` for options this destination refuses; all else goes
    /// to the entries.
    ///
    /// # Cancel safety
    /// When dropped, each entry may or may not be stored.
    async fn publish(
        &self,
        to: &Destination,
        batch: &mut [Envelope],
        options: &SendOptions,
    ) -> Result<Outcomes>;
}

/// Where a batch goes, resolved from the topic's description.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Destination {
    /// The topic.
    pub topic: TopicName,
    /// How it orders.
    pub layout: Layout,
    /// Whether it is a queue.
    pub queue: bool,
}

impl Destination {
    /// A destination from its parts.
    #[must_use]
    pub const fn new(topic: TopicName, layout: Layout, queue: bool) -> Self {
        Self { topic, layout, queue }
    }
}

/// What holds for a whole batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SendOptions {
    /// Not to be delivered before this time.
    pub deliver_at: Option<Timestamp>,
    /// To be stored once, however often the same id is published within the window.
    pub deduplicate: bool,
}

impl SendOptions {
    /// Delivery not before `at`.
    #[must_use]
    pub const fn deliver_at(mut self, at: Option<Timestamp>) -> Self {
        self.deliver_at = at;
        self
    }

    /// Stored once within the deduplication window.
    #[must_use]
    pub const fn deduplicate(mut self, deduplicate: bool) -> Self {
        self.deduplicate = deduplicate;
        self
    }
}

/// Where the broker stored an entry, as far as it says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stored {
    /// The partition of an ordered topic or log.
    pub partition: Option<u32>,
    /// The offset or sequence.
    pub offset: Option<u64>,
    /// The broker's own id, where it is not an offset.
    pub broker_id: Option<Arc<str>>,
    /// The broker knew the id already and stored nothing.
    pub duplicate: bool,
}

impl Stored {
    /// Stored at an offset.
    #[must_use]
    pub fn at(offset: u64) -> Self {
        Self { offset: Some(offset), ..Self::default() }
    }
}

/// One outcome for each entry of a batch, in its order.
#[derive(Debug, Default)]
pub struct Outcomes(SmallVec<[Result<Stored>; 1]>);

impl Outcomes {
    /// No outcomes yet, with room for a batch.
    #[must_use]
    pub fn with_capacity(entries: usize) -> Self {
        Self(SmallVec::with_capacity(entries))
    }

    /// Adds the next entry's outcome.
    pub fn push(&mut self, outcome: Result<Stored>) {
        self.0.push(outcome);
    }

    /// The same failure for every entry.
    #[must_use]
    pub fn failed(entries: usize, error: &Error) -> Self {
        Self((0..entries).map(|_| Err(error.duplicate())).collect())
    }

    /// How many there are: as many as the batch had entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The outcomes in the batch's order.
    pub fn iter(&self) -> impl Iterator<Item = &Result<Stored>> {
        self.0.iter()
    }
}

impl FromIterator<Result<Stored>> for Outcomes {
    fn from_iter<I: IntoIterator<Item = Result<Stored>>>(outcomes: I) -> Self {
        Self(outcomes.into_iter().collect())
    }
}

impl IntoIterator for Outcomes {
    type Item = Result<Stored>;
    type IntoIter = OutcomesIter;

    fn into_iter(self) -> Self::IntoIter {
        OutcomesIter(self.0.into_iter())
    }
}

/// The outcomes of a batch by value.
#[derive(Debug)]
pub struct OutcomesIter(smallvec::IntoIter<[Result<Stored>; 1]>);

impl Iterator for OutcomesIter {
    type Item = Result<Stored>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}
