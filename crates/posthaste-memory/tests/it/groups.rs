//! Groups, queues and where they start: P4, P5, P6, P7, P18, P32, P33.

use posthaste_core::broker::{Admin, Broker, Order, Polled, Settlement, Start, Verdict};
use posthaste_core::{DeliveryMode, ErrorKind, TopicConfig, Topology};
use posthaste_memory::MemoryBroker;

use crate::support::*;

async fn refused(
    broker: &MemoryBroker,
    request: posthaste_core::broker::SubscribeRequest,
) -> ErrorKind {
    broker.subscribe(request).await.unwrap_err().kind()
}

#[tokio::test]
async fn every_group_gets_every_message_and_members_share_them() {
    let broker = MemoryBroker::new();
    let to = ensure(&broker, TopicConfig::new(TOPIC).group(GROUP).group("shipping")).await;
    put(&broker, &to, 0..6).await;
    let mut one = Sub::member(&broker, "one").await;
    let mut two = Sub::member(&broker, "two").await;
    let mut other = Sub::start(&broker, request(Some("shipping"))).await;
    assert_eq!(ids(&one.ready(4)), ["0", "1", "2", "3"]);
    assert_eq!(ids(&two.ready(9)), ["4", "5"]);
    assert_eq!(other.ready(9).len(), 6);
}

#[tokio::test]
async fn a_waiting_member_is_woken_even_if_another_is_never_polled_again() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    let mut idle = Sub::member(&broker, "idle").await;
    let mut busy = Sub::member(&broker, "busy").await;
    let mut abandoned = Box::pin(idle.next(1));
    assert!(poll_once(abandoned.as_mut()).is_pending());
    let waiting = async { busy.next(1).await.unwrap() };
    let publishing = put(&broker, &to, [1]);
    let (received, ()) = tokio::join!(waiting, publishing);
    assert_eq!(ids(&received), ["1"]);
}

#[tokio::test]
async fn an_ephemeral_subscription_begins_now_and_leaves_nothing() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    put(&broker, &to, [1]).await;
    let mut sub = Sub::start(&broker, request(None)).await;
    put(&broker, &to, [2]).await;
    let received = sub.take(1).await;
    assert_eq!(ids(&received), ["2"]);
    assert!(sub.settle(requeue(&received[0])).await.is_none());
    let received = sub.take(1).await;
    assert_eq!(received[0].attempt.count, 2);
    // It has no dead letters: nothing could list them.
    let outcome = sub.settle(dead_letter(&received[0])).await.unwrap();
    assert!(format!("{outcome:?}").contains("unsupported"), "{outcome:?}");

    let settler = std::sync::Arc::clone(&sub.settler);
    drop(sub);
    let groups = broker.groups(&topic_name()).await.unwrap();
    assert_eq!(groups.len(), 1, "only the named one: {groups:?}");
    let ack = Settlement::new(received[0].token.clone(), Verdict::Ack);
    let report = settler.settle(&[ack], Default::default()).await.unwrap();
    assert!(report.into_exceptions().is_empty(), "a late ack is welcome");
}

/// Each is a group of its own, also on a topic that was made anew.
#[tokio::test]
async fn ephemeral_subscriptions_do_not_meet() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    let mut one = Sub::start(&broker, request(None)).await;
    let mut two = Sub::start(&broker, request(None)).await;
    for round in 0..4 {
        put(&broker, &to, [round]).await;
        assert_eq!(ids(&one.ready(9)), [round.to_string()]);
        assert_eq!(ids(&two.ready(9)), [round.to_string()]);
        broker.delete_topic(&topic_name()).await.unwrap();
        // They come to the new topic now in this order, now in that.
        let (first, second) = if round < 2 { (&mut one, &mut two) } else { (&mut two, &mut one) };
        first.hear();
        second.hear();
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_group_starts_where_it_was_told() {
    let broker = MemoryBroker::new();
    let to = ensure(&broker, TopicConfig::new(TOPIC)).await;
    put(&broker, &to, [0, 1]).await;
    tokio::time::advance(secs(10)).await;
    let noon = posthaste_core::Timestamp::now();
    tokio::time::advance(secs(10)).await;
    put(&broker, &to, [2, 3]).await;
    let starts = [
        ("created", Start::Created, vec![]),
        ("latest", Start::Latest, vec![]),
        ("earliest", Start::Earliest, vec!["0", "1", "2", "3"]),
        ("at", Start::At(noon), vec!["2", "3"]),
        ("offset", Start::AtOffset { partition: None, offset: 3 }, vec!["3"]),
        ("end", Start::AtOffset { partition: None, offset: 4 }, vec![]),
    ];
    for (group, start, expected) in starts {
        let mut sub = Sub::start(&broker, start_at(Some(group), start)).await;
        assert_eq!(ids(&sub.ready(9)), expected, "{group}");
    }
    for (group, start) in [
        ("beyond", Start::AtOffset { partition: None, offset: 5 }),
        ("nowhere", Start::AtOffset { partition: Some(0), offset: 0 }),
    ] {
        let kind = refused(&broker, start_at(Some(group), start)).await;
        assert_eq!(kind, ErrorKind::Invalid, "{group}");
    }
    // What exists keeps its place, whatever a member asks for.
    let mut again = Sub::start(&broker, start_at(Some("created"), Start::Earliest)).await;
    put(&broker, &to, [4]).await;
    assert_eq!(ids(&again.ready(9)), ["4"]);
}

#[tokio::test]
async fn a_group_of_the_topology_gets_what_comes_before_its_first_member() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    put(&broker, &to, [1]).await;
    assert_eq!(ids(&Sub::group(&broker).await.ready(9)), ["1"]);
}

