//! Topics are created, compared and deleted, and never changed.

use std::time::Duration;

use posthaste_core::broker::{Lag, RangeQuery, Start};
use posthaste_core::{ErrorKind, Layout, TopicConfig, Topology};

use crate::adapter::{
    Adapter, destination, envelope, failed, fresh, group, keyed, name, native, spec, topic,
};
use crate::raw;
use crate::server::Server;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.add("a_topic_is_compared_and_never_changed", compared);
    suite.add("a_topic_that_is_assumed_is_not_asked_for", assumed);
    suite.add("another_layout_is_a_conflict_for_all", layouts);
    suite.add("a_topic_in_two_layouts_is_told", two_layouts);
    suite.add("a_number_of_partitions_that_the_name_denies_is_told", wrong_partitions);
    suite.add("names_that_kafka_takes_for_the_same_are_told", same_names);
    suite.add("a_topic_that_many_create_at_once_is_there_once", at_once);
    suite.add("a_limit_in_bytes_is_that_of_the_whole_topic", bytes);
    suite.add("a_plain_topic_has_as_many_partitions_as_was_said", partitions);
    suite.add("what_kafka_has_no_setting_for_is_refused", no_setting);
    suite.add("more_replicas_than_brokers_are_refused", replicas);
    suite.add("a_deleted_topic_leaves_nothing", deleted);
    suite.add("a_purged_topic_is_empty", purged);
}

async fn connect(server: &Server) -> Adapter {
    Adapter::connect(server.config()).await.expect("the broker is there")
}

async fn partitions(server: Server) {
    let adapter = Adapter::connect(server.config().partitions(5)).await.unwrap();
    let (plain, ordered) = (name("five"), name("two"));
    let plain = adapter.ensure(TopicConfig::new(&plain)).await;
    let ordered = adapter.ensure(TopicConfig::new(&ordered).ordered(2)).await;
    assert_eq!(raw::partitions(&server, &native(&plain)).await, 5);
    assert_eq!(raw::partitions(&server, &native(&ordered)).await, 2);
    // The broker of these tests is set to one, which no two members can share.
    let (plain, queue) = (TopicConfig::new(name("some")), TopicConfig::queue(name("some-q")));
    for config in [plain, queue] {
        let to = connect(&server).await.ensure(config).await;
        assert_eq!(raw::partitions(&server, &native(&to)).await, 6);
    }
}

async fn compared(server: Server) {
    let (adapter, name) = (connect(&server).await, name("compared"));
    let config = || TopicConfig::new(&name).max_age(Duration::from_secs(3600)).group("g");
    for _ in 0..2 {
        let to = adapter.ensure(config()).await;
        assert_eq!((to.layout, to.queue, &*native(&to)), (Layout::Plain, false, &*name));
    }
    adapter.ensure(TopicConfig::new(&name)).await;
    let differs = || TopicConfig::new(&name).max_age(Duration::from_secs(60)).replicas(3);
    let says = ["retention.ms: wanted 60000, found 3600000", "replicas: wanted 3, found 1"];
    failed(adapter.try_ensure(differs()).await, ErrorKind::Conflict, &says);
    let (admin, differs) = (adapter.admin(), spec(differs()));
    failed(admin.ensure(&differs, Topology::Verify).await, ErrorKind::Conflict, &says);
    assert_eq!(admin.verify(&differs).await.unwrap().len(), 2);
    // Nothing was changed by any of this.
    assert!(admin.verify(&spec(config())).await.unwrap().is_empty());
    let info = admin.ensure(&spec(config()), Topology::Verify).await.unwrap();
    assert_eq!(info, admin.describe(&topic(&name)).await.unwrap());
    let other_group = spec(TopicConfig::new(&name).group("missing"));
    failed(admin.verify(&other_group).await, ErrorKind::NotFound, &["missing"]);
    failed(admin.ensure(&other_group, Topology::Verify).await, ErrorKind::NotFound, &["missing"]);
    let nowhere = spec(TopicConfig::new(format!("{name}.nowhere")));
    failed(admin.ensure(&nowhere, Topology::Verify).await, ErrorKind::NotFound, &["nowhere"]);
    failed(admin.verify(&nowhere).await, ErrorKind::NotFound, &["nowhere"]);
    failed(admin.describe(&nowhere.name).await, ErrorKind::NotFound, &["nowhere"]);
}

