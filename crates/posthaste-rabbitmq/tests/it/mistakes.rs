//! Things at the broker that are not as they should be: typed errors that name the culprit, and
//! connections that live on.

use lapin::ExchangeKind;
use lapin::types::AMQPValue;
use posthaste_core::{ErrorKind, TopicConfig};

use crate::adapter::{Adapter, Binding, RabbitmqBroker, failed, name, numbered};
use crate::member::{bus, join, next};
use crate::raw::Raw;
use crate::server::Server;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.add("a_queue_that_differs_is_a_conflict_that_names_the_argument", differing_queue);
    suite.add("an_exchange_that_differs_is_a_conflict", differing_exchange);
    suite.add("a_queue_of_another_connection_is_a_conflict", exclusive_queue);
    suite.add("a_queue_with_a_consumer_of_its_own_is_a_conflict", exclusive_consumer);
    suite.add("what_is_bound_and_not_there_is_not_found", bound_to_nothing);
    suite.add("a_wrong_login_and_a_wrong_virtual_host_are_named", wrong_door);
    suite.add("names_that_are_too_long_are_invalid_before_any_call", long_names);
}

/// The same connection goes on, in both directions.
async fn lives(adapter: &Adapter, server: &Server) {
    let topic = name("lives");
    let to = adapter.ensure(TopicConfig::new(&topic).group("g")).await;
    adapter.store(&to, &[numbered(1)]).await;
    let bus = bus(server.config()).await;
    let mut inbox = join(&bus, &topic, 1).await;
    next(&mut inbox).await.ack().await.unwrap();
    inbox.stop(std::time::Duration::from_secs(10)).await.unwrap();
    bus.admin().delete_topic(&topic).await.unwrap();
}

async fn differing_queue(server: Server) {
    let (raw, topic) = (Raw::connect(&server.url).await, name("differs"));
    let adapter = Adapter::connect(server.config()).await.unwrap();
    raw.queue(&format!("{topic}__g"), false, &[]).await;
    let ensured = adapter.try_ensure(TopicConfig::new(&topic).group("g")).await;
    // It has no arguments at all: whichever is compared first is named.
    failed(ensured, &[ErrorKind::Conflict], &["x-", "wanted", "found", &topic]);
    lives(&adapter, &server).await;
    raw.close().await;
}

async fn differing_exchange(server: Server) {
    let (raw, topic) = (Raw::connect(&server.url).await, name("kind"));
    let adapter = Adapter::connect(server.config()).await.unwrap();
    raw.exchange(&topic, ExchangeKind::Direct).await;
    let ensured = adapter.try_ensure(TopicConfig::new(&topic)).await;
    failed(ensured, &[ErrorKind::Conflict], &[&topic, "topic", "direct"]);
    lives(&adapter, &server).await;
    raw.close().await;
}

/// A topic that is bound to an exchange, and a group to a queue of that name.
async fn bound(server: &Server, raw: &Raw, queue: &str) -> (String, RabbitmqBroker) {
    let topic = name("bound");
    raw.exchange(queue, ExchangeKind::Fanout).await;
    let config = server.config();
    let config = config.bind(&topic, Binding::exchange(queue).queue("g", queue));
    (topic, RabbitmqBroker::connect(config).await.unwrap())
}

async fn exclusive_queue(server: Server) {
    let (raw, queue) = (Raw::connect(&server.url).await, format!("Own.{}", name("exclusive")));
    let (topic, broker) = bound(&server, &raw, &queue).await;
    raw.queue(&queue, true, &[]).await;
    let bus = posthaste_core::Bus::new(broker);
    let started = bus.subscribe(&topic).group("g").start().await;
    failed(started, &[ErrorKind::Conflict], &[&queue]);
    lives(&Adapter::connect(server.config()).await.unwrap(), &server).await;
    raw.close().await;
}

async fn exclusive_consumer(server: Server) {
    let (raw, queue) = (Raw::connect(&server.url).await, format!("Alone.{}", name("consumer")));
    let (topic, broker) = bound(&server, &raw, &queue).await;
    raw.queue(&queue, false, &[("x-queue-type", AMQPValue::LongString("classic".into()))]).await;
    let alone = raw.consume_alone(&queue).await;
    let bus = posthaste_core::Bus::new(broker);
    let started = bus.subscribe(&topic).group("g").start().await;
    failed(started, &[ErrorKind::Conflict], &[&queue]);
    drop(alone);
    lives(&Adapter::connect(server.config()).await.unwrap(), &server).await;
}

async fn bound_to_nothing(server: Server) {
    let (topic, native) = (name("nothing"), format!("Nobody.{}", name("made")));
    let config = server.config().bind(&topic, Binding::exchange(&native));
    let adapter = Adapter::connect(config).await.unwrap();
    let ensured = adapter.try_ensure(TopicConfig::new(&topic)).await;
    failed(ensured, &[ErrorKind::NotFound], &[&native]);
    let to = crate::adapter::plain(&topic);
    let sent = adapter.publish(&to, &[numbered(1)]).await;
    let outcome = sent.and_then(|outcomes| outcomes.into_iter().next().expect("an outcome"));
    failed(outcome, &[ErrorKind::NotFound], &[]);
    lives(&adapter, &server).await;
}

async fn long_names(server: Server) {
    let long = "x".repeat(256);
    for binding in [
        Binding::exchange(&long),
        Binding::exchange("short").queue("g", &long),
        Binding::exchange("short").routing_key(&long),
    ] {
        let config = server.config().bind("orders", binding);
        failed(RabbitmqBroker::connect(config).await, &[ErrorKind::Invalid], &["orders"]);
    }
}

/// The culprit is named, and no secret.
async fn wrong_door(server: Server) {
    let config = server.config().vhost("no-such-vhost");
    let connected = RabbitmqBroker::connect(config).await;
    failed(connected, &[ErrorKind::NotFound], &["no-such-vhost"]);
    for (user, password) in [("guest", "not-the-pa55word"), ("nobody", "not-the-pa55word")] {
        let refused = RabbitmqBroker::connect(server.config().login(user, password)).await;
        let error = refused.expect_err("nobody has this password");
        assert_eq!(error.kind(), ErrorKind::Auth, "{error:?}");
        assert!(!format!("{error:?} {error}").contains(password), "{error:?}");
    }
    lives(&Adapter::connect(server.config()).await.unwrap(), &server).await;
}
