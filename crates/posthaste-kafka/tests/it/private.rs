//! The private topic of a group: what waits for long, and what a member leaves behind.

use std::time::Duration;

use posthaste_core::broker::Destination;
use posthaste_core::{Cause, Layout, Nack};
use tokio::time::Instant;

use crate::adapter::{Adapter, fresh, native};
use crate::member::{bus, join, next, number, silent};
use crate::raw;
use crate::server::Server;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.add("a_long_delay_holds_nothing_back", long_delay);
    suite.add("attempts_outlive_the_member_that_failed", spilled);
    suite.add("settled_copies_are_removed_and_others_are_not", removed);
    suite.add("a_dead_letter_is_replayed_to_its_group_alone", replayed);
}

async fn made(server: &Server, part: &str, partitions: u16) -> (Destination, Adapter) {
    let to = fresh(part, Layout::Plain);
    raw::create(server, &native(&to), partitions, &[]).await;
    (to, Adapter::connect(server.config()).await.expect("the broker is there"))
}

async fn long_delay(server: Server) {
    const DELAY: Duration = Duration::from_secs(33);
    let (to, adapter) = made(&server, "long-delay", 1).await;
    let bus = bus(&server).await;
    let mut inbox = join(&bus, &to.topic, 100).await;
    adapter.store_numbers(&to, 0..2).await;
    let (first, second) = (next(&mut inbox).await, next(&mut inbox).await);
    let start = Instant::now();
    first.nack(Nack::after(DELAY)).await.unwrap();
    second.ack_confirmed().await.unwrap();
    // A copy waits elsewhere, and the group has done with the partition.
    let id = format!("{}__g", to.topic);
    let until = start + Duration::from_secs(10);
    while raw::committed(&server, &id, &native(&to), 1).await[0].0 != Some(2) {
        assert!(Instant::now() < until, "the group is held back");
    }
    let copies = raw::read_all(&server, &format!("{}__g__retry", to.topic)).await;
    let [copy] = &copies[..] else { unreachable!("{copies:?}") };
    assert_eq!((copy.text(), copy.header("ph-attempt")), ("0", Some(&b"1"[..])));
    // Nothing is held back by it, and it is not early.
    adapter.store_numbers(&to, 2..3).await;
    next(&mut inbox).await.ack().await.unwrap();
    let late = next_within(&mut inbox, Duration::from_secs(60)).await;
    let waited = start.elapsed();
    assert_eq!((number(&late), late.attempt(), late.key()), (0, 2, Some(&b"0"[..])));
    assert!((DELAY..DELAY + Duration::from_secs(5)).contains(&waited), "{waited:?}");
    late.ack_confirmed().await.unwrap();
    inbox.stop(Duration::from_secs(10)).await.unwrap();
    let mut inbox = join(&bus, &to.topic, 100).await;
    silent(&mut inbox, Duration::from_secs(5)).await;
    bus.close(Duration::from_secs(10)).await.unwrap();
}

async fn next_within(
    inbox: &mut posthaste_core::Subscription,
    limit: Duration,
) -> posthaste_core::Delivery {
    let next = tokio::time::timeout(limit, inbox.next()).await;
    next.expect("a delivery in time").expect("a delivery").expect("no error")
}

async fn spilled(server: Server) {
    let (to, adapter) = made(&server, "spilled", 2).await;
    let bus = bus(&server).await;
    let mut inbox = join(&bus, &to.topic, 100).await;
    adapter.store_numbers(&to, 0..1).await;
    let start = Instant::now();
    next(&mut inbox).await.nack(Nack::requeue()).await.unwrap();
    next(&mut inbox).await.nack(Nack::after(Duration::from_secs(12))).await.unwrap();
    inbox.stop(Duration::from_secs(10)).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let mut inbox = join(&bus, &to.topic, 100).await;
    let again = next(&mut inbox).await;
    let waited = start.elapsed();
    assert_eq!((number(&again), again.attempt()), (0, 3));
    assert!(waited >= Duration::from_secs(12), "{waited:?}");
    again.ack().await.unwrap();
    silent(&mut inbox, Duration::from_millis(300)).await;
    bus.close(Duration::from_secs(10)).await.unwrap();
}

async fn removed(server: Server) {
    let (to, adapter) = made(&server, "removed-copies", 1).await;
    let bus = bus(&server).await;
    let mut inbox = join(&bus, &to.topic, 100).await;
    adapter.store_numbers(&to, 0..6).await;
    // Copies of all of them: half of them are handled at once, the others wait for an hour.
    for n in 0..6 {
        let delay = if n < 3 { Duration::from_secs(31) } else { Duration::from_secs(3_600) };
        next(&mut inbox).await.nack(Nack::after(delay)).await.unwrap();
    }
    for _ in 0..3 {
        let copy = next_within(&mut inbox, Duration::from_secs(60)).await;
        assert!(number(&copy) < 3);
        copy.ack().await.unwrap();
    }
    let private = format!("{}__g__retry", to.topic);
    let until = Instant::now() + Duration::from_secs(60);
    while raw::held(&server, &private).await > 3 {
        assert!(Instant::now() < until, "settled copies are still there");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let left = raw::read_all(&server, &private).await;
    let mut numbers: Vec<_> = left.iter().map(raw::Raw::text).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, ["3", "4", "5"]);
    bus.close(Duration::from_secs(10)).await.unwrap();
}

async fn replayed(server: Server) {
    let (to, adapter) = made(&server, "replayed", 3).await;
    let bus = bus(&server).await;
    let mut inbox = join(&bus, &to.topic, 100).await;
    let other = bus.subscribe(to.topic.as_str()).group("other").start().await;
    let mut other = other.unwrap();
    adapter.store_numbers(&to, 0..3).await;
    for _ in 0..3 {
        let delivery = next(&mut inbox).await;
        delivery.nack(Nack::dead_letter(Cause::new("it is bad"))).await.unwrap();
        next(&mut other).await.ack().await.unwrap();
    }
    let (admin, topic) = (bus.admin(), to.topic.as_str());
    let until = Instant::now() + Duration::from_secs(10);
    let page = loop {
        let page = admin.dead_letters(topic, "g", 10).await.unwrap();
        if page.letters.len() == 3 {
            break page;
        }
        assert!(Instant::now() < until, "{page:?}");
    };
    let ids: Vec<_> = page.letters.iter().map(|letter| letter.id.clone()).collect();
    admin.replay(topic, "g", &ids).await.unwrap().into_iter().for_each(Result::unwrap);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let delivery = next(&mut inbox).await;
        assert_eq!(delivery.attempt(), 1);
        seen.push(number(&delivery));
        delivery.ack().await.unwrap();
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2]);
    silent(&mut other, Duration::from_millis(500)).await;
    assert!(admin.dead_letters(topic, "g", 10).await.unwrap().letters.is_empty());
    bus.close(Duration::from_secs(10)).await.unwrap();
}
