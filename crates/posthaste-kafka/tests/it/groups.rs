//! Groups are what they have committed: they are made, measured, moved, listed and deleted.

use std::time::Duration;

use posthaste_core::broker::{Destination, Start};
use posthaste_core::{Bus, Cause, ErrorKind, Layout, Nack, Order, Timestamp, TopicConfig};
use tokio::time::Instant;

use crate::adapter::{Adapter, failed, fresh, group, name, native, topic};
use crate::member::{bus, join, next, number, silent};
use crate::raw;
use crate::server::Server;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.add("a_new_group_gets_what_comes_after_it", created);
    suite.add("a_group_that_many_create_at_once_loses_nothing", at_once);
    suite.add("groups_are_listed_measured_and_deleted", life_cycle);
    suite.add("a_group_of_a_queue_is_called_queue", queue);
    suite.add("a_group_is_moved_to_any_start", seek);
    suite.add("a_group_with_members_is_not_moved_or_deleted", members);
    suite.add("a_group_by_the_newer_protocol_is_not_moved_or_deleted", newer_members);
    suite.add("what_was_removed_before_it_was_read_is_not_behind", removed);
    suite.add("what_is_settled_out_of_order_is_not_behind", out_of_order);
    suite.add("what_waits_in_the_private_topic_is_behind", private);
    suite.add("a_purge_reaches_what_waits_for_groups", purged);
    suite.add("what_is_left_of_a_group_goes_with_it", left_over);
}

async fn connect(server: &Server) -> Adapter {
    Adapter::connect(server.config()).await.expect("the broker is there")
}

async fn behind(adapter: &Adapter, to: &Destination, name: &str) -> Option<u64> {
    let lag = adapter.admin().lag(&to.topic, &group(name)).await.unwrap();
    assert_eq!((lag.in_flight, lag.delayed, lag.exact), (None, None, false));
    lag.ready
}

