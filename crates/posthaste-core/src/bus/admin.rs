//! Administration of topics, groups and dead letters, by name.

use std::time::Duration;

use super::Bus;
use crate::broker::{DeadLetterPage, DeadLetterQuery, GroupInfo, Lag, RangeQuery, Retained, Start};
use crate::{Error, GroupName, LetterId, Result, TopicInfo, TopicName};

/// Administration of topics, groups and dead letters. From [`Bus::admin`].
///
/// Every method fails with `Invalid` for a malformed name, `NotFound` for what does not exist,
/// `Unsupported` for what the broker cannot do, and `Auth`, `Connection`, `Timeout` or `Closed`.
/// Every method ends by the bus's call deadline (20 s by default), and those that take letters by
/// a tenth of a second more for each; what was under way then has happened or not.
/// Every method is cancel safe: a dropped call has happened or not.
///
/// ```no_run
/// # async fn example(bus: posthaste_core::Bus) -> posthaste_core::Result<()> {
/// let lag = bus.admin().lag("orders", "billing").await?;
/// println!("{:?} ready, {:?} in flight", lag.ready, lag.in_flight);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Admin<'a> {
    bus: &'a Bus,
}

impl<'a> Admin<'a> {
    pub(super) const fn new(bus: &'a Bus) -> Self {
        Self { bus }
    }

