//! The adapter as the tests use it: the contract as core uses it, without a bus.

use std::time::Duration;

use posthaste_core::broker::{
    Admin, Broker as _, Destination, Outcomes, Publish as _, SendOptions, Stored,
};
use posthaste_core::{
    Envelope, ErrorKind, GroupName, Health, Layout, Result, TopicConfig, TopicInfo, TopicName,
    TopicSpec, Topology,
};
pub(crate) use posthaste_kafka::{KafkaBroker, KafkaConfig, Sasl};
use tokio::time::Instant;

/// A connection of the adapter.
#[derive(Debug, Clone)]
pub(crate) struct Adapter(pub(crate) KafkaBroker);

impl Adapter {
    pub(crate) async fn connect(config: KafkaConfig) -> Result<Self> {
        Ok(Self(KafkaBroker::connect(config).await?))
    }

    pub(crate) async fn publish(&self, to: &Destination, batch: &[Envelope]) -> Result<Outcomes> {
        self.0.publish(to, &mut batch.to_vec(), &SendOptions::default()).await
    }

    /// Publishes what must be stored. What is in doubt is published again, as core does.
    pub(crate) async fn store(&self, to: &Destination, batch: &[Envelope]) -> Vec<Stored> {
        let outcomes = self.publish(to, batch).await.expect("sent");
        let mut stored = Vec::with_capacity(batch.len());
        for (envelope, outcome) in batch.iter().zip(outcomes) {
            let mut outcome = outcome;
            if outcome.as_ref().is_err_and(posthaste_core::Error::may_be_stored) {
                let again = self.publish(to, std::slice::from_ref(envelope)).await.expect("sent");
                outcome = again.into_iter().next().expect("an outcome");
            }
            stored.push(outcome.expect("stored"));
        }
        stored
    }

    /// Publishes numbers.
    pub(crate) async fn store_numbers(&self, to: &Destination, numbers: std::ops::Range<u32>) {
        let batch: Vec<_> = numbers.map(|n| keyed(&n.to_string(), n.to_string())).collect();
        self.store(to, &batch).await;
    }

    pub(crate) fn admin(&self) -> &dyn Admin {
        self.0.admin()
    }

    pub(crate) async fn ensure(&self, config: TopicConfig) -> Destination {
        destination(&self.try_ensure(config).await.expect("a topic"))
    }

    pub(crate) async fn try_ensure(&self, config: TopicConfig) -> Result<TopicInfo> {
        self.admin().ensure(&spec(config), Topology::Create).await
    }

    pub(crate) async fn health(&self) -> Result<Health> {
        self.0.health().await
    }

    /// Passes if it is well until then.
    pub(crate) async fn lives(&self, until: Instant) {
        loop {
            match self.health().await.expect("open") {
                Health::Live => return,
                other => assert!(Instant::now() < until, "{other}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn close(&self, deadline: Instant) -> Result<()> {
        self.0.close(deadline).await
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is made where it is given")]
pub(crate) fn spec(config: TopicConfig) -> TopicSpec {
    config.check().expect("a sound config")
}

pub(crate) fn destination(info: &TopicInfo) -> Destination {
    Destination::new(info.name.clone(), info.layout, info.queue)
}

/// It failed with that kind, and says all of this.
pub(crate) fn failed<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind, says: &[&str]) {
    let error = result.expect_err("a failure");
    assert_eq!(error.kind(), kind, "{error:?}");
    let text = error.to_string();
    assert!(says.iter().all(|part| text.contains(part)), "{says:?} in {text}");
}

/// What the topic is called at the broker.
pub(crate) fn native(to: &Destination) -> String {
    let of = to.layout.partitions().map_or_else(String::new, |n| format!("__of{n}"));
    format!("{}{of}{}", to.topic, if to.queue { "__queue" } else { "" })
}

/// A name of a topic that no other test has.
pub(crate) fn name(part: &str) -> String {
    format!("it.{part}.{}-{:08x}", std::process::id(), fastrand::u32(..))
}

pub(crate) fn topic(name: &str) -> TopicName {
    TopicName::new(name).expect("a legal name")
}

pub(crate) fn group(name: &str) -> GroupName {
    GroupName::new(name).expect("a legal name")
}

/// A topic that no other test has.
pub(crate) fn fresh(part: &str, layout: Layout) -> Destination {
    Destination::new(topic(&name(part)), layout, false)
}

pub(crate) fn envelope(payload: impl Into<bytes::Bytes>) -> Envelope {
    Envelope::builder("test").source("/it").payload(payload).build().expect("a sound envelope")
}

pub(crate) fn keyed(key: &str, payload: impl Into<bytes::Bytes>) -> Envelope {
    let builder = Envelope::builder("test").source("/it").key(key.to_owned());
    builder.payload(payload).build().expect("a sound envelope")
}
