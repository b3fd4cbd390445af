//! The adapter as the tests use it: by a bus, or by the contract where core would help.

use std::time::Duration;

use posthaste_core::broker::{Broker as _, Destination, Outcomes, Publish as _, SendOptions};
use posthaste_core::{
    Bus, Delivery, Envelope, ErrorKind, Layout, Result, Subscription, TopicConfig, TopicName,
    Topology,
};
pub(crate) use posthaste_redis::{Durable, RedisBroker, RedisConfig};

pub(crate) async fn bus(config: RedisConfig) -> Bus {
    Bus::new(RedisBroker::connect(config).await.expect("the server is there"))
}

pub(crate) async fn join(bus: &Bus, topic: &str) -> Subscription {
    bus.subscribe(topic).group("g").start().await.expect("a subscription")
}

/// The next delivery, which has to come soon.
pub(crate) async fn next(inbox: &mut Subscription) -> Delivery {
    let next = tokio::time::timeout(Duration::from_secs(20), inbox.next()).await;
    next.expect("a delivery in time").expect("a delivery").expect("no error")
}

/// Publishes what must be stored.
pub(crate) async fn send(bus: &Bus, topic: &str, numbers: std::ops::Range<u32>) {
    let publisher = bus.publisher(topic).expect("a sound name");
    for number in numbers {
        publisher.publish_envelope(numbered(number)).await.expect("stored");
    }
}

/// Publishes by the contract, without core's help.
pub(crate) async fn publish(
    broker: &RedisBroker,
    name: &str,
    batch: &[Envelope],
) -> Result<Outcomes> {
    let to = Destination::new(TopicName::new(name)?, Layout::Plain, false);
    broker.publish(&to, &mut batch.to_vec(), &SendOptions::default()).await
}

pub(crate) async fn ensure(broker: &RedisBroker, config: TopicConfig) -> Result<()> {
    let spec = config.check().expect("sound");
    broker.admin().ensure(&spec, Topology::Create).await.map(drop)
}

/// It failed with this kind, and says all of this.
pub(crate) fn failed<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind, says: &[&str]) {
    let error = result.expect_err("a failure");
    let text = format!("{error:?}");
    assert_eq!(error.kind(), kind, "{text}");
    assert!(says.iter().all(|part| text.contains(part)), "{says:?} in {text}");
}

/// A name of a topic that no other test has.
pub(crate) fn name(part: &str) -> String {
    format!("it.{part}.{}-{:08x}", std::process::id(), fastrand::u32(..))
}

/// A message whose payload is the number.
pub(crate) fn numbered(number: u32) -> Envelope {
    let builder = Envelope::builder("test").source("/it").id(format!("m-{number}"));
    builder.payload(number.to_string()).build().expect("a sound envelope")
}

pub(crate) fn number(delivery: &Delivery) -> u32 {
    let payload = delivery.envelope().payload();
    std::str::from_utf8(payload).expect("a text").parse().expect("a number")
}
