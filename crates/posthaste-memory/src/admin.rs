//! Administration: each call is one turn under the topic's lock.

use async_trait::async_trait;
use posthaste_core::broker::{
    Admin, DeadLetterPage, DeadLetterQuery, GroupInfo, Lag, RangeQuery, Retained, Start,
};
use posthaste_core::{
    Difference, Error, GroupName, LetterId, Result, Timestamp, TopicInfo, TopicName, TopicSpec,
    Topology,
};

use crate::engine::{State, Topic, Turn};
use crate::error::{self, BROKER};
use crate::{MemoryBroker, subscribe};

impl MemoryBroker {
    /// One turn on a topic that must exist.
    async fn with<R: Send>(
        &self,
        operation: &'static str,
        topic: &TopicName,
        act: impl FnOnce(&mut State, &mut Turn) -> Result<R> + Send,
    ) -> Result<R> {
        self.reach(operation).await?;
        let done = self
            .engine()
            .existing(topic)
            .and_then(|topic| topic.turn(act).unwrap_or_else(|| Err(error::no_topic(&topic.name))));
        done.map_err(|error| error.with_broker(BROKER).with_operation(operation).with_topic(topic))
    }
}

#[async_trait]
impl Admin for MemoryBroker {
    async fn ensure(&self, spec: &TopicSpec, topology: Topology) -> Result<TopicInfo> {
        self.reach("ensure").await?;
        let ensured = match topology {
            Topology::Assume => Ok(info(&spec.name, spec.layout, spec.queue)),
            Topology::Create => self.create(spec),
            Topology::Verify => self.compare(spec).and_then(|(topic, differences)| {
                Difference::refuse(&differences)?;
                Ok(describe(&topic))
            }),
            _ => Err(Error::unsupported("this topology is not known to the memory broker")),
        };
        ensured.map_err(|error| {
            error.with_broker(BROKER).with_operation("ensure").with_topic(&spec.name)
        })
    }

    async fn verify(&self, spec: &TopicSpec) -> Result<Vec<Difference>> {
        self.reach("verify").await?;
        let compared = self.compare(spec).map(|(_, differences)| differences);
        compared.map_err(|error| error.with_operation("verify"))
    }

    async fn describe(&self, topic: &TopicName) -> Result<TopicInfo> {
        self.reach("describe").await?;
        let topic = self.engine().existing(topic);
        topic.map(|topic| describe(&topic)).map_err(|error| error.with_operation("describe"))
    }

    async fn delete_topic(&self, topic: &TopicName) -> Result<()> {
        self.reach("delete_topic").await?;
        self.engine().delete(topic);
        Ok(())
    }

    async fn purge(&self, topic: &TopicName) -> Result<Option<u64>> {
        self.with("purge", topic, |state, turn| Ok(Some(state.purge(turn)))).await
    }

    async fn groups(&self, topic: &TopicName) -> Result<Vec<GroupInfo>> {
        self.with("groups", topic, |state, turn| {
            let now = Timestamp::now();
            let mut infos = Vec::new();
            for group in state.groups.values_mut() {
                group.tick(turn);
                let Some(name) = group.name.clone() else { continue };
                let mut info = GroupInfo::new(name);
                info.members = Some(group.members().len());
                info.idle_for = Some(group.idle_for(turn.now));
                info.pins = Some(group.lag(&state.logs, turn, now).total());
                infos.push(info);
            }
            Ok(infos)
        })
        .await
    }

    async fn delete_group(&self, topic: &TopicName, name: &GroupName) -> Result<()> {
        self.with("delete_group", topic, |state, turn| {
            let group = state.existing(name)?;
            refuse_members(topic, name, group)?;
            group.restart(turn); // what stopped members still hold is theirs no more
            let id = group.id;
            state.groups.remove(&id);
            Ok(())
        })
        .await
    }

    async fn lag(&self, topic: &TopicName, group: &GroupName) -> Result<Lag> {
        self.with("lag", topic, |state, turn| {
            let id = {
                let group = state.existing(group)?;
                group.tick(turn);
                group.id
            };
            let now = Timestamp::now();
            let group = state.groups.get(&id);
            Ok(group.map(|group| group.lag(&state.logs, turn, now)).unwrap_or_default())
        })
        .await
    }

    async fn seek(&self, topic: &TopicName, name: &GroupName, to: Start) -> Result<()> {
        if to == Start::Created {
            return Err(Error::invalid("a group that exists cannot be moved to its creation")
                .with_broker(BROKER)
                .with_operation("seek")
                .with_topic(topic)
                .with_group(name));
        }
        self.with("seek", topic, |state, turn| {
            let (cursors, lost) = state.cursors(to)?;
            let group = state.existing(name)?;
            refuse_members(topic, name, group)?;
            group.seek(&cursors, turn);
            if lost > 0 {
                group.lose(lost, "removed before the group was moved there");
            }
            Ok(())
        })
        .await
    }

