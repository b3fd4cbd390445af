//! What handlers publish: before the acknowledgement, with the message as the cause.

use posthaste_core::{Envelope, Reason, Start, TopicConfig};
use posthaste_runtime::*;

use crate::shop::*;

async fn bills(shop: &Shop) -> Vec<Envelope> {
    let range = shop.bus.admin().range("bills", Start::Earliest, 100).await.unwrap();
    range.into_iter().map(|retained| retained.envelope).collect()
}

async fn shop_with_bills() -> Shop {
    let shop = Shop::plain().await;
    shop.bus.ensure(TopicConfig::new("bills").group("mail")).await.unwrap();
    shop
}

#[tokio::test(start_paused = true)]
async fn what_a_handler_returns_is_published_before_the_acknowledgement() {
    async fn bill(order: Payload<Placed>) -> Publish<Cancelled> {
        Publish::to("bills", Cancelled { id: order.0.id })
    }
    let shop = shop_with_bills().await;
    let running = shop.billing().on("orders", bill).start().await.unwrap();
    shop.place("A-1", 1).await;
    shop.settled().await;
    let bills = bills(&shop).await;
    assert_eq!(bills.len(), 1);
    assert_eq!((bills[0].key(), bills[0].source()), (Some(&b"A-1"[..]), "/shop"));
    let cause = bills[0].causation_id().unwrap();
    assert_eq!(bills[0].correlation_id(), Some(cause));
    let report = stop(running).await;
    assert_eq!((report.handled, report.published), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn several_or_none_may_be_returned_and_errors_publish_nothing() {
    async fn some(order: Payload<Placed>) -> Result<Vec<Publish<Cancelled>>, HandlerError> {
        if order.number == 9 {
            return Err(Permanent("no").into());
        }
        let one = |_| Publish::to("bills", Cancelled { id: order.id.clone() });
        Ok((0..order.number).map(one).collect())
    }
    let shop = shop_with_bills().await;
    let running = shop.billing().on("orders", some).start().await.unwrap();
    for number in [0, 3, 9] {
        shop.place("A-1", number).await;
    }
    shop.settled().await;
    let bills = bills(&shop).await;
    let mut ids: Vec<_> = bills.iter().map(Envelope::id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((bills.len(), ids.len()), (3, 3), "each has an id of its own");
    assert_eq!(stop(running).await.published, 3);
}

#[tokio::test(start_paused = true)]
async fn what_is_published_again_has_the_same_id() {
    async fn twice(attempt: Attempt) -> Publish<Cancelled> {
        let topic = if attempt.number() == 1 { "no such: name" } else { "bills" };
        Publish::to(topic, Cancelled { id: "A-1".to_owned() })
    }
    let shop = shop_with_bills().await;
    shop.bus.ensure(TopicConfig::new("orders").group("audit")).await.unwrap();
    let policy = RetryPolicy::fixed(SECOND).classify(|_| Class::Retry);
    let ids = async |group: &'static str| {
        let consumer = Consumer::new(&shop.bus).group(group).retry(policy.clone());
        let running = consumer.on("orders", twice_ok).start().await.unwrap();
        until(async || running.report().handled == 1).await;
        stop(running).await;
        bills(&shop).await.pop().unwrap().id().to_owned()
    };
    async fn twice_ok() -> Publish<Cancelled> {
        Publish::to("bills", Cancelled { id: "A-1".to_owned() })
    }
    shop.place("A-1", 1).await;
    let first = ids("billing").await;
    // As after a crash between publish and acknowledgement: the message comes again.
    shop.bus.admin().seek("orders", "billing", Start::Earliest).await.unwrap();
    let second = ids("billing").await;
    let other = ids("audit").await;
    assert_eq!(bills(&shop).await.len(), 3);
    assert!(first == second && first != other, "{first} {second} {other}");

    // A topic that cannot be is no use trying again.
    let shop = shop_with_bills().await;
    let running = shop.billing().on("orders", twice).start().await.unwrap();
    shop.place("A-1", 1).await;
    shop.settled().await;
    is_letter(&shop.letter().await, &Reason::Rejected, 1, "topic name");
    stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_reply_cannot_be_published_now_comes_again() {
    async fn bill(order: Payload<Placed>, State(log): State<Log>) -> Publish<Cancelled> {
        log.note(order.0.id.clone());
        let deadline = posthaste_core::PublishOptions::new().deadline(SECOND);
        Publish::to("bills", Cancelled { id: order.0.id }).with(deadline)
    }
    let broker = posthaste_memory::MemoryBroker::with_config(
        posthaste_memory::MemoryConfig::new().max_messages(2),
    );
    let topic = TopicConfig::new("orders").group("billing");
    let shop = Shop::over(broker.unwrap(), topic).await;
    shop.bus.ensure(TopicConfig::new("bills").group("mail")).await.unwrap();
    let bills = shop.bus.publisher("bills").unwrap();
    for number in 0..2 {
        bills.publish(&placed("full", number)).await.unwrap();
    }
    let log = Log::default();
    let consumer = shop.billing().state(log.clone()).retry(RetryPolicy::fixed(SECOND));
    let running = consumer.on("orders", bill).start().await.unwrap();
    shop.place("A-1", 1).await;
    log.has(2).await;
    assert_eq!(running.report().published, 0);
    let mut mail = shop.bus.subscribe("bills").group("mail").start().await.unwrap();
    for _ in 0..2 {
        mail.next().await.unwrap().unwrap().ack().await.unwrap();
    }
    shop.settled().await;
    let report = stop(running).await;
    assert_eq!((report.handled, report.published, report.dead_lettered), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_handler_publishes_by_itself_stays_published_if_it_fails_then() {
    async fn tell(out: Outgoing, attempt: Attempt) -> Result<(), HandlerError> {
        let id = format!("try {}", attempt.number());
        out.publish("bills", &Cancelled { id }).await?;
        if attempt.number() < 3 { Err(HandlerError::new("afterwards")) } else { Ok(()) }
    }
    let shop = shop_with_bills().await;
    let consumer = shop.billing().retry(RetryPolicy::fixed(SECOND));
    let running = consumer.on("orders", tell).start().await.unwrap();
    shop.place("A-1", 1).await;
    shop.settled().await;
    let bills = bills(&shop).await;
    let keys: Vec<_> = bills.iter().map(|bill| bill.key().unwrap()).collect();
    assert_eq!(keys, [b"try 1", b"try 2", b"try 3"]);
    let causes: Vec<_> = bills.iter().map(|bill| bill.causation_id().unwrap()).collect();
    assert!(causes[0] == causes[2] && bills[0].id() != bills[2].id());
    stop(running).await;
}
