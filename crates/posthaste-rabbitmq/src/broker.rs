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
    AckConfirmation, Capabilities, Envelope, Error, ErrorKind, Health, Result, Sharing, Support,
    TopicName,
};
use tokio::time::Instant;

use crate::admin::RabbitmqAdmin;
use crate::config::{QueueType, RabbitmqConfig};
use crate::delay;
use crate::error::BROKER;
use crate::hub::{Hub, Known, Settings};
use crate::{publish, subscribe};

/// Connections to RabbitMQ.
///
/// ```no_run
/// # async fn connect() -> posthaste_core::Result<()> {
/// use posthaste_core::Bus;
/// use posthaste_rabbitmq::{RabbitmqBroker, RabbitmqConfig};
/// let config = RabbitmqConfig::from_url("amqp://guest:guest@localhost")?;
/// let bus = Bus::new(RabbitmqBroker::connect(config).await?);
/// # Ok(())
/// # }
/// ```
pub struct RabbitmqBroker {
    hub: Arc<Hub>,
    admin: RabbitmqAdmin,
    native: RabbitmqNative,
}

/// The native client, for what the portable API does not cover:
/// `bus.native::<RabbitmqNative>()`.
#[derive(Clone)]
pub struct RabbitmqNative {
    hub: Arc<Hub>,
}

impl RabbitmqNative {
    /// A channel of the client on the connection for administration, which is another one after
    /// each reconnect. What the broker refuses as an error of the connection ends that connection,
    /// and not those of messages.
    ///
    /// # Errors
    /// `Connection`, `Timeout`, `Closed`.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn channel(&self) -> Result<lapin::Channel> {
        Ok(self.hub.admin.channel(self.hub.until()).await?.0)
    }
}

impl fmt::Debug for RabbitmqNative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitmqNative").finish_non_exhaustive()
    }
}

impl RabbitmqBroker {
    /// Connects. Returns when the broker has accepted the login and the virtual host.
    ///
    /// # Errors
    /// `Invalid` for the configuration, `Auth` for the login, `NotFound` for the virtual host,
    /// `Connection` and `Timeout`, all within the connect timeout.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn connect(config: RabbitmqConfig) -> Result<Self> {
        let broken = |error: Error| error.with_broker(BROKER).with_operation("connect");
        let bindings = config.check().map_err(broken)?;
        let hub = Arc::new(Hub::connect(&config, bindings).await.map_err(broken)?);
        let native = RabbitmqNative { hub: Arc::clone(&hub) };
        Ok(Self { admin: RabbitmqAdmin::new(Arc::clone(&hub)), hub, native })
    }

    /// What can be done on a topic by default, as [`capabilities`](Broker::capabilities) of a
    /// connection says it: nothing of it depends on the broker.
    #[must_use]
    pub fn capabilities_of(config: &RabbitmqConfig) -> Capabilities {
        capabilities(&Settings::of(config), None, false)
    }
}

#[async_trait]
impl Publish for RabbitmqBroker {
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
impl Broker for RabbitmqBroker {
    fn capabilities(&self, topic: Option<&TopicName>) -> Arc<Capabilities> {
        let bound = topic.is_some_and(|topic| self.hub.binding(topic).is_some());
        self.hub.capabilities(topic, |known| capabilities(&self.hub.settings, known, bound))
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
        self.hub.tasks.close();
        match tokio::time::timeout_at(deadline, self.hub.tasks.wait()).await {
            Ok(()) => Ok(()),
            Err(_) => Err(Error::new(ErrorKind::Timeout, "the connections did not end in time")
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
    let Some(connection) = hub.admin.state().connection else {
        return Health::Down(hub.admin.absent().to_string());
    };
    let asked = async {
        let channel = connection.create_channel().await?;
        channel.close(200, "done".into()).await
    };
    match tokio::time::timeout(SIGN_OF_LIFE, asked).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Health::Down(error.to_string()),
        Err(_) => {
            hub.admin.suspect();
            return Health::Down("the broker did not answer within 2 s".to_owned());
        }
    }
    for link in [&hub.admin, &hub.publish] {
        if let Some(reason) = link.state().blocked {
            return Health::Degraded(format!("the broker takes no messages now: {reason}"));
        }
    }
    Health::Live
}

fn capabilities(settings: &Settings, known: Option<&Known>, bound: bool) -> Capabilities {
    let counts = settings.queue_type == QueueType::Quorum;
    let mut can = Capabilities::all(BROKER);
    let queue = || Support::refused("a queue keeps nothing from before its group, or settled");
    can.sharing = Sharing::Messages;
    can.retention_by_count = Support::refused("a queue would drop what only waited");
    can.start_earliest = queue();
    can.start_at_time = queue();
    can.start_at_offset = queue();
    can.seek = queue();
    can.range = queue();
    can.deduplication = Support::refused("the broker remembers no ids");
    can.deduplication_window = None;
    can.exact_attempts = counts;
    can.max_nack_delay = Some(delay::LONGEST);
    can.max_publish_delay = Some(delay::LONGEST);
    can.lag = Support::limited("what is ready; not what is unsettled or waits for its time");
    can.visible_loss =
        Support::limited("a queue that was deleted; what a purge removed is not told to groups");
    can.ack_confirmation = AckConfirmation::Barrier;
    can.max_message_bytes = Some(settings.max_message_bytes);
    can.max_batch = 128;
    can.max_flights = 16;
    can.replay_window = Duration::from_secs(2);
    can.handover = Duration::from_secs(1);
    if bound {
        can.order = Support::refused("a bound topic is plain");
        can.deliver_at = Support::refused("a bound topic takes no messages for later");
        can.purge = Support::refused("what is behind a bound exchange is never changed");
        can.group_lifecycle = Support::refused("there are no records of the groups");
    }
    if known.is_some_and(|known| known.queue) {
        can.fan_out = Support::refused("a queue has one group");
        can.order = Support::refused("a queue has no order per key");
    }
    can
}

impl fmt::Debug for RabbitmqBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitmqBroker").field("hub", &self.hub).finish_non_exhaustive()
    }
}