async fn assumed(server: Server) {
    let (adapter, name) = (connect(&server).await, name("assumed"));
    for (config, expected) in [
        (TopicConfig::new(&name), name.clone()),
        (TopicConfig::new(&name).ordered(4), format!("{name}__of4")),
        (TopicConfig::queue(&name), format!("{name}__queue")),
    ] {
        let info = adapter.admin().ensure(&spec(config), Topology::Assume).await.unwrap();
        assert_eq!(info.native, expected);
    }
    failed(adapter.admin().describe(&topic(&name)).await, ErrorKind::NotFound, &[]);
}

async fn layouts(server: Server) {
    let (adapter, name) = (connect(&server).await, name("layouts"));
    let to = adapter.ensure(TopicConfig::new(&name).ordered(4)).await;
    assert_eq!(native(&to), format!("{name}__of4"));
    let mut others = [to.clone(), to.clone(), to.clone()];
    others[0].layout = Layout::Plain;
    others[1].layout = Layout::Ordered(8);
    others[2].queue = true;
    let says = [
        "order: wanted none, found over 4",
        "order: wanted over 8 partitions",
        "kind: wanted queue",
    ];
    for (other, says) in others.iter().zip(says) {
        for outcome in adapter.publish(other, &[envelope("x"), envelope("y")]).await.unwrap() {
            assert!(!outcome.as_ref().unwrap_err().may_be_stored());
            failed(outcome, ErrorKind::Conflict, &[says]);
        }
    }
    let configs = [
        TopicConfig::new(&name),
        TopicConfig::new(&name).ordered(8),
        TopicConfig::queue(&name).ordered(4),
    ];
    for (config, says) in configs.into_iter().zip(says) {
        failed(adapter.try_ensure(config).await, ErrorKind::Conflict, &[says]);
    }
    let stored = adapter.store(&to, &[keyed("k", "x")]).await;
    assert!(stored[0].partition.unwrap() < 4);
    let queue = adapter.ensure(TopicConfig::queue(format!("{name}.q"))).await;
    assert_eq!((queue.queue, native(&queue)), (true, format!("{name}.q__queue")));
}

async fn two_layouts(server: Server) {
    let (adapter, to) = (connect(&server).await, fresh("two", Layout::Ordered(2)));
    raw::create(&server, &native(&to), 2, &[]).await;
    raw::create(&server, to.topic.as_str(), 1, &[]).await;
    let names = [&*native(&to), to.topic.as_str()];
    failed(adapter.admin().describe(&to.topic).await, ErrorKind::Conflict, &names);
    let same = TopicConfig::new(to.topic.as_str()).ordered(2);
    failed(adapter.try_ensure(same).await, ErrorKind::Conflict, &names);
    adapter.admin().delete_topic(&to.topic).await.unwrap();
    failed(adapter.admin().describe(&to.topic).await, ErrorKind::NotFound, &[]);
}

async fn wrong_partitions(server: Server) {
    let (adapter, to) = (connect(&server).await, fresh("wrong", Layout::Ordered(4)));
    raw::create(&server, &native(&to), 2, &[]).await;
    let config = TopicConfig::new(to.topic.as_str()).ordered(4);
    let says = ["partitions: wanted 4, found 2"];
    failed(adapter.try_ensure(config.clone()).await, ErrorKind::Conflict, &says);
    let differences = adapter.admin().verify(&spec(config)).await.unwrap();
    assert_eq!(differences.len(), 1, "{differences:?}");
}

async fn same_names(server: Server) {
    let (adapter, name) = (connect(&server).await, name("same"));
    adapter.ensure(TopicConfig::new(format!("{name}.a"))).await;
    let (one, other) = (format!("{name}.a"), format!("{name}_a"));
    let config = TopicConfig::new(&other);
    failed(adapter.try_ensure(config).await, ErrorKind::Conflict, &[&one, &other]);
}

async fn at_once(server: Server) {
    let name = name("at-once");
    let adapters = [connect(&server).await, connect(&server).await, connect(&server).await];
    let config = || TopicConfig::new(&name).ordered(3).group("g");
    let all = adapters.iter().flat_map(|one| [one.try_ensure(config()), one.try_ensure(config())]);
    for made in futures_util::future::join_all(all).await {
        assert_eq!(made.unwrap().native, format!("{name}__of3"));
    }
}

