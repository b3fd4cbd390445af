//! Texts, tables and messages that are larger or deeper than the protocol carries: refused before
//! they cost a connection, and read as far as they can be.

use futures_util::FutureExt as _;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use posthaste_core::{Bus, Envelope, EnvelopeBuilder, ErrorKind, SubscriptionEvent, TopicConfig};

use crate::adapter::{failed, name, numbered};
use crate::member::{bus, join, next, number};
use crate::raw::Raw;
use crate::server::Server;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.add("what_the_protocol_does_not_carry_is_refused_and_costs_nothing", refused);
    suite.add("tables_in_tables_are_read_as_far_as_they_make_sense", deep);
    suite.add("a_refused_declaration_disturbs_nobody", undisturbed);
}

fn message<'a>() -> EnvelopeBuilder<'a> {
    Envelope::builder("test").source("/it").payload("0")
}

async fn refused(server: Server) {
    let topic = name("too-much");
    let bus = bus(server.config().max_message_bytes(1 << 20)).await;
    bus.ensure(TopicConfig::new(&topic).group("g")).await.unwrap();
    let mut inbox = join(&bus, &topic, 10).await;
    let events = inbox.events();
    let publisher = bus.publisher(&topic).unwrap();
    let long = "n".repeat(300);
    let header = vec![b'h'; 200 << 10];
    let body = vec![b'b'; (1 << 20) + 1];
    let cases = [
        ("the name of a header", message().header(&long, "x").build()),
        ("a header", message().header("large", header).build()),
        ("a body", message().payload(body).build()),
    ];
    for (what, envelope) in cases {
        // Some of it is refused by the envelope itself.
        let outcome = match envelope {
            Ok(envelope) => publisher.publish_envelope(envelope).await,
            Err(error) => Err(error),
        };
        println!("{what}: {outcome:?}");
        failed(outcome, &[ErrorKind::TooLarge, ErrorKind::Invalid], &[]);
    }
    // What fits no property is a header.
    let id = "i".repeat(300);
    publisher.publish_envelope(message().id(&*id).build().unwrap()).await.unwrap();
    let delivery = next(&mut inbox).await;
    assert_eq!(delivery.id(), id);
    delivery.ack().await.unwrap();
    goes_on(&bus, &topic, &mut inbox, events).await;
    bus.admin().delete_topic(&topic).await.unwrap();
}

/// Messages still arrive, by connections that were never lost.
async fn goes_on(
    bus: &Bus,
    topic: &str,
    inbox: &mut posthaste_core::Subscription,
    mut events: posthaste_core::Events,
) {
    bus.publisher(topic).unwrap().publish_envelope(numbered(99)).await.unwrap();
    let delivery = next(inbox).await;
    assert_eq!(number(&delivery), 99);
    delivery.ack_confirmed().await.unwrap();
    while let Some(Some(event)) = events.next().now_or_never() {
        assert!(!matches!(event, SubscriptionEvent::Disconnected { .. }), "{event:?}");
    }
}

/// A table that holds a table, so many times.
fn nested(depth: usize) -> AMQPValue {
    (0..depth).fold(AMQPValue::LongInt(7), |inner, _| {
        let mut table = FieldTable::default();
        table.insert("t".into(), inner);
        AMQPValue::FieldTable(table)
    })
}

async fn deep(server: Server) {
    let (raw, topic) = (Raw::connect(&server.url).await, name("deep"));
    let bus = bus(server.config()).await;
    bus.ensure(TopicConfig::new(&topic).group("g")).await.unwrap();
    let mut inbox = join(&bus, &topic, 10).await;
    let events = inbox.events();
    for (depth, shown) in [(2, r#"{"t":{"t":7}}"#), (12, "7"), (100, "null")] {
        let mut headers = FieldTable::default();
        headers.insert("deep".into(), nested(depth));
        headers.insert("beside".into(), AMQPValue::LongString("there".into()));
        let properties = BasicProperties::default().with_headers(headers);
        raw.publish(&topic, "elsewhere", properties, b"1").await;
        let delivery = next(&mut inbox).await;
        assert_eq!(delivery.header("beside"), Some(&b"there"[..]));
        let text = std::str::from_utf8(delivery.header("deep").expect("a header")).unwrap();
        assert!(text.contains(shown), "{depth}: {text}");
        delivery.ack().await.unwrap();
    }
    goes_on(&bus, &topic, &mut inbox, events).await;
    bus.admin().delete_topic(&topic).await.unwrap();
    raw.close().await;
}

/// The broker ends the channel, or the connection, on which it refuses something. Subscriptions of
/// the same bus do not notice.
async fn undisturbed(server: Server) {
    let (raw, topic, other) =
        (Raw::connect(&server.url).await, name("undisturbed"), name("differs"));
    let bus = bus(server.config()).await;
    bus.ensure(TopicConfig::new(&topic).group("g")).await.unwrap();
    let mut inbox = join(&bus, &topic, 10).await;
    let events = inbox.events();
    raw.queue(&format!("{other}__g"), false, &[]).await;
    let ensured = bus.ensure(TopicConfig::new(&other).group("g")).await;
    failed(ensured, &[ErrorKind::Conflict], &[&other]);
    // A type that no broker has, by the native client: up to 3.10 that ends its connection.
    let native = bus.native::<posthaste_rabbitmq::RabbitmqNative>().expect("it is RabbitMQ");
    let channel = native.channel().await.unwrap();
    let kind = lapin::ExchangeKind::Custom("x-of-no-type".to_owned());
    let options = lapin::options::ExchangeDeclareOptions::default();
    let declaring =
        channel.exchange_declare("it-no-type".into(), kind, options, FieldTable::default());
    let refused = declaring.await.expect_err("there is no such type");
    println!("{refused}");
    goes_on(&bus, &topic, &mut inbox, events).await;
    // Questions are answered again.
    assert_eq!(bus.admin().lag(&topic, "g").await.unwrap().ready, Some(0));
    bus.admin().delete_topic(&topic).await.unwrap();
    raw.close().await;
}
