//! What a member receives, and what becomes of its verdicts.

use std::collections::BTreeMap;
use std::time::Duration;

use posthaste_core::broker::Destination;
use posthaste_core::{
    Bus, Cause, ErrorKind, Events, Layout, Nack, Order, Start, SubscriptionEvent, Timestamp,
};
use posthaste_kafka::KafkaNative;
use rdkafka::admin::AdminOptions;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::Instant;

use crate::adapter::{Adapter, failed, fresh, native};
use crate::member::{bus, bus_with, join, next, number, silent};
use crate::raw;
use crate::server::{Private, Server};
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.add("all_is_received_once_also_over_a_restart", once);
    suite.add("only_what_was_not_settled_comes_again", out_of_order);
    suite.add("a_new_group_gets_what_is_confirmed_after_it_exists", created);
    suite.add("starts_are_as_asked", starts);
    suite.add("without_a_group_all_get_everything_new", ephemeral);
    suite.add("failed_messages_come_again_in_their_time", again);
    suite.add("what_is_given_up_is_a_dead_letter", dead_letter);
    suite.add("no_more_is_out_than_prefetch", prefetch);
    suite.add("a_lease_that_ends_brings_the_message_again", lease);
    suite.add("at_most_once_is_settled_before_it_is_seen", at_most_once);
    suite.add("a_confirmed_ack_is_at_the_broker", confirmed);
    suite.add("order_is_refused_where_there_is_none", order);
    suite.add("what_was_removed_unread_is_told", removed);
    suite.add("what_is_removed_while_it_waits_is_told", removed_meanwhile);
    suite.private("receiving_goes_on_after_the_broker_was_killed", killed);
}

async fn once(server: Server) {
    let (to, adapter) = made(&server, "once", 3).await;
    let bus = bus(&server).await;
    let mut seen = BTreeMap::new();
    let mut inbox = join(&bus, &to.topic, 100).await;
    adapter.store_numbers(&to, 0..1_000).await;
    for _ in 0..400 {
        let delivery = next(&mut inbox).await;
        assert_eq!(delivery.attempt(), 1);
        *seen.entry(number(&delivery)).or_insert(0) += 1;
        delivery.ack().await.unwrap();
    }
    inbox.stop(Duration::from_secs(10)).await.unwrap();
    let mut inbox = join(&bus, &to.topic, 100).await;
    for _ in 400..1_000 {
        let delivery = next(&mut inbox).await;
        assert_eq!(delivery.attempt(), 1, "the end was in order");
        *seen.entry(number(&delivery)).or_insert(0) += 1;
        delivery.ack().await.unwrap();
    }
    silent(&mut inbox, Duration::from_millis(300)).await;
    assert_eq!(seen.len(), 1_000);
    assert!(seen.values().all(|times| *times == 1), "{seen:?}");
    bus.close(Duration::from_secs(10)).await.unwrap();
}

/// A topic with that many partitions.
async fn made(server: &Server, part: &str, n: u16) -> (Destination, Adapter) {
    let to = fresh(part, Layout::Plain);
    raw::create(server, &native(&to), n, &[]).await;
    (to, Adapter::connect(server.config()).await.unwrap())
}

async fn out_of_order(server: Server) {
    let (to, adapter) = made(&server, "out-of-order", 1).await;
    let bus = bus(&server).await;
    let mut inbox = join(&bus, &to.topic, 100).await;
    adapter.store_numbers(&to, 0..10).await;
    let mut held = Vec::new();
    for _ in 0..10 {
        let delivery = next(&mut inbox).await;
        if number(&delivery).is_multiple_of(2) {
            delivery.ack().await.unwrap();
        } else {
            held.push(delivery);
        }
    }
    // They are still held when the subscription ends.
    let stopped = inbox.stop(Duration::from_millis(100)).await.unwrap_err();
    assert_eq!(stopped.kind(), ErrorKind::Timeout);
    let mut inbox = join(&bus, &to.topic, 100).await;
    let mut again = Vec::new();
    for _ in 0..5 {
        let delivery = next(&mut inbox).await;
        again.push(number(&delivery));
        delivery.ack().await.unwrap();
    }
    assert_eq!(again, [1, 3, 5, 7, 9]);
    silent(&mut inbox, Duration::from_millis(300)).await;
    drop(held);
    bus.close(Duration::from_secs(10)).await.unwrap();
}