    /// What the topic is.
    ///
    /// # Errors
    /// `NotFound`; see [`Admin`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn describe(&self, topic: &str) -> Result<TopicInfo> {
        let (broker, topic) = (self.broker()?, TopicName::new(topic)?);
        self.answer(broker.describe(&topic)).await.map_err(|error| named(error, "describe", &topic))
    }

    /// Deletes the topic with its groups and dead letters. Deleting nothing is no error.
    ///
    /// # Errors
    /// See [`Admin`].
    ///
    /// # Cancel safety
    /// When dropped, parts of the topic may be left; deleting again completes it.
    pub async fn delete_topic(&self, topic: &str) -> Result<()> {
        let (broker, topic) = (self.broker()?, TopicName::new(topic)?);
        self.answer(broker.delete_topic(&topic))
            .await
            .map_err(|error| named(error, "delete_topic", &topic))
    }

    /// Removes all messages of the topic and says how many, where the broker tells.
    ///
    /// # Errors
    /// `NotFound`, `Unsupported`; see [`Admin`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn purge(&self, topic: &str) -> Result<Option<u64>> {
        let (broker, topic) = (self.broker()?, TopicName::new(topic)?);
        self.require("purge", &topic, |can| &can.purge)?;
        self.answer(broker.purge(&topic)).await.map_err(|error| named(error, "purge", &topic))
    }

    /// The groups of a topic.
    ///
    /// # Errors
    /// `NotFound`, `Unsupported`; see [`Admin`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn groups(&self, topic: &str) -> Result<Vec<GroupInfo>> {
        let (broker, topic) = (self.broker()?, TopicName::new(topic)?);
        self.require("groups", &topic, |can| &can.group_lifecycle)?;
        self.answer(broker.groups(&topic)).await.map_err(|error| named(error, "groups", &topic))
    }

    /// Deletes a group without live members. Its dead letters stay.
    ///
    /// # Errors
    /// `Conflict` naming live members; `NotFound`, `Unsupported`; see [`Admin`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn delete_group(&self, topic: &str, group: &str) -> Result<()> {
        let (topic, group) = (TopicName::new(topic)?, GroupName::new(group)?);
        self.require("delete_group", &topic, |can| &can.group_lifecycle)?;
        let deleted = self.answer(self.broker()?.delete_group(&topic, &group)).await;
        deleted.map_err(|error| named(error, "delete_group", &topic).with_group(&group))
    }

    /// What the group has still to do.
    ///
    /// # Errors
    /// `NotFound`, `Unsupported`; see [`Admin`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn lag(&self, topic: &str, group: &str) -> Result<Lag> {
        let (topic, group) = (TopicName::new(topic)?, GroupName::new(group)?);
        self.require("lag", &topic, |can| &can.lag)?;
        let lag = self.answer(self.broker()?.lag(&topic, &group)).await;
        lag.map_err(|error| named(error, "lag", &topic).with_group(&group))
    }

    /// Moves a group without live members to another start.
    ///
    /// # Errors
    /// `Conflict` naming live members; `Invalid` for [`Start::Created`], which says nothing about
    /// a group that exists; `NotFound`, `Unsupported`; see [`Admin`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn seek(&self, topic: &str, group: &str, to: Start) -> Result<()> {
        let (topic, group) = (TopicName::new(topic)?, GroupName::new(group)?);
        self.require("seek", &topic, |can| &can.seek)?;
        if to == Start::Created {
            return Err(named(
                Error::invalid("a group that exists is moved to Latest, Earliest, At or AtOffset"),
                "seek",
                &topic,
            ));
        }
        let moved = self.answer(self.broker()?.seek(&topic, &group, to)).await;
        moved.map_err(|error| named(error, "seek", &topic).with_group(&group))
    }

    /// Reads retained messages without a group, oldest first, at most `limit`.
    ///
    /// # Errors
    /// `Invalid` for [`Start::Created`] and [`Start::Latest`]; `NotFound`, `Unsupported`; see
    /// [`Admin`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn range(&self, topic: &str, from: Start, limit: usize) -> Result<Vec<Retained>> {
        let (broker, topic) = (self.broker()?, TopicName::new(topic)?);
        self.require("range", &topic, |can| &can.range)?;
        if matches!(from, Start::Created | Start::Latest) {
            let error = Error::invalid("a range starts at Earliest, At or AtOffset");
            return Err(named(error, "range", &topic));
        }
        let query = RangeQuery::new(from, limit);
        let read = self.answer(broker.range(&topic, &query)).await;
        read.map_err(|error| named(error, "range", &topic))
    }

    /// Lists dead letters of a group, oldest first, at most `limit`.
    ///
    /// # Errors
    /// `NotFound`, `Unsupported`; see [`Admin`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn dead_letters(
        &self,
        topic: &str,
        group: &str,
        limit: usize,
    ) -> Result<DeadLetterPage> {
        self.page(topic, group, DeadLetterQuery::first(limit)).await
    }

    /// Lists the dead letters behind one that was listed before.
    ///
    /// # Errors
    /// `NotFound`, `Unsupported`; see [`Admin`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn dead_letters_after(
        &self,
        topic: &str,
        group: &str,
        letter: LetterId,
        limit: usize,
    ) -> Result<DeadLetterPage> {
        self.page(topic, group, DeadLetterQuery::first(limit).after(letter)).await
    }

    /// Sends dead letters to the group that failed, and to no other, with the same message id. One
    /// outcome for each letter, in order.
    ///
    /// # Errors
    /// Per letter `NotFound`; for the whole call `Unsupported`; see [`Admin`].
    ///
    /// # Cancel safety
    /// When dropped, a letter may have been sent and not removed: it may then be sent again.
    pub async fn replay(
        &self,
        topic: &str,
        group: &str,
        letters: &[LetterId],
    ) -> Result<Vec<Result<()>>> {
        let (topic, group) = (TopicName::new(topic)?, GroupName::new(group)?);
        self.require("replay", &topic, |can| &can.dead_letters)?;
        let replayed = self.broker()?.replay(&topic, &group, letters);
        let replayed = self.bus.core().answer_within(for_each(letters), replayed).await;
        replayed.map_err(|error| named(error, "replay", &topic).with_group(&group))
    }

    /// Removes dead letters for good. One outcome for each letter, in order.
    ///
    /// # Errors
    /// Per letter `NotFound`; for the whole call `Unsupported`; see [`Admin`].
    ///
    /// # Cancel safety
    /// When dropped, each letter is removed or not.
    pub async fn discard(
        &self,
        topic: &str,
        group: &str,
        letters: &[LetterId],
    ) -> Result<Vec<Result<()>>> {
        let (topic, group) = (TopicName::new(topic)?, GroupName::new(group)?);
        self.require("discard", &topic, |can| &can.dead_letters)?;
        let discarded = self.broker()?.discard(&topic, &group, letters);
        let discarded = self.bus.core().answer_within(for_each(letters), discarded).await;
        discarded.map_err(|error| named(error, "discard", &topic).with_group(&group))
    }

    async fn page(
        &self,
        topic: &str,
        group: &str,
        query: DeadLetterQuery,
    ) -> Result<DeadLetterPage> {
        let (topic, group) = (TopicName::new(topic)?, GroupName::new(group)?);
        self.require("dead_letters", &topic, |can| &can.dead_letters)?;
        let page = self.answer(self.broker()?.dead_letters(&topic, &group, &query)).await;
        page.map_err(|error| named(error, "dead_letters", &topic).with_group(&group))
    }

    async fn answer<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.bus.core().answer(call).await
    }

    fn broker(&self) -> Result<&dyn crate::broker::Admin> {
        self.bus.open()?;
        Ok(self.bus.core().broker.admin())
    }

    fn require(
        &self,
        operation: &'static str,
        topic: &TopicName,
        feature: impl Fn(&crate::Capabilities) -> &crate::Support,
    ) -> Result<()> {
        let capabilities = self.bus.core().broker.capabilities(Some(topic));
        feature(&capabilities).require(operation).map_err(|error| named(error, operation, topic))
    }
}

/// What a call for each of these may take longer than a call for one.
fn for_each(letters: &[LetterId]) -> Duration {
    Duration::from_millis(100).saturating_mul(u32::try_from(letters.len()).unwrap_or(u32::MAX))
}

#[cold]
fn named(error: Error, operation: &'static str, topic: &TopicName) -> Error {
    error.with_operation(operation).with_topic(topic)
}
