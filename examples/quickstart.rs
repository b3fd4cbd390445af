//! The whole of it once: a topic with two groups, messages that each group gets, one that is
//! handled at the second attempt, and one that is given up as a dead letter.
//!
//! ```sh
//! cargo run --example quickstart
//! cargo run --example quickstart --features nats -- --url nats://localhost:4222
//! ```
#![expect(clippy::print_stdout, reason = "an example prints what it does")]

use std::time::{Duration, Instant};

use posthaste::prelude::*;
use posthaste::{Error, Result};

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(type = "order.placed", version = 1, key = order_id)]
struct OrderPlaced {
    order_id: String,
    total: f64,
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
    let topic = posthaste_examples::fresh("orders");
    bus.ensure(TopicConfig::new(&topic).group("billing").group("shipping")).await?;
    println!("topic      orders, with the groups billing and shipping");

    let orders = bus.publisher(&topic)?;
    let mut billing = bus.subscribe(&topic).group("billing").start().await?;
    let mut shipping = bus.subscribe(&topic).group("shipping").start().await?;

    // One after the other, so that the lines below come in the same order in every run.
    for (order_id, total) in [("A-1", 12.5), ("A-2", 80.0), ("A-3", -1.0)] {
        orders.publish(&OrderPlaced { order_id: order_id.to_owned(), total }).await?;
        println!("published  {order_id}");
        bill(&mut billing).await?;
        ship(&mut shipping).await?;
    }

    // Stopping settles what is buffered, so the dead letter is there.
    billing.stop(Duration::from_secs(10)).await?;
    shipping.stop(Duration::from_secs(10)).await?;
    for stored in bus.admin().dead_letters(&topic, "billing", 10).await?.letters {
        let letter = stored.letter;
        let key = String::from_utf8_lossy(letter.envelope.key().unwrap_or_default()).into_owned();
        let cause = letter.cause.map_or_else(|| "unknown".to_owned(), |cause| cause.to_string());
        println!("dead       {key}, by {} at attempt {}: {cause}", letter.group, letter.attempts);
    }
    bus.admin().delete_topic(&topic).await
}

/// Handles one order to its end: until it is acknowledged or given up.
async fn bill(inbox: &mut Subscription) -> Result<()> {
    let mut failed_at = None;
    while let Some(delivery) = inbox.next().await {
        let delivery = delivery?;
        let order: OrderPlaced = delivery.decode()?;
        let attempt = delivery.attempt();
        match charge(&order, attempt) {
            Charge::Done => {
                let waited = failed_at.map_or("", in_time);
                println!("billing    {}, attempt {attempt}{waited}: charged", order.order_id);
                return delivery.ack().await;
            }
            Charge::Later(why) => {
                println!("billing    {}, attempt {attempt}: {why}; again in 1 s", order.order_id);
                failed_at = Some(Instant::now());
                delivery.nack(Nack::after(DELAY).because(why)).await?;
            }
            Charge::Never(why) => {
                println!("billing    {}, attempt {attempt}: {why}; never again", order.order_id);
                return delivery.nack(Nack::dead_letter(Cause::new(why))).await;
            }
        }
    }
    Err(Error::closed("the subscription ended"))
}

/// The other group: what billing does with a message does not concern it.
async fn ship(inbox: &mut Subscription) -> Result<()> {
    let Some(delivery) = inbox.next().await else {
        return Err(Error::closed("the subscription ended"));
    };
    let delivery = delivery?;
    let order: OrderPlaced = delivery.decode()?;
    println!("shipping   {}, attempt {}: packed", order.order_id, delivery.attempt());
    delivery.ack().await
}

const DELAY: Duration = Duration::from_secs(1);

enum Charge {
    Done,
    Later(&'static str),
    Never(&'static str),
}

fn charge(order: &OrderPlaced, attempt: u32) -> Charge {
    if order.total < 0.0 {
        Charge::Never("the total is negative")
    } else if order.total > 50.0 && attempt == 1 {
        Charge::Later("the card service is down")
    } else {
        Charge::Done
    }
}

fn in_time(failed_at: Instant) -> &'static str {
    if failed_at.elapsed() >= DELAY { ", after its delay" } else { ", TOO EARLY" }
}