/// Passes when the group is so far behind. What is settled is committed a moment later, and what
/// moves is in two places for as long.
async fn comes_to(adapter: &Adapter, to: &Destination, wanted: u64) {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let found = behind(adapter, to, "g").await;
        if found == Some(wanted) {
            return;
        }
        assert!(Instant::now() < until, "{found:?} instead of {wanted}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A topic of one partition, which another program has made.
async fn made(server: &Server, part: &str) -> (Adapter, Bus, Destination) {
    let to = fresh(part, Layout::Plain);
    raw::create(server, &native(&to), 1, &[]).await;
    (connect(server).await, bus(server).await, to)
}

async fn close(bus: Bus) {
    bus.close(Duration::from_secs(10)).await.unwrap();
}

async fn created(server: Server) {
    let (adapter, name) = (connect(&server).await, name("created"));
    let to = adapter.ensure(TopicConfig::new(&name).ordered(3)).await;
    adapter.store_numbers(&to, 0..20).await;
    let config = || TopicConfig::new(&name).ordered(3).group("one");
    adapter.ensure(config()).await;
    assert_eq!(behind(&adapter, &to, "one").await, Some(0));
    adapter.store_numbers(&to, 20..50).await;
    // To ask for it again does not move it.
    adapter.ensure(config().group("two")).await;
    assert_eq!(behind(&adapter, &to, "one").await, Some(30));
    assert_eq!(behind(&adapter, &to, "two").await, Some(0));
    let committed = raw::committed(&server, &format!("{name}__one"), &native(&to), 3).await;
    let ends: i64 = committed.iter().map(|(offset, _)| offset.unwrap()).sum();
    assert_eq!(ends, 20);
    assert!(committed.iter().all(|(_, said)| said.starts_with("ph1.")), "{committed:?}");
}

/// Whoever has made it may rely on it, also while others still make it.
async fn at_once(server: Server) {
    let name = name("at-once");
    let config = || TopicConfig::new(&name).ordered(2).group("g");
    let first = connect(&server).await;
    let to = first.ensure(TopicConfig::new(&name).ordered(2)).await;
    let others = [connect(&server).await, connect(&server).await];
    let making = futures_util::future::join_all(others.iter().map(|one| async {
        for _ in 0..5 {
            one.ensure(config()).await;
        }
    }));
    let publishing = async {
        first.ensure(config()).await;
        for n in 0..20 {
            first.store_numbers(&to, n * 5..n * 5 + 5).await;
        }
    };
    tokio::join!(making, publishing);
    assert_eq!(behind(&first, &to, "g").await, Some(100));
}

async fn life_cycle(server: Server) {
    let (adapter, name) = (connect(&server).await, name("life"));
    let to = adapter.ensure(TopicConfig::new(&name).group("two").group("one")).await;
    adapter.ensure(TopicConfig::new(format!("{name}.near")).group("other")).await;
    adapter.store_numbers(&to, 0..10).await;
    let admin = adapter.admin();
    let listed = admin.groups(&to.topic).await.unwrap();
    let shown: Vec<_> =
        listed.iter().map(|one| (one.name.as_str(), one.members, one.pins, one.idle_for)).collect();
    assert_eq!(shown, [("one", Some(0), Some(10), None), ("two", Some(0), Some(10), None)]);
    raw::create(&server, &format!("{name}__one__retry"), 1, &[]).await;
    raw::create(&server, &format!("{name}__one__dlq"), 1, &[]).await;
    admin.delete_group(&to.topic, &group("one")).await.unwrap();
    let left = raw::topics(&server).await;
    assert!(!left.contains(&format!("{name}__one__retry")));
    assert!(left.contains(&format!("{name}__one__dlq")), "its dead letters stay");
    let one = group("one");
    failed(admin.delete_group(&to.topic, &one).await, ErrorKind::NotFound, &["one"]);
    failed(admin.lag(&to.topic, &one).await, ErrorKind::NotFound, &["one"]);
    failed(admin.seek(&to.topic, &one, Start::Earliest).await, ErrorKind::NotFound, &["one"]);
    assert_eq!(admin.groups(&to.topic).await.unwrap().len(), 1);
    let nowhere = topic(&format!("{name}.nowhere"));
    failed(admin.groups(&nowhere).await, ErrorKind::NotFound, &["nowhere"]);
    failed(admin.lag(&nowhere, &one).await, ErrorKind::NotFound, &["nowhere"]);
    failed(admin.delete_group(&nowhere, &one).await, ErrorKind::NotFound, &["nowhere"]);
}

async fn queue(server: Server) {
    let (adapter, name) = (connect(&server).await, name("queue"));
    let to = adapter.ensure(TopicConfig::queue(&name)).await;
    adapter.store_numbers(&to, 0..4).await;
    assert_eq!(behind(&adapter, &to, "queue").await, Some(4));
    assert_eq!(adapter.admin().groups(&to.topic).await.unwrap().len(), 1);
}

async fn seek(server: Server) {
    let (adapter, name) = (connect(&server).await, name("seek"));
    let to = adapter.ensure(TopicConfig::new(&name).ordered(2).group("g")).await;
    adapter.store_numbers(&to, 0..20).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let middle = Timestamp::now();
    tokio::time::sleep(Duration::from_millis(5)).await;
    adapter.store_numbers(&to, 20..25).await;
    let (admin, g, id) = (adapter.admin(), group("g"), format!("{name}__g"));
    let at = async |start| {
        admin.seek(&to.topic, &g, start).await.unwrap();
        let committed = raw::committed(&server, &id, &native(&to), 2).await;
        committed.into_iter().map(|(offset, _)| offset.unwrap()).collect::<Vec<_>>()
    };
    let ends = at(Start::Latest).await;
    assert_eq!(ends.iter().sum::<i64>(), 25);
    assert_eq!(at(Start::Earliest).await, [0, 0]);
    assert_eq!(at(Start::AtOffset { partition: None, offset: 3 }).await, [3, 3]);
    assert_eq!(at(Start::AtOffset { partition: Some(1), offset: 5 }).await, [3, 5]);
    assert_eq!(at(Start::AtOffset { partition: None, offset: u64::MAX }).await, ends);
    assert_eq!(at(Start::At(middle)).await.iter().sum::<i64>(), 20);
    assert_eq!(behind(&adapter, &to, "g").await, Some(5));
    assert_eq!(at(Start::At(Timestamp::now())).await, ends);
    assert_eq!(at(Start::At(Timestamp::from_micros(0))).await, [0, 0]);
    failed(admin.seek(&to.topic, &g, Start::Created).await, ErrorKind::Invalid, &[]);
    let nowhere = Start::AtOffset { partition: Some(2), offset: 0 };
    failed(admin.seek(&to.topic, &g, nowhere).await, ErrorKind::Invalid, &["partition: 2"]);
}

async fn members(server: Server) {
    held(server, &[]).await;
}

async fn newer_members(server: Server) {
    held(server, &[("group.protocol", "consumer")]).await;
}

async fn held(server: Server, settings: &'static [(&'static str, &'static str)]) {
    let (adapter, name) = (connect(&server).await, name("members"));
    let to = adapter.ensure(TopicConfig::new(&name).group("g")).await;
    adapter.store_numbers(&to, 0..3).await;
    let (admin, g, id) = (adapter.admin(), group("g"), format!("{name}__g"));
    let private = format!("{name}__g__retry");
    raw::create(&server, &private, 1, &[]).await;
    let member = raw::Member::join(&server, &id, &native(&to), settings).await;
    // The newer protocol does not tell members to the question that the client has.
    let (shown, count): (&[&str], _) =
        if settings.is_empty() { (&["members: it-member"], Some(1)) } else { (&[], None) };
    failed(admin.seek(&to.topic, &g, Start::Earliest).await, ErrorKind::Conflict, shown);
    failed(admin.delete_group(&to.topic, &g).await, ErrorKind::Conflict, shown);
    assert!(raw::topics(&server).await.contains(&private), "nothing was deleted");
    let listed = admin.groups(&to.topic).await.unwrap();
    assert_eq!((listed[0].members, listed[0].pins), (count, Some(3)));
    // It is there, and stays as it is.
    adapter.ensure(TopicConfig::new(&name).group("g")).await;
    assert_eq!(behind(&adapter, &to, "g").await, Some(3));
    member.leave().await;
    admin.seek(&to.topic, &g, Start::Latest).await.unwrap();
    assert_eq!(behind(&adapter, &to, "g").await, Some(0));
    admin.delete_group(&to.topic, &g).await.unwrap();
    assert!(!raw::topics(&server).await.contains(&private));
}

async fn removed(server: Server) {
    let (adapter, name) = (connect(&server).await, name("removed"));
    let to = adapter.ensure(TopicConfig::new(&name).ordered(1).group("g")).await;
    adapter.store_numbers(&to, 0..10).await;
    adapter.admin().purge(&to.topic).await.unwrap();
    adapter.store_numbers(&to, 10..12).await;
    assert_eq!(behind(&adapter, &to, "g").await, Some(2));
    // An offset that is not there any more is the first that is.
    let before = Start::AtOffset { partition: None, offset: 1 };
    adapter.admin().seek(&to.topic, &group("g"), before).await.unwrap();
    let committed = raw::committed(&server, &format!("{name}__g"), &native(&to), 1).await;
    assert_eq!(committed[0].0, Some(10));
}

async fn out_of_order(server: Server) {
    let (adapter, bus, name) = (connect(&server).await, bus(&server).await, name("out-of-order"));
    let to = adapter.ensure(TopicConfig::new(&name).ordered(2).group("g")).await;
    adapter.store_numbers(&to, 0..20).await;
    // What is ordered stays in the topic when it is given back.
    let inbox = bus.subscribe(&*name).group("g").order(Order::PerKey).prefetch(20);
    let mut inbox = inbox.start().await.unwrap();
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(next(&mut inbox).await);
    }
    let (id, g) = (format!("{name}__g"), group("g"));
    let mut given_back = Vec::new();
    for (at, delivery) in held.into_iter().enumerate() {
        // The first of both partitions, and some between.
        let first = !given_back.iter().any(|(_, partition)| *partition == delivery.partition());
        if first || at % 3 == 0 {
            given_back.push((number(&delivery), delivery.partition()));
            inbox.stopper().stop();
            drop(delivery);
        } else {
            delivery.ack_confirmed().await.unwrap();
        }
    }
    let wanted = given_back.len() as u64;
    assert_eq!(behind(&adapter, &to, "g").await, Some(wanted));
    inbox.stop(Duration::from_secs(10)).await.unwrap();
    assert_eq!(behind(&adapter, &to, "g").await, Some(wanted));
    let committed = raw::committed(&server, &id, &native(&to), 2).await;
    assert!(committed.iter().all(|(offset, _)| *offset == Some(0)), "{committed:?}");
    assert_eq!(adapter.admin().groups(&to.topic).await.unwrap()[0].pins, Some(wanted));
    // A move of one partition leaves the other as it is, with what is settled there.
    let start = Start::AtOffset { partition: Some(1), offset: 2 };
    adapter.admin().seek(&to.topic, &g, start).await.unwrap();
    let moved = raw::committed(&server, &id, &native(&to), 2).await;
    assert_eq!((&moved[0], moved[1].0), (&committed[0], Some(2)));
    let of_first = given_back.iter().filter(|(_, partition)| *partition == Some(0)).count() as u64;
    let ends = raw::read_all(&server, &native(&to)).await;
    let of_second = ends.iter().filter(|one| one.partition == 1).count() as u64;
    assert_eq!(behind(&adapter, &to, "g").await, Some(of_first + of_second - 2));
    let inbox = bus.subscribe(&*name).group("g").order(Order::PerKey);
    let mut inbox = inbox.start().await.unwrap();
    for _ in 0..of_first + of_second - 2 {
        next(&mut inbox).await.ack().await.unwrap();
    }
    comes_to(&adapter, &to, 0).await;
    close(bus).await;
}

async fn private(server: Server) {
    let (adapter, bus, to) = made(&server, "private").await;
    let mut inbox = join(&bus, &to.topic, 100).await;
    adapter.store_numbers(&to, 0..8).await;
    let bad = || Nack::dead_letter(Cause::new("it is bad"));
    for at in 0..8 {
        let delivery = next(&mut inbox).await;
        match at {
            0 | 1 => delivery.nack(bad()).await.unwrap(),
            2..5 => delivery.nack(Nack::after(Duration::from_secs(3_600))).await.unwrap(),
            _ => delivery.ack().await.unwrap(),
        }
    }
    // Three copies, each elsewhere than its message.
    comes_to(&adapter, &to, 3).await;
    inbox.stop(Duration::from_secs(10)).await.unwrap();
    assert_eq!(behind(&adapter, &to, "g").await, Some(3));
    let admin = bus.admin();
    let page = admin.dead_letters(to.topic.as_str(), "g", 10).await.unwrap();
    let ids: Vec<_> = page.letters.iter().map(|letter| letter.id.clone()).collect();
    let replayed = admin.replay(to.topic.as_str(), "g", &ids).await.unwrap();
    assert_eq!(replayed.into_iter().filter(Result::is_ok).count(), 2);
    assert_eq!(behind(&adapter, &to, "g").await, Some(5));
    let listed = adapter.admin().groups(&to.topic).await.unwrap();
    assert_eq!((listed[0].name.as_str(), listed[0].pins), ("g", Some(5)));
    // Moving the group in the topic leaves the private one alone.
    adapter.admin().seek(&to.topic, &group("g"), Start::Earliest).await.unwrap();
    assert_eq!(behind(&adapter, &to, "g").await, Some(13));
    adapter.admin().seek(&to.topic, &group("g"), Start::Latest).await.unwrap();
    assert_eq!(behind(&adapter, &to, "g").await, Some(5));
    let mut inbox = join(&bus, &to.topic, 100).await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let delivery = next(&mut inbox).await;
        seen.push(number(&delivery));
        delivery.ack().await.unwrap();
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1]);
    comes_to(&adapter, &to, 3).await;
    close(bus).await;
    // Without the group, nobody waits for them.
    adapter.admin().delete_group(&to.topic, &group("g")).await.unwrap();
    adapter.ensure(TopicConfig::new(to.topic.as_str()).group("g")).await;
    assert_eq!(behind(&adapter, &to, "g").await, Some(0));
}