async fn bytes(server: Server) {
    let (adapter, name) = (connect(&server).await, name("bytes"));
    for config in [TopicConfig::new(&name), TopicConfig::new(format!("{name}.o")).ordered(4)] {
        let limited = || config.clone().max_bytes(8_000_000);
        let to = adapter.ensure(limited()).await;
        adapter.ensure(limited()).await;
        let more = config.clone().max_bytes(80_000_000);
        let each = 8_000_000_u32.div_ceil(to.layout.partitions().unwrap_or(6).into());
        let says = format!("found {each}");
        failed(adapter.try_ensure(more).await, ErrorKind::Conflict, &["retention.bytes", &says]);
    }
}

async fn no_setting(server: Server) {
    let (adapter, name) = (connect(&server).await, name("no-setting"));
    let counted = TopicConfig::new(&name).max_messages(10);
    failed(adapter.try_ensure(counted).await, ErrorKind::Unsupported, &["max_messages"]);
    let window = TopicConfig::new(&name).deduplication_window(Duration::from_secs(10));
    failed(adapter.try_ensure(window).await, ErrorKind::Unsupported, &["deduplication_window"]);
    failed(adapter.admin().describe(&topic(&name)).await, ErrorKind::NotFound, &[]);
}

async fn replicas(server: Server) {
    let (adapter, name) = (connect(&server).await, name("replicas"));
    let many = TopicConfig::new(&name).replicas(9);
    failed(adapter.try_ensure(many).await, ErrorKind::Invalid, &["InvalidReplicationFactor"]);
}

async fn deleted(server: Server) {
    let (adapter, name) = (connect(&server).await, name("deleted"));
    let config = || TopicConfig::new(&name).ordered(2).group("one").group("two");
    let to = adapter.ensure(config()).await;
    let near = adapter.ensure(TopicConfig::new(format!("{name}.near")).group("one")).await;
    for private in ["one__retry", "two__dlq"] {
        raw::create(&server, &format!("{name}__{private}"), 1, &[]).await;
    }
    adapter.store_numbers(&to, 0..10).await;
    adapter.store_numbers(&near, 0..10).await;
    let admin = adapter.admin();
    for _ in 0..2 {
        admin.delete_topic(&to.topic).await.unwrap();
    }
    let left = raw::topics(&server).await;
    let left: Vec<_> = left.iter().filter(|found| found.starts_with(&name)).collect();
    assert_eq!(left, [near.topic.as_str()]);
    failed(admin.describe(&to.topic).await, ErrorKind::NotFound, &[]);
    failed(admin.lag(&to.topic, &group("one")).await, ErrorKind::NotFound, &[]);
    assert_eq!(admin.groups(&near.topic).await.unwrap().len(), 1);
    // It can be made again, and nothing of before is left in it.
    let again = destination(&adapter.try_ensure(config()).await.unwrap());
    let lag = admin.lag(&again.topic, &group("one")).await.unwrap();
    assert_eq!(lag.ready, Some(0));
    let query = RangeQuery::new(Start::Earliest, 10);
    assert!(admin.range(&again.topic, &query).await.unwrap().is_empty());
}

async fn purged(server: Server) {
    let (adapter, name) = (connect(&server).await, name("purged"));
    let to = adapter.ensure(TopicConfig::new(&name).ordered(3).group("g")).await;
    let (admin, ready) = (adapter.admin(), |lag: Lag| lag.ready);
    assert_eq!(admin.purge(&to.topic).await.unwrap(), Some(0));
    adapter.store_numbers(&to, 0..50).await;
    assert_eq!(ready(admin.lag(&to.topic, &group("g")).await.unwrap()), Some(50));
    assert_eq!(admin.purge(&to.topic).await.unwrap(), Some(50));
    assert_eq!(ready(admin.lag(&to.topic, &group("g")).await.unwrap()), Some(0));
    adapter.store_numbers(&to, 50..53).await;
    let query = RangeQuery::new(Start::Earliest, 10);
    assert_eq!(admin.range(&to.topic, &query).await.unwrap().len(), 3);
    assert_eq!(admin.purge(&to.topic).await.unwrap(), Some(3));
    failed(admin.purge(&topic(&format!("{name}.x"))).await, ErrorKind::NotFound, &[]);
}
