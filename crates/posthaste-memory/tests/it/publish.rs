//! What is confirmed, refused, delayed and deduplicated: P1, P2, P3, P16, P20, P22, P23.

use posthaste_core::broker::{Admin, Broker, Credit, Destination, RangeQuery, SendOptions, Start};
use posthaste_core::{
    Bytes, Durability, Envelope, ErrorKind, Layout, Promise, Retry, Support, Timestamp, TopicConfig,
};
use posthaste_memory::{MemoryBroker, MemoryConfig};

use crate::support::*;

#[tokio::test]
async fn confirmed_messages_have_consecutive_offsets() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    let outcomes = send(&broker, &to, (0..3).map(message)).await;
    let offsets: Vec<_> = outcomes.into_iter().map(|outcome| outcome.unwrap().offset).collect();
    assert_eq!(offsets, [Some(0), Some(1), Some(2)]);
    let durability = broker.capabilities(None).durability;
    assert_eq!(durability, Durability::Process, "what is kept is said");
    assert!(matches!(broker.capabilities(None).promise(Promise::P1), Support::Limited(_)));
}

#[tokio::test]
async fn a_topic_that_is_not_there_is_not_found() {
    let broker = MemoryBroker::new();
    let to = Destination::new(topic_name(), Layout::Plain, false);
    let outcomes = send(&broker, &to, [message(1)]).await;
    let error = outcomes.into_iter().next().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.topic(), Some(TOPIC));
    assert!(!error.may_be_stored());
    assert!(broker.describe(&topic_name()).await.is_err(), "and was not created by accident");
}

#[tokio::test]
async fn a_publisher_that_mistakes_the_topic_is_told() {
    let broker = MemoryBroker::new();
    ensure(&broker, TopicConfig::new(TOPIC).ordered(8)).await;
    for (layout, queue) in [(Layout::Plain, false), (Layout::Ordered(4), false)] {
        let to = Destination::new(topic_name(), layout, queue);
        assert_eq!(kinds(&send(&broker, &to, [message(1)]).await), [Some(ErrorKind::Conflict)]);
    }
}

#[tokio::test]
async fn one_bad_entry_does_not_touch_the_rest() {
    let broker = MemoryBroker::with_config(MemoryConfig::new().max_message_bytes(400)).unwrap();
    let to = plain(&broker).await;
    let large = message(2).with_payload(vec![0_u8; 1_000]);
    let outcomes = send(&broker, &to, [message(1), large, message(3)]).await;
    assert_eq!(kinds(&outcomes), [None, Some(ErrorKind::TooLarge), None]);
    let stored = broker.range(&topic_name(), &RangeQuery::new(Start::Earliest, 9)).await.unwrap();
    let stored: Vec<_> = stored.iter().map(|retained| retained.envelope.id()).collect();
    assert_eq!(stored, ["1", "3"]);
}

#[tokio::test]
async fn the_limit_is_declared() {
    let broker = MemoryBroker::with_config(MemoryConfig::new().max_message_bytes(400)).unwrap();
    assert_eq!(broker.capabilities(None).max_message_bytes, Some(400));
    plain(&broker).await;
    assert_eq!(broker.capabilities(Some(&topic_name())).max_message_bytes, Some(400));
}

#[tokio::test]
async fn everything_arrives_as_sent() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    let sent = Envelope::builder("test.ünïcode")
        .source("/t")
        .id("1")
        .key(vec![0, 159, 146, 150])
        .subject("Bücher")
        .header("repeated", "one")
        .header("binary", [0_u8, 255])
        .header("repeated", "two")
        .payload(vec![0_u8, 1, 255])
        .build()
        .unwrap();
    let empty = message(2).with_payload(Bytes::new());
    for outcome in send(&broker, &to, [sent.clone(), empty]).await {
        outcome.unwrap();
    }
    let mut sub = Sub::group(&broker).await;
    let received = sub.take(2).await;
    let got = &received[0].envelope;
    assert_eq!(got.event_type(), "test.ünïcode");
    assert_eq!(got.key(), Some(&[0, 159, 146, 150][..]));
    assert_eq!(got.subject(), Some("Bücher"));
    assert_eq!(got.headers().collect::<Vec<_>>(), sent.headers().collect::<Vec<_>>());
    assert_eq!(got.payload(), sent.payload());
    assert!(received[1].envelope.payload().is_empty());
}

/// P3: without a group a message is kept; when there is no room it is refused, never dropped.
#[tokio::test]
async fn nothing_is_dropped_to_make_room() {
    let broker = MemoryBroker::with_config(MemoryConfig::new().max_messages(3)).unwrap();
    let to = ensure(&broker, TopicConfig::new(TOPIC)).await;
    let outcomes = send(&broker, &to, (0..4).map(message)).await;
    assert_eq!(kinds(&outcomes), [None, None, None, Some(ErrorKind::Backpressure)]);
    let error = outcomes.into_iter().next_back().unwrap().unwrap_err();
    assert_eq!(error.retry(), Retry::Transient);
    assert!(!error.may_be_stored());
    let health = broker.health().await.unwrap();
    assert!(health.to_string().contains(TOPIC), "{health}");

    let mut sub = Sub::start(&broker, start_at(Some(GROUP), Start::Earliest)).await;
    let received = sub.take(3).await;
    // Read but not settled: still needed.
    let refused = kinds(&send(&broker, &to, [message(4)]).await);
    assert_eq!(refused, [Some(ErrorKind::Backpressure)]);
    sub.ack(&received[1]).await;
    put(&broker, &to, [4]).await;
    assert_eq!(ids(&sub.take(1).await), ["4"]);
    let refused = kinds(&send(&broker, &to, [message(5)]).await);
    assert_eq!(refused, [Some(ErrorKind::Backpressure)], "two are held, one is new");
    sub.ack_all(&received).await;
    assert!(broker.health().await.unwrap().is_live());
    put(&broker, &to, [5, 6]).await;
}

