//! Leases: kept under slow and failing brokers, lost in time, and told.

use std::time::Duration;

use futures_util::future::FutureExt;
use posthaste_core::*;
use tokio::time::{Instant, timeout};

use crate::feed::{Feed, Step};
use crate::subscription::{next, nothing_for};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn one_slow_call_does_not_cost_the_leases_of_others() {
    let feed = Feed::with_lease(Layout::Plain, 12 * SECOND);
    let bus = feed.bus();
    let wide = bus.subscribe("orders").group("billing").prefetch(1_024);
    let mut inbox = wide.start().await.unwrap();
    feed.send(vec!["x"; 1_024]);
    let held = inbox.next_batch(1_024).await.unwrap().unwrap();
    // Four calls each time, of three seconds each.
    feed.extends.lock().unwrap().extend(vec![Step::Take(3 * SECOND); 1_000]);
    nothing_for(&mut inbox, 60 * SECOND).await;
    let lost = held.iter().filter(|delivery| delivery.is_lost()).count();
    assert_eq!(lost, 0, "lost because another call was slow");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_cannot_be_prolonged_is_lost_before_the_broker_ends_it() {
    for step in [Step::Hang, Step::Fail(ErrorKind::Connection), Step::Panic] {
        let lease = 12 * SECOND;
        let feed = Feed::with_lease(Layout::Plain, lease);
        let mut inbox = feed.inbox().await;
        let mut events = inbox.events();
        feed.send(["x"]);
        let started = Instant::now();
        let held = next(&mut inbox).await;
        feed.extends.lock().unwrap().extend(vec![step.clone(); 100]);
        timeout(2 * lease, held.lost()).await.expect("never lost");
        assert!(started.elapsed() <= lease, "{step:?}: {:?}", started.elapsed());
        match events.next().await.unwrap() {
            SubscriptionEvent::LeaseLost { id } => assert_eq!(id, "x"),
            other => panic!("{other:?}"),
        }
        // The task that keeps leases goes on.
        feed.extends.lock().unwrap().clear();
        feed.send(["y"]);
        let other = next(&mut inbox).await;
        nothing_for(&mut inbox, 3 * lease).await;
        assert!(!other.is_lost(), "{step:?}");
        drop(held);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_ends_here_a_twentieth_before_it_ends_at_the_broker() {
    for failing_from in [0, 300, 700] {
        let feed = Feed::with_lease(Layout::Plain, SECOND);
        let mut inbox = feed.inbox().await;
        feed.send(["x"]);
        let arrived = Instant::now();
        let held = next(&mut inbox).await;
        tokio::time::sleep(Duration::from_millis(failing_from)).await;
        feed.extends.lock().unwrap().extend(vec![Step::Fail(ErrorKind::Connection); 100]);
        let since = feed.last_extended.lock().unwrap().unwrap_or(arrived);
        timeout(2 * SECOND, held.lost()).await.expect("never lost");
        let (took, margin) = (since.elapsed(), SECOND / 20);
        let slack = Duration::from_millis(2);
        assert!(took + margin <= SECOND + slack, "{failing_from}: {took:?}");
        assert!(took + margin >= SECOND - slack, "{failing_from}: too soon: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_delay_ends_in_time_while_prolonging_hangs() {
    let feed = Feed::with_lease(Layout::Ordered(1), 60 * SECOND);
    let mut inbox = feed.ordered().await;
    feed.send(["a1"]);
    feed.extends.lock().unwrap().extend(vec![Step::Hang; 100]);
    let failing = next(&mut inbox).await;
    // The first call is under way.
    nothing_for(&mut inbox, 25 * SECOND).await;
    assert!(!feed.extended.lock().unwrap().is_empty());
    let started = Instant::now();
    failing.nack(Nack::after(SECOND)).await.unwrap();
    assert_eq!(next(&mut inbox).await.id(), "a1");
    let took = started.elapsed();
    assert!(took >= SECOND && took < 2 * SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn prolonging_by_hand_ends_in_time_and_tells_what_it_learned() {
    let lease = 12 * SECOND;
    let feed = Feed::with_lease(Layout::Plain, lease);
    let mut inbox = feed.inbox().await;
    let mut events = inbox.events();
    feed.send(["x"]);
    let held = next(&mut inbox).await;
    feed.extends.lock().unwrap().push_back(Step::Hang);
    let started = Instant::now();
    let error = timeout(100 * SECOND, held.extend()).await.expect("hangs").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(started.elapsed() <= lease);
    held.extend().await.unwrap();
    feed.extends.lock().unwrap().push_back(Step::Lost(vec![0]));
    let mut lost = Box::pin(held.lost());
    assert!((&mut lost).now_or_never().is_none());
    assert_eq!(held.extend().await.unwrap_err().kind(), ErrorKind::LeaseLost);
    lost.now_or_never().expect("who waits for it is woken");
    assert!(held.is_lost());
    let told = timeout(SECOND, events.next()).await.expect("not told").unwrap();
    assert!(matches!(told, SubscriptionEvent::LeaseLost { .. }), "{told:?}");
    assert_eq!(inbox.stats().leases_lost, 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_is_told_once() {
    let feed = Feed::with_lease(Layout::Plain, 12 * SECOND);
    let mut inbox = feed.inbox().await;
    let mut events = inbox.events();
    feed.send(["x", "y"]);
    let (x, y) = (next(&mut inbox).await, next(&mut inbox).await);
    feed.extends.lock().unwrap().push_back(Step::Lost(vec![0]));
    timeout(12 * SECOND, x.lost()).await.expect("not lost");
    // The broker refuses both: one was known to be lost.
    feed.settles.lock().unwrap().push_back(Step::Lost(vec![0, 1]));
    x.ack().await.unwrap();
    y.ack().await.unwrap();
    nothing_for(&mut inbox, SECOND).await;
    let mut told = Vec::new();
    while let Some(Some(SubscriptionEvent::LeaseLost { id })) = events.next().now_or_never() {
        told.push(id);
    }
    assert_eq!(told, ["x", "y"]);
    assert_eq!(inbox.stats().leases_lost, 2);
}

#[tokio::test(start_paused = true)]
async fn any_lease_of_a_group_can_be_kept() {
    for lease in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
        let feed = Feed::with_lease(Layout::Plain, lease);
        let mut inbox = feed.inbox().await;
        feed.send(["x"]);
        next(&mut inbox).await.ack().await.unwrap();
        feed.until_said(1).await;
        inbox.stop(SECOND).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_to_be_handed_out_keeps_its_lease_and_is_dropped_once_it_is_lost() {
    let feed = Feed::with_lease(Layout::Plain, 12 * SECOND);
    let mut inbox = feed.inbox().await;
    feed.send(["x", "y", "z"]);
    let held = next(&mut inbox).await;
    tokio::time::sleep(100 * SECOND).await;
    assert!(!held.is_lost());
    feed.extends.lock().unwrap().extend(vec![Step::Lost(vec![1]); 1]);
    tokio::time::sleep(12 * SECOND).await;
    let mut other = Vec::new();
    while let Some(delivery) = inbox.next().now_or_never() {
        other.push(delivery.unwrap().unwrap().id().to_owned());
    }
    assert_eq!(other, ["z"], "`y` is somebody else's by now");
}

#[tokio::test(start_paused = true)]
async fn a_lease_apart_from_its_delivery_is_over_when_that_is_settled_or_lost() {
    let lease = 12 * SECOND;
    let feed = Feed::with_lease(Layout::Plain, lease);
    let mut inbox = feed.inbox().await;
    feed.send(["x"]);
    let delivery = next(&mut inbox).await;
    let first = delivery.lease();
    assert!(!first.is_over());
    first.extend().await.unwrap();
    delivery.ack().await.unwrap();
    assert!(first.is_over());
    assert_eq!(first.extend().await.unwrap_err().kind(), ErrorKind::LeaseLost);

    // Its slot is used again, and the first lease is not that of the next delivery.
    feed.send(["y"]);
    let delivery = next(&mut inbox).await;
    let second = delivery.lease();
    assert!(first.is_over() && !second.is_over());
    feed.extends.lock().unwrap().extend(vec![Step::Hang; 100]);
    timeout(2 * lease, second.lost()).await.expect("it is lost in time");
    assert!(second.is_over() && delivery.is_lost());
}
