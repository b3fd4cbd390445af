//! Topics and consumer groups that are there already, under other names.

use std::time::Duration;

use posthaste_core::broker::{Broker as _, Destination, RangeQuery, Retained, Start};
use posthaste_core::{ErrorKind, Layout, Order, TopicConfig, Topology};
use posthaste_kafka::{Binding, KafkaNative};
use rdkafka::admin::{AdminOptions, NewPartitions};
use tokio::time::Instant;

use crate::adapter::{
    Adapter, destination, envelope, failed, group, keyed, name, native, spec, topic,
};
use crate::member::{bus_of, next, number};
use crate::raw;
use crate::server::Server;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.add("a_bound_topic_is_published_to_and_read", published_and_read);
    suite.add("a_bound_group_receives_under_the_id_that_it_is_bound_to", received);
    suite.add("a_bound_group_has_the_id_that_it_is_bound_to", bound_group);
    suite.add("a_bound_group_with_members_is_not_moved", members);
    suite.add("a_bound_topic_that_is_missing_is_never_made", missing);
    suite.add("a_bound_topic_is_compared_and_never_deleted", compared);
    suite.add("a_bound_topic_is_plain_unless_it_is_vouched_for", plain);
    suite.add("a_bound_topic_that_is_vouched_for_keeps_keys_in_place", ordered);
    suite.add("a_bound_topic_that_got_partitions_is_another_one", more_partitions);
    suite.add("what_kafka_takes_for_no_name_cannot_be_bound", illegal);
}

/// A topic that another program has made.
async fn legacy(server: &Server, partitions: u16) -> String {
    let name = format!("It_Legacy..{:08X}", fastrand::u32(..));
    raw::create(server, &name, partitions, &[]).await;
    name
}

async fn connect(server: &Server, name: &str, binding: Binding) -> Adapter {
    Adapter::connect(server.config().bind(name, binding)).await.expect("the broker is there")
}

async fn read(adapter: &Adapter, to: &Destination) -> Vec<Retained> {
    let query = RangeQuery::new(Start::Earliest, 100);
    adapter.admin().range(&to.topic, &query).await.expect("a range")
}

async fn behind(adapter: &Adapter, to: &Destination, name: &str) -> Option<u64> {
    adapter.admin().lag(&to.topic, &group(name)).await.expect("a lag").ready
}

async fn published_and_read(server: Server) {
    let (name, legacy) = (name("bound"), legacy(&server, 3).await);
    let adapter = connect(&server, &name, Binding::topic(&legacy)).await;
    let info = adapter.try_ensure(TopicConfig::new(&name)).await.unwrap();
    assert_eq!((info.layout, info.queue, &*info.native), (Layout::Plain, false, &*legacy));
    assert_eq!(adapter.admin().describe(&topic(&name)).await.unwrap(), info);
    let to = destination(&info);
    let sent = keyed("k", "ours");
    adapter.store(&to, std::slice::from_ref(&sent)).await;
    let raw = raw::read_all(&server, &legacy).await;
    assert_eq!(raw.iter().map(raw::Raw::text).collect::<Vec<_>>(), ["ours"]);
    raw::transaction(&server, &legacy, "theirs", true).await;
    let mut found = read(&adapter, &to).await;
    found.sort_by_key(|one| one.envelope.is_foreign());
    let [ours, theirs] = &found[..] else { unreachable!("{found:?}") };
    assert_eq!(ours.envelope.id(), sent.id());
    assert_eq!(&theirs.envelope.payload()[..], b"theirs");
    // By the default name there is nothing, and other topics have theirs.
    let unbound = Adapter::connect(server.config()).await.unwrap();
    failed(unbound.admin().describe(&to.topic).await, ErrorKind::NotFound, &[&name]);
    let other = adapter.ensure(TopicConfig::new(format!("{name}.other")).ordered(2)).await;
    adapter.store(&other, &[keyed("k", "x")]).await;
    assert_eq!(raw::read_all(&server, &native(&other)).await.len(), 1);
}

async fn bound_group(server: Server) {
    let (name, legacy) = (name("group"), legacy(&server, 2).await);
    let id = format!("Consumer of {name} (v3)");
    let adapter = connect(&server, &name, Binding::topic(&legacy).group("billing", &id)).await;
    let admin = adapter.admin();
    failed(admin.lag(&topic(&name), &group("billing")).await, ErrorKind::NotFound, &["billing"]);
    let config = || TopicConfig::new(&name).group("billing").group("other");
    let to = adapter.ensure(config()).await;
    adapter.store_numbers(&to, 0..10).await;
    for id in [id, format!("{name}__other")] {
        let committed = raw::committed(&server, &id, &legacy, 2).await;
        assert!(committed.iter().all(|(offset, _)| *offset == Some(0)), "{committed:?}");
    }
    let not_made = raw::committed(&server, &format!("{name}__billing"), &legacy, 2).await;
    assert!(not_made.iter().all(|(offset, _)| offset.is_none()), "{not_made:?}");
    let listed = admin.groups(&to.topic).await.unwrap();
    let shown: Vec<_> = listed.iter().map(|one| (one.name.as_str(), one.pins)).collect();
    assert_eq!(shown, [("billing", Some(10)), ("other", Some(10))]);
    admin.seek(&to.topic, &group("billing"), Start::Latest).await.unwrap();
    assert_eq!(behind(&adapter, &to, "billing").await, Some(0));
    assert_eq!(behind(&adapter, &to, "other").await, Some(10));
    assert!(admin.verify(&spec(config())).await.unwrap().is_empty());
    // It may read other topics too, so that it is not deleted. The other one is ours.
    let refused = admin.delete_group(&to.topic, &group("billing")).await;
    failed(refused, ErrorKind::Unsupported, &["billing", "never deleted"]);
    assert_eq!(behind(&adapter, &to, "billing").await, Some(0));
    admin.delete_group(&to.topic, &group("other")).await.unwrap();
    assert_eq!(admin.groups(&to.topic).await.unwrap().len(), 1);
}

