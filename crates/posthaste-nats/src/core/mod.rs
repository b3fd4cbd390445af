//! NATS without JetStream: a transport that keeps nothing.
//!
//! A message reaches whoever listens at that moment, at most once. What this cannot keep it
//! refuses; see its capabilities. It is a broker of its own, chosen by name, never a fallback.

mod admin;
mod driver;

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::Client;
use async_trait::async_trait;
use futures_util::StreamExt as _;
use posthaste_core::broker::{
    Admin, Broker, DeliveryMode, Destination, Lane, Order, Outcomes, Publish, SendOptions, Start,
    Stored, SubscribeRequest, Subscribed,
};
use posthaste_core::{
    AckConfirmation, Capabilities, Durability, Envelope, Error, ErrorKind, Health, Result, Support,
    TopicInfo, TopicName,
};
use tokio::time::Instant;

use self::driver::CoreDriver;
use crate::config::NatsConfig;
use crate::link::Link;
use crate::link_watch::LinkWatch;
use crate::{connect, convert, error};

/// The name of this transport in errors and capabilities.
const BROKER: &str = "nats-core";

/// A connection to NATS without JetStream: at most once, nothing is kept.
///
/// ```no_run
/// # async fn connect() -> posthaste_core::Result<()> {
/// use posthaste_core::Bus;
/// use posthaste_nats::{NatsConfig, NatsCoreBroker};
/// let config = NatsConfig::from_url("nats-core://localhost:4222")?;
/// let bus = Bus::new(NatsCoreBroker::connect(config).await?);
/// let mut inbox = bus.subscribe("ticks").at_most_once().start().await?;
/// # Ok(())
/// # }
/// ```
pub struct NatsCoreBroker {
    client: Client,
    link: Link,
    timeout: Duration,
    /// What was ensured here: the server knows nothing of topics.
    topics: Mutex<HashMap<TopicName, TopicInfo>>,
}

impl NatsCoreBroker {
    /// Connects. Returns when the server has accepted the login.
    ///
    /// # Errors
    /// As [`NatsBroker::connect`](crate::NatsBroker::connect).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn connect(config: NatsConfig) -> Result<Self> {
        let broken = |error: Error| error.with_broker(BROKER).with_operation("connect");
        let bindings = config.check().map_err(broken)?;
        if !bindings.is_empty() {
            return Err(broken(Error::unsupported("nats-core has no streams to bind")));
        }
        let link = Link::new();
        let client = connect::connect(&config, &link).await.map_err(broken)?;
        Ok(Self { client, link, timeout: config.request_timeout, topics: Mutex::default() })
    }

    fn topics(&self) -> std::sync::MutexGuard<'_, HashMap<TopicName, TopicInfo>> {
        // Nothing panics while it is held but an allocation that failed.
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<()> {
        if self.link.is_closed() { Err(error::closed()) } else { Ok(()) }
    }

    async fn send(&self, to: &Destination, envelope: &Envelope) -> Result<()> {
        let headers = convert::headers(envelope)?;
        let payload = envelope.payload().clone();
        let size = convert::wire_size(&headers, &payload);
        convert::check_size(size, self.client.max_payload())?;
        let subject = to.topic.as_str().to_owned();
        let sent = self.client.publish_with_headers(subject, headers, payload).await;
        sent.map_err(error::send)
    }
}

#[async_trait]
impl Publish for NatsCoreBroker {
    async fn publish(
        &self,
        to: &Destination,
        batch: &mut [Envelope],
        options: &SendOptions,
    ) -> Result<Outcomes> {
        self.open()?;
        if options.deliver_at.is_some() || options.deduplicate {
            return Err(refused("messages for later, and deduplication"));
        }
        if let Err(error) = self.link.ready(Instant::now() + self.timeout).await {
            return Ok(Outcomes::failed(batch.len(), &error));
        }
        let losses = self.link.losses();
        let mut outcomes = Vec::with_capacity(batch.len());
        for envelope in batch.iter() {
            outcomes.push(self.send(to, envelope).await);
        }
        let until = Instant::now() + self.timeout;
        let flushed = tokio::select! {
            flushed = self.client.flush() => flushed.map_err(error::flush),
            () = self.link.lost_since(losses, until) => Err(self.link.down()),
        };
        let lost = flushed.err().or_else(|| {
            // What was written to a connection that broke meanwhile went nowhere.
            (self.link.losses() != losses).then(|| self.link.down())
        });
        let outcomes = outcomes.into_iter().map(|outcome| match (&lost, outcome) {
            (Some(error), Ok(())) => Err(error.duplicate().with_may_be_stored(true)),
            (_, Ok(())) => Ok(Stored::default()),
            (_, Err(error)) => Err(error),
        });
        Ok(outcomes.collect())
    }
}

