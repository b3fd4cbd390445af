//! A program of the prelude alone: derive, publish, consume, fail, give up.

use std::time::Duration;

use posthaste::prelude::*;

#[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(type = "order.placed", version = 2, key = order_id)]
struct OrderPlaced {
    order_id: String,
    total: f64,
}

/// Serde's own derive, by the path that the facade offers.
#[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
#[serde(crate = "posthaste::serde")]
#[event(type = "order.paid")]
struct OrderPaid;

#[derive(Debug, Event)]
#[event(type = "greeting", codec = posthaste::codec::Text)]
struct Greeting(String);

impl AsRef<str> for Greeting {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<String> for Greeting {
    fn from(text: String) -> Self {
        Self(text)
    }
}

async fn next(inbox: &mut Subscription) -> Delivery {
    let next = tokio::time::timeout(Duration::from_secs(10), inbox.next()).await;
    next.expect("it comes soon").expect("the subscription goes on").expect("no error")
}

#[tokio::test]
async fn typed_messages_go_out_and_come_back() -> posthaste::Result<()> {
    let bus = posthaste::connect("memory://").await?;
    bus.ensure(TopicConfig::new("orders").group("billing")).await?;
    let mut inbox = bus.subscribe("orders").group("billing").start().await?;
    let orders = bus.publisher("orders")?;

    let placed = OrderPlaced { order_id: "A-1".to_owned(), total: 12.5 };
    orders.publish(&placed).await?;
    let delivery = next(&mut inbox).await;
    assert_eq!(delivery.key(), Some(&b"A-1"[..]));
    assert_eq!(delivery.envelope().schema_version(), Some(2));
    assert_eq!(delivery.decode::<OrderPlaced>()?, placed);
    let other = delivery.decode::<OrderPaid>().expect_err("it is of another type");
    assert_eq!(other.kind(), ErrorKind::Decode);
    delivery.ack().await?;

    orders.publish(&OrderPaid).await?;
    let delivery = next(&mut inbox).await;
    assert_eq!((delivery.key(), delivery.decode::<OrderPaid>()?), (None, OrderPaid));
    delivery.ack().await?;

    orders.publish(&Greeting("hello".to_owned())).await?;
    let delivery = next(&mut inbox).await;
    assert_eq!(&delivery.payload()[..], b"hello");
    assert_eq!(delivery.decode::<Greeting>()?.0, "hello");
    delivery.nack(Nack::dead_letter(Cause::new("no greetings here"))).await?;

    inbox.stop(Duration::from_secs(5)).await?;
    let letters = bus.admin().dead_letters("orders", "billing", 10).await?;
    assert_eq!(letters.letters.len(), 1);
    bus.close(Duration::from_secs(5)).await
}
