//! What a member that stops leaves to the next: how often messages were delivered, and when they
//! are due.

use std::time::Duration;

use posthaste_core::broker::Destination;
use posthaste_core::{Bus, Layout, Nack, Order, Subscription};
use tokio::time::Instant;

use crate::adapter::{Adapter, fresh, keyed, native};
use crate::member::{bus, join, next, number, silent};
use crate::raw;
use crate::server::Server;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.add("a_failed_message_of_an_ordered_topic_keeps_attempts_time_and_order", ordered);
    suite.add("what_was_given_back_counts_and_what_nobody_saw_does_not", given_back);
}

async fn made(server: &Server, part: &str, layout: Layout) -> (Destination, Adapter) {
    let to = fresh(part, layout);
    raw::create(server, &native(&to), 1, &[]).await;
    (to, Adapter::connect(server.config()).await.expect("the broker is there"))
}

async fn in_order(bus: &Bus, to: &Destination) -> Subscription {
    let inbox = bus.subscribe(to.topic.as_str()).group("g").order(Order::PerKey).prefetch(100);
    inbox.start().await.expect("a subscription")
}

async fn ordered(server: Server) {
    const DELAY: Duration = Duration::from_secs(15);
    let (to, adapter) = made(&server, "ordered", Layout::Ordered(1)).await;
    let (one, two) = (bus(&server).await, bus(&server).await);
    let mut first = in_order(&one, &to).await;
    adapter.store(&to, &[keyed("a", "1"), keyed("b", "2"), keyed("a", "3")]).await;
    let failing = next(&mut first).await;
    assert_eq!((number(&failing), failing.attempt()), (1, 1));
    failing.nack(Nack::requeue()).await.unwrap();
    let mut seen = Vec::new();
    let mut start = Instant::now();
    for _ in 0..2 {
        let delivery = next(&mut first).await;
        seen.push((number(&delivery), delivery.attempt()));
        if number(&delivery) == 1 {
            start = Instant::now();
            delivery.nack(Nack::after(DELAY)).await.unwrap();
        } else {
            delivery.ack().await.unwrap();
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, [(1, 2), (2, 1)]);
    first.stop(Duration::from_secs(10)).await.unwrap();

    // Twice, so that a member hands over what it never had itself.
    in_order(&two, &to).await.stop(Duration::from_secs(10)).await.unwrap();
    let mut third = in_order(&one, &to).await;
    adapter.store(&to, &[keyed("a", "4"), keyed("b", "5")]).await;
    let other = next(&mut third).await;
    assert_eq!((number(&other), other.attempt()), (5, 1), "another key waits for nothing");
    other.ack().await.unwrap();
    assert!(start.elapsed() < DELAY, "{:?}", start.elapsed());
    let again = next(&mut third).await;
    let waited = start.elapsed();
    assert_eq!((number(&again), again.attempt()), (1, 3));
    assert!((DELAY..DELAY + Duration::from_secs(3)).contains(&waited), "{waited:?}");
    silent(&mut third, Duration::from_millis(500)).await;
    again.ack().await.unwrap();
    for n in 3..5 {
        let follows = next(&mut third).await;
        assert_eq!((number(&follows), follows.attempt()), (n, 1));
        follows.ack_confirmed().await.unwrap();
    }
    silent(&mut third, Duration::from_millis(300)).await;
    one.close(Duration::from_secs(10)).await.unwrap();
    two.close(Duration::from_secs(10)).await.unwrap();
}

async fn given_back(server: Server) {
    let (to, adapter) = made(&server, "given-back", Layout::Plain).await;
    let bus = bus(&server).await;
    let mut inbox = join(&bus, &to.topic, 10).await;
    adapter.store_numbers(&to, 0..6).await;
    let (released, dropped) = (next(&mut inbox).await, next(&mut inbox).await);
    let stop = inbox.stopper();
    stop.stop();
    released.release().await.unwrap();
    drop(dropped);
    assert_eq!(stop.stopped().await, 0);
    let mut inbox = join(&bus, &to.topic, 10).await;
    let mut seen = Vec::new();
    for _ in 0..6 {
        let delivery = next(&mut inbox).await;
        seen.push((number(&delivery), delivery.attempt()));
        delivery.ack().await.unwrap();
    }
    seen.sort_unstable();
    assert_eq!(seen, [(0, 2), (1, 2), (2, 1), (3, 1), (4, 1), (5, 1)]);
    bus.close(Duration::from_secs(10)).await.unwrap();
}
