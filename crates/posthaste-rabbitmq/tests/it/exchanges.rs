//! Exchanges of all types, and the one that has no name: who gets a message, and who does not.

use lapin::BasicProperties;
use posthaste_core::{Envelope, TopicConfig};
use posthaste_rabbitmq::ExchangeType;

use crate::adapter::{Adapter, Binding, name, plain};
use crate::member::{bus, next, number};
use crate::raw::Raw;
use crate::server::Server;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.add("a_direct_exchange_is_made_and_routes_by_an_equal_key", direct);
    suite.add("a_fanout_exchange_is_made_and_routes_to_all", fanout);
    suite.add("a_topic_exchange_is_made_and_routes_by_words", words);
    suite.add("a_headers_exchange_is_made_and_routes_by_all_headers_or_any", headers);
    suite.add("a_queue_is_reached_by_the_default_exchange", by_name);
}

/// Makes an exchange of that type with two topics on it, publishes `1` to the first, with a header,
/// and `2` to the second, without: what the group of each gets.
async fn both(
    server: &Server,
    kind: ExchangeType,
    bind: [&dyn Fn(Binding) -> Binding; 2],
) -> [Vec<String>; 2] {
    let (raw, native) = (Raw::connect(&server.url).await, format!("Made.{}", name("kind")));
    let topics = [plain(&name("first")), plain(&name("second"))];
    let mut config = server.config();
    for (to, bind) in topics.iter().zip(bind) {
        config = config.bind(to.topic.as_str(), bind(Binding::exchange(&native).kind(kind)));
    }
    let adapter = Adapter::connect(config).await.unwrap();
    for to in &topics {
        adapter.ensure(TopicConfig::new(to.topic.as_str()).group("g")).await;
    }
    let message = |text: &'static str| Envelope::builder("test").source("/it").payload(text);
    let first = message("1").header("region", "eu").header("kind", "order").build().unwrap();
    adapter.store(&topics[0], &[first]).await;
    adapter.store(&topics[1], &[message("2").header("region", "us").build().unwrap()]).await;
    let mut found = [Vec::new(), Vec::new()];
    for (to, found) in topics.iter().zip(&mut found) {
        while let Some(payload) = raw.get(&format!("{}__g", to.topic)).await {
            found.push(String::from_utf8(payload).unwrap());
        }
    }
    raw.close().await;
    found
}

async fn direct(server: Server) {
    let (eu, us) = (|b: Binding| b.routing_key("eu"), |b: Binding| b.routing_key("us"));
    let found = both(&server, ExchangeType::Direct, [&eu, &us]).await;
    assert_eq!(found, [["1"], ["2"]]);
}

async fn fanout(server: Server) {
    let (eu, us) = (|b: Binding| b.routing_key("eu"), |b: Binding| b.routing_key("us"));
    let found = both(&server, ExchangeType::Fanout, [&eu, &us]).await;
    assert_eq!(found, [["1", "2"], ["1", "2"]]);
}

async fn words(server: Server) {
    let all = |b: Binding| b.routing_key("order.eu.placed").pattern("order.#");
    let one = |b: Binding| b.routing_key("order.us.placed").pattern("order.us.*");
    let found = both(&server, ExchangeType::Topic, [&all, &one]).await;
    assert_eq!(found, [vec!["1", "2"], vec!["2"]]);
}

async fn headers(server: Server) {
    let all = |b: Binding| b.header("region", "eu").header("kind", "order");
    let any = |b: Binding| b.header("region", "us").header("kind", "order").any_header();
    let found = both(&server, ExchangeType::Headers, [&all, &any]).await;
    assert_eq!(found, [vec!["1"], vec!["1", "2"]]);
}

/// Other programs reach it by its name, and its messages are in the queue of that name.
async fn by_name(server: Server) {
    let (raw, topic) = (Raw::connect(&server.url).await, name("by-name"));
    let bus = bus(server.config()).await;
    bus.ensure(TopicConfig::queue(&topic)).await.unwrap();
    let queue = bus.queue(&topic).unwrap();
    queue.publish_envelope(crate::adapter::numbered(1)).await.unwrap();
    assert_eq!(raw.get(&topic).await, Some(b"1".to_vec()));
    raw.publish("", &topic, BasicProperties::default(), b"2").await;
    let mut inbox = queue.subscribe().start().await.unwrap();
    let delivery = next(&mut inbox).await;
    assert_eq!((number(&delivery), delivery.envelope().is_foreign()), (2, true));
    delivery.ack().await.unwrap();
    inbox.stop(std::time::Duration::from_secs(10)).await.unwrap();
    bus.admin().delete_topic(&topic).await.unwrap();
    raw.close().await;
}
