//! A broker that refuses one feature, so that its denial case can be run on a broker that has
//! everything.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use posthaste_core::broker::{
    Admin, Destination, Outcomes, Publish, SendOptions, SubscribeRequest, Subscribed,
};
use posthaste_core::{Broker, Capabilities, Envelope, Error, GroupName, Health, Result, TopicName};
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
        self.inner.admin()
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