async fn received(server: Server) {
    let (name, legacy) = (name("received"), legacy(&server, 2).await);
    let id = format!("Receiver of {name}");
    let config = server.config().bind(&name, Binding::topic(&legacy).ordered().group("g", &id));
    let bus = bus_of(config.clone()).await;
    let adapter = Adapter::connect(config).await.unwrap();
    let to = destination(&adapter.admin().describe(&topic(&name)).await.unwrap());
    let start = bus.subscribe(&name).group("g").order(Order::PerKey);
    let mut inbox = start.start().await.unwrap();
    adapter.store_numbers(&to, 0..20).await;
    let mut seen: Vec<_> = Vec::new();
    for _ in 0..20 {
        let delivery = next(&mut inbox).await;
        seen.push(number(&delivery));
        delivery.ack().await.unwrap();
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..20).collect::<Vec<_>>());
    inbox.stop(Duration::from_secs(10)).await.unwrap();
    let committed = raw::committed(&server, &id, &legacy, 2).await;
    assert_eq!(committed.iter().map(|(offset, _)| offset.unwrap()).sum::<i64>(), 20);
    assert_eq!(behind(&adapter, &to, "g").await, Some(0));
    // What is private to the group has its default name.
    let made = raw::topics(&server).await;
    assert!(made.contains(&format!("{name}__g__dlq")), "{made:?}");
    // What is plain has no order to ask for.
    let plain = bus_of(server.config().bind(&name, Binding::topic(&legacy))).await;
    let refused = plain.subscribe(&name).group("h").order(Order::PerKey).start().await;
    failed(refused.map(drop), ErrorKind::Unsupported, &["order"]);
}

async fn members(server: Server) {
    let (name, legacy) = (name("members"), legacy(&server, 1).await);
    let id = format!("it.members.{:08x}", fastrand::u32(..));
    let adapter = connect(&server, &name, Binding::topic(&legacy).group("g", &id)).await;
    let to = adapter.ensure(TopicConfig::new(&name).group("g")).await;
    let member = raw::Member::join(&server, &id, &legacy, &[]).await;
    let moved = adapter.admin().seek(&to.topic, &group("g"), Start::Earliest).await;
    failed(moved, ErrorKind::Conflict, &["live members", "127.0.0.1"]);
    assert_eq!(adapter.admin().groups(&to.topic).await.unwrap()[0].members, Some(1));
    member.leave().await;
}

async fn missing(server: Server) {
    let name = name("missing");
    let nowhere = format!("It_Nowhere.{:08X}", fastrand::u32(..));
    let binding = Binding::topic(&nowhere);
    for adapter in [
        connect(&server, &name, binding.clone()).await,
        connect(&server, &name, binding.ordered()).await,
    ] {
        let (admin, to) = (adapter.admin(), topic(&name));
        let config = || TopicConfig::new(&name).group("g");
        let says = [&*name, &*nowhere, "never created"];
        failed(adapter.try_ensure(config()).await, ErrorKind::NotFound, &says);
        let verified = admin.ensure(&spec(config()), Topology::Verify).await;
        failed(verified, ErrorKind::NotFound, &says);
        failed(admin.describe(&to).await, ErrorKind::NotFound, &says);
        failed(admin.lag(&to, &group("g")).await, ErrorKind::NotFound, &says);
        failed(admin.groups(&to).await, ErrorKind::NotFound, &says);
        let to = Destination::new(to, Layout::Plain, false);
        for outcome in adapter.publish(&to, &[envelope("x")]).await.unwrap() {
            assert!(!outcome.as_ref().unwrap_err().may_be_stored());
            failed(outcome, ErrorKind::NotFound, &[&nowhere]);
        }
    }
    let made = raw::topics(&server).await;
    assert!(!made.iter().any(|made| *made == nowhere || made.starts_with(&name)), "{made:?}");
}

