//! Two services with handlers: billing charges orders and says so, shipping packs what was
//! charged. One order is tried again, one is a poison, and billing is restarted in between.
//!
//! ```sh
//! cargo run --example order_service
//! cargo run --example order_service --features nats -- --url nats://localhost:4222
//! ```
#![expect(clippy::print_stdout, reason = "an example prints what it does")]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use posthaste::prelude::*;
use posthaste::runtime::Running;
use posthaste::{Error, Outgoing, Result};

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(type = "order.placed", version = 1, key = order_id)]
struct OrderPlaced {
    order_id: String,
    total: f64,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(type = "order.cancelled", version = 1, key = order_id)]
struct OrderCancelled {
    order_id: String,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(type = "order.charged", version = 1, key = order_id)]
struct OrderCharged {
    order_id: String,
}

/// What the services share with this program: where charges go, and what was done.
#[derive(Clone)]
struct Shop {
    charges: String,
    done: Arc<Mutex<BTreeSet<String>>>,
}

impl Shop {
    fn note(&self, what: String) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).insert(what);
    }

    fn lines(&self) -> BTreeSet<String> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Charges an order. What it returns is published before the order is acknowledged.
async fn charge(
    Payload(order): Payload<OrderPlaced>,
    State(shop): State<Shop>,
    attempt: Attempt,
) -> Result<Publish<OrderCharged>, HandlerError> {
    if order.total < 0.0 {
        return Err(Permanent("the total is negative").into());
    }
    if order.total > 50.0 && attempt.is_first() {
        return Err(HandlerError::new("the card service is down"));
    }
    shop.note(format!("billing    {}: charged at attempt {}", order.order_id, attempt.number()));
    Ok(Publish::to(shop.charges, OrderCharged { order_id: order.order_id }))
}

/// Another event on the same topic.
async fn refund(order: Payload<OrderCancelled>, State(shop): State<Shop>) {
    shop.note(format!("billing    {}: refunded", order.order_id));
}

async fn pack(order: Payload<OrderCharged>, meta: Metadata, shop: State<Shop>, _out: Outgoing) {
    let caused = meta.envelope().causation_id().is_some();
    shop.note(format!("shipping   {}: packed; it knows its cause: {caused}", order.order_id));
}

#[tokio::main]
async fn main() -> Result<()> {
    let bus = posthaste_examples::connect().await?;
    app(&bus).await?;
    bus.close(Duration::from_secs(10)).await?;
    println!("closed     everything is settled");
    Ok(())
}

async fn app(bus: &Bus) -> Result<()> {
    let (orders, charges) =
        (posthaste_examples::fresh("orders"), posthaste_examples::fresh("charges"));
    bus.ensure(TopicConfig::new(&orders).group("billing")).await?;
    bus.ensure(TopicConfig::new(&charges).group("shipping")).await?;
    let shop = Shop { charges: charges.clone(), done: Arc::default() };
    let billing = || {
        Consumer::new(bus)
            .group("billing")
            .state(shop.clone())
            .on(&orders, charge)
            .on(&orders, refund)
            .retry(RetryPolicy::fixed(Duration::from_secs(1)))
            .start()
    };
    let shipping = Consumer::new(bus).group("shipping").state(shop.clone()).on(&charges, pack);
    let shipping = shipping.start().await?;
    let first = billing().await?;

    let publisher = bus.publisher(&orders)?;
    for (order_id, total) in [("A-1", 12.5), ("A-2", 80.0), ("A-3", -1.0)] {
        publisher.publish(&OrderPlaced { order_id: order_id.to_owned(), total }).await?;
    }
    publisher.publish(&OrderCancelled { order_id: "A-0".to_owned() }).await?;
    println!("published  three orders, one of them a poison, and a cancellation");

    // Stopped while an order waits for its next attempt: the broker has it, and its count.
    wait(&first, |running| running.report().failed >= 2).await?;
    let report = first.stop().await?;
    println!("stopped    billing, with {} given up so far", report.dead_lettered);
    let second = billing().await?;
    wait(&shipping, |running| running.report().handled == 2).await?;
    println!("restarted  billing, which went on");

    second.stop().await?;
    shipping.stop().await?;
    for line in shop.lines() {
        println!("{line}");
    }
    for stored in bus.admin().dead_letters(&orders, "billing", 10).await?.letters {
        let letter = stored.letter;
        let key = String::from_utf8_lossy(letter.envelope.key().unwrap_or_default()).into_owned();
        let cause = letter.cause.map_or_else(|| "unknown".to_owned(), |cause| cause.to_string());
        println!("dead       {key}, at attempt {}: {cause}", letter.attempts);
    }
    bus.admin().delete_topic(&orders).await?;
    bus.admin().delete_topic(&charges).await
}

async fn wait(running: &Running, done: impl Fn(&Running) -> bool) -> Result<()> {
    let waiting = async {
        while !done(running) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let soon = tokio::time::timeout(Duration::from_secs(30), waiting).await;
    soon.map_err(|_| Error::closed("the services did not get on"))
}
