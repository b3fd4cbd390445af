//! Members of groups, as applications have them: by a bus.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use posthaste_core::broker::{
    Admin, Broker, Destination, Outcomes, Publish, SendOptions, SubscribeRequest, Subscribed,
};
use posthaste_core::{
    Bus, Capabilities, Delivery, Envelope, Health, Result, Subscription, Support, TopicName,
};
use tokio::time::Instant;

use crate::adapter::KafkaBroker;
use crate::server::Server;

/// The adapter with its way to receive. Once the adapter itself receives, it takes this place.
#[derive(Debug)]
struct Receiving {
    broker: KafkaBroker,
    hub: Arc<crate::hub::Hub>,
}

#[async_trait]
impl Publish for Receiving {
    async fn publish(
        &self,
        to: &Destination,
        batch: &mut [Envelope],
        options: &SendOptions,
    ) -> Result<Outcomes> {
        self.broker.publish(to, batch, options).await
    }
}

#[async_trait]
impl Broker for Receiving {
    fn capabilities(&self, topic: Option<&TopicName>) -> Arc<Capabilities> {
        let mut can = Capabilities::clone(&self.broker.capabilities(topic));
        can.at_least_once = Support::Kept;
        can.fan_out = Support::Kept;
        can.queue = Support::Kept;
        can.order = Support::Kept;
        can.start_earliest = Support::Kept;
        can.start_at_time = Support::Kept;
        can.start_at_offset = Support::Kept;
        can.dead_letters = Support::Kept;
        can.visible_loss = Support::Kept;
        can.handover = Duration::from_secs(10);
        Arc::new(can)
    }

    async fn subscribe(&self, request: SubscribeRequest) -> Result<Subscribed> {
        crate::subscribe::subscribe(&self.hub, request).await
    }

    fn admin(&self) -> &dyn Admin {
        self.broker.admin()
    }

    async fn health(&self) -> Result<Health> {
        self.broker.health().await
    }

    async fn close(&self, deadline: Instant) -> Result<()> {
        let (hub, broker) = tokio::join!(self.hub.close(deadline), self.broker.close(deadline));
        hub.and(broker)
    }

    fn native(&self) -> Option<&(dyn Any + Send + Sync)> {
        self.broker.native()
    }
}

pub(crate) async fn bus(server: &Server) -> Bus {
    bus_with(server, &[]).await
}

/// With properties of the client.
pub(crate) async fn bus_with(server: &Server, properties: &[(&str, &str)]) -> Bus {
    let config = crate::config::KafkaConfig::from_url(&server.url).expect("a sound URL");
    let config = properties.iter().fold(config, |c, (name, value)| c.property(*name, *value));
    bus_of(server, config).await
}

pub(crate) async fn bus_of(server: &Server, config: crate::config::KafkaConfig) -> Bus {
    let broker = KafkaBroker::connect(server.config()).await.expect("the broker is there");
    let hub = Arc::new(crate::hub::Hub::connect(config).await.expect("the broker is there"));
    Bus::new(Receiving { broker, hub })
}

pub(crate) async fn join(bus: &Bus, topic: &TopicName, prefetch: usize) -> Subscription {
    let start = bus.subscribe(topic.as_str()).group("g");
    start.prefetch(prefetch).start().await.expect("a subscription")
}

/// The next delivery, which has to come soon.
pub(crate) async fn next(inbox: &mut Subscription) -> Delivery {
    let next = tokio::time::timeout(Duration::from_secs(30), inbox.next()).await;
    next.expect("a delivery in time").expect("a delivery").expect("no error")
}

/// Nothing comes for so long.
pub(crate) async fn silent(inbox: &mut Subscription, time: Duration) {
    if let Ok(next) = tokio::time::timeout(time, inbox.next()).await {
        let delivery = next.expect("not the end").expect("no error");
        unreachable!("{} came, attempt {}", number(&delivery), delivery.attempt());
    }
}

pub(crate) fn number(delivery: &Delivery) -> u32 {
    let payload = delivery.envelope().payload();
    std::str::from_utf8(payload).expect("a text").parse().expect("a number")
}
