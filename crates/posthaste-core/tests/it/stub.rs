//! Administration for scripted brokers: topics of one layout, and steps for what goes wrong.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use posthaste_core::broker::*;
use posthaste_core::*;

/// What a call of `describe` or `ensure` does. Without a step it tells the layout.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Find {
    Fail(ErrorKind),
    Hang,
    /// Takes a second.
    Slow,
}

#[derive(Debug)]
pub(crate) struct StubAdmin {
    pub(crate) layout: Mutex<Layout>,
    pub(crate) queue: Mutex<bool>,
    pub(crate) steps: Mutex<VecDeque<Find>>,
    /// How often the topic was looked up.
    pub(crate) asked: AtomicUsize,
}

impl StubAdmin {
    pub(crate) fn new(layout: Layout) -> Self {
        Self {
            layout: Mutex::new(layout),
            queue: Mutex::default(),
            steps: Mutex::default(),
            asked: AtomicUsize::new(0),
        }
    }
}

#[async_trait]
impl posthaste_core::broker::Admin for StubAdmin {
    async fn ensure(&self, topic: &TopicSpec, _: Topology) -> Result<TopicInfo> {
        self.describe(&topic.name).await
    }
    async fn verify(&self, _: &TopicSpec) -> Result<Vec<Difference>> {
        Ok(Vec::new())
    }
    async fn describe(&self, topic: &TopicName) -> Result<TopicInfo> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let step = self.steps.lock().unwrap().pop_front();
        match step {
            None => {}
            Some(Find::Fail(kind)) => return Err(Error::new(kind, "as the script says")),
            Some(Find::Hang) => std::future::pending().await,
            Some(Find::Slow) => tokio::time::sleep(std::time::Duration::from_secs(1)).await,
        }
        let (layout, queue) = (*self.layout.lock().unwrap(), *self.queue.lock().unwrap());
        Ok(TopicInfo::new(topic.clone(), layout, queue, "stub".to_owned()))
    }
    async fn delete_topic(&self, _: &TopicName) -> Result<()> {
        Ok(())
    }
    async fn purge(&self, _: &TopicName) -> Result<Option<u64>> {
        Ok(None)
    }
    async fn groups(&self, _: &TopicName) -> Result<Vec<GroupInfo>> {
        Ok(Vec::new())
    }
    async fn delete_group(&self, _: &TopicName, _: &GroupName) -> Result<()> {
        Ok(())
    }
    async fn lag(&self, _: &TopicName, _: &GroupName) -> Result<Lag> {
        Ok(Lag::default())
    }
    async fn seek(&self, _: &TopicName, _: &GroupName, _: Start) -> Result<()> {
        Ok(())
    }
    async fn range(&self, _: &TopicName, _: &RangeQuery) -> Result<Vec<Retained>> {
        Ok(Vec::new())
    }
    async fn dead_letters(
        &self,
        _: &TopicName,
        _: &GroupName,
        _: &DeadLetterQuery,
    ) -> Result<DeadLetterPage> {
        Ok(DeadLetterPage::new(Vec::new(), true))
    }
    async fn replay(
        &self,
        _: &TopicName,
        _: &GroupName,
        letters: &[LetterId],
    ) -> Result<Vec<Result<()>>> {
        Ok(letters.iter().map(|_| Ok(())).collect())
    }
    async fn discard(
        &self,
        _: &TopicName,
        _: &GroupName,
        letters: &[LetterId],
    ) -> Result<Vec<Result<()>>> {
        Ok(letters.iter().map(|_| Ok(())).collect())
    }
}
