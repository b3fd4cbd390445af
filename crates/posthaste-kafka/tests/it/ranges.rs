//! Retained messages are read without a group, the oldest first.

use std::time::Duration;

use posthaste_core::broker::{Destination, RangeQuery, Retained, Start};
use posthaste_core::{Envelope, ErrorKind, Layout, Timestamp, TopicConfig};

use crate::adapter::{Adapter, failed, fresh, keyed, name, native, topic};
use crate::raw;
use crate::server::Server;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.add("a_range_is_read_from_any_start", starts);
    suite.add("a_range_over_partitions_is_the_oldest_of_all", oldest);
    suite.add("a_range_has_messages_as_they_were_sent", as_sent);
    suite.add("a_range_ends_while_somebody_publishes", while_publishing);
    suite.add("a_range_passes_over_holes", holes);
    suite.add("many_ranges_at_once_are_all_read", many);
}

async fn connect(server: &Server) -> Adapter {
    Adapter::connect(server.config()).await.expect("the broker is there")
}

async fn read(adapter: &Adapter, to: &Destination, from: Start, limit: usize) -> Vec<Retained> {
    adapter.admin().range(&to.topic, &RangeQuery::new(from, limit)).await.expect("a range")
}

fn numbers(found: &[Retained]) -> Vec<u32> {
    let text = |one: &Retained| std::str::from_utf8(one.envelope.payload()).unwrap().to_owned();
    found.iter().map(|one| text(one).parse().unwrap()).collect()
}

async fn starts(server: Server) {
    let (adapter, name) = (connect(&server).await, name("starts"));
    let to = adapter.ensure(TopicConfig::new(&name).ordered(1)).await;
    adapter.store_numbers(&to, 0..10).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let middle = Timestamp::now();
    tokio::time::sleep(Duration::from_millis(5)).await;
    adapter.store_numbers(&to, 10..15).await;
    let all: Vec<_> = (0..15).collect();
    assert_eq!(numbers(&read(&adapter, &to, Start::Earliest, 100).await), all);
    assert_eq!(numbers(&read(&adapter, &to, Start::Earliest, 4).await), all[..4]);
    assert!(read(&adapter, &to, Start::Earliest, 0).await.is_empty());
    assert_eq!(numbers(&read(&adapter, &to, Start::At(middle), 100).await), all[10..]);
    assert!(read(&adapter, &to, Start::At(Timestamp::now()), 100).await.is_empty());
    for (partition, offset, expected) in [
        (None, 12, &all[12..]),
        (Some(0), 13, &all[13..]),
        (Some(1), 0, &[]),
        (None, 15, &[]),
        (None, u64::MAX, &[]),
    ] {
        let start = Start::AtOffset { partition, offset };
        assert_eq!(numbers(&read(&adapter, &to, start, 100).await), expected, "{start:?}");
    }
    for start in [Start::Created, Start::Latest] {
        let query = RangeQuery::new(start, 1);
        failed(adapter.admin().range(&to.topic, &query).await, ErrorKind::Invalid, &[]);
    }
    let query = RangeQuery::new(Start::Earliest, 1);
    let nowhere = topic(&format!("{name}.nowhere"));
    failed(adapter.admin().range(&nowhere, &query).await, ErrorKind::NotFound, &["nowhere"]);
}

async fn oldest(server: Server) {
    let (adapter, name) = (connect(&server).await, name("oldest"));
    let to = adapter.ensure(TopicConfig::new(&name).ordered(5)).await;
    for n in 0..40 {
        adapter.store_numbers(&to, n..n + 1).await;
        // Times are milliseconds.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let all: Vec<_> = (0..40).collect();
    for limit in [1, 7, 39, 40, 1_000] {
        let found = read(&adapter, &to, Start::Earliest, limit).await;
        assert_eq!(numbers(&found), all[..limit.min(40)], "{limit}");
    }
    let one = Start::AtOffset { partition: Some(3), offset: 2 };
    let found = read(&adapter, &to, one, 100).await;
    let offsets: Vec<_> = found.iter().map(|one| one.position.offset.unwrap()).collect();
    assert!(found.iter().all(|one| one.position.partition == Some(3)));
    assert_eq!(offsets, (2..2 + offsets.len() as u64).collect::<Vec<_>>());
}

async fn as_sent(server: Server) {
    let (adapter, name) = (connect(&server).await, name("as-sent"));
    let to = adapter.ensure(TopicConfig::new(&name).ordered(2)).await;
    let sent = Envelope::builder("test")
        .source("/it")
        .key("k")
        .header("tag", vec![0_u8, 255])
        .payload(vec![0_u8, 159])
        .build()
        .unwrap();
    let stored = adapter.store(&to, std::slice::from_ref(&sent)).await;
    let found = read(&adapter, &to, Start::Earliest, 10).await;
    let [one] = &found[..] else { unreachable!("{found:?}") };
    assert_eq!((one.envelope.id(), one.envelope.key()), (sent.id(), sent.key()));
    assert_eq!(one.envelope.payload(), sent.payload());
    assert_eq!(
        (one.position.partition, one.position.offset),
        (stored[0].partition, stored[0].offset)
    );
    assert!(one.position.stored_at.is_some());
}

async fn while_publishing(server: Server) {
    let (adapter, name) = (connect(&server).await, name("busy"));
    let to = adapter.ensure(TopicConfig::new(&name).ordered(2)).await;
    adapter.store_numbers(&to, 0..200).await;
    let stopped = std::cell::Cell::new(false);
    let publishing = async {
        let mut n = 200;
        while !stopped.get() {
            adapter.store_numbers(&to, n..n + 20).await;
            n += 20;
        }
    };
    let reading = async {
        for _ in 0..3 {
            let found = read(&adapter, &to, Start::Earliest, 100_000).await;
            assert!(found.len() >= 200);
        }
        stopped.set(true);
    };
    tokio::join!(publishing, reading);
}

/// The last offsets of the partition are the marks of a transaction, and never come.
async fn holes(server: Server) {
    let (adapter, to) = (connect(&server).await, fresh("holes", Layout::Plain));
    raw::create(&server, &native(&to), 1, &[]).await;
    adapter.store(&to, &[keyed("k", "0")]).await;
    raw::transaction(&server, &native(&to), "1", true).await;
    raw::transaction(&server, &native(&to), "2", false).await;
    let start = tokio::time::Instant::now();
    assert_eq!(numbers(&read(&adapter, &to, Start::Earliest, 10).await), [0, 1]);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

async fn many(server: Server) {
    let (adapter, name) = (connect(&server).await, name("many"));
    let to = adapter.ensure(TopicConfig::new(&name).ordered(2)).await;
    adapter.store_numbers(&to, 0..100).await;
    let all = (0..12).map(|_| read(&adapter, &to, Start::Earliest, 1_000));
    for found in futures_util::future::join_all(all).await {
        assert_eq!(found.len(), 100);
    }
}
