//! What the tests share: a bus with a topic, events, and a log of what handlers have seen.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use posthaste_core::{Bus, DeadLetter, Envelope, Event, Publisher, Reason, TopicConfig};
use posthaste_derive::Event;
use posthaste_memory::MemoryBroker;
use posthaste_runtime::{Consumer, Running};
use serde::{Deserialize, Serialize};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MILLISECOND: Duration = Duration::from_millis(1);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(type = "order.placed", key = id, crate = posthaste_core)]
pub(crate) struct Placed {
    pub(crate) id: String,
    pub(crate) number: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(type = "order.placed", version = 2, key = id, crate = posthaste_core)]
pub(crate) struct PlacedTwo {
    pub(crate) id: String,
    pub(crate) currency: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(type = "order.cancelled", key = id, crate = posthaste_core)]
pub(crate) struct Cancelled {
    pub(crate) id: String,
}

pub(crate) fn placed(id: &str, number: u32) -> Placed {
    Placed { id: id.to_owned(), number }
}

pub(crate) struct Shop {
    pub(crate) bus: Bus,
    pub(crate) orders: Publisher,
}

impl Shop {
    pub(crate) async fn open(topic: TopicConfig) -> Self {
        Self::over(MemoryBroker::new(), topic).await
    }

    pub(crate) async fn over(broker: MemoryBroker, topic: TopicConfig) -> Self {
        let bus = Bus::builder(broker).source("/shop").build().unwrap();
        let info = bus.ensure(topic).await.unwrap();
        let orders = bus.publisher(&info.name).unwrap();
        Self { bus, orders }
    }

    /// A plain topic `orders` with the group `billing`.
    pub(crate) async fn plain() -> Self {
        Self::open(TopicConfig::new("orders").group("billing")).await
    }

    pub(crate) async fn ordered(partitions: u16) -> Self {
        Self::open(TopicConfig::new("orders").ordered(partitions).group("billing")).await
    }

    pub(crate) fn billing(&self) -> Consumer {
        Consumer::new(&self.bus).group("billing")
    }

    pub(crate) async fn place(&self, id: &str, number: u32) {
        self.orders.publish(&placed(id, number)).await.unwrap();
    }

    pub(crate) async fn raw(&self, event_type: &'static str, payload: &'static str) {
        let builder = Envelope::builder(event_type).payload(payload);
        let envelope = self.orders.envelope(builder).unwrap();
        self.orders.publish_envelope(envelope).await.unwrap();
    }

    pub(crate) async fn left(&self) -> u64 {
        self.bus.admin().lag("orders", "billing").await.unwrap().total()
    }

    pub(crate) async fn in_flight(&self) -> u64 {
        let lag = self.bus.admin().lag("orders", "billing").await.unwrap();
        lag.in_flight.unwrap()
    }

    /// Waits until the group has nothing left to do.
    pub(crate) async fn settled(&self) {
        until(async || self.left().await == 0).await;
    }

    pub(crate) async fn letters(&self) -> Vec<DeadLetter> {
        let page = self.bus.admin().dead_letters("orders", "billing", 10_000).await.unwrap();
        page.letters.into_iter().map(|stored| stored.letter).collect()
    }

    /// The one dead letter.
    pub(crate) async fn letter(&self) -> DeadLetter {
        let mut letters = self.letters().await;
        assert_eq!(letters.len(), 1, "{letters:?}");
        letters.remove(0)
    }
}

/// Waits for a condition, an hour at most.
pub(crate) async fn until(condition: impl AsyncFn() -> bool) {
    let waiting = async {
        let mut pause = MILLISECOND;
        while !condition().await {
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(50 * MILLISECOND);
        }
    };
    tokio::time::timeout(3_600 * SECOND, waiting).await.expect("it never happened");
}

/// Stops within the drain's time.
pub(crate) async fn stop(running: Running) -> posthaste_runtime::Report {
    running.stop().await.unwrap()
}

/// The type of an event with its version, for tests of routing.
pub(crate) fn name<E: Event>() -> String {
    format!("{} {}", E::TYPE, E::VERSION)
}

/// What handlers have seen, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn note(&self, text: impl Into<String>) {
        self.0.lock().unwrap().push(text.into());
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub(crate) async fn has(&self, count: usize) {
        until(async || self.len() >= count).await;
    }
}

#[track_caller]
pub(crate) fn is_letter(letter: &DeadLetter, reason: &Reason, attempts: u32, text: &str) {
    assert_eq!((&letter.reason, letter.attempts), (reason, attempts), "{letter:?}");
    let cause = letter.cause.as_ref().expect("there is a cause");
    assert!(cause.to_string().contains(text), "{cause}");
}
