//! The broker's handle: what it can do, its health, and its end.

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use posthaste_core::broker::{
    Admin, Broker, Destination, Outcomes, Publish, SendOptions, SubscribeRequest, Subscribed,
};
use posthaste_core::{
    Capabilities, Durability, Envelope, Error, Health, Result, Sharing, Support, TopicName,
};
use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use tokio::time::Instant;

use crate::admin::KafkaAdmin;
use crate::config::KafkaConfig;
use crate::error::{self, BROKER};
use crate::hub::Hub;
use crate::properties::Role;
use crate::{consumer, publish, subscribe, topology};

/// How long a sign of life may take.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);
/// How many replicas there must be for the crash of one machine to lose nothing.
const SAFE_REPLICAS: u8 = 3;
/// How long a system keeps what was written before it brings it to the disk, unless it was
/// configured otherwise. Kafka leaves that to it.
const SYNC_INTERVAL: Duration = Duration::from_secs(30);
/// What stays free of the client's limit: for the frame and the names of attributes, and for what
/// a dead letter adds.
const RESERVE: usize = 4_096;
/// How long a group takes at most to divide its partitions anew.
const HANDOVER: Duration = Duration::from_secs(10);
/// Where groups are kept.
const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// A connection to Kafka. Clones share it.
///
/// ```no_run
/// # async fn connect() -> posthaste_core::Result<()> {
/// use posthaste_core::Bus;
/// use posthaste_kafka::{KafkaBroker, KafkaConfig};
/// let config = KafkaConfig::from_url("kafka://localhost:9092")?;
/// let bus = Bus::new(KafkaBroker::connect(config).await?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct KafkaBroker {
    hub: Arc<Hub>,
    admin: Arc<KafkaAdmin>,
    native: KafkaNative,
}

/// The native client, for what the portable API does not cover: `bus.native::<KafkaNative>()`.
#[derive(Clone)]
pub struct KafkaNative {
    hub: Arc<Hub>,
}

impl KafkaNative {
    /// What a client of the application's own needs to reach the same brokers with the same login.
    /// It holds the password.
    #[must_use]
    pub fn client_config(&self) -> ClientConfig {
        self.hub.config.client(Role::Admin)
    }

    /// The client of the admin interface, shared with the bus. Closing the bus waits until it is
    /// dropped.
    ///
    /// # Errors
    /// `Closed`.
    pub fn admin(
        &self,
    ) -> Result<impl Deref<Target = AdminClient<DefaultClientContext>> + Send + Sync + 'static>
    {
        Ok(Borrowed(self.hub.admin()?))
    }
}

/// Hides how the client is kept.
struct Borrowed(Arc<crate::connect::Owned<crate::connect::Administrator>>);

impl Deref for Borrowed {
    type Target = AdminClient<DefaultClientContext>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl KafkaBroker {
    /// Connects. Returns when a broker has accepted the login and answered.
    ///
    /// # Errors
    /// `Invalid` for the configuration, `Auth` for the login, `Unsupported` for what this build
    /// has no code for, `Connection` and `Timeout`, all within the connect timeout.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn connect(config: KafkaConfig) -> Result<Self> {
        let broken = |error: Error| error.with_broker(BROKER).with_operation("connect");
        let hub = Arc::new(Hub::connect(config).await.map_err(broken)?);
        Ok(Self {
            admin: Arc::new(KafkaAdmin::new(Arc::clone(&hub))),
            native: KafkaNative { hub: Arc::clone(&hub) },
            hub,
        })
    }
}

#[async_trait]
impl Publish for KafkaBroker {
    async fn publish(
        &self,
        to: &Destination,
        batch: &mut [Envelope],
        options: &SendOptions,
    ) -> Result<Outcomes> {
        let outcomes = publish::publish(&self.hub, to, batch, options).await?;
        Ok(topology::explain_missing(&self.hub, to, outcomes).await)
    }
}

#[async_trait]
impl Broker for KafkaBroker {
    fn capabilities(&self, topic: Option<&TopicName>) -> Arc<Capabilities> {
        let mut can = capabilities(&self.hub.config);
        if let Some(binding) = topic.and_then(|topic| self.hub.binding(topic)) {
            can.queue = Support::refused("a bound topic is never a queue");
            if !binding.is_ordered {
                can.order = Support::refused("the topic is bound without the promise of its order");
            }
        }
        Arc::new(can)
    }