#[async_trait]
impl Broker for NatsCoreBroker {
    fn capabilities(&self, _topic: Option<&TopicName>) -> Arc<Capabilities> {
        let nothing = || Support::refused("nats-core keeps nothing");
        let mut can = Capabilities::all(BROKER);
        can.server = Some(self.client.server_info().version);
        can.durability = Durability::None;
        can.at_least_once = nothing();
        can.order = nothing();
        can.start_earliest = nothing();
        can.start_at_time = nothing();
        can.start_at_offset = nothing();
        can.deliver_at = nothing();
        can.deduplication = nothing();
        can.deduplication_window = None;
        can.exact_attempts = false;
        can.dead_letters = nothing();
        can.lag = nothing();
        can.seek = nothing();
        can.range = nothing();
        can.group_lifecycle = nothing();
        can.purge = nothing();
        can.binding = nothing();
        can.visible_loss = nothing();
        can.ack_confirmation = AckConfirmation::Barrier;
        can.max_message_bytes = Some(self.client.max_payload());
        Arc::new(can)
    }

    async fn subscribe(&self, request: SubscribeRequest) -> Result<Subscribed> {
        self.open()?;
        if request.mode != DeliveryMode::AtMostOnce {
            return Err(refused("at least once"));
        }
        if request.order != Order::None {
            return Err(refused("order per key"));
        }
        if !matches!(request.start, Start::Created | Start::Latest) {
            return Err(refused("starting in the past"));
        }
        self.link.ready(Instant::now() + self.timeout).await?;
        let mut sources = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let subject = topic.as_str().to_owned();
            let subscribed = match &request.group {
                Some(group) => {
                    self.client.queue_subscribe(subject, group.as_str().to_owned()).await
                }
                None => self.client.subscribe(subject).await,
            };
            let subscriber = subscribed.map_err(error::subscribe)?;
            sources.push((Arc::new(Lane::new(topic.clone(), None)), subscriber));
        }
        // What is published from now on reaches us: the server has read the subscriptions when
        // it answers what was written behind them.
        self.round_trip().await?;
        let lease = request.lease;
        let driver = CoreDriver::new(LinkWatch::new(&self.link), sources);
        Ok(Subscribed::new(Box::new(driver), lease))
    }

    fn admin(&self) -> &dyn Admin {
        self
    }

    async fn health(&self) -> Result<Health> {
        self.open()?;
        if !self.link.watch().borrow().connected {
            return Ok(Health::Down(self.link.down().to_string()));
        }
        let asked = tokio::time::timeout(Duration::from_secs(2), self.round_trip());
        Ok(match asked.await {
            Ok(Ok(())) => Health::Live,
            Ok(Err(error)) => Health::Down(error.to_string()),
            Err(_) => Health::Down("the server did not answer within 2 s".to_owned()),
        })
    }

    async fn close(&self, deadline: Instant) -> Result<()> {
        if self.link.is_closed() {
            return Ok(());
        }
        let mut link = self.link.watch();
        let ended = async {
            if self.client.drain().await.is_ok() {
                let _ = link.wait_for(|state| state.closed || !state.connected).await;
            }
        };
        let ended = tokio::time::timeout_at(deadline, ended).await;
        self.link.close();
        ended.map_err(|_| {
            Error::new(ErrorKind::Timeout, "the connection did not end in time").with_broker(BROKER)
        })
    }

    fn native(&self) -> Option<&(dyn Any + Send + Sync)> {
        Some(&self.client)
    }
}

impl NatsCoreBroker {
    /// Sends a message to ourselves.
    async fn round_trip(&self) -> Result<()> {
        let inbox = self.client.new_inbox();
        let mut echo = self.client.subscribe(inbox.clone()).await.map_err(error::subscribe)?;
        self.client.publish(inbox, bytes::Bytes::new()).await.map_err(error::send)?;
        match tokio::time::timeout(self.timeout, echo.next()).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(error::closed()),
            Err(_) => Err(Error::new(ErrorKind::Timeout, "the server did not answer in time")
                .with_broker(BROKER)),
        }
    }
}

#[cold]
fn refused(what: &str) -> Error {
    Error::unsupported(format!("{what}: nats-core keeps nothing")).with_broker(BROKER)
}

impl fmt::Debug for NatsCoreBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsCoreBroker").field("link", &self.link).finish_non_exhaustive()
    }
}
