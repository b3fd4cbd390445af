//! Calls that ask the broker something: they end, whatever the broker does.

use std::time::Duration;

use posthaste_core::*;
use posthaste_memory::MemoryBroker;
use tokio::time::{Instant, timeout};

const SECOND: Duration = Duration::from_secs(1);

/// The outcome of a call, which has to end by its deadline, but not before it.
async fn ends<T: std::fmt::Debug>(
    what: &str,
    deadline: Duration,
    call: impl Future<Output = Result<T>>,
) -> Result<T> {
    let started = Instant::now();
    let outcome = timeout(100 * SECOND, call).await.unwrap_or_else(|_| panic!("{what} hangs"));
    let took = started.elapsed();
    assert!(took >= deadline && took < deadline + SECOND, "{what} took {took:?}");
    outcome
}

#[tokio::test(start_paused = true)]
async fn every_call_ends_on_a_broker_that_does_not_answer() {
    let broker = MemoryBroker::new();
    let bus = Bus::builder(broker.clone()).source("/test").build().unwrap();
    bus.ensure(TopicConfig::new("orders").group("billing")).await.unwrap();
    let publisher = bus.publisher("orders").unwrap();
    let envelope = Envelope::builder("t").source("/t").build().unwrap();
    publisher.publish_envelope(envelope).await.unwrap();
    let mut inbox = bus.subscribe("orders").group("billing").start().await.unwrap();
    let held = inbox.next().await.unwrap().unwrap();
    broker.black_hole();
    let admin = bus.admin();
    let letters = [LetterId::new("7")];
    let by = 20 * SECOND;
    let tenth = SECOND / 10;
    let outcomes = [
        ends("ensure", by, bus.ensure(TopicConfig::new("other"))).await.map(drop),
        ends("verify", by, bus.verify(TopicConfig::new("orders"))).await.map(drop),
        ends("describe", by, admin.describe("orders")).await.map(drop),
        ends("delete_topic", by, admin.delete_topic("orders")).await,
        ends("purge", by, admin.purge("orders")).await.map(drop),
        ends("groups", by, admin.groups("orders")).await.map(drop),
        ends("delete_group", by, admin.delete_group("orders", "billing")).await,
        ends("lag", by, admin.lag("orders", "billing")).await.map(drop),
        ends("seek", by, admin.seek("orders", "billing", Start::Earliest)).await,
        ends("range", by, admin.range("orders", Start::Earliest, 1)).await.map(drop),
        ends("dead_letters", by, admin.dead_letters("orders", "billing", 1)).await.map(drop),
        ends("replay", by + tenth, admin.replay("orders", "billing", &letters)).await.map(drop),
        ends("discard", by + tenth, admin.discard("orders", "billing", &letters)).await.map(drop),
        ends("start", by, bus.subscribe("orders").group("billing").start()).await.map(drop),
        ends("ack_confirmed", by, held.ack_confirmed()).await,
    ];
    for (at, outcome) in outcomes.into_iter().enumerate() {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{at}: {error}");
        assert!(error.operation().is_some(), "{at}: {error}");
    }
    let health = bus.health().await.unwrap();
    assert!(matches!(health, Health::Down(_)), "{health}");
    let started = Instant::now();
    let _ = inbox.stop(2 * SECOND).await;
    let _ = bus.close(2 * SECOND).await;
    assert!(started.elapsed() < 10 * SECOND, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_calls_is_a_setting() {
    let broker = MemoryBroker::new();
    let builder = || Bus::builder(broker.clone()).source("/test");
    let error = builder().call_deadline(Duration::ZERO).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let bus = builder().call_deadline(3 * SECOND).build().unwrap();
    broker.black_hole();
    let described = ends("describe", 3 * SECOND, bus.admin().describe("orders")).await;
    assert_eq!(described.unwrap_err().kind(), ErrorKind::Timeout);
    let bus = builder().call_deadline(Duration::MAX).build().unwrap();
    broker.up();
    let error = bus.admin().describe("orders").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
