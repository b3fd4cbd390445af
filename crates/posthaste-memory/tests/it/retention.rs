//! What retention, purging and deleting remove is counted: P29.

use posthaste_core::broker::{Admin, Broker, DriverEvent, RangeQuery, Start};
use posthaste_core::{ErrorKind, TopicConfig, Topology};
use posthaste_memory::MemoryBroker;
use tokio::time::advance;

use crate::support::*;

fn lost(event: &DriverEvent) -> (Option<u64>, &str) {
    match event {
        DriverEvent::Lost { count, reason, topic } => {
            assert_eq!(topic.as_str(), TOPIC);
            (*count, reason)
        }
        other => panic!("wanted a loss, got {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn what_retention_removes_unread_is_counted() {
    for config in [
        TopicConfig::new(TOPIC).max_messages(3),
        TopicConfig::new(TOPIC).max_bytes(3 * message(0).size() as u64),
        TopicConfig::new(TOPIC).max_age(secs(60)),
    ] {
        let broker = MemoryBroker::new();
        let to = ensure(&broker, config.group(GROUP)).await;
        put(&broker, &to, 0..4).await;
        let mut sub = Sub::group(&broker).await;
        advance(secs(40)).await;
        put(&broker, &to, 4..7).await;
        advance(secs(30)).await;
        let event = sub.event().await;
        let (count, reason) = lost(&event);
        assert_eq!(count, Some(4), "{reason}");
        assert!(reason.starts_with("max_"), "{reason}");
        assert_eq!(ids(&sub.ready(9)), ["4", "5", "6"]);
        assert!(sub.events.is_empty(), "told once");
        let kept = broker.range(&topic_name(), &RangeQuery::new(Start::Earliest, 9)).await.unwrap();
        assert_eq!(kept.len(), 3);
    }
}

#[tokio::test]
async fn what_a_group_holds_is_not_lost_by_retention() {
    let broker = MemoryBroker::new();
    let to = ensure(&broker, TopicConfig::new(TOPIC).max_messages(2).group(GROUP)).await;
    put(&broker, &to, [0, 1]).await;
    let mut sub = Sub::group(&broker).await;
    let received = sub.take(2).await;
    put(&broker, &to, [2, 3]).await;
    assert!(sub.settle(requeue(&received[0])).await.is_none());
    assert!(sub.settle(after(&received[1], secs(0))).await.is_none());
    let again = sub.ready(9);
    assert_eq!(ids(&again), ["0", "1", "2", "3"]);
    assert!(sub.events.is_empty());
}

#[tokio::test]
async fn a_message_that_retention_could_never_keep_is_too_large() {
    let broker = MemoryBroker::new();
    let to = ensure(&broker, TopicConfig::new(TOPIC).max_bytes(10)).await;
    assert_eq!(kinds(&send(&broker, &to, [message(1)]).await), [Some(ErrorKind::TooLarge)]);
}

#[tokio::test]
async fn a_start_before_the_oldest_message_counts_what_is_gone() {
    let broker = MemoryBroker::new();
    let to = ensure(&broker, TopicConfig::new(TOPIC).max_messages(2)).await;
    put(&broker, &to, 0..5).await;
    let start = Start::AtOffset { partition: None, offset: 1 };
    let mut sub = Sub::start(&broker, start_at(Some(GROUP), start)).await;
    assert_eq!(lost(&sub.event().await).0, Some(2));
    assert_eq!(ids(&sub.ready(9)), ["3", "4"]);
    let mut all = Sub::start(&broker, start_at(Some("all"), Start::Earliest)).await;
    assert_eq!(ids(&all.ready(9)), ["3", "4"]);
    assert!(all.events.is_empty(), "the earliest there is, is what was asked for");
}

#[tokio::test]
async fn a_purge_is_told() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    put(&broker, &to, 0..5).await;
    let mut sub = Sub::group(&broker).await;
    let received = sub.next(2).await.unwrap();
    assert!(sub.settle(requeue(&received[0])).await.is_none());
    let mut waiting = Box::pin(sub.event());
    // One is held, one waits to come again, three were not read.
    assert_eq!(broker.purge(&topic_name()).await.unwrap(), Some(5));
    let event = poll_once(waiting.as_mut());
    drop(waiting);
    let std::task::Poll::Ready(event) = event else { panic!("nothing was told") };
    assert_eq!(lost(&event), (Some(4), "purge"));
    sub.ack(&received[1]).await;
    assert!(sub.ready(9).is_empty());
    put(&broker, &to, [5]).await;
    assert_eq!(sub.take(1).await[0].position.offset, Some(5), "offsets go on");
}

#[tokio::test]
async fn a_deleted_topic_ends_subscriptions_that_create_nothing() {
    for topology in [Topology::Verify, Topology::Assume] {
        let broker = MemoryBroker::new();
        let to = plain(&broker).await;
        let mut request = request(Some(GROUP));
        request.topology = topology;
        let mut sub = Sub::start(&broker, request).await;
        let mut waiting = Box::pin(sub.next(1));
        assert!(poll_once(waiting.as_mut()).is_pending());
        broker.delete_topic(&topic_name()).await.unwrap();
        broker.delete_topic(&topic_name()).await.unwrap();
        let error = waiting.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.topic(), Some(TOPIC));
        assert_eq!(kinds(&send(&broker, &to, [message(1)]).await), [Some(ErrorKind::NotFound)]);
    }
}