#[tokio::test]
async fn bytes_are_bounded_too() {
    let size = message(0).with_payload(vec![0_u8; 1_000]).size();
    let broker = MemoryBroker::with_config(MemoryConfig::new().max_bytes(2 * size)).unwrap();
    let to = plain(&broker).await;
    let batch = (0..3).map(|id| message(id).with_payload(vec![0_u8; 1_000]));
    let outcomes = send(&broker, &to, batch).await;
    assert_eq!(kinds(&outcomes), [None, None, Some(ErrorKind::Backpressure)]);
}

/// Dead letters count as well, so that what nobody looks after cannot grow without bound.
#[tokio::test]
async fn dead_letters_take_room() {
    let broker = MemoryBroker::with_config(MemoryConfig::new().max_messages(2)).unwrap();
    let to = plain(&broker).await;
    let mut sub = Sub::group(&broker).await;
    for id in 0..2 {
        put(&broker, &to, [id]).await;
        let received = sub.take(1).await;
        assert!(sub.settle(dead_letter(&received[0])).await.is_none());
    }
    let refused = kinds(&send(&broker, &to, [message(2)]).await);
    assert_eq!(refused, [Some(ErrorKind::Backpressure)]);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_message_comes_at_its_time_to_every_group() {
    let broker = MemoryBroker::new();
    let to = ensure(&broker, TopicConfig::new(TOPIC).group(GROUP).group("shipping")).await;
    let begin = tokio::time::Instant::now();
    let options = SendOptions::default().deliver_at(Some(Timestamp::now() + secs(90)));
    send_with(&broker, &to, [message("later")], options).await.remove(0).unwrap();
    put(&broker, &to, ["now"]).await;
    for group in [GROUP, "shipping"] {
        let mut sub = Sub::start(&broker, request(Some(group))).await;
        let now = sub.ready(9);
        assert_eq!(ids(&now), ["now"], "what is behind it does not wait");
        sub.ack_all(&now).await;
        let lag = broker.lag(&topic_name(), &group_name(group)).await.unwrap();
        assert_eq!(lag.delayed, Some(1));
        // The other group is looked at later, but while it waits nothing is lost.
        if group == "shipping" {
            let received = sub.take(1).await;
            assert_eq!(ids(&received), ["later"]);
            assert_eq!(received[0].attempt.count, 1, "waiting is no attempt");
        }
    }
    let waited = begin.elapsed();
    assert!(waited >= secs(90), "came after {waited:?}");
    assert!(waited < secs(92), "came after {waited:?}");
}

#[tokio::test(start_paused = true)]
async fn an_id_is_stored_once_within_the_window() {
    let broker = MemoryBroker::new();
    let config = TopicConfig::new(TOPIC).group(GROUP).deduplication_window(secs(60));
    let to = ensure(&broker, config).await;
    let window = broker.capabilities(Some(&topic_name())).deduplication_window;
    assert_eq!(window, Some(secs(60)));
    let once = SendOptions::default().deduplicate(true);
    let first = send_with(&broker, &to, [message(1), message(1)], once).await;
    let [first, second] = &first[..] else { panic!("two outcomes") };
    let (first, second) = (first.as_ref().unwrap(), second.as_ref().unwrap());
    assert!(!first.duplicate && second.duplicate);
    assert_eq!(first.offset, second.offset);
    // The same id of another source is another message.
    let other = message(1).to_builder().source("/other").build().unwrap();
    assert!(!send_with(&broker, &to, [other], once).await.remove(0).unwrap().duplicate);

    tokio::time::advance(secs(59)).await;
    assert!(send_with(&broker, &to, [message(1)], once).await.remove(0).unwrap().duplicate);
    tokio::time::advance(secs(1)).await;
    assert!(!send_with(&broker, &to, [message(1)], once).await.remove(0).unwrap().duplicate);
    // Not asked for, not done.
    put(&broker, &to, [1]).await;
    assert_eq!(Sub::group(&broker).await.ready(99).len(), 4);
}

#[tokio::test]
async fn credit_is_never_exceeded() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    put(&broker, &to, 0..10).await;
    let mut sub = Sub::group(&broker).await;
    assert_eq!(sub.next(4).await.unwrap().len(), 4);

    let size = message(4).size();
    let mut out = Vec::new();
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(sub.driver.poll_batch(&mut cx, &mut out, Credit::new(9, size + 1)).is_ready());
    assert_eq!(out.len(), 2, "the one that goes over the bytes is the last");
    out.clear();
    assert!(sub.driver.poll_batch(&mut cx, &mut out, Credit::new(9, 1)).is_ready());
    assert_eq!(out.len(), 1, "at least one passes, however large");
    out.clear();
    assert!(sub.driver.poll_batch(&mut cx, &mut out, Credit::new(9, 0)).is_ready());
    assert_eq!(out.len(), 1, "also without any bytes left");
}
