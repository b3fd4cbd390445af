//! Members of groups, as applications have them: by a bus.

use std::time::Duration;

use posthaste_core::{Bus, Delivery, Subscription};

use crate::adapter::{RabbitmqBroker, RabbitmqConfig};

pub(crate) async fn bus(config: RabbitmqConfig) -> Bus {
    Bus::new(RabbitmqBroker::connect(config).await.expect("the broker is there"))
}

pub(crate) async fn join(bus: &Bus, topic: &str, prefetch: usize) -> Subscription {
    let start = bus.subscribe(topic).group("g");
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
