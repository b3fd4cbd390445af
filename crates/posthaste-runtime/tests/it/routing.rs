//! Which handler a message goes to: topics, types, versions, and what nobody takes.

use posthaste_core::{Envelope, ErrorKind, Event, PublishOptions, Reason, TopicConfig};
use posthaste_runtime::*;

use crate::shop::*;

async fn one(State(log): State<Log>, order: Payload<Placed>) {
    log.note(format!("{} {}", name::<Placed>(), order.id));
}

async fn two(order: Payload<PlacedTwo>, State(log): State<Log>) {
    log.note(format!("{} {}", name::<PlacedTwo>(), order.id));
}

async fn cancel(order: Payload<Cancelled>, State(log): State<Log>) {
    log.note(format!("{} {}", name::<Cancelled>(), order.id));
}

async fn rest(State(log): State<Log>, envelope: Envelope) {
    log.note(format!("rest {}", envelope.event_type()));
}

#[tokio::test(start_paused = true)]
async fn messages_go_to_the_handler_of_their_type_and_version() {
    let (shop, log) = (Shop::plain().await, Log::default());
    let consumer = shop.billing().state(log.clone()).concurrency(1);
    let consumer = consumer.on("orders", one).on("orders", cancel).on("orders", two);
    let running = consumer.on("orders", rest).start().await.unwrap();
    shop.place("A-1", 1).await;
    let second = PlacedTwo { id: "A-2".to_owned(), currency: "EUR".to_owned() };
    shop.orders.publish(&second).await.unwrap();
    shop.orders.publish(&Cancelled { id: "A-3".to_owned() }).await.unwrap();
    shop.raw("order.shipped", "{}").await;
    shop.settled().await;
    let seen = ["order.placed 1 A-1", "order.placed 2 A-2", "order.cancelled 1 A-3"];
    assert_eq!(log.lines()[..3], seen);
    assert_eq!(log.lines()[3..], ["rest order.shipped"]);
    assert_eq!(stop(running).await.handled, 4);
}

#[tokio::test(start_paused = true)]
async fn several_topics_are_one_membership() {
    let (shop, log) = (Shop::plain().await, Log::default());
    shop.bus.ensure(TopicConfig::new("refunds").group("billing")).await.unwrap();
    async fn topic(meta: Metadata, State(log): State<Log>) {
        log.note(meta.topic().as_str());
    }
    let consumer = shop.billing().state(log.clone()).member("one");
    let running = consumer.on("orders", topic).on("refunds", topic).start().await.unwrap();
    for name in ["orders", "refunds"] {
        let groups = shop.bus.admin().groups(name).await.unwrap();
        assert_eq!(groups[0].members, Some(1), "{name}");
    }
    shop.place("A-1", 1).await;
    shop.bus.publisher("refunds").unwrap().publish(&placed("A-1", 1)).await.unwrap();
    log.has(2).await;
    let mut lines = log.lines();
    lines.sort();
    assert_eq!(lines, ["orders", "refunds"]);
    stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn an_unknown_type_is_skipped_and_counted() {
    let (shop, log) = (Shop::plain().await, Log::default());
    let running = shop.billing().state(log.clone()).on("orders", one).start().await.unwrap();
    shop.raw("order.shipped", "{}").await;
    shop.raw("order.shipped", "{}").await;
    shop.place("A-1", 1).await;
    shop.settled().await;
    let report = stop(running).await;
    assert_eq!((report.skipped, report.handled, report.dead_lettered), (2, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_type_is_a_dead_letter_if_that_is_wanted() {
    let (shop, log) = (Shop::plain().await, Log::default());
    let consumer = shop.billing().state(log.clone()).unknown(Unknown::DeadLetter);
    let running = consumer.on("orders", one).start().await.unwrap();
    shop.raw("order.shipped", "{}").await;
    shop.settled().await;
    is_letter(&shop.letter().await, &Reason::Undecodable, 1, "order.shipped");
    stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn an_unknown_type_ends_the_consumer_if_that_is_wanted_and_is_given_back() {
    let (shop, log) = (Shop::plain().await, Log::default());
    let consumer = shop.billing().state(log.clone()).unknown(Unknown::Fail);
    let mut running = consumer.on("orders", one).start().await.unwrap();
    shop.raw("order.shipped", "{}").await;
    running.ended().await;
    let error = running.stop().await.unwrap_err();
    assert_eq!((error.kind(), error.topic()), (ErrorKind::Decode, Some("orders")));
    assert_eq!((shop.left().await, shop.letters().await.len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_version_of_a_known_type_is_never_skipped() {
    let (shop, log) = (Shop::plain().await, Log::default());
    let running = shop.billing().state(log.clone()).on("orders", one).start().await.unwrap();
    let second = PlacedTwo { id: "A-2".to_owned(), currency: "EUR".to_owned() };
    shop.orders.publish(&second).await.unwrap();
    shop.settled().await;
    is_letter(&shop.letter().await, &Reason::Undecodable, 1, "version");
    assert_eq!(stop(running).await.skipped, 0);
}

#[tokio::test(start_paused = true)]
async fn without_a_version_the_payload_tells() {
    let (shop, log) = (Shop::plain().await, Log::default());
    let running = shop.billing().state(log.clone()).on("orders", one).start().await.unwrap();
    shop.raw(Placed::TYPE, r#"{"id":"A-1","number":1}"#).await;
    shop.settled().await;
    assert_eq!(log.lines(), ["order.placed 1 A-1"]);
    stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn a_key_of_publishing_does_not_change_the_route() {
    let (shop, log) = (Shop::plain().await, Log::default());
    let running = shop.billing().state(log.clone()).on("orders", one).start().await.unwrap();
    let options = PublishOptions::new().key("other");
    shop.orders.publish_with(&placed("A-1", 1), options).await.unwrap();
    shop.settled().await;
    assert_eq!(log.len(), 1);
    stop(running).await;
}
