//! Topology, lag, seek and ranges: P4, P24, P25.

use std::time::Duration;

use posthaste_core::broker::{Admin, RangeQuery, SendOptions, Start};
use posthaste_core::{Error, ErrorKind, Layout, Timestamp, TopicConfig, Topology};
use posthaste_memory::MemoryBroker;
use tokio::time::advance;

use crate::support::*;

#[tokio::test]
async fn what_exists_and_differs_is_named() {
    let broker = MemoryBroker::new();
    let config = || TopicConfig::new(TOPIC).ordered(4).max_age(secs(60)).max_messages(10);
    let spec = config().group(GROUP).check().unwrap();
    let verified = broker.verify(&spec).await;
    assert_eq!(verified.unwrap_err().kind(), ErrorKind::NotFound);
    let info = broker.ensure(&spec, Topology::Create).await.unwrap();
    assert_eq!((info.layout, info.queue), (Layout::Ordered(4), false));
    assert_eq!(broker.describe(&topic_name()).await.unwrap(), info);
    broker.ensure(&spec, Topology::Create).await.unwrap();
    broker.ensure(&spec, Topology::Verify).await.unwrap();
    assert!(broker.verify(&spec).await.unwrap().is_empty());
    let open = TopicConfig::new(TOPIC).ordered(4).check().unwrap();
    assert!(broker.verify(&open).await.unwrap().is_empty(), "what is left open does not differ");

    let other = TopicConfig::new(TOPIC)
        .ordered(8)
        .max_age(secs(61))
        .max_bytes(5)
        .max_messages(11)
        .deduplication_window(secs(1))
        .replicas(3)
        .check()
        .unwrap();
    let differences = broker.verify(&other).await.unwrap();
    let mut settings: Vec<_> = differences.iter().map(|difference| difference.setting).collect();
    settings.sort_unstable();
    let all = ["deduplication_window", "max_age", "max_bytes", "max_messages", "order", "replicas"];
    assert_eq!(settings, all);
    for topology in [Topology::Create, Topology::Verify] {
        let mut other = other.clone();
        other.replicas = None;
        let error = broker.ensure(&other, topology).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        let text = error.to_string();
        assert!(text.contains("ordered(8)") && text.contains("ordered(4)"), "{text}");
    }
    assert_eq!(broker.describe(&topic_name()).await.unwrap(), info, "nothing was overwritten");
    let more = config().group("other").check().unwrap();
    let error = broker.ensure(&more, Topology::Verify).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.group(), Some("other"));
}

#[tokio::test]
async fn what_this_broker_does_not_have_is_unsupported() {
    let broker = MemoryBroker::new();
    let spec = TopicConfig::new(TOPIC).replicas(3).check().unwrap();
    let error = broker.ensure(&spec, Topology::Create).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(broker.describe(&topic_name()).await.is_err());
}