    async fn subscribe(&self, request: SubscribeRequest) -> Result<Subscribed> {
        let named = |error: Error| error.with_operation("subscribe").with_broker(BROKER);
        subscribe::subscribe(&self.hub, request).await.map_err(named)
    }

    fn admin(&self) -> &dyn Admin {
        &*self.admin
    }

    async fn health(&self) -> Result<Health> {
        self.hub.open()?;
        Ok(health(&self.hub).await)
    }

    async fn close(&self, deadline: Instant) -> Result<()> {
        self.hub.close(deadline).await
    }

    fn native(&self) -> Option<&(dyn Any + Send + Sync)> {
        Some(&self.native)
    }
}

/// Asks both questions at once, so that it takes one round trip.
async fn health(hub: &Hub) -> Health {
    let until = Instant::now() + SIGN_OF_LIFE;
    match tokio::join!(hub.ping(until), without_leader(hub, until)) {
        (Err(error), _) => Health::Down(error.to_string()),
        (Ok(()), Ok(0) | Err(_)) => hub.concerns.text().map_or(Health::Live, Health::Degraded),
        (Ok(()), Ok(partitions)) => Health::Degraded(format!(
            "{partitions} partitions of {OFFSETS_TOPIC} have no leader, so that some groups stand \
             still"
        )),
    }
}

/// How many partitions cannot be used of the topic that all groups rest on.
async fn without_leader(hub: &Hub, until: Instant) -> Result<usize> {
    let asked = hub.worker.run(until, |client, left| {
        let metadata = client.fetch_metadata(Some(OFFSETS_TOPIC), left);
        let metadata = metadata.map_err(|native| error::of(&native))?;
        let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
        Ok(partitions.filter(|partition| partition.leader() < 0).count())
    });
    asked.await
}

fn capabilities(config: &KafkaConfig) -> Capabilities {
    let mut can = Capabilities::all(BROKER);
    let safe = config.replicas.is_some_and(|replicas| replicas >= SAFE_REPLICAS);
    can.durability = Durability::Server { loss_window: (!safe).then_some(SYNC_INTERVAL) };
    can.sharing = Sharing::Lanes;
    can.retention_by_count = Support::refused("Kafka has no such setting for topics");
    can.deliver_at = Support::refused("Kafka delivers no message later");
    can.deduplication = Support::refused("Kafka does not know messages by their ids");
    can.deduplication_window = None;
    can.max_message_bytes = Some(config.max_message_bytes().saturating_sub(RESERVE));
    can.max_batch = 1_000;
    can.max_flights = 8;
    can.lag = Support::limited("what is not committed; what members hold is among it");
    can.exact_attempts = false;
    can.replay_window = consumer::REPLAY_WINDOW;
    can.handover = HANDOVER;
    can
}

impl fmt::Debug for KafkaBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaBroker").field("hub", &self.hub).finish_non_exhaustive()
    }
}

impl fmt::Debug for KafkaNative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaNative").field("hub", &self.hub).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert;

    #[test]
    fn what_is_within_the_limit_is_sent() {
        let config = KafkaConfig::new("h");
        let limit = capabilities(&config).max_message_bytes.unwrap();
        let one = |bytes: usize| {
            let builder = Envelope::builder("test").source("/it").payload(vec![0; bytes]);
            builder.build().unwrap()
        };
        let fits = |bytes| convert::check_size(&one(bytes), config.max_message_bytes());
        fits(limit).unwrap();
        assert!(fits(limit + RESERVE).is_err());
    }

    #[test]
    fn how_much_a_crash_loses_is_told() {
        let can = capabilities(&KafkaConfig::new("h"));
        assert_eq!(can.durability, Durability::Server { loss_window: Some(SYNC_INTERVAL) });
        let replicated = capabilities(&KafkaConfig::new("h").replicas(3));
        assert_eq!(replicated.durability, Durability::Server { loss_window: None });
    }
}