#[tokio::test]
async fn a_queue_has_one_group() {
    let broker = MemoryBroker::new();
    let to = ensure(&broker, TopicConfig::queue(TOPIC)).await;
    assert!(to.queue);
    put(&broker, &to, [1]).await;
    assert_eq!(refused(&broker, request(Some(GROUP))).await, ErrorKind::Unsupported);
    assert_eq!(refused(&broker, request(None)).await, ErrorKind::Unsupported);
    let capabilities = broker.capabilities(Some(&topic_name()));
    assert!(!capabilities.fan_out.is_kept(), "and says so beforehand");
    let mut queue = request(Some("queue"));
    queue.queue = true;
    assert_eq!(ids(&Sub::start(&broker, queue).await.ready(9)), ["1"]);
}

#[tokio::test]
async fn a_topic_is_no_queue() {
    let broker = MemoryBroker::new();
    plain(&broker).await;
    let mut queue = request(Some("queue"));
    queue.queue = true;
    assert_eq!(refused(&broker, queue).await, ErrorKind::Conflict);
}

#[tokio::test]
async fn topology_is_created_verified_or_assumed() {
    let broker = MemoryBroker::new();
    let with = |topology, group| {
        let mut request = request(Some(group));
        request.topology = topology;
        request
    };
    for topology in [Topology::Verify, Topology::Assume] {
        assert_eq!(refused(&broker, with(topology, GROUP)).await, ErrorKind::NotFound);
    }
    assert!(broker.describe(&topic_name()).await.is_err(), "nothing was created");
    drop(Sub::start(&broker, with(Topology::Create, GROUP)).await);
    for topology in [Topology::Verify, Topology::Assume] {
        drop(Sub::start(&broker, with(topology, GROUP)).await);
        assert_eq!(refused(&broker, with(topology, "other")).await, ErrorKind::NotFound);
    }
}

#[tokio::test]
async fn a_refused_subscription_leaves_nothing_behind() {
    let broker = MemoryBroker::new();
    plain(&broker).await;
    let mut both = request(Some("fresh"));
    both.topics.push(posthaste_core::TopicName::new("missing").unwrap());
    both.order = Order::PerKey;
    assert_eq!(refused(&broker, both).await, ErrorKind::Unsupported);
    let groups = broker.groups(&topic_name()).await.unwrap();
    assert_eq!(groups.len(), 1);
    assert_eq!(groups[0].members, Some(0));
    let mut none = request(Some(GROUP));
    none.topics.clear();
    assert_eq!(refused(&broker, none).await, ErrorKind::Invalid);
}

#[tokio::test]
async fn one_subscription_reads_several_topics() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    let other = ensure(&broker, TopicConfig::new("refunds").group(GROUP)).await;
    let mut both = request(Some(GROUP));
    both.topics.push(other.topic.clone());
    let mut sub = Sub::start(&broker, both).await;
    put(&broker, &to, ["a"]).await;
    put(&broker, &other, ["b"]).await;
    let received = sub.take(2).await;
    let mut lanes: Vec<_> = received.iter().map(|one| one.lane.topic().as_str()).collect();
    lanes.sort_unstable();
    assert_eq!(lanes, ["orders", "refunds"]);
    sub.ack_all(&received).await;
    for topic in [&to.topic, &other.topic] {
        let lag = broker.lag(topic, &group_name(GROUP)).await.unwrap();
        assert_eq!(lag.total(), 0, "{topic}");
    }
}

/// What one topic has is handed over before the end of another is told.
#[tokio::test]
async fn a_deleted_topic_takes_nothing_of_another_with_it() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    let other = ensure(&broker, TopicConfig::new("refunds").group(GROUP)).await;
    for deleted in [&to, &other] {
        let kept = if deleted == &to { &other } else { &to };
        let mut both = request(Some(GROUP));
        both.topics.push(other.topic.clone());
        both.topology = Topology::Verify;
        let mut sub = Sub::start(&broker, both).await;
        put(&broker, kept, ["a"]).await;
        broker.delete_topic(&deleted.topic).await.unwrap();
        let first = sub.next(9).await;
        let error = match first {
            Ok(received) => {
                sub.ack_all(&received).await;
                sub.next(9).await.unwrap_err()
            }
            Err(error) => error,
        };
        assert_eq!(error.kind(), ErrorKind::NotFound);
        drop(sub);
        let lag = broker.lag(&kept.topic, &group_name(GROUP)).await.unwrap();
        assert_eq!(lag.in_flight, Some(0), "nothing was handed out and not told");
        let spec = TopicConfig::new(deleted.topic.as_str()).group(GROUP).check().unwrap();
        broker.ensure(&spec, Topology::Create).await.unwrap();
    }
}

