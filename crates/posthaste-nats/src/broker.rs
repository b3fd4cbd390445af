//! The broker's handle: what it can do, its health, and its end.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use posthaste_core::broker::{
    Admin, Broker, Destination, Outcomes, Publish, SendOptions, SubscribeRequest, Subscribed,
};
use posthaste_core::{
    Capabilities, Envelope, Error, ErrorKind, Health, Result, Support, TopicName,
};
use tokio::time::Instant;

use crate::admin::NatsAdmin;
use crate::answers::Answers;
use crate::config::NatsConfig;
use crate::connect;
use crate::error::BROKER;
use crate::hub::Hub;
use crate::link::Link;
use crate::version::Version;
use crate::{convert, publish, subscribe, topology};

/// A connection to NATS with JetStream.
///
/// ```no_run
/// # async fn connect() -> posthaste_core::Result<()> {
/// use posthaste_core::Bus;
/// use posthaste_nats::{NatsBroker, NatsConfig};
/// let config = NatsConfig::from_url("nats://localhost:4222")?;
/// let bus = Bus::new(NatsBroker::connect(config).await?);
/// # Ok(())
/// # }
/// ```
pub struct NatsBroker {
    hub: Arc<Hub>,
    admin: NatsAdmin,
    native: NatsNative,
}

/// The native client, for what the portable API does not cover:
/// `bus.native::<NatsNative>()`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NatsNative {
    /// The client, connected and shared with the bus.
    pub client: async_nats::Client,
    /// The JetStream context.
    pub jetstream: async_nats::jetstream::Context,
}

impl NatsBroker {
    /// Connects. Returns when the server has accepted the login.
    ///
    /// # Errors
    /// `Invalid` for the configuration, `Auth` for the login, `Unsupported` for a server older
    /// than 2.9, `Connection` and `Timeout`, all within the connect timeout.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn connect(config: NatsConfig) -> Result<Self> {
        let broken = |error: Error| error.with_broker(BROKER).with_operation("connect");
        let bindings = config.check().map_err(broken)?;
        let link = Link::new();
        let client = connect::connect(&config, &link).await.map_err(broken)?;
        let answers = Answers::open(&client).await.map_err(broken)?;
        let hub = Arc::new(Hub::new(client.clone(), link, &config, bindings, answers));
        topology::check_version(&hub).map_err(broken)?;
        let native = NatsNative { client, jetstream: hub.jetstream.clone() };
        Ok(Self { admin: NatsAdmin::new(Arc::clone(&hub)), hub, native })
    }
}

#[async_trait]
impl Publish for NatsBroker {
    async fn publish(
        &self,
        to: &Destination,
        batch: &mut [Envelope],
        options: &SendOptions,
    ) -> Result<Outcomes> {
        publish::publish(&self.hub, to, batch, options).await
    }
}

#[async_trait]
impl Broker for NatsBroker {
    fn capabilities(&self, topic: Option<&TopicName>) -> Arc<Capabilities> {
        self.hub.capabilities(topic, || capabilities(&self.hub, topic))
    }

    async fn subscribe(&self, request: SubscribeRequest) -> Result<Subscribed> {
        self.hub.open()?;
        subscribe::subscribe(&self.hub, request).await
    }

    fn admin(&self) -> &dyn Admin {
        &self.admin
    }

    async fn health(&self) -> Result<Health> {
        self.hub.open()?;
        Ok(health(&self.hub).await)
    }

    async fn close(&self, deadline: Instant) -> Result<()> {
        self.hub.shut();
        self.hub.tasks.close();
        let ended = tokio::time::timeout_at(deadline, end(&self.hub)).await;
        self.hub.link.close();
        match ended {
            Ok(()) => Ok(()),
            Err(_) => Err(Error::new(ErrorKind::Timeout, "the connection did not end in time")
                .with_broker(BROKER)),
        }
    }

    fn native(&self) -> Option<&(dyn Any + Send + Sync)> {
        Some(&self.native)
    }
}

/// Joins the tasks, lets everything that was written go out, and ends the connection.
async fn end(hub: &Hub) {
    hub.tasks.wait().await;
    if hub.link.is_closed() {
        return;
    }
    let mut link = hub.link.watch();
    // While there is no connection nothing can be flushed, and the client would wait for one.
    if !link.borrow().connected {
        return;
    }
    let flushed = async {
        let _ = hub.client.flush().await;
        // The client ends after this, and tells it by an event.
        if hub.client.drain().await.is_ok() {
            let _ = hub.link.watch().wait_for(|state| state.closed).await;
        }
    };
    tokio::select! {
        () = flushed => {}
        _ = link.wait_for(|state| !state.connected) => {}
    }
}

/// How long a sign of life may take.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);

async fn health(hub: &Hub) -> Health {
    if !hub.link.watch().borrow().connected {
        return Health::Down(hub.link.down().to_string());
    }
    let nothing = serde_json::json!({});
    let asked = hub.api.ask::<serde_json::Value>("INFO", &nothing);
    match tokio::time::timeout(SIGN_OF_LIFE, asked).await {
        Ok(Ok(_)) => Health::Live,
        // The right to ask is not needed for anything else.
        Ok(Err(error)) if error.kind() == ErrorKind::Auth => Health::Live,
        Ok(Err(error)) => Health::Down(error.to_string()),
        Err(_) => Health::Down("the server did not answer within 2 s".to_owned()),
    }
}

fn capabilities(hub: &Hub, topic: Option<&TopicName>) -> Capabilities {
    let server = hub.client.server_info().version;
    let version = Version::read(&server);
    let known = topic.and_then(|topic| hub.known(topic));
    let bound = topic.is_some_and(|topic| hub.route(topic).is_bound());
    let mut can = Capabilities::all(BROKER);
    can.server = Some(server);
    can.durability = known
        .as_ref()
        .map_or_else(|| topology::default_durability(hub, None), |known| known.durability);
    can.deduplication_window = Some(hub.defaults.duplicate_window);
    can.max_message_bytes = Some(hub.client.max_payload().saturating_sub(convert::RESERVE));
    can.max_batch = 256;
    can.max_flights = 16;
    can.replay_window =
        if version.keeps_positions() { Duration::from_secs(2) } else { Duration::MAX };
    can.handover = Duration::from_secs(1);
    can.exact_attempts = version >= Version::EXACT_ATTEMPTS;
    if version < Version::SCHEDULES {
        can.deliver_at = Support::refused("needs nats-server 2.12");
    } else if known.as_ref().is_some_and(|known| !known.schedules) {
        can.deliver_at = Support::refused("the stream was created without it");
    }
    if bound {
        can.order = Support::refused("a bound topic is plain");
        can.deliver_at = Support::refused("a bound topic takes no messages for later");
        can.purge = Support::refused("a bound stream is never changed");
    }
    if known.as_ref().is_some_and(|known| known.layout.partitions().is_some()) {
        can.visible_loss = Support::limited(
            "ordered topics: what retention removed is told while a member is there and behind",
        );
    }
    if known.is_some_and(|known| known.queue) {
        let queue = || Support::refused("a queue has one group and keeps only what is not handled");
        can.fan_out = queue();
        can.start_at_time = queue();
        can.start_at_offset = queue();
        can.seek = queue();
        can.range = queue();
    }
    can
}

impl fmt::Debug for NatsBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsBroker").field("link", &self.hub.link).finish_non_exhaustive()
    }
}