#[tokio::test]
async fn a_deleted_topic_is_made_anew_under_create_and_the_loss_is_told() {
    let broker = MemoryBroker::new();
    let to = ensure(&broker, TopicConfig::new(TOPIC).ordered(2).group(GROUP)).await;
    let mut sub = Sub::group(&broker).await;
    for outcome in send(&broker, &to, (0..5).map(|id| keyed(id, "a"))).await {
        outcome.unwrap();
    }
    sub.hear();
    let old = sub.take(2).await;
    sub.ack(&old[0]).await;
    broker.delete_topic(&topic_name()).await.unwrap();
    let event = loop {
        let event = sub.event().await;
        if matches!(event, DriverEvent::Lost { .. }) {
            break event;
        }
    };
    assert_eq!(lost(&event), (Some(4), "the topic was deleted"));
    // It is what it was, and old tokens cannot touch it.
    let info = broker.admin().describe(&topic_name()).await.unwrap();
    assert_eq!(info.layout, to.layout);
    for outcome in send(&broker, &to, [keyed(9, "a")]).await {
        outcome.unwrap();
    }
    let new = sub.take(1).await;
    assert_eq!(ids(&new), ["9"]);
    assert!(is_lost(&sub.settle(requeue(&old[1])).await));
    assert!(is_lost(&sub.settle(dead_letter(&old[1])).await), "there is no place for it");
    sub.ack(&old[1]).await;
    let lag = broker.lag(&topic_name(), &group_name(GROUP)).await.unwrap();
    assert_eq!(lag.in_flight, Some(1));
    sub.ack_all(&new).await;
}

#[tokio::test]
async fn only_read_messages_make_room() {
    let config = posthaste_memory::MemoryConfig::new().max_messages(4);
    let broker = MemoryBroker::with_config(config).unwrap();
    let to = ensure(&broker, TopicConfig::new(TOPIC).group(GROUP).group("slow")).await;
    put(&broker, &to, 0..4).await;
    let mut sub = Sub::group(&broker).await;
    let received = sub.take(4).await;
    sub.ack_all(&received).await;
    let refused = kinds(&send(&broker, &to, [message(4)]).await);
    assert_eq!(refused, [Some(ErrorKind::Backpressure)], "the slow group needs them");
    let mut slow = Sub::start(&broker, request(Some("slow"))).await;
    let received = slow.take(2).await;
    slow.ack_all(&received).await;
    put(&broker, &to, [4, 5]).await;
    assert_eq!(ids(&slow.ready(9)), ["2", "3", "4", "5"], "and nothing was lost");
    assert!(slow.events.is_empty());
}
