//! The adapter as the tests use it: the contract as core uses it, without a bus.

use posthaste_core::broker::{Broker as _, Destination, Outcomes, Publish as _, SendOptions};
use posthaste_core::{
    Envelope, ErrorKind, Layout, Result, TopicConfig, TopicInfo, TopicName, Topology,
};
pub(crate) use posthaste_rabbitmq::{Binding, RabbitmqBroker, RabbitmqConfig};

/// A connection of the adapter.
#[derive(Debug)]
pub(crate) struct Adapter(pub(crate) RabbitmqBroker);

impl Adapter {
    pub(crate) async fn connect(config: RabbitmqConfig) -> Result<Self> {
        Ok(Self(RabbitmqBroker::connect(config).await?))
    }

    pub(crate) async fn publish(&self, to: &Destination, batch: &[Envelope]) -> Result<Outcomes> {
        self.0.publish(to, &mut batch.to_vec(), &SendOptions::default()).await
    }

    /// Publishes what must be stored.
    pub(crate) async fn store(&self, to: &Destination, batch: &[Envelope]) {
        for outcome in self.publish(to, batch).await.expect("sent") {
            outcome.expect("stored");
        }
    }

    pub(crate) async fn ensure(&self, config: TopicConfig) -> Destination {
        destination(&self.try_ensure(config).await.expect("a topic"))
    }

    pub(crate) async fn try_ensure(&self, config: TopicConfig) -> Result<TopicInfo> {
        self.0.admin().ensure(&config.check().expect("sound"), Topology::Create).await
    }
}

pub(crate) fn destination(info: &TopicInfo) -> Destination {
    Destination::new(info.name.clone(), info.layout, info.queue)
}

/// It failed with one of these kinds, and says all of this.
pub(crate) fn failed<T: std::fmt::Debug>(result: Result<T>, kinds: &[ErrorKind], says: &[&str]) {
    let error = result.expect_err("a failure");
    assert!(kinds.contains(&error.kind()), "{kinds:?}: {error:?}");
    let text = format!("{error:?}");
    assert!(says.iter().all(|part| text.contains(part)), "{says:?} in {text}");
}

/// A name of a topic that no other test has.
pub(crate) fn name(part: &str) -> String {
    format!("it.{part}.{}-{:08x}", std::process::id(), fastrand::u32(..))
}

/// Where a plain topic of that name is.
pub(crate) fn plain(name: &str) -> Destination {
    Destination::new(TopicName::new(name).expect("a legal name"), Layout::Plain, false)
}

/// A message whose payload is the number.
pub(crate) fn numbered(number: u32) -> Envelope {
    let builder = Envelope::builder("test").source("/it").id(format!("m-{number}"));
    builder.payload(number.to_string()).build().expect("a sound envelope")
}
