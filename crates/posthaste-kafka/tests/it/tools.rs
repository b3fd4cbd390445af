//! Kafka's own tools: what they write is read as it is, they read what is published, and they
//! count as this library does.

use std::collections::{BTreeMap, BTreeSet};

use posthaste_core::{Envelope, Layout};
use posthaste_kafka::TOMBSTONE;

use crate::adapter::{Adapter, envelope, fresh, group, keyed, native};
use crate::member::{bus, join, next};
use crate::raw;
use crate::server::Server;
use crate::suite::Suite;

const PRODUCER: &str = "org.apache.kafka.tools.ConsoleProducer";
const CONSUMER: &str = "org.apache.kafka.tools.consumer.ConsoleConsumer";
const GROUPS: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";

pub(crate) fn add(suite: &mut Suite) {
    suite.tools("what_the_console_producer_writes_is_read_as_it_is", written);
    suite.tools("the_console_consumer_reads_what_is_published", published);
    suite.tools("the_java_producer_places_keys_alike", placed);
    suite.tools("the_group_command_tells_the_same_offsets_and_lag", counted);
}

/// Writes lines of headers, key and value, with tabs between them. `NULL` is none.
async fn produce(server: &Server, topic: &str, lines: &str) {
    let properties =
        ["parse.headers=true", "parse.key=true", "headers.key.separator=~", "null.marker=NULL"];
    let mut arguments = vec!["--bootstrap-server", server.address(), "--topic", topic];
    properties.iter().for_each(|property| arguments.extend(["--reader-property", property]));
    server.tool(PRODUCER, &arguments, lines).await;
}

async fn written(server: Server) {
    let to = fresh("java-writes", Layout::Plain);
    raw::create(&server, &native(&to), 1, &[]).await;
    let bus = bus(&server).await;
    let mut inbox = join(&bus, &to.topic, 10).await;
    let lines = "ce_specversion~1.0,ce_id~e-1,ce_source~/shop,ce_type~order.placed,\
                 ce_subject~7,content-type~application/json,ce_tenant~acme,tag~one,tag~two\t\
                 k-\u{e4}\t{\"total\":1}\n\
                 NULL\tNULL\tplain\n\
                 NULL\tgone\tNULL\n";
    produce(&server, &native(&to), lines).await;

    let first = next(&mut inbox).await;
    let event = first.envelope();
    assert_eq!((event.id(), event.source(), event.event_type()), ("e-1", "/shop", "order.placed"));
    assert_eq!((event.subject(), event.content_type()), (Some("7"), Some("application/json")));
    assert_eq!(event.extension("tenant"), Some("acme"));
    let tags: Vec<_> = event.headers().filter(|(name, _)| *name == "tag").map(|(_, v)| v).collect();
    assert_eq!(tags, [&b"one"[..], b"two"]);
    assert_eq!(
        (event.key(), &event.payload()[..]),
        (Some("k-\u{e4}".as_bytes()), &b"{\"total\":1}"[..])
    );
    assert!(!event.is_foreign());
    first.ack().await.unwrap();

    let second = next(&mut inbox).await;
    let plain = second.envelope();
    assert_eq!((plain.key(), &plain.payload()[..]), (None, &b"plain"[..]));
    assert!(plain.is_foreign() && plain.headers().count() == 0);
    assert!(plain.extension(TOMBSTONE).is_none());
    second.ack().await.unwrap();

    let third = next(&mut inbox).await;
    let tombstone = third.envelope();
    assert_eq!((tombstone.key(), &tombstone.payload()[..]), (Some(&b"gone"[..]), &b""[..]));
    assert!(tombstone.extension(TOMBSTONE).is_some());
    third.ack().await.unwrap();
    bus.close(std::time::Duration::from_secs(10)).await.unwrap();
}

