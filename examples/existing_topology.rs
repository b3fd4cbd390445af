//! A stream that is there already, made and written to by another program, used under a topic's
//! name: what is in it is read, and what is published goes into it. Nothing of it is changed.
//!
//! ```sh
//! cargo run --example existing_topology --features nats -- --url nats://localhost:4222
//! ```
//!
//! In the broker of this process nobody else has made anything: there the example says so.
#![expect(clippy::print_stdout, reason = "an example prints what it does")]

use std::error::Error;
use std::time::Duration;

use posthaste::Support;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let bus = posthaste_examples::connect().await?;
    match bus.capabilities(None)?.binding.clone() {
        Support::Refused(why) => println!("binding    refused: {why}"),
        _ => app(&bus).await?,
    }
    bus.close(Duration::from_secs(10)).await?;
    Ok(())
}

#[cfg(not(feature = "nats"))]
async fn app(_: &posthaste::Bus) -> Result<(), Box<dyn Error + Send + Sync>> {
    Err("this example knows how to bind on NATS: add --features nats".into())
}

#[cfg(feature = "nats")]
use on_nats::app;

/// What another program has left, and what this one makes of it.
#[cfg(feature = "nats")]
mod on_nats {
    use std::error::Error;
    use std::time::Duration;

    use async_nats::jetstream;
    use posthaste::nats::{Binding, NatsBroker, NatsConfig, NatsNative};
    use posthaste::prelude::*;

    #[derive(Debug, Serialize, Deserialize, Event)]
    #[event(type = "order.placed", key = order_id)]
    struct OrderPlaced {
        order_id: String,
        total: f64,
    }

    pub(crate) async fn app(bus: &Bus) -> Result<(), Box<dyn Error + Send + Sync>> {
        let native = bus.native::<NatsNative>().ok_or("this broker is not NATS")?;
        let name = posthaste_examples::fresh("LEGACY");
        let subject = format!("{name}.orders");
        another_program(&native.jetstream, &name, &subject).await?;

        // The topic is the application's name for it, and free to choose.
        let topic = posthaste_examples::fresh("orders");
        let binding = Binding::stream(&name).subject(&subject);
        let config = NatsConfig::from_url(&posthaste_examples::url()?)?.bind(&topic, binding);
        let bound = Bus::new(NatsBroker::connect(config).await?);

        let placed = OrderPlaced { order_id: "B-2".to_owned(), total: 80.0 };
        bound.publisher(&topic)?.publish(&placed).await?;

        let subscribe = bound.subscribe(&topic).group("billing").from(Start::Earliest);
        let mut inbox = subscribe.start().await?;
        let mut seen = Vec::new();
        while seen.len() < 2 {
            let delivery = inbox.next().await.ok_or("the subscription ended")??;
            let order: OrderPlaced = delivery.decode()?;
            let whose = if delivery.envelope().is_foreign() { "another program" } else { "ours" };
            seen.push(format!("{} of {whose}", order.order_id));
            delivery.ack().await?;
        }
        println!("binding    orders is a stream that was there before; in it {}", seen.join(", "));

        inbox.stop(Duration::from_secs(10)).await?;
        bound.close(Duration::from_secs(10)).await?;
        // What the library needs besides, it keeps beside the bound stream.
        let beside = ["private", "billing__dlq"].map(|part| format!("{topic}__{part}"));
        for stream in beside.iter().chain([&name]) {
            native.jetstream.delete_stream(stream).await?;
        }
        Ok(())
    }

    /// Makes a stream and writes to it by the raw client, with no library on top.
    async fn another_program(
        jetstream: &jetstream::Context,
        stream: &str,
        subject: &str,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let config = jetstream::stream::Config {
            name: stream.to_owned(),
            subjects: vec![subject.to_owned()],
            ..Default::default()
        };
        jetstream.create_stream(config).await?;
        let payload = r#"{ "order_id": "B-1", "total": 12.5 }"#;
        jetstream.publish(subject.to_owned(), payload.into()).await?.await?;
        Ok(())
    }
}
