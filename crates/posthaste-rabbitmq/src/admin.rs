//! Administration: topology, groups, lag, dead letters.

use std::sync::Arc;

use async_trait::async_trait;
use posthaste_core::broker::{
    Admin, DeadLetterPage, DeadLetterQuery, GroupInfo, Lag, RangeQuery, Retained, Start,
};
use posthaste_core::{
    Difference, Error, GroupName, LetterId, Result, TopicInfo, TopicName, TopicSpec, Topology,
};

use crate::declare::Desk;
use crate::error::BROKER;
use crate::hub::Hub;
use crate::{dead_letter, groups, lifecycle, names, registry, topology};

#[derive(Debug)]
pub(crate) struct RabbitmqAdmin {
    hub: Arc<Hub>,
}

impl RabbitmqAdmin {
    pub(crate) const fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    fn hub(&self) -> Result<&Hub> {
        self.hub.open()?;
        Ok(&self.hub)
    }
}

#[async_trait]
impl Admin for RabbitmqAdmin {
    async fn ensure(&self, spec: &TopicSpec, topology: Topology) -> Result<TopicInfo> {
        let hub = self.hub()?;
        let named = |error: Error| {
            error.with_broker(BROKER).with_operation("ensure").with_topic(&spec.name)
        };
        let info = match topology {
            Topology::Assume => return Ok(topology::assume(hub, spec)),
            Topology::Verify => {
                let differences = topology::compare(hub, spec).await.map_err(named)?;
                Difference::refuse(&differences).map_err(named)?;
                topology::describe(hub, &spec.name).await.map_err(named)?
            }
            _ => topology::ensure(hub, spec).await.map_err(named)?,
        };
        for group in &spec.groups {
            let found =
                groups::ensure(hub, &spec.name, group, info.layout, spec.queue, topology, false);
            let refused = found.await.and_then(|found| Difference::refuse(&found));
            refused.map_err(|error| {
                let queues = groups::queues(hub, &spec.name, group, info.layout, spec.queue);
                named(error.with_group(group).with_context("queue", queues.own))
            })?;
        }
        Ok(info)
    }

    async fn verify(&self, spec: &TopicSpec) -> Result<Vec<Difference>> {
        let hub = self.hub()?;
        let named = |error: Error| {
            error.with_broker(BROKER).with_operation("verify").with_topic(&spec.name)
        };
        let mut differences = topology::compare(hub, spec).await.map_err(named)?;
        let layout = hub.known(&spec.name).map_or(spec.layout, |known| known.layout);
        for group in &spec.groups {
            let (topology, queue) = (Topology::Verify, spec.queue);
            let found = groups::ensure(hub, &spec.name, group, layout, queue, topology, false);
            differences.extend(found.await.map_err(|error| named(error.with_group(group)))?);
        }
        Ok(differences)
    }

    async fn describe(&self, topic: &TopicName) -> Result<TopicInfo> {
        topology::describe(self.hub()?, topic)
            .await
            .map_err(|error| error.with_operation("describe").with_topic(topic))
    }

    async fn delete_topic(&self, topic: &TopicName) -> Result<()> {
        let hub = self.hub()?;
        if hub.binding(topic).is_some() {
            return Err(untouchable("a bound exchange is never deleted", topic));
        }
        topology::delete(hub, topic).await.map_err(|error| error.with_topic(topic))
    }

    async fn purge(&self, topic: &TopicName) -> Result<Option<u64>> {
        let hub = self.hub()?;
        let info = topology::describe(hub, topic).await.map_err(|error| error.with_topic(topic))?;
        if hub.binding(topic).is_some() {
            return Err(untouchable("what is behind a bound exchange is never changed", topic));
        }
        let records = registry::list(hub, topic).await?.unwrap_or_default();
        let mut desk = Desk::new(hub);
        for record in records.into_iter().filter(|record| !record.gone) {
            let queues = groups::queues(hub, topic, &record.group, info.layout, info.queue);
            for queue in std::iter::once(&queues.own).chain(&queues.lanes) {
                desk.purge(queue).await?;
            }
        }
        desk.purge(&names::unrouted_queue(topic)).await?;
        desk.close().await;
        Ok(None)
    }

    async fn groups(&self, topic: &TopicName) -> Result<Vec<GroupInfo>> {
        lifecycle::list(self.hub()?, topic).await.map_err(|error| error.with_topic(topic))
    }

    async fn delete_group(&self, topic: &TopicName, group: &GroupName) -> Result<()> {
        let hub = self.hub()?;
        lifecycle::delete(hub, topic, group).await.map_err(|error| in_group(error, topic, group))
    }

    async fn lag(&self, topic: &TopicName, group: &GroupName) -> Result<Lag> {
        let hub = self.hub()?;
        lifecycle::lag(hub, topic, group).await.map_err(|error| in_group(error, topic, group))
    }

    async fn seek(&self, topic: &TopicName, group: &GroupName, _: Start) -> Result<()> {
        self.hub()?;
        Err(in_group(untouchable("a queue keeps nothing that is settled", topic), topic, group))
    }

    async fn range(&self, topic: &TopicName, _: &RangeQuery) -> Result<Vec<Retained>> {
        self.hub()?;
        Err(untouchable("a queue keeps nothing that is settled", topic))
    }

    async fn dead_letters(
        &self,
        topic: &TopicName,
        group: &GroupName,
        query: &DeadLetterQuery,
    ) -> Result<DeadLetterPage> {
        let hub = self.hub()?;
        dead_letter::list(hub, topic, group, query)
            .await
            .map_err(|error| in_group(error, topic, group))
    }

    async fn replay(
        &self,
        topic: &TopicName,
        group: &GroupName,
        letters: &[LetterId],
    ) -> Result<Vec<Result<()>>> {
        let hub = self.hub()?;
        dead_letter::replay(hub, topic, group, letters)
            .await
            .map_err(|error| in_group(error, topic, group))
    }

    async fn discard(
        &self,
        topic: &TopicName,
        group: &GroupName,
        letters: &[LetterId],
    ) -> Result<Vec<Result<()>>> {
        let hub = self.hub()?;
        dead_letter::discard(hub, topic, group, letters)
            .await
            .map_err(|error| in_group(error, topic, group))
    }
}

#[cold]
fn untouchable(why: &'static str, topic: &TopicName) -> Error {
    Error::unsupported(why).with_topic(topic).with_broker(BROKER)
}

#[cold]
fn in_group(error: Error, topic: &TopicName, group: &GroupName) -> Error {
    error.with_topic(topic).with_group(group)
}
