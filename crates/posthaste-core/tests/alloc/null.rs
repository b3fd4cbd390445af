//! A broker that does nothing at no cost: it confirms, and delivers what it is given.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use posthaste_core::broker::*;
use posthaste_core::*;
use tokio::time::Instant;

#[derive(Debug)]
pub(crate) struct Null {
    pub(crate) ready: Arc<Mutex<Vec<Received>>>,
    capabilities: Arc<Capabilities>,
}

impl Default for Null {
    fn default() -> Self {
        let capabilities = Arc::new(Capabilities::all("null"));
        Self { ready: Arc::default(), capabilities }
    }
}

#[async_trait]
impl Publish for Null {
    async fn publish(
        &self,
        _: &Destination,
        batch: &mut [Envelope],
        _: &SendOptions,
    ) -> Result<Outcomes> {
        Ok((0..batch.len()).map(|at| Ok(Stored::at(at as u64))).collect())
    }
}

#[derive(Debug)]
struct Driver(Arc<Mutex<Vec<Received>>>, bool);

impl SubscriptionDriver for Driver {
    fn poll_batch(
        &mut self,
        _: &mut Context<'_>,
        out: &mut Vec<Received>,
        credit: Credit,
    ) -> Poll<Result<Polled>> {
        if self.1 {
            return Poll::Ready(Ok(Polled::Stopped));
        }
        let mut ready = self.0.lock().unwrap();
        let count = ready.len().min(credit.messages);
        out.extend(ready.drain(..count));
        if count == 0 { Poll::Pending } else { Poll::Ready(Ok(Polled::Batch)) }
    }

    fn stop(&mut self) {
        self.1 = true;
    }

    fn settler(&self) -> Arc<dyn Settler> {
        Arc::new(Sink)
    }
}

#[derive(Debug)]
struct Sink;

#[async_trait]
impl Settler for Sink {
    async fn settle(&self, _: &[Settlement], _: Confirmation) -> Result<SettleReport> {
        Ok(SettleReport::done())
    }
    async fn extend(&self, _: &[Token]) -> Result<Extended> {
        Ok(Extended::default())
    }
}

#[async_trait]
impl Broker for Null {
    fn capabilities(&self, _: Option<&TopicName>) -> Arc<Capabilities> {
        Arc::clone(&self.capabilities)
    }

    async fn subscribe(&self, _: SubscribeRequest) -> Result<Subscribed> {
        let driver = Box::new(Driver(Arc::clone(&self.ready), false));
        Ok(Subscribed::new(driver, Duration::from_secs(30)))
    }

    fn admin(&self) -> &dyn posthaste_core::broker::Admin {
        ADMIN.get_or_init(|| stub::StubAdmin::new(Layout::Plain))
    }

    async fn health(&self) -> Result<Health> {
        Ok(Health::Live)
    }

    async fn close(&self, _: Instant) -> Result<()> {
        Ok(())
    }
}

static ADMIN: std::sync::OnceLock<stub::StubAdmin> = std::sync::OnceLock::new();

#[path = "../it/stub.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod stub;
