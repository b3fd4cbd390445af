//! Order per key, over redelivery, restart and members that come and go: P15, P28, P18.

use posthaste_core::broker::{
    Admin, Broker, DriverEvent, LaneState, Order, Received, Start, SubscribeRequest,
};
use posthaste_core::{ErrorKind, TopicConfig};
use posthaste_memory::MemoryBroker;
use tokio::time::{Instant, advance};

use crate::support::*;

const PARTITIONS: u16 = 4;

fn ordered() -> SubscribeRequest {
    let mut request = request(Some(GROUP));
    request.order = Order::PerKey;
    request
}

async fn topic(broker: &MemoryBroker) -> posthaste_core::broker::Destination {
    ensure(broker, TopicConfig::new(TOPIC).ordered(PARTITIONS).group(GROUP)).await
}

async fn member(broker: &MemoryBroker, name: &str) -> Sub {
    let mut request = ordered();
    request.member = name.to_owned();
    let mut sub = Sub::start(broker, request).await;
    sub.hear();
    sub
}

/// Messages `0..count` over these keys in turn, ids as published.
async fn fill(broker: &MemoryBroker, to: &posthaste_core::broker::Destination, count: usize) {
    let keys = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let batch: Vec<_> = (0..count).map(|id| keyed(id, keys[id % keys.len()])).collect();
    for outcome in send(broker, to, batch).await {
        assert!(outcome.unwrap().partition.is_some());
    }
}

fn partition(received: &Received) -> u32 {
    received.position.partition.expect("an ordered topic has partitions")
}

fn assigned(sub: &Sub) -> Vec<u32> {
    let lane = |event: &DriverEvent| match event {
        DriverEvent::LaneAssigned(lane) => lane.partition(),
        _ => None,
    };
    sub.events.iter().filter_map(lane).collect()
}

fn assert_order(received: &[Received]) {
    for (at, earlier) in received.iter().enumerate() {
        for later in &received[at..] {
            if earlier.envelope.key() == later.envelope.key() {
                let number = |one: &Received| one.envelope.id().parse::<u32>().unwrap();
                assert!(number(earlier) <= number(later), "{:?}", ids(received));
            }
        }
    }
}

