//! Administration gone wrong.

use std::sync::Arc;

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

#[derive(Debug)]
pub(super) struct SabotagedAdmin {
    pub(super) inner: Arc<dyn Broker>,
    pub(super) mutant: Mutant,
    pub(super) secret: String,
}

impl SabotagedAdmin {
    fn real(&self) -> &dyn Admin {
        self.inner.admin()
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == mutant
    }

    /// The error as it is, or with more than it may say.
    pub(super) fn said(&self, error: Error) -> Error {
        if self.is(Mutant::SecretInErrors) {
            error.with_context("url", format_args!("broker://user:{}@host", self.secret))
        } else {
            error
        }
    }
}

#[async_trait]
impl Admin for SabotagedAdmin {
    async fn ensure(&self, topic: &TopicSpec, topology: Topology) -> Result<TopicInfo> {
        let creates = self.is(Mutant::CreateUnderVerify);
        let topology = if creates { Topology::Create } else { topology };
        match self.real().ensure(topic, topology).await {
            Err(error)
                if self.is(Mutant::HideDifferences) && error.kind() == ErrorKind::Conflict =>
            {
                self.real().describe(&topic.name).await
            }
            outcome => outcome.map_err(|error| self.said(error)),
        }
    }

    async fn verify(&self, topic: &TopicSpec) -> Result<Vec<Difference>> {
        if self.is(Mutant::CreateUnderVerify) {
            self.real().ensure(topic, Topology::Create).await?;
        }
        let found = self.real().verify(topic).await.map_err(|error| self.said(error))?;
        Ok(if self.is(Mutant::HideDifferences) { Vec::new() } else { found })
    }

    async fn describe(&self, topic: &TopicName) -> Result<TopicInfo> {
        if self.is(Mutant::CreateUnderVerify) {
            return self.real().ensure(&TopicSpec::plain(topic.clone()), Topology::Create).await;
        }
        self.real().describe(topic).await.map_err(|error| self.said(error))
    }

    async fn delete_topic(&self, topic: &TopicName) -> Result<()> {
        self.real().delete_topic(topic).await
    }

    async fn purge(&self, topic: &TopicName) -> Result<Option<u64>> {
        self.real().purge(topic).await
    }

    async fn groups(&self, topic: &TopicName) -> Result<Vec<GroupInfo>> {
        self.real().groups(topic).await
    }

    async fn delete_group(&self, topic: &TopicName, group: &GroupName) -> Result<()> {
        if self.is(Mutant::DeleteGroupDoesNothing) {
            return Ok(());
        }
        match self.real().delete_group(topic, group).await {
            Err(error)
                if self.is(Mutant::DeleteUnderMembers) && error.kind() == ErrorKind::Conflict =>
            {
                Ok(())
            }
            outcome => outcome,
        }
    }

    async fn lag(&self, topic: &TopicName, group: &GroupName) -> Result<Lag> {
        let lag = self.real().lag(topic, group).await.map_err(|error| self.said(error))?;
        if !self.is(Mutant::LagIsZero) {
            return Ok(lag);
        }
        let mut none = Lag::default();
        none.ready = Some(0);
        none.in_flight = Some(0);
        none.delayed = Some(0);
        none.exact = lag.exact;
        Ok(none)
    }

    async fn seek(&self, topic: &TopicName, group: &GroupName, to: Start) -> Result<()> {
        if self.is(Mutant::SeekNowhere) {
            return self.real().lag(topic, group).await.map(drop);
        }
        match self.real().seek(topic, group, to).await {
            Err(error)
                if self.is(Mutant::SeekUnderMembers) && error.kind() == ErrorKind::Conflict =>
            {
                Ok(())
            }
            outcome => outcome.map_err(|error| self.said(error)),
        }
    }

    async fn range(&self, topic: &TopicName, query: &RangeQuery) -> Result<Vec<Retained>> {
        let query = if self.is(Mutant::RangeFromTheStart) {
            RangeQuery::new(Start::Earliest, query.limit)
        } else {
            query.clone()
        };
        self.real().range(topic, &query).await
    }

    async fn dead_letters(
        &self,
        topic: &TopicName,
        group: &GroupName,
        query: &DeadLetterQuery,
    ) -> Result<DeadLetterPage> {
        self.real().dead_letters(topic, group, query).await
    }

    async fn replay(
        &self,
        topic: &TopicName,
        group: &GroupName,
        letters: &[LetterId],
    ) -> Result<Vec<Result<()>>> {
        if !self.is(Mutant::ReplayToAllGroups) {
            return self.real().replay(topic, group, letters).await;
        }
        let page = self.real().dead_letters(topic, group, &DeadLetterQuery::first(1_000)).await?;
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
        self.real().discard(topic, group, letters).await
    }
}