async fn purged(server: Server) {
    let (adapter, bus, to) = made(&server, "purged-copies").await;
    let mut inbox = join(&bus, &to.topic, 100).await;
    adapter.store_numbers(&to, 0..4).await;
    for _ in 0..4 {
        let delivery = next(&mut inbox).await;
        delivery.nack(Nack::after(Duration::from_secs(31))).await.unwrap();
    }
    inbox.stop(Duration::from_secs(10)).await.unwrap();
    assert_eq!(behind(&adapter, &to, "g").await, Some(4));
    // Their places in the topic are counted, not their copies.
    assert_eq!(adapter.admin().purge(&to.topic).await.unwrap(), Some(4));
    assert_eq!(behind(&adapter, &to, "g").await, Some(0));
    assert!(raw::read_all(&server, &format!("{}__g__retry", to.topic)).await.is_empty());
    let mut inbox = join(&bus, &to.topic, 100).await;
    adapter.store_numbers(&to, 4..5).await;
    let delivery = next(&mut inbox).await;
    assert_eq!((number(&delivery), inbox.stats().lost), (4, 4));
    delivery.ack().await.unwrap();
    silent(&mut inbox, Duration::from_millis(500)).await;
    comes_to(&adapter, &to, 0).await;
    close(bus).await;
}

/// A deletion that could not go on leaves the private topic, and so does a group that expires.
async fn left_over(server: Server) {
    let (adapter, name) = (connect(&server).await, name("left-over"));
    let to = adapter.ensure(TopicConfig::new(&name)).await;
    let private = format!("{name}__g__retry");
    raw::create(&server, &private, 1, &[]).await;
    let deleted = adapter.admin().delete_group(&to.topic, &group("g")).await;
    failed(deleted, ErrorKind::NotFound, &["g"]);
    assert!(!raw::topics(&server).await.contains(&private));
}
