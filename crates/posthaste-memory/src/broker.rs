//! The broker's handle: what it can do, its health, and its end.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use posthaste_core::broker::{Admin, Broker, SubscribeRequest, Subscribed};
use posthaste_core::{Capabilities, Durability, Health, Result, Support, TopicName};
use tokio::time::Instant;

use crate::engine::{Connection, Engine, LinkState, Settings, is_ordered};
use crate::error::{self, BROKER};
use crate::{MemoryConfig, subscribe};

/// A broker in this process, and one connection to it.
///
/// A clone is another connection to the same broker: topics, groups and messages are shared, and
/// closing one bus does not close the other. The broker lives as long as any of its connections
/// and subscriptions.
///
/// ```
/// use posthaste_core::{Envelope, TopicConfig, Topology};
/// use posthaste_core::broker::{Broker, Destination, Publish, SendOptions};
/// use posthaste_memory::MemoryBroker;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> posthaste_core::Result<()> {
/// let broker = MemoryBroker::new();
/// let topic = broker
///     .admin()
///     .ensure(&TopicConfig::new("orders").group("billing").check()?, Topology::Create)
///     .await?;
/// let to = Destination::new(topic.name, topic.layout, topic.queue);
/// let placed = Envelope::builder("order.placed").source("/shop").payload("7").build()?;
/// let outcomes = broker.publish(&to, &mut [placed], &SendOptions::default()).await?;
/// assert_eq!(outcomes.into_iter().next().unwrap()?.offset, Some(0));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct MemoryBroker {
    engine: Arc<Engine>,
    connection: Arc<Connection>,
}

impl Default for MemoryBroker {
    fn default() -> Self {
        Self::new()
    }
}

impl Clone for MemoryBroker {
    fn clone(&self) -> Self {
        Self { engine: Arc::clone(&self.engine), connection: Arc::default() }
    }
}

impl MemoryBroker {
    /// A new, empty broker with the default settings.
    #[must_use]
    pub fn new() -> Self {
        Self::start(MemoryConfig::new())
    }

    /// A new, empty broker.
    ///
    /// # Errors
    /// [`Invalid`](posthaste_core::ErrorKind::Invalid) if a bound of the config is zero.
    pub fn with_config(config: MemoryConfig) -> Result<Self> {
        config.check()?;
        Ok(Self::start(config))
    }

    fn start(config: MemoryConfig) -> Self {
        Self { engine: Arc::new(Engine::new(config)), connection: Arc::default() }
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Passes while the broker can be reached; waits while it is silent.
    pub(crate) async fn reach(&self, operation: &'static str) -> Result<()> {
        let reached = self.connection.reach(&self.engine.link).await;
        reached.map_err(|error| error.with_operation(operation))
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    fn capabilities(&self, topic: Option<&TopicName>) -> Arc<Capabilities> {
        let known = topic.and_then(|name| self.engine.topic(name));
        Arc::clone(known.as_ref().map_or(&self.engine.capabilities, |topic| &topic.capabilities))
    }

    async fn subscribe(&self, request: SubscribeRequest) -> Result<Subscribed> {
        self.reach("subscribe").await?;
        subscribe::subscribe(self, request).map_err(|error| error.with_operation("subscribe"))
    }

    fn admin(&self) -> &dyn Admin {
        self
    }

    async fn health(&self) -> Result<Health> {
        if self.connection.is_closed() {
            return Err(error::closed().with_operation("health"));
        }
        Ok(match self.engine.link.state() {
            LinkState::Up => self.fullness(),
            LinkState::Down => Health::Down("the broker is down".to_owned()),
            LinkState::Silent => Health::Down("the broker does not answer".to_owned()),
        })
    }

    /// Closes this connection only. There is nothing to join: this broker has no task.
    async fn close(&self, _deadline: Instant) -> Result<()> {
        self.connection.close();
        self.engine.wake_all();
        Ok(())
    }

    fn native(&self) -> Option<&(dyn Any + Send + Sync)> {
        Some(self)
    }
}

impl MemoryBroker {
    fn fullness(&self) -> Health {
        let mut topics = self.engine.topics();
        topics.retain(|topic| topic.turn(|state, _| state.is_full()).unwrap_or(false));
        let mut full: Vec<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
        if full.is_empty() {
            return Health::Live;
        }
        full.sort_unstable();
        Health::Degraded(format!("refuses messages, because they are full: {}", full.join(", ")))
    }
}

/// What can be done on a topic of any kind.
pub(crate) fn capabilities(config: &MemoryConfig) -> Capabilities {
    let mut capabilities = Capabilities::all(BROKER);
    capabilities.durability = Durability::Process;
    capabilities.binding = Support::refused("there is nothing here but what this library creates");
    capabilities.max_message_bytes = Some(config.largest_message());
    capabilities.deduplication_window = Some(config.deduplication_window);
    capabilities
}

/// What can be done on a topic that exists.
pub(crate) fn topic_capabilities(any: &Capabilities, settings: &Settings) -> Capabilities {
    let mut capabilities = any.clone();
    capabilities.max_message_bytes = Some(settings.max_message_bytes);
    capabilities.deduplication_window = Some(settings.deduplication_window);
    if !is_ordered(settings.layout) {
        capabilities.order = Support::refused("the topic was not created as ordered");
    }
    if settings.queue {
        capabilities.fan_out = Support::refused("a queue has one group");
    }
    capabilities
}