/// P32: the existing lease stays in force and the difference is told.
#[tokio::test]
async fn another_lease_is_reported_not_applied() {
    let broker = MemoryBroker::new();
    plain(&broker).await;
    let first = broker.subscribe(request(Some(GROUP))).await.unwrap();
    assert!(first.differences.is_empty());
    let mut other = request(Some(GROUP));
    other.lease = secs(5);
    let second = broker.subscribe(other).await.unwrap();
    assert_eq!(second.lease, secs(30));
    let [difference] = &second.differences[..] else { panic!("one difference") };
    assert_eq!(difference.setting, "lease");
    assert!(difference.wanted.contains('5') && difference.found.contains("30"), "{difference}");
}

#[tokio::test(start_paused = true)]
async fn groups_are_listed_and_deleted_and_abandoned_ones_show() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    let sub = Sub::member(&broker, "worker-7").await;
    put(&broker, &to, 0..3).await;
    let info = broker.groups(&topic_name()).await.unwrap().remove(0);
    assert_eq!((info.members, info.pins), (Some(1), Some(3)));
    assert!(!info.is_abandoned(secs(0)));
    let error = broker.delete_group(&topic_name(), &group_name(GROUP)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("worker-7"), "{error}");

    drop(sub);
    tokio::time::advance(secs(100)).await;
    let info = broker.groups(&topic_name()).await.unwrap().remove(0);
    assert!(info.is_abandoned(secs(100)) && !info.is_abandoned(secs(101)), "{info:?}");
    broker.delete_group(&topic_name(), &group_name(GROUP)).await.unwrap();
    assert!(broker.groups(&topic_name()).await.unwrap().is_empty());
    let error = broker.delete_group(&topic_name(), &group_name(GROUP)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_stopped_subscription_fetches_no_more_and_still_settles() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    put(&broker, &to, 0..4).await;
    let mut sub = Sub::member(&broker, "first").await;
    let received = sub.next(2).await.unwrap();
    sub.driver.stop();
    sub.driver.stop();
    let polled = std::future::poll_fn(|cx| sub.poll(cx, 9)).await.unwrap();
    assert!(matches!(polled, (out, Polled::Stopped) if out.is_empty()));
    sub.ack(&received[0]).await;
    assert!(sub.settle(release(&received[1])).await.is_none());
    // What was released is there for others at once, flagged as delivered before.
    let mut next = Sub::member(&broker, "second").await;
    let received = next.ready(9);
    assert_eq!(ids(&received), ["1", "2", "3"]);
    assert_eq!(received[0].attempt.count, 2);
}

#[tokio::test(start_paused = true)]
async fn at_most_once_is_settled_before_it_is_seen() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    put(&broker, &to, 0..3).await;
    let mut once = request(Some(GROUP));
    once.mode = DeliveryMode::AtMostOnce;
    let mut sub = Sub::start(&broker, once).await;
    let received = sub.ready(9);
    assert_eq!(received.len(), 3);
    let lag = broker.lag(&topic_name(), &group_name(GROUP)).await.unwrap();
    assert_eq!(lag.total(), 0);
    sub.ack(&received[0]).await;
    assert!(is_lost(&sub.settle(requeue(&received[1])).await));
    drop(sub);
    tokio::time::advance(secs(100)).await;
    assert!(Sub::group(&broker).await.ready(9).is_empty());
}

/// One message at a time, so that one wake-up that is lost stops everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_is_slept_through() {
    const ROUNDS: u64 = 5_000;
    for ordered in [false, true] {
        let broker = MemoryBroker::new();
        let config = TopicConfig::new(TOPIC).group(GROUP);
        let to = ensure(&broker, if ordered { config.ordered(3) } else { config }).await;
        let (handled, mut seen) = tokio::sync::watch::channel(0_u64);
        let mut tasks = tokio::task::JoinSet::new();
        for member in ["one", "two"] {
            let mut sub = Sub::member(&broker, member).await;
            let handled = handled.clone();
            tasks.spawn(async move {
                loop {
                    for one in sub.next(8).await.unwrap() {
                        // Each comes twice: published, and given back by somebody.
                        let again = one.attempt.count > 1;
                        let ack = Settlement::new(one.token.clone(), Verdict::Ack);
                        let verdict = [if again { ack } else { requeue(&one) }];
                        sub.settler.settle(&verdict, Default::default()).await.unwrap();
                        handled.send_modify(|count| *count += u64::from(again));
                    }
                }
            });
        }
        let publishing = async {
            for round in 0..ROUNDS {
                put(&broker, &to, [round]).await;
                seen.wait_for(|count| *count > round).await.unwrap();
            }
        };
        let done = tokio::time::timeout(secs(60), publishing).await;
        assert!(done.is_ok(), "slept through message {}", *handled.borrow());
    }
}