async fn compared(server: Server) {
    let (name, legacy) = (name("compared"), legacy(&server, 2).await);
    let adapter = connect(&server, &name, Binding::topic(&legacy)).await;
    let differs = TopicConfig::new(&name).max_age(Duration::from_secs(60)).replicas(3);
    let says = ["retention.ms: wanted 60000", "replicas: wanted 3, found 1"];
    failed(adapter.try_ensure(differs).await, ErrorKind::Conflict, &says);
    let to = adapter.ensure(TopicConfig::new(&name).group("g")).await;
    adapter.store_numbers(&to, 0..5).await;
    for refused in [
        adapter.admin().delete_topic(&to.topic).await,
        adapter.admin().purge(&to.topic).await.map(drop),
    ] {
        let says = [&*name, &*legacy, "never changed or deleted"];
        failed(refused, ErrorKind::Unsupported, &says);
    }
    // Nothing was touched by that, its groups included.
    assert_eq!(behind(&adapter, &to, "g").await, Some(5));
    assert_eq!(raw::read_all(&server, &legacy).await.len(), 5);
}

async fn plain(server: Server) {
    let (name, legacy) = (name("plain"), legacy(&server, 4).await);
    let adapter = connect(&server, &name, Binding::topic(&legacy)).await;
    let configs = [TopicConfig::new(&name).ordered(4), TopicConfig::queue(&name)];
    let says = ["order: wanted over 4 partitions, found none", "kind: wanted queue"];
    for (config, says) in configs.into_iter().zip(says) {
        let assumed = adapter.admin().ensure(&spec(config.clone()), Topology::Assume).await;
        let assumed = destination(&assumed.unwrap());
        failed(adapter.try_ensure(config).await, ErrorKind::Conflict, &[says]);
        for outcome in adapter.publish(&assumed, &[envelope("x")]).await.unwrap() {
            assert!(!outcome.as_ref().unwrap_err().may_be_stored());
            failed(outcome, ErrorKind::Conflict, &[says]);
        }
    }
    assert!(raw::read_all(&server, &legacy).await.is_empty());
}

async fn ordered(server: Server) {
    let (name, legacy) = (name("ordered"), legacy(&server, 4).await);
    let adapter = connect(&server, &name, Binding::topic(&legacy).ordered()).await;
    let info = adapter.try_ensure(TopicConfig::new(&name).ordered(4)).await.unwrap();
    assert_eq!((info.layout, &*info.native), (Layout::Ordered(4), &*legacy));
    let to = destination(&info);
    let others = [
        (TopicConfig::new(&name), "order: wanted none, found over 4 partitions"),
        (TopicConfig::new(&name).ordered(8), "order: wanted over 8 partitions, found over 4"),
        (TopicConfig::queue(&name).ordered(4), "kind: wanted queue, found topic"),
    ];
    for (config, says) in others {
        let other = spec(config.clone());
        let other = Destination::new(other.name, other.layout, other.queue);
        failed(adapter.try_ensure(config).await, ErrorKind::Conflict, &[says]);
        for outcome in adapter.publish(&other, &[keyed("k", "x")]).await.unwrap() {
            failed(outcome, ErrorKind::Conflict, &[says]);
        }
    }
    let batch: Vec<_> = (0..40).map(|n| keyed(&format!("k{n}"), n.to_string())).collect();
    for (sent, stored) in batch.iter().zip(adapter.store(&to, &batch).await) {
        let expected = Layout::Ordered(4).partition(sent).map(u32::from);
        assert_eq!(stored.partition, expected);
    }
    assert_eq!(raw::read_all(&server, &legacy).await.len(), 40);
}

async fn more_partitions(server: Server) {
    let (name, legacy) = (name("more"), legacy(&server, 2).await);
    let adapter = connect(&server, &name, Binding::topic(&legacy).ordered()).await;
    let before = destination(&adapter.admin().describe(&topic(&name)).await.unwrap());
    adapter.store_numbers(&before, 0..4).await;
    let client = adapter.0.native().unwrap().downcast_ref::<KafkaNative>().unwrap();
    let more = [NewPartitions::new(&legacy, 5)];
    let made = client.admin().unwrap().create_partitions(&more, &AdminOptions::new()).await;
    made.unwrap()[0].as_ref().unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    let after = loop {
        let found = adapter.admin().describe(&topic(&name)).await.unwrap();
        if found.layout == Layout::Ordered(5) {
            break destination(&found);
        }
        assert!(Instant::now() < until, "{found:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    // What was known of the topic is out of date, which whoever publishes by the new number sees.
    adapter.store_numbers(&after, 4..20).await;
    for outcome in adapter.publish(&before, &[envelope("x")]).await.unwrap() {
        failed(outcome, ErrorKind::Conflict, &["wanted over 2 partitions, found over 5"]);
    }
    assert_eq!(read(&adapter, &after).await.len(), 20);
}

async fn illegal(server: Server) {
    for (topic, binding, says) in [
        ("a b", Binding::topic("o"), "a b"),
        ("orders", Binding::topic("two words"), "two words"),
        ("orders", Binding::topic("..".to_owned()), "no topic"),
        ("orders", Binding::topic("x".repeat(250)), "249"),
        ("orders", Binding::topic("o").group("g", "two\nlines"), "control"),
        ("orders", Binding::topic("o").group("a", "same").group("b", "same"), "same"),
    ] {
        let refused = Adapter::connect(server.config().bind(topic, binding)).await;
        failed(refused, ErrorKind::Invalid, &["kafka", says]);
    }
}