    async fn range(&self, topic: &TopicName, query: &RangeQuery) -> Result<Vec<Retained>> {
        if matches!(query.from, Start::Created | Start::Latest) {
            return Err(Error::invalid("a range starts at Earliest, At or AtOffset")
                .with_broker(BROKER)
                .with_operation("range")
                .with_topic(topic));
        }
        self.with("range", topic, |state, _| state.range(query)).await
    }

    async fn dead_letters(
        &self,
        topic: &TopicName,
        group: &GroupName,
        query: &DeadLetterQuery,
    ) -> Result<DeadLetterPage> {
        self.with("dead_letters", topic, |state, _| {
            let letters = match state.letters.page(group, query) {
                Some(letters) => letters,
                None => state.existing(group).map(|_| Vec::new())?,
            };
            Ok(DeadLetterPage::new(letters, true))
        })
        .await
    }

    async fn replay(
        &self,
        topic: &TopicName,
        group: &GroupName,
        letters: &[LetterId],
    ) -> Result<Vec<Result<()>>> {
        self.with("replay", topic, |state, turn| {
            let mut replay = |id: &LetterId| {
                // The group first: without it there is no private channel to send to.
                let known = state.existing(group)?.id;
                let message = state.letters.take(group, id);
                let message = message.ok_or_else(|| error::no_letter(topic, group, id.as_str()))?;
                if let Some(group) = state.groups.get_mut(&known) {
                    group.replay(message, turn);
                }
                Ok(())
            };
            Ok(letters.iter().map(&mut replay).collect())
        })
        .await
    }

    async fn discard(
        &self,
        topic: &TopicName,
        group: &GroupName,
        letters: &[LetterId],
    ) -> Result<Vec<Result<()>>> {
        self.with("discard", topic, |state, _| {
            let mut discard = |id: &LetterId| match state.letters.take(group, id) {
                Some(_) => Ok(()),
                None => Err(error::no_letter(topic, group, id.as_str())),
            };
            Ok(letters.iter().map(&mut discard).collect())
        })
        .await
    }
}

impl MemoryBroker {
    fn create(&self, spec: &TopicSpec) -> Result<TopicInfo> {
        if let Some(replicas) = spec.replicas.filter(|replicas| *replicas > 1) {
            return Err(
                Error::unsupported("this broker keeps one copy").with_context("replicas", replicas)
            );
        }
        if spec.queue && spec.groups.iter().any(|group| group.as_str() != subscribe::QUEUE_GROUP) {
            return Err(error::second_group(&spec.name));
        }
        loop {
            let topic = self.engine().create(spec);
            Difference::refuse(&topic.differences(spec))?;
            let created = topic.turn(|state, turn| {
                for name in &spec.groups {
                    if state.group(name).is_none() {
                        state.create_group(Some(name.clone()), Start::Created, turn)?;
                    }
                }
                Ok(describe(&topic))
            });
            // Deleted in between: once more, on a new one.
            if let Some(created) = created {
                return created;
            }
        }
    }

    /// The topic of a spec with all of its groups, and how it differs.
    fn compare(&self, spec: &TopicSpec) -> Result<(std::sync::Arc<Topic>, Vec<Difference>)> {
        let topic = self.engine().existing(&spec.name)?;
        let groups = topic.turn(|state, _| {
            spec.groups.iter().try_for_each(|name| state.existing(name).map(|_| ()))
        });
        groups.unwrap_or_else(|| Err(error::no_topic(&spec.name)))?;
        let mut differences = topic.differences(spec);
        if let Some(replicas) = spec.replicas.filter(|replicas| *replicas > 1) {
            differences.push(Difference::new("replicas", replicas, 1));
        }
        Ok((topic, differences))
    }
}

fn refuse_members(topic: &TopicName, name: &GroupName, group: &crate::engine::Group) -> Result<()> {
    if group.members().len() == 0 {
        return Ok(());
    }
    Err(error::members(topic, name, group.members()))
}

fn describe(topic: &Topic) -> TopicInfo {
    info(&topic.name, topic.settings.layout, topic.settings.queue)
}

fn info(name: &TopicName, layout: posthaste_core::Layout, queue: bool) -> TopicInfo {
    TopicInfo::new(name.clone(), layout, queue, name.to_string())
}
