//! Administration where the server knows nothing of topics: names are remembered, all else is
//! refused.

use async_trait::async_trait;
use posthaste_core::broker::{
    Admin, DeadLetterPage, DeadLetterQuery, GroupInfo, Lag, RangeQuery, Retained, Start,
};
use posthaste_core::{
    Difference, Error, ErrorKind, GroupName, LetterId, Result, TopicInfo, TopicName, TopicSpec,
    Topology,
};

use super::{BROKER, NatsCoreBroker, refused};

#[async_trait]
impl Admin for NatsCoreBroker {
    async fn ensure(&self, spec: &TopicSpec, topology: Topology) -> Result<TopicInfo> {
        self.open()?;
        if spec.layout.partitions().is_some() {
            return Err(refused("order per key").with_topic(&spec.name));
        }
        let kept = spec.retention.max_age.is_some()
            || spec.retention.max_bytes.is_some()
            || spec.retention.max_messages.is_some()
            || spec.deduplication_window.is_some()
            || spec.replicas.is_some();
        if kept {
            return Err(refused("retention").with_topic(&spec.name));
        }
        if topology == Topology::Verify {
            return Err(refused("verifying a topic").with_topic(&spec.name));
        }
        let native = spec.name.as_str().to_owned();
        let info = TopicInfo::new(spec.name.clone(), spec.layout, spec.queue, native);
        self.topics().insert(spec.name.clone(), info.clone());
        Ok(info)
    }

    async fn verify(&self, spec: &TopicSpec) -> Result<Vec<Difference>> {
        Err(refused("verifying a topic").with_topic(&spec.name))
    }

    async fn describe(&self, topic: &TopicName) -> Result<TopicInfo> {
        self.open()?;
        self.topics().get(topic).cloned().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "nothing is known of the topic in this process")
                .with_topic(topic)
                .with_broker(BROKER)
        })
    }

    async fn delete_topic(&self, topic: &TopicName) -> Result<()> {
        self.open()?;
        self.topics().remove(topic);
        Ok(())
    }

    async fn purge(&self, topic: &TopicName) -> Result<Option<u64>> {
        Err(refused("purge").with_topic(topic))
    }

    async fn groups(&self, topic: &TopicName) -> Result<Vec<GroupInfo>> {
        Err(refused("groups").with_topic(topic))
    }

    async fn delete_group(&self, topic: &TopicName, _: &GroupName) -> Result<()> {
        Err(refused("groups").with_topic(topic))
    }

    async fn lag(&self, topic: &TopicName, _: &GroupName) -> Result<Lag> {
        Err(refused("lag").with_topic(topic))
    }

    async fn seek(&self, topic: &TopicName, _: &GroupName, _: Start) -> Result<()> {
        Err(refused("seek").with_topic(topic))
    }

    async fn range(&self, topic: &TopicName, _: &RangeQuery) -> Result<Vec<Retained>> {
        Err(refused("reading again").with_topic(topic))
    }

    async fn dead_letters(
        &self,
        topic: &TopicName,
        _: &GroupName,
        _: &DeadLetterQuery,
    ) -> Result<DeadLetterPage> {
        Err(refused("dead letters").with_topic(topic))
    }

    async fn replay(
        &self,
        topic: &TopicName,
        _: &GroupName,
        _: &[LetterId],
    ) -> Result<Vec<Result<()>>> {
        Err(refused("dead letters").with_topic(topic))
    }

    async fn discard(
        &self,
        topic: &TopicName,
        _: &GroupName,
        _: &[LetterId],
    ) -> Result<Vec<Result<()>>> {
        Err(refused("dead letters").with_topic(topic))
    }
}
