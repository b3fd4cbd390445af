//! Administration: topology, groups, lag, seek, ranges, dead letters.

use std::sync::Arc;

use async_trait::async_trait;
use posthaste_core::broker::{
    Admin, DeadLetterPage, DeadLetterQuery, GroupInfo, Lag, Position, RangeQuery, Retained, Start,
};
use posthaste_core::{
    Difference, Error, GroupName, LetterId, Result, TopicInfo, TopicName, TopicSpec, Topology,
};

use crate::error::BROKER;
use crate::fetch::Query;
use crate::groups;
use crate::hub::Hub;
use crate::{convert, dead_letter};
use crate::{fetch, lifecycle, names, topology};

#[derive(Debug)]
pub(crate) struct NatsAdmin {
    hub: Arc<Hub>,
}

impl NatsAdmin {
    pub(crate) const fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    fn hub(&self) -> Result<&Hub> {
        self.hub.open()?;
        Ok(&self.hub)
    }
}

#[async_trait]
impl Admin for NatsAdmin {
    async fn ensure(&self, spec: &TopicSpec, topology: Topology) -> Result<TopicInfo> {
        let hub = self.hub()?;
        let named = |error: Error| error.with_operation("ensure").with_topic(&spec.name);
        let info = match topology {
            Topology::Assume => return Ok(topology::assume(hub, spec)),
            Topology::Verify => {
                let differences = topology::compare(hub, spec).await.map_err(named)?;
                Difference::refuse(&differences).map_err(named)?;
                topology::describe(hub, &spec.name).await.map_err(named)?.0
            }
            _ => topology::ensure(hub, spec).await.map_err(named)?,
        };
        for group in &spec.groups {
            let consumers =
                groups::consumers(&hub.route(&spec.name), info.layout, group, None, Start::Created);
            groups::ensure_all(hub, &spec.name, group, &consumers, topology, info.queue)
                .await
                .map_err(|error| named(error).with_group(group))?;
        }
        Ok(info)
    }

    async fn verify(&self, spec: &TopicSpec) -> Result<Vec<Difference>> {
        let hub = self.hub()?;
        let named = |error: Error| error.with_operation("verify").with_topic(&spec.name);
        let differences = topology::compare(hub, spec).await.map_err(named)?;
        let layout = hub.known(&spec.name).map_or(spec.layout, |known| known.layout);
        for group in &spec.groups {
            let route = hub.route(&spec.name);
            let consumers = groups::consumers(&route, layout, group, None, Start::Created);
            groups::ensure_all(hub, &spec.name, group, &consumers, Topology::Verify, spec.queue)
                .await
                .map_err(|error| named(error).with_group(group))?;
        }
        Ok(differences)
    }

    async fn describe(&self, topic: &TopicName) -> Result<TopicInfo> {
        Ok(topology::describe(self.hub()?, topic).await?.0)
    }

    async fn delete_topic(&self, topic: &TopicName) -> Result<()> {
        let hub = self.hub()?;
        if hub.route(topic).is_bound() {
            return Err(untouchable("a bound stream is never deleted", topic));
        }
        hub.forget(topic);
        // Dead letters last: what can be tried again then still finds them.
        topology::delete(hub, &names::stream(topic)).await?;
        topology::delete(hub, &names::lanes_stream(topic)).await?;
        for stream in dead_letter::streams(hub, topic).await? {
            topology::delete(hub, &stream).await?;
        }
        Ok(())
    }

    async fn purge(&self, topic: &TopicName) -> Result<Option<u64>> {
        let hub = self.hub()?;
        if hub.route(topic).is_bound() {
            return Err(untouchable("a bound stream is never changed", topic));
        }
        let (info, _) = topology::describe(hub, topic).await?;
        let stream = names::stream(topic);
        let mut purged = 0;
        for filter in [names::data_filter(topic, info.layout), names::schedule_filter(topic)] {
            purged += topology::purge(hub, &stream, &filter).await?;
        }
        Ok(Some(purged))
    }

    async fn groups(&self, topic: &TopicName) -> Result<Vec<GroupInfo>> {
        lifecycle::list(self.hub()?, topic).await
    }

    async fn delete_group(&self, topic: &TopicName, group: &GroupName) -> Result<()> {
        let hub = self.hub()?;
        lifecycle::delete(hub, topic, group).await.map_err(|error| in_group(error, topic, group))
    }

    async fn lag(&self, topic: &TopicName, group: &GroupName) -> Result<Lag> {
        let hub = self.hub()?;
        lifecycle::lag(hub, topic, group).await.map_err(|error| in_group(error, topic, group))
    }

    async fn seek(&self, topic: &TopicName, group: &GroupName, to: Start) -> Result<()> {
        let hub = self.hub()?;
        lifecycle::seek(hub, topic, group, to).await.map_err(|error| in_group(error, topic, group))
    }

    async fn range(&self, topic: &TopicName, query: &RangeQuery) -> Result<Vec<Retained>> {
        let hub = self.hub()?;
        let (info, native) = topology::describe(hub, topic).await?;
        if info.queue {
            return Err(untouchable("a queue keeps only what is not handled", topic));
        }
        let mut filter = hub.route(topic).filter(info.layout);
        let partition = match query.from {
            Start::Created | Start::Latest => {
                return Err(Error::invalid("a range begins at a time, an offset or the earliest")
                    .with_topic(topic)
                    .with_broker(BROKER));
            }
            Start::AtOffset { partition, .. } => partition,
            _ => None,
        };
        if let (Some(n), Some(partition)) = (info.layout.partitions(), partition) {
            let one = u16::try_from(partition).ok().filter(|partition| *partition < n);
            let Some(one) = one else { return Ok(Vec::new()) };
            filter = Some(names::lane_subject(topic, n, one));
        }
        let stream = native.config.name;
        let policy = groups::start_policy(query.from, partition)?;
        let fetched =
            fetch::retained(hub, &stream, Query::new(filter, policy, query.limit)).await?;
        let retained = fetched.into_iter().map(|fetched| {
            let partition = names::partition_of(topic, &fetched.message.subject);
            let position = Position::offset(fetched.delivered.stream_sequence)
                .in_partition(partition)
                .stored_at(Some(fetched.delivered.stored_at));
            let origin = fetched.origin(&stream);
            let headers = fetched.message.headers.as_ref();
            let payload = fetched.message.payload.clone();
            Retained::new(convert::envelope(headers, payload, &origin), position)
        });
        Ok(retained.collect())
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
        hub.link.ready(tokio::time::Instant::now() + hub.request_timeout).await?;
        Ok(dead_letter::replay(hub, topic, group, letters).await)
    }

    async fn discard(
        &self,
        topic: &TopicName,
        group: &GroupName,
        letters: &[LetterId],
    ) -> Result<Vec<Result<()>>> {
        let hub = self.hub()?;
        hub.link.ready(tokio::time::Instant::now() + hub.request_timeout).await?;
        Ok(dead_letter::discard(hub, topic, group, letters).await)
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
