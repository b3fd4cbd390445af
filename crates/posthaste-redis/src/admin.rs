//! Administration: topology, groups, lag, seek, ranges, dead letters.

use std::sync::Arc;

use async_trait::async_trait;
use posthaste_core::broker::{
    Admin, DeadLetterPage, DeadLetterQuery, GroupInfo, Lag, RangeQuery, Retained, Start,
};
use posthaste_core::{
    Difference, Error, GroupName, LetterId, Result, TopicInfo, TopicName, TopicSpec, Topology,
};

use crate::error::{self, BROKER};
use crate::hub::Hub;
use crate::{dead_letter, groups, range, topology};

#[derive(Debug)]
pub(crate) struct RedisAdmin {
    hub: Arc<Hub>,
}

impl RedisAdmin {
    pub(crate) const fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    fn hub(&self) -> Result<&Hub> {
        self.hub.open()?;
        Ok(&self.hub)
    }

    /// Makes the groups of a spec, or looks for them.
    async fn groups_of(&self, spec: &TopicSpec, topology: Topology) -> Result<()> {
        let Some(known) = self.hub.known(&spec.name) else { return Err(error::no_topic()) };
        for group in &spec.groups {
            let start = Start::Created;
            groups::ensure(&self.hub, &known, group.as_str(), None, topology, start)
                .await
                .map_err(|error| error.with_group(group))?;
        }
        Ok(())
    }
}

#[async_trait]
impl Admin for RedisAdmin {
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
        self.groups_of(spec, topology).await.map_err(named)?;
        Ok(info)
    }

    async fn verify(&self, spec: &TopicSpec) -> Result<Vec<Difference>> {
        let hub = self.hub()?;
        let named = |error: Error| {
            error.with_broker(BROKER).with_operation("verify").with_topic(&spec.name)
        };
        let differences = topology::compare(hub, spec).await.map_err(named)?;
        self.groups_of(spec, Topology::Verify).await.map_err(named)?;
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
            return Err(Error::unsupported("a bound stream is never deleted")
                .with_topic(topic)
                .with_broker(BROKER));
        }
        topology::delete(hub, topic).await.map_err(|error| error.with_topic(topic))
    }

    async fn purge(&self, topic: &TopicName) -> Result<Option<u64>> {
        let hub = self.hub()?;
        topology::purge(hub, topic).await.map(Some).map_err(|error| error.with_topic(topic))
    }

    async fn groups(&self, topic: &TopicName) -> Result<Vec<GroupInfo>> {
        groups::list(self.hub()?, topic).await.map_err(|error| error.with_topic(topic))
    }

    async fn delete_group(&self, topic: &TopicName, group: &GroupName) -> Result<()> {
        let hub = self.hub()?;
        groups::delete(hub, topic, group).await.map_err(|error| in_group(error, topic, group))
    }

    async fn lag(&self, topic: &TopicName, group: &GroupName) -> Result<Lag> {
        let hub = self.hub()?;
        groups::lag(hub, topic, group).await.map_err(|error| in_group(error, topic, group))
    }

    async fn seek(&self, topic: &TopicName, group: &GroupName, to: Start) -> Result<()> {
        let hub = self.hub()?;
        groups::seek(hub, topic, group, to).await.map_err(|error| in_group(error, topic, group))
    }

    async fn range(&self, topic: &TopicName, query: &RangeQuery) -> Result<Vec<Retained>> {
        let hub = self.hub()?;
        range::read(hub, topic, query).await.map_err(|error| error.with_topic(topic))
    }

    async fn dead_letters(
        &self,
        topic: &TopicName,
        group: &GroupName,
        query: &DeadLetterQuery,
    ) -> Result<DeadLetterPage> {
        let hub = self.hub()?;
        let found = dead_letter::list(hub, topic, group, query);
        found.await.map_err(|error| in_group(error, topic, group))
    }

    async fn replay(
        &self,
        topic: &TopicName,
        group: &GroupName,
        letters: &[LetterId],
    ) -> Result<Vec<Result<()>>> {
        let hub = self.hub()?;
        let replayed = dead_letter::replay(hub, topic, group, letters);
        replayed.await.map_err(|error| in_group(error, topic, group))
    }

    async fn discard(
        &self,
        topic: &TopicName,
        group: &GroupName,
        letters: &[LetterId],
    ) -> Result<Vec<Result<()>>> {
        let hub = self.hub()?;
        let discarded = dead_letter::discard(hub, topic, group, letters);
        discarded.await.map_err(|error| in_group(error, topic, group))
    }
}

#[cold]
fn in_group(error: Error, topic: &TopicName, group: &GroupName) -> Error {
    error.with_topic(topic).with_group(group)
}
