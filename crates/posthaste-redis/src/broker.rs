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
    AckConfirmation, Capabilities, Durability, Envelope, Error, ErrorKind, Health, Result, Sharing,
    Support, TopicName,
};
use redis::{Cmd, Value};
use tokio::time::Instant;

use crate::admin::RedisAdmin;
use crate::config::{Durable, RedisConfig};
use crate::error::BROKER;
use crate::hub::{Hub, Known, Server};
use crate::{publish, subscribe};

/// Connections to Redis or Valkey.
///
/// ```no_run
/// # async fn connect() -> posthaste_core::Result<()> {
/// use posthaste_core::Bus;
/// use posthaste_redis::{RedisBroker, RedisConfig};
/// let config = RedisConfig::from_url("redis://localhost")?;
/// let bus = Bus::new(RedisBroker::connect(config).await?);
/// # Ok(())
/// # }
/// ```
pub struct RedisBroker {
    hub: Arc<Hub>,
    admin: RedisAdmin,
    native: RedisNative,
}

/// The native client, for what the portable API does not cover: `bus.native::<RedisNative>()`.
#[derive(Clone)]
pub struct RedisNative {
    hub: Arc<Hub>,
}

impl RedisNative {
    /// Sends a command by the connection that settlements use, and awaits its answer. One that
    /// takes long holds them up; one that blocks must not be sent here.
    ///
    /// # Errors
    /// `Connection`, `Timeout`, `Closed`, and what the server refuses.
    ///
    /// # Cancel safety
    /// When dropped, the command may or may not be done.
    pub async fn command(&self, command: Cmd) -> Result<Value> {
        self.hub.commands.ask(command, self.hub.until()).await
    }
}

impl fmt::Debug for RedisNative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisNative").finish_non_exhaustive()
    }
}

impl RedisBroker {
    /// Connects. Returns when the server has accepted the login, and has said that it is set to
    /// keep what it confirms.
    ///
    /// # Errors
    /// `Invalid` for the configuration, `Auth` for the login, `NotFound` for the database,
    /// `Unsupported` for a server that is too old or keeps nothing, `Connection` and `Timeout`, all
    /// within the connect timeout.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn connect(config: RedisConfig) -> Result<Self> {
        let broken = |error: Error| error.with_broker(BROKER).with_operation("connect");
        let bindings = config.check().map_err(broken)?;
        let hub = Arc::new(Hub::connect(&config, bindings).await.map_err(broken)?);
        let native = RedisNative { hub: Arc::clone(&hub) };
        Ok(Self { admin: RedisAdmin::new(Arc::clone(&hub)), hub, native })
    }

    /// What can be done on a topic by default, at a server that syncs its append-only file each
    /// second.
    #[must_use]
    pub fn capabilities_of(config: &RedisConfig) -> Capabilities {
        let server = Server {
            append_only: true,
            synced_within: Some(Duration::from_secs(2)),
            ..Server::default()
        };
        capabilities(config.max_message_bytes, config.deduplication_window, &server, None, false)
    }
}

#[async_trait]
impl Publish for RedisBroker {
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
impl Broker for RedisBroker {
    fn capabilities(&self, topic: Option<&TopicName>) -> Arc<Capabilities> {
        let bound = topic.is_some_and(|topic| self.hub.binding(topic).is_some());
        let settings = &self.hub.settings;
        self.hub.capabilities(topic, |known| {
            let window = known.and_then(|known| known.deduplication_window);
            let window = window.unwrap_or(settings.deduplication_window);
            let server = self.hub.server();
            capabilities(settings.max_message_bytes, window, &server, known, bound)
        })
    }

    async fn subscribe(&self, request: SubscribeRequest) -> Result<Subscribed> {
        self.hub.open()?;
        subscribe::subscribe(&self.hub, request)
            .await
            .map_err(|error| error.with_broker(BROKER).with_operation("subscribe"))
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
        self.hub.lines.close();
        let left = tokio::time::timeout_at(deadline, self.hub.lines.wait()).await;
        self.hub.cut();
        self.hub.tasks.close();
        match tokio::time::timeout_at(deadline, self.hub.tasks.wait()).await {
            Ok(()) if left.is_ok() => Ok(()),
            _ => Err(Error::new(ErrorKind::Timeout, "the connections did not end in time")
                .with_broker(BROKER)),
        }
    }

    fn native(&self) -> Option<&(dyn Any + Send + Sync)> {
        Some(&self.native)
    }
}

/// How long a sign of life may take.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);

async fn health(hub: &Hub) -> Health {
    if !hub.commands.is_up() {
        return Health::Down(hub.commands.absent().to_string());
    }
    let asked = hub.look(Instant::now() + SIGN_OF_LIFE).await;
    let server = match asked {
        Ok(server) => server,
        Err(error) => return Health::Down(error.to_string()),
    };
    let degraded = if server.loading {
        Some("the server is loading its data".to_owned())
    } else if server.role != "master" {
        Some(format!("the server takes no messages: its role is {}", server.role))
    } else if hub.settings.durability == Durable::AppendOnly && !server.append_only {
        Some("the server has no append-only file any more".to_owned())
    } else if server.write_failed {
        Some("the server could not write its append-only file".to_owned())
    } else if !server.evicts_nothing() {
        Some(format!("the server removes data when memory is short: {}", server.policy))
    } else {
        None
    };
    hub.learn_server(server);
    degraded.map_or(Health::Live, Health::Degraded)
}

fn capabilities(
    max_message_bytes: usize,
    window: Duration,
    server: &Server,
    known: Option<&Known>,
    bound: bool,
) -> Capabilities {
    let mut can = Capabilities::all(BROKER);
    can.server = Some(server.version.clone()).filter(|version| !version.is_empty());
    can.durability = match (server.append_only, server.synced_within) {
        (true, Some(Duration::ZERO)) => Durability::Server { loss_window: None },
        // Not told: what the kernel takes to write at its own pace.
        (true, within) => {
            Durability::Server { loss_window: Some(within.unwrap_or(Duration::from_secs(30))) }
        }
        (false, _) => Durability::Process,
    };
    can.sharing = Sharing::Messages;
    can.deduplication_window = Some(window);
    can.ack_confirmation = AckConfirmation::Broker;
    can.max_message_bytes = Some(max_message_bytes);
    can.max_batch = 256;
    can.max_flights = 4;
    can.replay_window = Duration::from_secs(2);
    can.handover = Duration::from_secs(1);
    if bound {
        can.order = Support::refused("a bound topic is plain");
    }
    if known.is_some_and(|known| known.queue) {
        can.fan_out = Support::refused("a queue has one group");
        can.order = Support::refused("a queue has no order per key");
    }
    can
}

impl fmt::Debug for RedisBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBroker").field("hub", &self.hub).finish_non_exhaustive()
    }
}