#[tokio::test]
async fn assuming_asks_nothing() {
    let broker = MemoryBroker::new();
    let spec = TopicConfig::new(TOPIC).ordered(3).check().unwrap();
    let info = broker.ensure(&spec, Topology::Assume).await.unwrap();
    assert_eq!(info.layout, Layout::Ordered(3));
    assert!(broker.describe(&topic_name()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn lag_is_exact() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    let lag = async || broker.lag(&topic_name(), &group_name(GROUP)).await.unwrap();
    assert_eq!(lag().await.oldest_age, None);
    put(&broker, &to, 0..5).await;
    advance(secs(7)).await;
    let later = SendOptions::default().deliver_at(Some(Timestamp::now() + secs(60)));
    send_with(&broker, &to, [message(5)], later).await.remove(0).unwrap();
    let now = lag().await;
    assert_eq!((now.ready, now.in_flight, now.delayed), (Some(5), Some(0), Some(1)));
    assert_eq!(now.unrouted, Some(0));
    assert!(now.exact);
    let age = now.oldest_age.unwrap();
    // The wall clock under virtual time is exact to a millisecond.
    assert!(age + Duration::from_millis(1) >= secs(7) && age < secs(8), "{age:?}");

    let mut sub = Sub::group(&broker).await;
    let received = sub.take(3).await;
    sub.ack(&received[0]).await;
    assert!(sub.settle(after(&received[1], secs(10))).await.is_none());
    let now = lag().await;
    assert_eq!((now.ready, now.in_flight, now.delayed), (Some(2), Some(1), Some(2)));
    assert_eq!(now.total(), 5);
    advance(secs(31)).await;
    let now = lag().await;
    assert_eq!((now.ready, now.in_flight, now.delayed), (Some(4), Some(0), Some(1)));
    let unknown = broker.lag(&topic_name(), &group_name("unknown")).await;
    assert_eq!(unknown.as_ref().map_err(Error::kind).unwrap_err(), ErrorKind::NotFound);
    assert_eq!(unknown.unwrap_err().group(), Some("unknown"));
}

#[tokio::test(start_paused = true)]
async fn a_group_without_members_is_moved() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    let (topic, group) = (topic_name(), group_name(GROUP));
    put(&broker, &to, 0..3).await;
    advance(secs(10)).await;
    let noon = Timestamp::now();
    advance(secs(10)).await;
    put(&broker, &to, 3..6).await;
    let mut sub = Sub::member(&broker, "worker-7").await;
    let old = sub.take(6).await;
    let error = broker.seek(&topic, &group, Start::Earliest).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("worker-7"), "{error}");
    let settler = std::sync::Arc::clone(&sub.settler);
    drop(sub);

    let seek = async |start| broker.seek(&topic, &group, start).await;
    assert_eq!(seek(Start::Created).await.unwrap_err().kind(), ErrorKind::Invalid);
    let beyond = Start::AtOffset { partition: None, offset: 7 };
    assert_eq!(seek(beyond).await.unwrap_err().kind(), ErrorKind::Invalid);
    for (start, expected) in [
        (Start::Latest, vec![]),
        (Start::At(noon), vec!["3", "4", "5"]),
        (Start::AtOffset { partition: None, offset: 5 }, vec!["5"]),
        (Start::Earliest, vec!["0", "1", "2", "3", "4", "5"]),
    ] {
        seek(start).await.unwrap();
        let mut sub = Sub::group(&broker).await;
        assert_eq!(ids(&sub.ready(9)), expected, "{start:?}");
    }
    // What was delivered before the move settles nothing after it.
    seek(Start::Earliest).await.unwrap();
    let mut sub = Sub::group(&broker).await;
    assert_eq!(sub.ready(9).len(), 6);
    let acks: Vec<_> = old
        .iter()
        .map(|one| {
            let verdict = posthaste_core::broker::Verdict::Ack;
            posthaste_core::broker::Settlement::new(one.token.clone(), verdict)
        })
        .collect();
    settler.settle(&acks, Default::default()).await.unwrap();
    assert_eq!(broker.lag(&topic, &group).await.unwrap().in_flight, Some(6));
}

#[tokio::test]
async fn seeking_keeps_what_was_replayed() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    let (topic, group) = (topic_name(), group_name(GROUP));
    put(&broker, &to, 0..2).await;
    let mut sub = Sub::group(&broker).await;
    let received = sub.take(2).await;
    assert!(sub.settle(dead_letter(&received[0])).await.is_none());
    drop(sub);
    let query = posthaste_core::broker::DeadLetterQuery::first(9);
    let letter = broker.dead_letters(&topic, &group, &query).await.unwrap().letters.remove(0);
    assert!(broker.replay(&topic, &group, &[letter.id]).await.unwrap()[0].is_ok());
    broker.seek(&topic, &group, Start::Latest).await.unwrap();
    assert_eq!(ids(&Sub::group(&broker).await.ready(9)), ["0"], "it is nowhere else");
}

#[tokio::test]
async fn a_range_is_read_again_oldest_first() {
    let broker = MemoryBroker::new();
    let to = ensure(&broker, TopicConfig::new(TOPIC).ordered(3).group(GROUP)).await;
    for id in 0..12 {
        send(&broker, &to, [keyed(id, &format!("key-{id}"))]).await.remove(0).unwrap();
    }
    let range = async |from, limit| {
        let query = RangeQuery::new(from, limit);
        let found = broker.range(&topic_name(), &query).await.unwrap();
        found
            .into_iter()
            .map(|one| (one.envelope.id().to_owned(), one.position))
            .collect::<Vec<_>>()
    };
    let all = range(Start::Earliest, 99).await;
    let expected: Vec<_> = (0..12).map(|id| id.to_string()).collect();
    assert_eq!(all.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>(), expected);
    assert_eq!(range(Start::Earliest, 5).await, all[..5]);
    let partition = all[0].1.partition;
    let mine: Vec<_> = all.iter().filter(|(_, at)| at.partition == partition).cloned().collect();
    assert!(mine.len() > 1, "or the test shows nothing");
    assert_eq!(range(Start::AtOffset { partition, offset: 1 }, 99).await, mine[1..]);
    let (_, third) = &all[3];
    let since = range(Start::At(third.stored_at.unwrap()), 99).await;
    assert!(since.contains(&all[3]) && since.len() >= 9);
    for from in [Start::Created, Start::Latest] {
        let error = broker.range(&topic_name(), &RangeQuery::new(from, 1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}