async fn created(server: Server) {
    let (to, adapter) = made(&server, "created", 3).await;
    adapter.store_numbers(&to, 0..30).await;
    let bus = bus(&server).await;
    let mut inbox = join(&bus, &to.topic, 100).await;
    // At once, before any partition was assigned.
    adapter.store_numbers(&to, 100..130).await;
    let mut seen = Vec::new();
    for _ in 0..30 {
        let delivery = next(&mut inbox).await;
        seen.push(number(&delivery));
        delivery.ack().await.unwrap();
    }
    seen.sort_unstable();
    assert_eq!(seen, (100..130).collect::<Vec<_>>());
    bus.close(Duration::from_secs(10)).await.unwrap();
}

/// Waits until the clock by which messages are stored is a step further. It shows the same time to
/// everybody here.
fn next_millisecond() -> Timestamp {
    let millis = |time: Timestamp| time.as_micros() / 1_000;
    let before = millis(Timestamp::now());
    loop {
        let now = Timestamp::now();
        if millis(now) > before {
            return now;
        }
    }
}

async fn starts(server: Server) {
    let (to, adapter) = made(&server, "starts", 1).await;
    adapter.store_numbers(&to, 0..10).await;
    let between = next_millisecond();
    next_millisecond();
    adapter.store_numbers(&to, 10..20).await;
    let bus = bus(&server).await;
    let at = Start::AtOffset { partition: None, offset: 15 };
    for (group, start, first) in
        [("e", Start::Earliest, 0), ("t", Start::At(between), 10), ("o", at, 15)]
    {
        let inbox = bus.subscribe(to.topic.as_str()).group(group).from(start).start().await;
        let mut inbox = inbox.unwrap();
        for n in first..20 {
            let delivery = next(&mut inbox).await;
            assert_eq!((number(&delivery), delivery.offset()), (n, Some(n.into())), "{group}");
            delivery.ack().await.unwrap();
        }
    }
    let beyond = Start::AtOffset { partition: None, offset: 500 };
    let refused = bus.subscribe(to.topic.as_str()).group("b").from(beyond).start().await;
    failed(refused, ErrorKind::Invalid, &["500"]);
    bus.close(Duration::from_secs(10)).await.unwrap();
}

async fn ephemeral(server: Server) {
    let (to, adapter) = made(&server, "ephemeral", 3).await;
    adapter.store_numbers(&to, 0..9).await;
    let bus = bus(&server).await;
    let mut one = bus.subscribe(to.topic.as_str()).start().await.unwrap();
    let mut two = bus.subscribe(to.topic.as_str()).start().await.unwrap();
    adapter.store_numbers(&to, 10..19).await;
    for inbox in [&mut one, &mut two] {
        let mut seen = Vec::new();
        for _ in 10..19 {
            let delivery = next(inbox).await;
            seen.push(number(&delivery));
            delivery.ack_confirmed().await.unwrap();
        }
        seen.sort_unstable();
        assert_eq!(seen, (10..19).collect::<Vec<_>>());
    }
    bus.close(Duration::from_secs(10)).await.unwrap();
}

async fn again(server: Server) {
    let (to, adapter) = made(&server, "again", 1).await;
    let bus = bus(&server).await;
    let mut inbox = join(&bus, &to.topic, 100).await;
    adapter.store_numbers(&to, 0..3).await;
    let (first, second, third) =
        (next(&mut inbox).await, next(&mut inbox).await, next(&mut inbox).await);
    let start = Instant::now();
    first.nack(Nack::after(Duration::from_millis(1_500))).await.unwrap();
    second.nack(Nack::requeue()).await.unwrap();
    third.release().await.unwrap();
    let mut soon = Vec::new();
    for _ in 0..2 {
        let delivery = next(&mut inbox).await;
        assert_eq!(delivery.attempt(), 2);
        soon.push(number(&delivery));
        delivery.ack().await.unwrap();
    }
    soon.sort_unstable();
    assert_eq!(soon, [1, 2]);
    assert!(start.elapsed() < Duration::from_millis(1_000), "{:?}", start.elapsed());
    let late = next(&mut inbox).await;
    assert_eq!((number(&late), late.attempt()), (0, 2));
    let waited = start.elapsed();
    let span = Duration::from_millis(1_500)..Duration::from_millis(2_600);
    assert!(span.contains(&waited), "{waited:?}");
    late.ack().await.unwrap();
    silent(&mut inbox, Duration::from_millis(300)).await;
    inbox.stop(Duration::from_secs(10)).await.unwrap();
    let mut inbox = join(&bus, &to.topic, 100).await;
    silent(&mut inbox, Duration::from_secs(5)).await;
    bus.close(Duration::from_secs(10)).await.unwrap();
}

