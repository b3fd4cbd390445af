//! Every group gets every message, at its own pace; so does a subscription without a group, while
//! it lives. A group that is added later starts with what is published from then on.
//!
//! ```sh
//! cargo run --example fan_out
//! cargo run --example fan_out --features nats -- --url nats://localhost:4222
//! ```
#![expect(clippy::print_stdout, reason = "an example prints what it does")]

use std::time::Duration;

use posthaste::prelude::*;
use posthaste::{Error, Result};

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(type = "price.changed", key = product)]
struct PriceChanged {
    product: String,
    cents: u32,
}

const SOON: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<()> {
    let bus = posthaste_examples::connect().await?;
    app(&bus).await?;
    bus.close(SOON).await
}

async fn app(bus: &Bus) -> Result<()> {
    let topic = posthaste_examples::fresh("prices");
    bus.ensure(TopicConfig::new(&topic).group("search").group("newsletter")).await?;
    println!("topic      prices, with the groups search and newsletter");

    // No group: nothing is left behind when it ends.
    let mut screen = bus.subscribe(&topic).start().await?;

    let prices = bus.publisher(&topic)?;
    publish(&prices, &[("tea", 310), ("coffee", 520)]).await?;

    let mut search = bus.subscribe(&topic).group("search").start().await?;
    show("search", &mut search, 2).await?;
    show("screen", &mut screen, 2).await?;

    bus.ensure(TopicConfig::new(&topic).group("audit")).await?;
    println!("group      audit is added; earlier messages are not promised to it");
    publish(&prices, &[("salt", 90)]).await?;

    show("search", &mut search, 1).await?;
    show("screen", &mut screen, 1).await?;
    // The newsletter was not running all the while: its messages have waited for it.
    let mut newsletter = bus.subscribe(&topic).group("newsletter").start().await?;
    show("newsletter", &mut newsletter, 3).await?;

    let audit = bus.subscribe(&topic).group("audit").start().await?;
    wait_for("salt", audit).await?;
    println!("audit      has salt");
    bus.admin().delete_topic(&topic).await
}

async fn publish(prices: &Publisher, changes: &[(&str, u32)]) -> Result<()> {
    for (product, cents) in changes {
        prices.publish(&PriceChanged { product: (*product).to_owned(), cents: *cents }).await?;
        println!("published  {product}");
    }
    Ok(())
}

/// Takes so many messages and prints them by name, since a plain topic promises no order.
async fn show(who: &str, inbox: &mut Subscription, count: usize) -> Result<()> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let delivery = next(inbox).await?;
        let PriceChanged { product, cents } = delivery.decode()?;
        seen.push(format!("{product} at {cents}"));
        delivery.ack().await?;
    }
    seen.sort();
    println!("{who:<10} {}", seen.join(", "));
    Ok(())
}

async fn wait_for(product: &str, mut inbox: Subscription) -> Result<()> {
    loop {
        let delivery = next(&mut inbox).await?;
        let found = delivery.decode::<PriceChanged>()?.product == product;
        delivery.ack().await?;
        if found {
            return inbox.stop(SOON).await;
        }
    }
}

async fn next(inbox: &mut Subscription) -> Result<Delivery> {
    inbox.next().await.unwrap_or_else(|| Err(Error::closed("the subscription ended")))
}
