//! Administration of a broker without topics: every name is a plain topic, all else is refused.

use async_trait::async_trait;
use posthaste::broker::{
    Admin, DeadLetterPage, DeadLetterQuery, GroupInfo, Lag, RangeQuery, Retained, Start,
};
use posthaste::{
    Difference, Error, GroupName, Layout, LetterId, Result, TopicInfo, TopicName, TopicSpec,
    Topology,
};

/// Keeps nothing, so that there is nothing to administrate.
#[derive(Debug)]
pub(super) struct NullAdmin;

fn refused<T>() -> Result<T> {
    Err(Error::unsupported("the null broker keeps nothing").with_broker("null"))
}

#[async_trait]
impl Admin for NullAdmin {
    async fn ensure(&self, topic: &TopicSpec, _: Topology) -> Result<TopicInfo> {
        self.describe(&topic.name).await
    }

    async fn verify(&self, _: &TopicSpec) -> Result<Vec<Difference>> {
        Ok(Vec::new())
    }

    async fn describe(&self, topic: &TopicName) -> Result<TopicInfo> {
        Ok(TopicInfo::new(topic.clone(), Layout::Plain, false, "nothing".to_owned()))
    }

    async fn delete_topic(&self, _: &TopicName) -> Result<()> {
        Ok(())
    }

    async fn purge(&self, _: &TopicName) -> Result<Option<u64>> {
        refused()
    }

    async fn groups(&self, _: &TopicName) -> Result<Vec<GroupInfo>> {
        refused()
    }

    async fn delete_group(&self, _: &TopicName, _: &GroupName) -> Result<()> {
        refused()
    }

    async fn lag(&self, _: &TopicName, _: &GroupName) -> Result<Lag> {
        refused()
    }

    async fn seek(&self, _: &TopicName, _: &GroupName, _: Start) -> Result<()> {
        refused()
    }

    async fn range(&self, _: &TopicName, _: &RangeQuery) -> Result<Vec<Retained>> {
        refused()
    }

    async fn dead_letters(
        &self,
        _: &TopicName,
        _: &GroupName,
        _: &DeadLetterQuery,
    ) -> Result<DeadLetterPage> {
        refused()
    }

    async fn replay(
        &self,
        _: &TopicName,
        _: &GroupName,
        _: &[LetterId],
    ) -> Result<Vec<Result<()>>> {
        refused()
    }

    async fn discard(
        &self,
        _: &TopicName,
        _: &GroupName,
        _: &[LetterId],
    ) -> Result<Vec<Result<()>>> {
        refused()
    }
}
