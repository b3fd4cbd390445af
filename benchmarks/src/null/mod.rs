//! A broker that does nothing, so that what is left is the cost of the core.
//!
//! It confirms a batch at once, and delivers copies of one message as fast as they are taken.
//! It remembers where the last payload was, so that a test can tell whether it was copied.

mod admin;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use posthaste::broker::{
    Broker, Confirmation, Credit, Destination, Extended, Lane, Outcomes, Polled, Publish, Received,
    SendOptions, SettleReport, Settlement, Settler, Stored, SubscribeRequest, Subscribed,
    SubscriptionDriver, Token,
};
use posthaste::{Capabilities, Envelope, Health, Result, TopicName};
use tokio::time::Instant;

use admin::NullAdmin;

/// The broker. Clones are the same one.
#[derive(Debug, Clone)]
pub struct NullBroker {
    capabilities: Arc<Capabilities>,
    books: Arc<Books>,
}

/// What it knows.
#[derive(Debug, Default)]
struct Books {
    published: AtomicU64,
    settled: AtomicU64,
    /// The address of the last payload that was published.
    payload: AtomicUsize,
    stock: Mutex<Stock>,
}

/// What is to be delivered.
#[derive(Debug, Default)]
struct Stock {
    message: Option<Envelope>,
    left: usize,
    delivered: u64,
    reader: Option<Waker>,
}

impl Default for NullBroker {
    fn default() -> Self {
        Self { capabilities: Arc::new(Capabilities::all("null")), books: Arc::default() }
    }
}

impl NullBroker {
    /// Delivers that message so many times more. Copies share its payload.
    pub fn stock(&self, message: Envelope, times: usize) {
        let mut stock = self.books.stock.lock().unwrap_or_else(PoisonError::into_inner);
        stock.message = Some(message);
        stock.left += times;
        if let Some(reader) = stock.reader.take() {
            reader.wake();
        }
    }

    /// How many messages were published.
    #[must_use]
    pub fn published(&self) -> u64 {
        self.books.published.load(Ordering::Relaxed)
    }

    /// How many settlements came.
    #[must_use]
    pub fn settled(&self) -> u64 {
        self.books.settled.load(Ordering::Relaxed)
    }

    /// Where in memory the payload was that was published last.
    #[must_use]
    pub fn last_payload(&self) -> usize {
        self.books.payload.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Publish for NullBroker {
    async fn publish(
        &self,
        _: &Destination,
        batch: &mut [Envelope],
        _: &SendOptions,
    ) -> Result<Outcomes> {
        if let Some(last) = batch.last() {
            self.books.payload.store(last.payload().as_ptr().addr(), Ordering::Relaxed);
        }
        let first = self.books.published.fetch_add(batch.len() as u64, Ordering::Relaxed);
        let mut outcomes = Outcomes::with_capacity(batch.len());
        (first..).take(batch.len()).for_each(|offset| outcomes.push(Ok(Stored::at(offset))));
        Ok(outcomes)
    }
}

#[async_trait]
impl Broker for NullBroker {
    fn capabilities(&self, _: Option<&TopicName>) -> Arc<Capabilities> {
        Arc::clone(&self.capabilities)
    }

    async fn subscribe(&self, request: SubscribeRequest) -> Result<Subscribed> {
        let lane = Arc::new(Lane::new(request.topics[0].clone(), None));
        let driver = Driver { books: Arc::clone(&self.books), lane, stopped: false };
        Ok(Subscribed::new(Box::new(driver), request.lease))
    }

    fn admin(&self) -> &dyn posthaste::broker::Admin {
        &NullAdmin
    }

    async fn health(&self) -> Result<Health> {
        Ok(Health::Live)
    }

    async fn close(&self, _: Instant) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct Driver {
    books: Arc<Books>,
    lane: Arc<Lane>,
    stopped: bool,
}

impl SubscriptionDriver for Driver {
    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<Received>,
        credit: Credit,
    ) -> Poll<Result<Polled>> {
        if self.stopped {
            return Poll::Ready(Ok(Polled::Stopped));
        }
        let mut stock = self.books.stock.lock().unwrap_or_else(PoisonError::into_inner);
        let count = stock.left.min(credit.messages);
        let Some(message) = stock.message.as_ref().filter(|_| count > 0) else {
            stock.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let tokens = (stock.delivered..).take(count).map(|n| Token::sequence(0, 0, n));
        out.extend(
            tokens.map(|token| Received::new(message.clone(), token, Arc::clone(&self.lane))),
        );
        stock.left -= count;
        stock.delivered += count as u64;
        Poll::Ready(Ok(Polled::Batch))
    }

    fn stop(&mut self) {
        self.stopped = true;
    }

    fn settler(&self) -> Arc<dyn Settler> {
        Arc::new(Sink(Arc::clone(&self.books)))
    }
}

/// Takes every settlement.
#[derive(Debug)]
struct Sink(Arc<Books>);

#[async_trait]
impl Settler for Sink {
    async fn settle(&self, batch: &[Settlement], _: Confirmation) -> Result<SettleReport> {
        self.0.settled.fetch_add(batch.len() as u64, Ordering::Relaxed);
        Ok(SettleReport::done())
    }

    async fn extend(&self, _: &[Token]) -> Result<Extended> {
        Ok(Extended::default())
    }
}
