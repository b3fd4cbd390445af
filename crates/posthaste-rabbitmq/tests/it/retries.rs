//! What is tried again is no dead letter, what only waited is none either, and what expires says
//! so.

use std::time::Duration;

use lapin::BasicProperties;
use posthaste_core::{ErrorKind, Nack, Reason, TopicConfig};

use crate::adapter::{Adapter, failed, name, numbered};
use crate::member::{bus, next, number, silent};
use crate::raw::Raw;
use crate::server::Server;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.add("what_is_tried_again_is_a_dead_letter_only_in_the_end_and_once", tried);
    suite.add("what_only_waited_is_no_dead_letter", waited);
    suite.add("what_expires_by_itself_is_a_dead_letter_that_says_so", expired);
    suite.add("a_time_to_live_is_on_a_queue_only_where_it_was_asked_for", time_to_live);
}

/// By turns at once and later: the attempts count up, and the queue of dead letters stays empty
/// until the last one.
async fn tried(server: Server) {
    let (raw, topic) = (Raw::connect(&server.url).await, name("tried"));
    let bus = bus(server.config()).await;
    bus.ensure(TopicConfig::new(&topic).group("g")).await.unwrap();
    bus.publisher(&topic).unwrap().publish_envelope(numbered(7)).await.unwrap();
    let letters = format!("{topic}__g__dlq");
    let mut inbox = bus.subscribe(&topic).group("g").max_attempts(5).start().await.unwrap();
    for attempt in 1..=5 {
        let delivery = next(&mut inbox).await;
        assert_eq!((number(&delivery), delivery.attempt()), (7, attempt));
        assert_eq!(raw.ready(&letters).await, 0, "attempt {attempt}");
        let nack = match attempt % 2 {
            0 => Nack::requeue(),
            _ => Nack::after(Duration::from_millis(400)),
        };
        delivery.nack(nack.because("not today")).await.unwrap();
    }
    // Neither the copy that was sent last nor anything else comes again.
    silent(&mut inbox, Duration::from_secs(2)).await;
    let page = bus.admin().dead_letters(&topic, "g", 10).await.unwrap();
    assert_eq!(page.letters.len(), 1, "{:?}", page.letters);
    let letter = &page.letters[0].letter;
    assert_eq!((&letter.reason, letter.attempts), (&Reason::AttemptsExhausted, 5));
    inbox.stop(Duration::from_secs(10)).await.unwrap();
    bus.admin().delete_topic(&topic).await.unwrap();
    raw.close().await;
}

/// One waits for its group, one was given back, one waits for its time.
async fn waited(server: Server) {
    let (raw, topic) = (Raw::connect(&server.url).await, name("waited"));
    let bus = bus(server.config()).await;
    bus.ensure(TopicConfig::new(&topic).group("g")).await.unwrap();
    let publisher = bus.publisher(&topic).unwrap();
    publisher.publish_envelope(numbered(0)).await.unwrap();
    publisher.publish_envelope(numbered(1)).await.unwrap();
    let mut inbox = bus.subscribe(&topic).group("g").start().await.unwrap();
    let (first, second) = (next(&mut inbox).await, next(&mut inbox).await);
    first.nack(Nack::after(Duration::from_millis(700))).await.unwrap();
    second.release().await.unwrap();
    inbox.stop(Duration::from_secs(10)).await.unwrap();
    // Longer than the delay: what has waited at a level comes back to the group alone.
    let queue = format!("{topic}__g");
    let until = tokio::time::Instant::now() + Duration::from_secs(20);
    while raw.ready(&queue).await < 2 {
        assert!(tokio::time::Instant::now() < until, "it does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    publisher.publish_envelope(numbered(2)).await.unwrap();
    assert_eq!((raw.ready(&queue).await, raw.ready(&format!("{queue}__dlq")).await), (3, 0));
    bus.admin().delete_topic(&topic).await.unwrap();
    raw.close().await;
}

/// Another program gives its message a time to live.
async fn expired(server: Server) {
    let (raw, topic) = (Raw::connect(&server.url).await, name("expired"));
    let bus = bus(server.config()).await;
    bus.ensure(TopicConfig::new(&topic).group("g")).await.unwrap();
    let properties = BasicProperties::default().with_expiration("200".into());
    raw.publish(&topic, &topic, properties.with_message_id("m-1".into()), b"1").await;
    let letter = only_letter(&bus, &topic).await;
    assert_eq!(letter.reason, Reason::Expired);
    assert_eq!((letter.envelope.id(), &letter.envelope.payload()[..]), ("m-1", &b"1"[..]));
    assert_eq!((letter.topic.as_str(), letter.group.as_str()), (&*topic, "g"));
    bus.admin().delete_topic(&topic).await.unwrap();
    raw.close().await;
}

async fn only_letter(bus: &posthaste_core::Bus, topic: &str) -> posthaste_core::DeadLetter {
    let until = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let mut page = bus.admin().dead_letters(topic, "g", 10).await.unwrap();
        assert!(page.letters.len() < 2, "{:?}", page.letters);
        if let Some(stored) = page.letters.pop() {
            return stored.letter;
        }
        assert!(tokio::time::Instant::now() < until, "no dead letter");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn time_to_live(server: Server) {
    let topic = name("time-to-live");
    let with = || server.config().queue_argument("x-message-ttl", 300);
    // The queue of another program's group has one, and its letters have none.
    let asking = bus(with()).await;
    asking.ensure(TopicConfig::new(&topic).group("g")).await.unwrap();
    asking.publisher(&topic).unwrap().publish_envelope(numbered(1)).await.unwrap();
    assert_eq!(only_letter(&asking, &topic).await.reason, Reason::Expired);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(only_letter(&asking, &topic).await.envelope.id(), "m-1");
    // Who asked for none is told of it, and who asks where there is none, too.
    let without = Adapter::connect(server.config()).await.unwrap();
    let ensured = without.try_ensure(TopicConfig::new(&topic).group("g")).await;
    failed(ensured, &[ErrorKind::Conflict], &["x-message-ttl", "none", "300"]);
    let plain = name("plain");
    without.ensure(TopicConfig::new(&plain).group("g")).await;
    let asking_too = Adapter::connect(with()).await.unwrap();
    let ensured = asking_too.try_ensure(TopicConfig::new(&plain).group("g")).await;
    failed(ensured, &[ErrorKind::Conflict], &["x-message-ttl", "none", "300"]);
    for topic in [&topic, &plain] {
        asking.admin().delete_topic(topic).await.unwrap();
    }
}