#[tokio::test]
async fn a_plain_topic_refuses_order() {
    let broker = MemoryBroker::new();
    plain(&broker).await;
    let error = broker.subscribe(ordered()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(!broker.capabilities(Some(&topic_name())).order.is_kept());
    let other = TopicConfig::new(TOPIC).ordered(2).check().unwrap();
    let error = broker.ensure(&other, Default::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("ordered(2)"), "{error}");
}

#[tokio::test]
async fn one_key_has_one_partition_and_its_order() {
    let broker = MemoryBroker::new();
    let to = topic(&broker).await;
    fill(&broker, &to, 64).await;
    let mut sub = member(&broker, "one").await;
    let received = sub.take(64).await;
    assert_order(&received);
    for one in &received {
        assert_eq!(Some(partition(one)), to.layout.partition(&one.envelope).map(u32::from));
        assert_eq!(one.lane.partition(), Some(partition(one)));
    }
    let mut lanes = assigned(&sub);
    lanes.sort_unstable();
    assert_eq!(lanes, [0, 1, 2, 3]);
}

#[tokio::test]
async fn a_message_without_a_key_has_a_partition_too() {
    let broker = MemoryBroker::new();
    let to = topic(&broker).await;
    put(&broker, &to, 0..8).await;
    let mut sub = member(&broker, "one").await;
    let received = sub.take(8).await;
    assert!(received.iter().all(|one| partition(one) < u32::from(PARTITIONS)));
    sub.ack_all(&received).await;
}

#[tokio::test(start_paused = true)]
async fn a_joining_member_gets_its_lanes_when_they_are_drained() {
    let broker = MemoryBroker::new();
    let to = topic(&broker).await;
    fill(&broker, &to, 32).await;
    let mut one = member(&broker, "one").await;
    let held = one.ready(32);
    assert_eq!(held.len(), 32);
    let mut two = member(&broker, "two").await;
    assert!(assigned(&two).is_empty(), "nothing is handed over while it is held");

    assert!(one.ready(9).is_empty());
    let revoked: Vec<_> = one
        .events
        .iter()
        .filter_map(|event| match event {
            DriverEvent::LaneRevoked(lane) => Some(std::sync::Arc::clone(lane)),
            _ => None,
        })
        .collect();
    assert_eq!(revoked.len(), 2, "half of four moves, and no more");
    for lane in &revoked {
        assert!(matches!(lane.state(), LaneState::Draining(_)), "{lane:?}");
    }
    let moving =
        |one: &Received| revoked.iter().any(|lane| lane.partition() == one.lane.partition());
    let (moves, stays): (Vec<_>, Vec<_>) = held.iter().partition(|one| moving(one));
    assert!(stays.iter().all(|one| one.lane.state() == LaneState::Live));

    // New messages of a lane that drains wait for its next owner.
    fill(&broker, &to, 8).await;
    let more = one.ready(32);
    assert!(more.iter().all(|one| !moving(one)));
    assert!(two.ready(32).is_empty());

    let waiting = two.wait();
    for one_held in &moves {
        one.ack(one_held).await;
    }
    assert!(waiting.rang(), "the next owner is told");
    let received = two.take(8 - more.len()).await;
    assert!(received.iter().all(moving));
    assert_eq!(assigned(&two).len(), 2);
    assert!(revoked.iter().all(|lane| lane.state() == LaneState::Lost));
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_is_not_drained_moves_when_its_leases_end() {
    let broker = MemoryBroker::new();
    let to = topic(&broker).await;
    fill(&broker, &to, 16).await;
    let mut one = member(&broker, "one").await;
    let held = one.ready(16);
    advance(secs(20)).await;
    let begin = Instant::now();
    let mut two = member(&broker, "two").await;
    // Extending does not keep a lane for ever: it ends one lease after it began to drain.
    let tokens: Vec<_> = held.iter().map(|one| one.token.clone()).collect();
    assert!(one.settler.extend(&tokens).await.unwrap().lost.is_empty());
    let received = two.take(1).await.remove(0);
    assert!(begin.elapsed() >= secs(30) && begin.elapsed() < secs(31), "{:?}", begin.elapsed());
    assert_eq!(received.attempt.count, 2);
    let old = held.iter().find(|one| one.envelope.id() == received.envelope.id()).unwrap();
    assert_eq!(old.lane.state(), LaneState::Lost);
    assert!(is_lost(&one.settle(requeue(old)).await));
}

#[tokio::test(start_paused = true)]
async fn a_stopped_member_keeps_its_lanes_while_its_handlers_run() {
    let broker = MemoryBroker::new();
    let to = topic(&broker).await;
    fill(&broker, &to, 8).await;
    let mut one = member(&broker, "one").await;
    let held = one.ready(8);
    one.driver.stop();
    let mut two = member(&broker, "two").await;
    for _ in 0..5 {
        advance(secs(20)).await;
        let tokens: Vec<_> = held.iter().map(|one| one.token.clone()).collect();
        assert!(one.settler.extend(&tokens).await.unwrap().lost.is_empty());
        assert!(two.ready(9).is_empty());
    }
    fill(&broker, &to, 8).await;
    one.ack_all(&held).await;
    assert_eq!(two.ready(99).len(), 8, "at once");
}

#[tokio::test(start_paused = true)]
async fn order_holds_over_redelivery_restart_and_member_change() {
    let broker = MemoryBroker::new();
    let to = topic(&broker).await;
    fill(&broker, &to, 40).await;
    let mut one = member(&broker, "one").await;
    let held = one.ready(24);
    // Out of order, and most of them not at all.
    for at in [3, 9, 17] {
        one.ack(&held[at]).await;
    }
    broker.restart();
    let mut two = member(&broker, "two").await;
    let again = two.ready(99);
    assert_eq!(again.len(), 37);
    assert_order(&again);
    // Given back in a bad order, they come in a good one, before what is new.
    fill(&broker, &to, 8).await;
    for one in again.iter().rev() {
        assert!(two.settle(release(one)).await.is_none());
    }
    two.driver.stop();
    let mut three = member(&broker, "three").await;
    let all = three.ready(99);
    assert_eq!(all.len(), 45);
    let per_partition = |number: u32| -> Vec<u64> {
        let mine = all.iter().filter(|one| partition(one) == number);
        mine.map(|one| one.position.offset.unwrap()).collect()
    };
    for number in 0..u32::from(PARTITIONS) {
        assert!(per_partition(number).is_sorted(), "partition {number}");
    }
}

/// When a lease ends, the later messages of its key come back with it: else they were overtaken.
#[tokio::test(start_paused = true)]
async fn an_expired_lease_takes_the_rest_of_its_key_back() {
    let broker = MemoryBroker::new();
    let to = topic(&broker).await;
    for outcome in send(&broker, &to, [keyed(0, "a"), keyed(1, "a"), keyed(2, "b")]).await {
        outcome.unwrap();
    }
    let mut sub = member(&broker, "one").await;
    let held = sub.take(3).await;
    let token = |id: &str| held.iter().find(|one| one.envelope.id() == id).unwrap().token.clone();
    advance(secs(20)).await;
    // All but the first of `a` are extended.
    let extended = sub.settler.extend(&[token("1"), token("2")]).await.unwrap();
    assert!(extended.lost.is_empty());
    advance(secs(10)).await;
    let again = sub.ready(9);
    assert_eq!(ids(&again), ["0", "1"]);
    assert_eq!(sub.settler.extend(&[token("1"), token("2")]).await.unwrap().lost, [0]);
}

#[tokio::test]
async fn more_members_than_lanes_wait_their_turn() {
    let broker = MemoryBroker::new();
    let to = ensure(&broker, TopicConfig::new(TOPIC).ordered(1).group(GROUP)).await;
    let mut one = member(&broker, "one").await;
    let mut two = member(&broker, "two").await;
    assert_eq!((assigned(&one).len(), assigned(&two).len()), (1, 0));
    put(&broker, &to, [1]).await;
    assert!(two.ready(9).is_empty());
    assert_eq!(one.ready(9).len(), 1);
    drop(one);
    put(&broker, &to, [2]).await;
    assert!(two.ready(9).is_empty(), "the first may still settle");
    broker.restart();
    assert_eq!(ids(&two.take(2).await), ["1", "2"]);
}

#[tokio::test]
async fn a_group_can_start_in_one_partition() {
    let broker = MemoryBroker::new();
    let to = topic(&broker).await;
    fill(&broker, &to, 16).await;
    let mut request = ordered();
    request.group = Some(group_name("late"));
    request.start = Start::AtOffset { partition: Some(1), offset: 1 };
    let mut sub = Sub::start(&broker, request.clone()).await;
    let received = sub.ready(99);
    assert!(!received.is_empty());
    for one in &received {
        assert_eq!(partition(one), 1);
        assert!(one.position.offset >= Some(1));
    }
    request.group = Some(group_name("wrong"));
    request.start = Start::AtOffset { partition: Some(9), offset: 0 };
    assert_eq!(broker.subscribe(request).await.unwrap_err().kind(), ErrorKind::Invalid);
}
