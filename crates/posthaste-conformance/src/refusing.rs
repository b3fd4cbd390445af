//! A broker that refuses one feature, so that its denial case can be run on a broker that has
//! everything.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use posthaste_core::broker::{
    Admin, DeadLetterPage, DeadLetterQuery, Destination, GroupInfo, Lag, Outcomes, Publish,
    RangeQuery, Retained, SendOptions, Start, SubscribeRequest, Subscribed,
};
use posthaste_core::{
    Broker, Capabilities, Difference, Envelope, Error, GroupName, Health, LetterId, Result,
    TopicInfo, TopicName, TopicSpec, Topology,
};
use tokio::time::Instant;

use crate::feature::Feature;
use crate::harness::{Harness, Instance, Need};

/// A broker whose capabilities refuse one feature. What core does not refuse by itself then, it
/// refuses as an adapter has to.
#[derive(Debug)]
pub struct Refusing {
    inner: Arc<dyn Broker>,
    feature: Feature,
    groups: Mutex<HashMap<TopicName, GroupName>>,
}

impl Refusing {
    /// The broker without the feature.
    #[must_use]
    pub fn new(inner: Arc<dyn Broker>, feature: Feature) -> Self {
        Self { inner, feature, groups: Mutex::default() }
    }

    /// The harness without the feature.
    #[must_use]
    pub fn harness(inner: Arc<dyn Harness>, feature: Feature) -> Arc<dyn Harness> {
        let name = format!("{} without {}", inner.name(), feature.as_str());
        Arc::new(RefusingHarness { inner, feature, name })
    }

    /// Without fan-out, the first group of a topic is its only one.
    fn check_fan_out(&self, request: &SubscribeRequest) -> Result<()> {
        let Some(group) = &request.group else { return Ok(()) };
        if self.feature != Feature::FanOut {
            return Ok(());
        }
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        for topic in &request.topics {
            let first = groups.entry(topic.clone()).or_insert_with(|| group.clone());
            if first != group {
                return Err(Error::unsupported("a second group on a topic").with_topic(topic));
            }
        }
        Ok(())
    }

    fn check_settings(&self, topic: &TopicSpec) -> Result<()> {
        let limited = topic.retention.max_messages.is_some();
        if limited && self.feature == Feature::RetentionByCount {
            return Err(
                Error::unsupported("no such setting").with_context("setting", "max_messages")
            );
        }
        Ok(())
    }
}

/// Refuses settings that it has not; everything else is the broker's.
#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Admin for Refusing {
    async fn ensure(&self, topic: &TopicSpec, topology: Topology) -> Result<TopicInfo> {
        self.check_settings(topic)?;
        self.inner.admin().ensure(topic, topology).await
    }

    async fn verify(&self, topic: &TopicSpec) -> Result<Vec<Difference>> {
        self.check_settings(topic)?;
        self.inner.admin().verify(topic).await
    }

    async fn describe(&self, topic: &TopicName) -> Result<TopicInfo> {
        self.inner.admin().describe(topic).await
    }

    async fn delete_topic(&self, topic: &TopicName) -> Result<()> {
        self.inner.admin().delete_topic(topic).await
    }

    async fn purge(&self, topic: &TopicName) -> Result<Option<u64>> {
        self.inner.admin().purge(topic).await
    }

    async fn groups(&self, topic: &TopicName) -> Result<Vec<GroupInfo>> {
        self.inner.admin().groups(topic).await
    }

    async fn delete_group(&self, topic: &TopicName, group: &GroupName) -> Result<()> {
        self.inner.admin().delete_group(topic, group).await
    }

    async fn lag(&self, topic: &TopicName, group: &GroupName) -> Result<Lag> {
        self.inner.admin().lag(topic, group).await
    }

    async fn seek(&self, topic: &TopicName, group: &GroupName, to: Start) -> Result<()> {
        self.inner.admin().seek(topic, group, to).await
    }

    async fn range(&self, topic: &TopicName, query: &RangeQuery) -> Result<Vec<Retained>> {
        self.inner.admin().range(topic, query).await
    }

    async fn dead_letters(
        &self,
        topic: &TopicName,
        group: &GroupName,
        query: &DeadLetterQuery,
    ) -> Result<DeadLetterPage> {
        self.inner.admin().dead_letters(topic, group, query).await
    }

    async fn replay(
        &self,
        topic: &TopicName,
        group: &GroupName,
        letters: &[LetterId],
    ) -> Result<Vec<Result<()>>> {
        self.inner.admin().replay(topic, group, letters).await
    }

    async fn discard(
        &self,
        topic: &TopicName,
        group: &GroupName,
        letters: &[LetterId],
    ) -> Result<Vec<Result<()>>> {
        self.inner.admin().discard(topic, group, letters).await
    }
}

#[async_trait]
impl Publish for Refusing {
    async fn publish(
        &self,
        to: &Destination,
        batch: &mut [Envelope],
        options: &SendOptions,
    ) -> Result<Outcomes> {
        self.inner.publish(to, batch, options).await
    }
}

#[async_trait]
impl Broker for Refusing {
    fn capabilities(&self, topic: Option<&TopicName>) -> Arc<Capabilities> {
        let mut capabilities = (*self.inner.capabilities(topic)).clone();
        self.feature.refuse(&mut capabilities);
        Arc::new(capabilities)
    }

    async fn subscribe(&self, request: SubscribeRequest) -> Result<Subscribed> {
        self.check_fan_out(&request)?;
        self.inner.subscribe(request).await
    }

    fn admin(&self) -> &dyn Admin {
        self
    }

    async fn health(&self) -> Result<Health> {
        self.inner.health().await
    }

    async fn close(&self, deadline: Instant) -> Result<()> {
        self.inner.close(deadline).await
    }

    fn native(&self) -> Option<&(dyn Any + Send + Sync)> {
        self.inner.native()
    }
}

#[derive(Debug)]
struct RefusingHarness {
    inner: Arc<dyn Harness>,
    feature: Feature,
    name: String,
}

#[async_trait]
impl Instance for RefusingHarness {
    async fn connect(&self) -> Result<Arc<dyn Broker>> {
        Ok(Arc::new(Refusing::new(self.inner.connect().await?, self.feature)))
    }
}

#[async_trait]
impl Harness for RefusingHarness {
    fn name(&self) -> &str {
        &self.name
    }

    fn offers(&self) -> &[Need] {
        &[]
    }
}
