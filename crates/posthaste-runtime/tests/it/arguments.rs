//! What handlers can take, in any order, and what becomes of messages that lack it.

use posthaste_core::{Bus, Envelope, Lease, PublishOptions, Reason, Result, TopicConfig};
use posthaste_runtime::*;

use crate::shop::*;

#[derive(Clone)]
struct App {
    log: Log,
    shop: &'static str,
}

impl FromRef<App> for Log {
    fn from_ref(app: &App) -> Self {
        app.log.clone()
    }
}

struct Tenant(String);

impl<S> FromDelivery<S> for Tenant {
    fn from_delivery(incoming: &Incoming<'_>, _: &S) -> Result<Self> {
        Ok(Self(String::from_utf8_lossy(incoming.require_header("tenant")?).into_owned()))
    }
}

#[tokio::test(start_paused = true)]
async fn every_argument_is_made_from_the_message_in_any_order() {
    #[expect(clippy::too_many_arguments, reason = "that is what is tested")]
    async fn all(
        State(log): State<Log>,
        meta: Metadata,
        order: Payload<Placed>,
        Key(key): Key,
        headers: Headers,
        envelope: Envelope,
        attempt: Attempt,
        lease: Lease,
        (Tenant(tenant), bus): (Tenant, Bus),
        State(app): State<App>,
    ) {
        assert_eq!((order.id.as_str(), order.number, app.shop), ("A-1", 7, "main"));
        assert_eq!((&key[..], meta.key()), (&b"A-1"[..], Some(&b"A-1"[..])));
        assert_eq!((meta.topic().as_str(), meta.event_type()), ("orders", Placed::TYPE_NAME));
        assert_eq!(meta.group().map(|group| group.as_str()), Some("billing"));
        assert_eq!((meta.id(), meta.source()), (envelope.id(), "/shop"));
        assert!(meta.offset().is_some() && meta.time().is_some());
        assert_eq!((headers.text("tenant"), tenant.as_str()), (Some("acme"), "acme"));
        assert_eq!(headers.iter().count(), 1);
        assert!(attempt.is_first() && attempt.is_exact() && attempt.number() == 1);
        assert!(!lease.is_over());
        lease.extend().await.unwrap();
        assert!(bus.publisher("other").is_ok());
        log.note("seen");
    }
    let (shop, log) = (Shop::plain().await, Log::default());
    let app = App { log: log.clone(), shop: "main" };
    let running = shop.billing().state(app).on("orders", all).start().await.unwrap();
    let options = PublishOptions::new().header("tenant", "acme");
    shop.orders.publish_with(&placed("A-1", 7), options).await.unwrap();
    shop.settled().await;
    let report = stop(running).await;
    assert_eq!((report.handled, report.failed, log.len()), (1, 0, 1));
    assert!(shop.letters().await.is_empty());
}

impl Placed {
    const TYPE_NAME: &'static str = <Self as posthaste_core::Event>::TYPE;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_lacks_what_a_handler_asks_for_is_a_dead_letter_and_the_stream_goes_on() {
    async fn tenant(_: Tenant, State(log): State<Log>, meta: Metadata) {
        log.note(meta.id());
    }
    let (shop, log) = (Shop::plain().await, Log::default());
    let running = shop.billing().state(log.clone()).on("orders", tenant).start().await.unwrap();
    shop.place("A-1", 1).await;
    let options = PublishOptions::new().header("tenant", "acme").id("good");
    shop.orders.publish_with(&placed("A-2", 2), options).await.unwrap();
    shop.settled().await;
    assert_eq!(log.lines(), ["good"]);
    is_letter(&shop.letter().await, &Reason::Undecodable, 1, "header");
    assert_eq!(stop(running).await.dead_lettered, 1);
}

#[tokio::test(start_paused = true)]
async fn an_undecodable_payload_is_a_dead_letter_that_names_the_handler() {
    async fn bill(_: Payload<Placed>) {}
    let shop = Shop::plain().await;
    let running = shop.billing().on("orders", bill).start().await.unwrap();
    shop.raw("order.placed", "{ this is no JSON").await;
    shop.place("A-2", 2).await;
    shop.settled().await;
    let letter = shop.letter().await;
    is_letter(&letter, &Reason::Undecodable, 1, "payload");
    assert!(letter.cause.unwrap().handler_name().unwrap().ends_with("bill"));
    let report = stop(running).await;
    assert_eq!((report.handled, report.dead_lettered), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_may_lack_is_an_option() {
    async fn keyed(key: Option<Key>, State(log): State<Log>) {
        log.note(key.map_or("none".to_owned(), |key| String::from_utf8_lossy(&key.0).into_owned()));
    }
    let (shop, log) = (Shop::plain().await, Log::default());
    let running = shop.billing().state(log.clone()).on("orders", keyed).start().await.unwrap();
    shop.raw("any", "1").await;
    shop.place("A-1", 1).await;
    shop.settled().await;
    assert_eq!(log.lines(), ["none", "A-1"]);
    stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_may_take_nothing_and_be_a_closure() {
    let shop = Shop::plain().await;
    let log = Log::default();
    let seen = log.clone();
    let closure = move || {
        let seen = seen.clone();
        async move { seen.note("called") }
    };
    let running = shop.billing().on("orders", closure).start().await.unwrap();
    shop.place("A-1", 1).await;
    shop.settled().await;
    assert_eq!(log.lines(), ["called"]);
    stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn a_queue_is_consumed_by_its_own_group() {
    async fn note(State(log): State<Log>, order: Payload<Placed>) {
        log.note(order.0.id);
    }
    let shop = Shop::open(TopicConfig::queue("orders")).await;
    let log = Log::default();
    let consumer = Consumer::new(&shop.bus).queue().state(log.clone()).on("orders", note);
    let running = consumer.start().await.unwrap();
    shop.bus.queue("orders").unwrap().publish(&placed("A-1", 1)).await.unwrap();
    log.has(1).await;
    assert_eq!(stop(running).await.handled, 1);
}