async fn dead_letter(server: Server) {
    let (to, adapter) = made(&server, "letters", 1).await;
    let bus = bus(&server).await;
    let mut inbox = join(&bus, &to.topic, 100).await;
    adapter.store_numbers(&to, 0..2).await;
    next(&mut inbox).await.nack(Nack::dead_letter(Cause::new("it is bad"))).await.unwrap();
    next(&mut inbox).await.ack().await.unwrap();
    inbox.stop(Duration::from_secs(10)).await.unwrap();
    let found = raw::read_all(&server, &format!("{}__g__dlq", to.topic)).await;
    let [letter] = &found[..] else { unreachable!("{found:?}") };
    assert_eq!(letter.text(), "0");
    assert_eq!(letter.header("ce_partitionkey"), Some(&b"0"[..]));
    assert_ne!(letter.key.as_deref(), Some(&b"0"[..]));
    let mut inbox = join(&bus, &to.topic, 100).await;
    silent(&mut inbox, Duration::from_secs(5)).await;
    bus.close(Duration::from_secs(10)).await.unwrap();
}

async fn prefetch(server: Server) {
    let (to, adapter) = made(&server, "prefetch", 3).await;
    let bus = bus(&server).await;
    let mut inbox = join(&bus, &to.topic, 7).await;
    adapter.store_numbers(&to, 0..100).await;
    let mut held = Vec::new();
    for _ in 0..7 {
        held.push(next(&mut inbox).await);
    }
    silent(&mut inbox, Duration::from_millis(2_500)).await;
    // After a pause of the client, too.
    for _ in 7..100 {
        held.remove(0).ack().await.unwrap();
        held.push(next(&mut inbox).await);
    }
    for delivery in held {
        delivery.ack().await.unwrap();
    }
    silent(&mut inbox, Duration::from_millis(300)).await;
    bus.close(Duration::from_secs(10)).await.unwrap();
}

async fn lease(server: Server) {
    let (to, adapter) = made(&server, "lease", 1).await;
    let bus = bus(&server).await;
    let inbox = bus.subscribe(to.topic.as_str()).group("g").lease(Duration::from_millis(600));
    let mut inbox = inbox.max_handling(Duration::from_millis(600)).start().await.unwrap();
    adapter.store_numbers(&to, 0..1).await;
    let first = next(&mut inbox).await;
    let second = next(&mut inbox).await;
    assert_eq!((second.attempt(), first.is_lost()), (2, true));
    let refused = first.nack(Nack::requeue()).await;
    failed(refused, ErrorKind::LeaseLost, &[]);
    second.ack().await.unwrap();
    silent(&mut inbox, Duration::from_millis(1_500)).await;
    bus.close(Duration::from_secs(10)).await.unwrap();
}

async fn at_most_once(server: Server) {
    let (to, adapter) = made(&server, "at-most-once", 1).await;
    let bus = bus(&server).await;
    let join = || {
        let inbox = bus.subscribe(to.topic.as_str()).group("g").at_most_once();
        inbox.prefetch(5).start()
    };
    let mut inbox = join().await.unwrap();
    adapter.store_numbers(&to, 0..3).await;
    for n in 0..3 {
        assert_eq!(number(&next(&mut inbox).await), n);
    }
    drop(inbox);
    let mut inbox = join().await.unwrap();
    silent(&mut inbox, Duration::from_secs(5)).await;
    bus.close(Duration::from_secs(10)).await.unwrap();
}

async fn confirmed(server: Server) {
    let (to, adapter) = made(&server, "confirmed", 1).await;
    let bus = bus(&server).await;
    let mut inbox = join(&bus, &to.topic, 100).await;
    adapter.store_numbers(&to, 0..3).await;
    for n in 0..3_u64 {
        let start = Instant::now();
        next(&mut inbox).await.ack_confirmed().await.unwrap();
        assert!(n == 0 || start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        let lag = bus.admin().lag(to.topic.as_str(), "g").await.unwrap();
        assert_eq!(lag.ready, Some(2 - n), "{lag:?}");
    }
    bus.close(Duration::from_secs(10)).await.unwrap();
}

async fn order(server: Server) {
    let (to, _) = made(&server, "order", 1).await;
    let bus = bus(&server).await;
    let refused = bus.subscribe(to.topic.as_str()).group("g").order(Order::PerKey).start().await;
    failed(refused, ErrorKind::Unsupported, &["order per key"]);
    let to = fresh("order", Layout::Ordered(3));
    raw::create(&server, &native(&to), 3, &[]).await;
    let inbox = bus.subscribe(to.topic.as_str()).group("g").order(Order::PerKey).start().await;
    inbox.unwrap();
    bus.close(Duration::from_secs(10)).await.unwrap();
}

async fn remove_before(bus: &Bus, to: &Destination, offset: i64) {
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(&native(to), 0, Offset::Offset(offset)).unwrap();
    let admin = bus.native::<KafkaNative>().unwrap().admin().unwrap();
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)));
    admin.delete_records(&before, &options).await.unwrap();
}

