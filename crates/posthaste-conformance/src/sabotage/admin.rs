//! Administration gone wrong.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use posthaste_core::broker::{
    Admin, DeadLetterPage, DeadLetterQuery, Destination, GroupInfo, Lag, RangeQuery, Retained,
    SendOptions, Start,
};
use posthaste_core::{
    Broker, Difference, Error, ErrorKind, GroupName, LetterId, Result, TopicInfo, TopicName,
    TopicSpec, Topology,
};

use super::mutant::Mutant;
use super::saboteur::Saboteur;

/// More letters than a case has.
const ALL_LETTERS: usize = 1_000;

#[derive(Debug)]
pub(super) struct SabotagedAdmin {
    pub(super) inner: Arc<dyn Broker>,
    pub(super) saboteur: Saboteur,
}

impl SabotagedAdmin {
    fn real(&self) -> &dyn Admin {
        self.inner.admin()
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.saboteur.is(mutant)
    }

    fn said<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.map_err(|error| self.saboteur.said(error))
    }

    fn described(&self, mut info: TopicInfo) -> TopicInfo {
        match self.saboteur.mutant {
            Mutant::QueuesAreTopics => info.queue = false,
            Mutant::HideTheNativeName => info.native.clear(),
            _ => {}
        }
        info
    }

    /// Another ending for an `ensure` of something that is there and differs.
    async fn resolved(&self, topic: &TopicSpec, conflict: Error) -> Result<TopicInfo> {
        match self.saboteur.mutant {
            Mutant::HideDifferences => self.real().describe(&topic.name).await,
            Mutant::OverwriteWhatDiffers | Mutant::Repartition => {
                self.real().delete_topic(&topic.name).await?;
                self.real().ensure(topic, Topology::Create).await
            }
            _ => Err(self.saboteur.said(conflict)),
        }
    }

    async fn others(&self, topic: &TopicName, group: &GroupName) -> Result<Vec<GroupName>> {
        let groups = self.real().groups(topic).await?.into_iter().map(|info| info.name);
        Ok(groups.filter(|name| name != group).collect())
    }

    /// Succeeds where the broker refuses because of live members.
    fn despite_members(&self, mutant: Mutant, outcome: Result<()>) -> Result<()> {
        match outcome {
            Err(error) if self.is(mutant) && error.kind() == ErrorKind::Conflict => Ok(()),
            outcome => self.said(outcome),
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Admin for SabotagedAdmin {
    async fn ensure(&self, topic: &TopicSpec, topology: Topology) -> Result<TopicInfo> {
        let mut spec = topic.clone();
        if self.is(Mutant::GroupsComeWithTheirMembers) && !spec.queue {
            spec.groups.clear();
        }
        let creates = self.is(Mutant::CreateUnderVerify);
        let topology = if creates { Topology::Create } else { topology };
        let ensured = match self.real().ensure(&spec, topology).await {
            Err(error) if error.kind() == ErrorKind::Conflict => self.resolved(&spec, error).await,
            outcome => self.said(outcome),
        };
        ensured.map(|info| self.described(info))
    }

    async fn verify(&self, topic: &TopicSpec) -> Result<Vec<Difference>> {
        if self.is(Mutant::CreateUnderVerify) {
            self.real().ensure(topic, Topology::Create).await?;
        }
        let found = self.said(self.real().verify(topic).await)?;
        Ok(match self.saboteur.mutant {
            Mutant::HideDifferences => Vec::new(),
            Mutant::SwapWantedAndFound => {
                let swapped = |it: Difference| Difference::new(it.setting, it.found, it.wanted);
                found.into_iter().map(swapped).collect()
            }
            _ => found,
        })
    }

    async fn describe(&self, topic: &TopicName) -> Result<TopicInfo> {
        if self.is(Mutant::CreateUnderVerify) {
            return self.real().ensure(&TopicSpec::plain(topic.clone()), Topology::Create).await;
        }
        self.said(self.real().describe(topic).await).map(|info| self.described(info))
    }

    async fn delete_topic(&self, topic: &TopicName) -> Result<()> {
        self.said(self.real().delete_topic(topic).await)
    }

    async fn purge(&self, topic: &TopicName) -> Result<Option<u64>> {
        if self.is(Mutant::PurgeNothing) {
            return Ok(None);
        }
        self.said(self.real().purge(topic).await)
    }

    async fn groups(&self, topic: &TopicName) -> Result<Vec<GroupInfo>> {
        let mut groups = self.said(self.real().groups(topic).await)?;
        match self.saboteur.mutant {
            Mutant::ListNoGroup => groups.clear(),
            Mutant::NobodyIsAbandoned => {
                for info in &mut groups {
                    info.members = Some(1);
                    info.idle_for = Some(Duration::ZERO);
                }
            }
            _ => {}
        }
        Ok(groups)
    }

    async fn delete_group(&self, topic: &TopicName, group: &GroupName) -> Result<()> {
        if self.is(Mutant::DeleteGroupDoesNothing) {
            return Ok(());
        }
        let deleted = self.real().delete_group(topic, group).await;
        self.despite_members(Mutant::DeleteUnderMembers, deleted)
    }

    async fn lag(&self, topic: &TopicName, group: &GroupName) -> Result<Lag> {
        let mut lag = match self.real().lag(topic, group).await {
            Err(error)
                if self.is(Mutant::NothingHasALag) && error.kind() == ErrorKind::NotFound =>
            {
                Lag::default()
            }
            outcome => self.said(outcome)?,
        };
        match self.saboteur.mutant {
            Mutant::LagIsZero => {
                (lag.ready, lag.in_flight, lag.delayed) = (Some(0), Some(0), Some(0));
                lag.oldest_age = None;
            }
            Mutant::CountOneMore => lag.ready = lag.ready.map(|ready| ready.saturating_add(1)),
            Mutant::AgeStandsStill => lag.oldest_age = Some(Duration::from_secs(1)),
            _ => {}
        }
        Ok(lag)
    }

    async fn seek(&self, topic: &TopicName, group: &GroupName, to: Start) -> Result<()> {
        if self.is(Mutant::SeekNowhere) {
            return self.real().lag(topic, group).await.map(drop);
        }
        if self.is(Mutant::SeekEveryGroup) {
            for other in self.others(topic, group).await? {
                // One that has members stays where it is.
                let _ = self.real().seek(topic, &other, to).await;
            }
        }
        let sought = self.real().seek(topic, group, to).await;
        if self.is(Mutant::NameNoMember)
            && sought.as_ref().is_err_and(|error| error.kind() == ErrorKind::Conflict)
        {
            return Err(Error::new(ErrorKind::Conflict, "the group is in use"));
        }
        self.despite_members(Mutant::SeekUnderMembers, sought)
    }

    async fn range(&self, topic: &TopicName, query: &RangeQuery) -> Result<Vec<Retained>> {
        let query = match self.saboteur.mutant {
            Mutant::RangeFromTheStart => RangeQuery::new(Start::Earliest, query.limit),
            Mutant::RangeWithoutItsEnd => {
                RangeQuery::new(query.from, query.limit.saturating_add(3))
            }
            _ => query.clone(),
        };
        self.said(self.real().range(topic, &query).await)
    }

    async fn dead_letters(
        &self,
        topic: &TopicName,
        group: &GroupName,
        query: &DeadLetterQuery,
    ) -> Result<DeadLetterPage> {
        if self.is(Mutant::EveryPageIsTheFirst) {
            let first = DeadLetterQuery::first(query.limit);
            return self.real().dead_letters(topic, group, &first).await;
        }
        let mut page = self.said(self.real().dead_letters(topic, group, query).await)?;
        if self.is(Mutant::LettersOfAllGroups) {
            for other in self.others(topic, group).await? {
                let theirs = self.real().dead_letters(topic, &other, query).await?;
                page.letters.extend(theirs.letters);
            }
        }
        Ok(page)
    }

    async fn replay(
        &self,
        topic: &TopicName,
        group: &GroupName,
        letters: &[LetterId],
    ) -> Result<Vec<Result<()>>> {
        if !self.is(Mutant::ReplayToAllGroups) {
            return self.said(self.real().replay(topic, group, letters).await);
        }
        let all = DeadLetterQuery::first(ALL_LETTERS);
        let page = self.real().dead_letters(topic, group, &all).await?;
        let found = self.real().describe(topic).await?;
        let to = Destination::new(topic.clone(), found.layout, found.queue);
        for stored in page.letters.iter().filter(|stored| letters.contains(&stored.id)) {
            let mut batch = [stored.letter.envelope.clone()];
            self.inner.publish(&to, &mut batch, &SendOptions::default()).await?;
        }
        self.real().discard(topic, group, letters).await
    }

    async fn discard(
        &self,
        topic: &TopicName,
        group: &GroupName,
        letters: &[LetterId],
    ) -> Result<Vec<Result<()>>> {
        if self.is(Mutant::DiscardNothing) {
            return Ok(letters.iter().map(|_| Ok(())).collect());
        }
        self.said(self.real().discard(topic, group, letters).await)
    }
}