async fn published(server: Server) {
    let to = fresh("java-reads", Layout::Plain);
    raw::create(&server, &native(&to), 1, &[]).await;
    let adapter = Adapter::connect(server.config()).await.unwrap();
    let event = Envelope::builder("order.placed")
        .source("/shop")
        .key("k-\u{e4}")
        .content_type("application/json")
        .header("tag", "one")
        .header("tag", "two")
        .payload("{\"total\":1}")
        .build()
        .unwrap();
    adapter.store(&to, &[event.clone(), envelope("no key")]).await;
    let properties = [
        "print.offset=true",
        "print.headers=true",
        "print.key=true",
        "headers.separator=|",
        "null.literal=NULL",
    ];
    let mut arguments = vec!["--bootstrap-server", server.address(), "--topic", to.topic.as_str()];
    arguments.extend(["--from-beginning", "--max-messages", "2", "--timeout-ms", "30000"]);
    properties.iter().for_each(|property| arguments.extend(["--formatter-property", property]));
    let printed = server.tool(CONSUMER, &arguments, "").await;
    let lines: Vec<Vec<&str>> = printed.lines().map(|line| line.split('\t').collect()).collect();
    let [first, second] = &lines[..] else { unreachable!("{printed}") };
    let [offset, headers, key, value] = first[..] else { unreachable!("{printed}") };
    assert_eq!((offset, key, value), ("Offset:0", "k-\u{e4}", "{\"total\":1}"));
    let headers: Vec<&str> = headers.split('|').collect();
    let id = format!("ce_id:{}", event.id());
    for expected in [
        "ce_specversion:1.0",
        &*id,
        "ce_source:/shop",
        "ce_type:order.placed",
        "content-type:application/json",
        "tag:one",
        "tag:two",
    ] {
        assert!(headers.contains(&expected), "{expected} in {headers:?}");
    }
    let [offset, _, key, value] = second[..] else { unreachable!("{printed}") };
    assert_eq!((offset, key, value), ("Offset:1", "NULL", "no key"));
}

async fn placed(server: Server) {
    const PARTITIONS: u16 = 7;
    let (java, ours) = (fresh("java-places", Layout::Plain), fresh("we-place", Layout::Plain));
    let ordered = fresh("we-order", Layout::Ordered(PARTITIONS));
    for to in [&java, &ours, &ordered] {
        raw::create(&server, &native(to), PARTITIONS, &[]).await;
    }
    let keys: Vec<String> =
        (0..200).map(|n| format!("key-{n}-{}", "\u{e4}".repeat(n % 5))).collect();
    let lines: String = keys.iter().map(|key| format!("NULL\t{key}\tx\n")).collect();
    produce(&server, &native(&java), &lines).await;
    let adapter = Adapter::connect(server.config()).await.unwrap();
    let batch: Vec<_> = keys.iter().map(|key| keyed(key, "x")).collect();
    let mut found = Vec::new();
    for to in [&ours, &ordered] {
        adapter.store(to, &batch).await;
    }
    for to in [&java, &ours, &ordered] {
        let stored = raw::read_all(&server, &native(to)).await;
        let places = stored.into_iter().map(|raw| (raw.key.expect("a key"), raw.partition));
        found.push(places.collect::<BTreeMap<_, _>>());
    }
    assert_eq!(found[0].len(), keys.len());
    assert_eq!(found[0].values().collect::<BTreeSet<_>>().len(), usize::from(PARTITIONS));
    assert_eq!(found[0], found[1], "a plain topic");
    assert_eq!(found[0], found[2], "an ordered topic");
}

async fn counted(server: Server) {
    let to = fresh("java-counts", Layout::Plain);
    raw::create(&server, &native(&to), 3, &[]).await;
    let adapter = Adapter::connect(server.config()).await.unwrap();
    let bus = bus(&server).await;
    let mut inbox = join(&bus, &to.topic, 5).await;
    adapter.store_numbers(&to, 0..40).await;
    for _ in 0..17 {
        next(&mut inbox).await.ack().await.unwrap();
    }
    inbox.stop(std::time::Duration::from_secs(10)).await.unwrap();
    let id = format!("{}__g", to.topic);
    let arguments = ["--bootstrap-server", server.address(), "--describe", "--group", &id];
    let printed = server.tool(GROUPS, &arguments, "").await;
    // GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG …
    let rows = printed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let rows: Vec<_> = rows.filter(|row| row.first() == Some(&&*id)).collect();
    let number = |text: &str| text.parse::<i64>().expect("a number");
    let mut offsets = BTreeMap::new();
    let mut lag = 0;
    for row in &rows {
        if row[1] == to.topic.as_str() {
            offsets.insert(number(row[2]), number(row[3]));
        }
        // A partition of the private topic in which nothing ever was has no offset to tell.
        lag += if row[5] == "-" { 0 } else { number(row[5]) };
    }
    let committed = raw::committed(&server, &id, &native(&to), 3).await;
    let ours: Vec<_> = committed.into_iter().filter_map(|(offset, _)| offset).collect();
    assert_eq!(offsets.into_values().collect::<Vec<_>>(), ours, "{printed}");
    let told = adapter.admin().lag(&to.topic, &group("g")).await.unwrap();
    assert_eq!((lag, told.ready), (23, Some(23)), "{printed}");
    bus.close(std::time::Duration::from_secs(10)).await.unwrap();
}