/// How many messages are told to be lost.
async fn lost(events: &mut Events) -> Option<u64> {
    loop {
        match tokio::time::timeout(Duration::from_secs(5), events.next()).await.unwrap() {
            Some(SubscriptionEvent::Lost { count, .. }) => return count,
            Some(_) => {}
            None => unreachable!("the subscription ended"),
        }
    }
}

async fn removed_meanwhile(server: Server) {
    let (to, adapter) = made(&server, "removed-meanwhile", 1).await;
    let bus = bus(&server).await;
    let mut inbox = join(&bus, &to.topic, 2).await;
    let mut events = inbox.events();
    adapter.store_numbers(&to, 0..20).await;
    let held = [next(&mut inbox).await, next(&mut inbox).await];
    // The client stops reading, and forgets what it has read ahead.
    silent(&mut inbox, Duration::from_secs(2)).await;
    remove_before(&bus, &to, 15).await;
    for delivery in held {
        delivery.ack().await.unwrap();
    }
    for n in 15..20 {
        let delivery = next(&mut inbox).await;
        assert_eq!(number(&delivery), n);
        delivery.ack().await.unwrap();
    }
    assert_eq!(lost(&mut events).await, Some(13));
    bus.close(Duration::from_secs(10)).await.unwrap();
}

async fn removed(server: Server) {
    let (to, adapter) = made(&server, "removed", 1).await;
    let bus = bus(&server).await;
    let mut inbox = join(&bus, &to.topic, 10).await;
    adapter.store_numbers(&to, 0..5).await;
    for _ in 0..5 {
        next(&mut inbox).await.ack().await.unwrap();
    }
    inbox.stop(Duration::from_secs(10)).await.unwrap();
    adapter.store_numbers(&to, 5..15).await;
    remove_before(&bus, &to, 8).await;
    let mut inbox = join(&bus, &to.topic, 10).await;
    let mut events = inbox.events();
    assert_eq!(number(&next(&mut inbox).await), 8);
    assert_eq!(lost(&mut events).await, Some(3));
    bus.close(Duration::from_secs(10)).await.unwrap();
}

async fn killed(mut private: Private) {
    let server = private.server();
    let (to, adapter) = made(&server, "killed", 2).await;
    let bus = bus_with(&server, &[("session.timeout.ms", "6000")]).await;
    let mut inbox = join(&bus, &to.topic, 50).await;
    adapter.store_numbers(&to, 0..100).await;
    let mut seen = BTreeMap::<u32, u32>::new();
    for _ in 0..100 {
        let delivery = next(&mut inbox).await;
        *seen.entry(number(&delivery)).or_default() += 1;
        delivery.ack().await.unwrap();
    }
    // The broker has to know of it before it is killed.
    let (id, until) = (format!("{}__g", to.topic), Instant::now() + Duration::from_secs(5));
    loop {
        let committed = raw::committed(&server, &id, &native(&to), 2).await;
        if committed.iter().filter_map(|(offset, _)| *offset).sum::<i64>() == 100 {
            break;
        }
        assert!(Instant::now() < until, "{committed:?}");
    }
    let mut events = inbox.events();
    private.kill().await;
    let told = tokio::time::timeout(Duration::from_secs(15), async {
        while !matches!(events.next().await, Some(SubscriptionEvent::Disconnected { .. })) {}
    });
    let polling = tokio::time::timeout(Duration::from_secs(15), inbox.next());
    tokio::select! {
        told = told => told.unwrap(),
        next = polling => unreachable!("{next:?}"),
    }
    private.up().await;
    adapter.store_numbers(&to, 100..200).await;
    let start = Instant::now();
    while seen.len() < 200 {
        let delivery = next(&mut inbox).await;
        *seen.entry(number(&delivery)).or_default() += 1;
        delivery.ack().await.unwrap();
    }
    let more: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).collect();
    println!("all was there {:?} after the broker", start.elapsed());
    assert!(more.is_empty(), "{more:?}");
    let told = tokio::time::timeout(Duration::from_secs(5), async {
        while !matches!(events.next().await, Some(SubscriptionEvent::Reconnected)) {}
    });
    told.await.unwrap();
    bus.close(Duration::from_secs(20)).await.unwrap();
}
