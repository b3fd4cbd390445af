//! What is published is at the broker as it was meant, and each entry has its own outcome.

use std::collections::BTreeSet;
use std::time::Duration;

use posthaste_core::broker::Destination;
use posthaste_core::{Envelope, ErrorKind, Layout, Retry, TopicName};
use tokio::time::Instant;

use crate::adapter::{Adapter, envelope, fresh, keyed, native};
use crate::raw::{self, Raw};
use crate::server::Server;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.add("what_is_published_is_stored_as_it_is", as_it_is);
    suite.add("a_batch_keeps_its_order", a_batch_keeps_its_order);
    suite.add("a_key_has_the_partition_of_its_layout", partitions);
    suite.add("a_plain_topic_places_keys_as_other_clients_do", plain_partitions);
    suite.add("an_oversized_entry_fails_alone", an_oversized_entry);
    suite.add("an_entry_above_the_topics_limit_fails_alone", above_the_topics_limit);
    suite.add("a_topic_that_is_not_there_is_not_found", not_found);
    suite.add("a_topic_that_was_deleted_is_not_found", deleted);
    suite.add("a_topic_with_too_few_partitions_is_told", too_few_partitions);
    suite.add("batches_in_flight_do_not_mix", batches_in_flight);
    suite.add("a_publish_that_nobody_waits_for_is_stored", nobody_waits);
}

async fn connect(server: &Server) -> Adapter {
    Adapter::connect(server.config()).await.expect("the broker is there")
}

async fn create(server: &Server, name: &str, layout: Layout, partitions: u16) -> Destination {
    let to = fresh(name, layout);
    raw::create(server, &native(&to), partitions, &[]).await;
    to
}

async fn as_it_is(server: Server) {
    let (to, adapter) = (create(&server, "as-is", Layout::Plain, 1).await, connect(&server).await);
    let batch = [
        Envelope::builder("test")
            .source("/it")
            .key("k")
            .header("tag", "one")
            .header("tag", vec![0_u8, 255])
            .payload(vec![0_u8, 159, 146, 150])
            .build()
            .unwrap(),
        envelope(""),
    ];
    let stored = adapter.store(&to, &batch).await;
    let places: Vec<_> = stored.iter().map(|stored| (stored.partition, stored.offset)).collect();
    assert_eq!(places, [(Some(0), Some(0)), (Some(0), Some(1))]);
    let found = raw::read_all(&server, &native(&to)).await;
    let [first, second] = &found[..] else { unreachable!("{} records", found.len()) };
    assert_eq!(first.key.as_deref(), Some(&b"k"[..]));
    assert_eq!(first.payload.as_deref(), Some(&[0_u8, 159, 146, 150][..]));
    assert_eq!(first.header("ce_id"), Some(batch[0].id().as_bytes()));
    let tags: Vec<_> = first.headers.iter().filter(|(name, _)| name == "tag").collect();
    assert_eq!(tags.len(), 2);
    assert_eq!(
        (tags[0].1.as_deref(), tags[1].1.as_deref()),
        (Some(&b"one"[..]), Some(&[0, 255][..]))
    );
    // Empty, and no tombstone.
    assert_eq!((second.key.as_deref(), second.payload.as_deref()), (None, Some(&b""[..])));
}

fn texts(found: &[Raw]) -> Vec<&str> {
    found.iter().map(Raw::text).collect()
}

async fn a_batch_keeps_its_order(server: Server) {
    let to = create(&server, "order", Layout::Ordered(4), 4).await;
    let adapter = connect(&server).await;
    let mut expected = Vec::new();
    for round in 0..10 {
        let batch: Vec<_> =
            (round * 500..(round + 1) * 500).map(|n: u32| keyed("k", n.to_string())).collect();
        let offsets: Vec<_> =
            adapter.store(&to, &batch).await.into_iter().map(|stored| stored.offset).collect();
        let wanted: Vec<_> =
            (u64::from(round) * 500..u64::from(round + 1) * 500).map(Some).collect();
        assert_eq!(offsets, wanted);
        expected.extend((round * 500..(round + 1) * 500).map(|n| n.to_string()));
    }
    assert_eq!(texts(&raw::read_all(&server, &native(&to)).await), expected);
}

async fn partitions(server: Server) {
    let to = create(&server, "layout", Layout::Ordered(8), 8).await;
    same_partitions(&server, &to, Layout::Ordered(8)).await;
}

async fn plain_partitions(server: Server) {
    let to = create(&server, "plain", Layout::Plain, 8).await;
    same_partitions(&server, &to, Layout::Ordered(8)).await;
}

/// Each key is where that layout has it.
async fn same_partitions(server: &Server, to: &Destination, layout: Layout) {
    let adapter = connect(server).await;
    let batch: Vec<_> = (0..300_u32)
        .map(|n| keyed(&format!("key-{n}-{}", "ä".repeat(n as usize % 7)), n.to_string()))
        .collect();
    let stored = adapter.store(to, &batch).await;
    let found = raw::read_all(server, &native(to)).await;
    assert_eq!(found.len(), batch.len());
    let mut used = BTreeSet::new();
    for (envelope, stored) in batch.iter().zip(stored) {
        let wanted = layout.partition(envelope).map(u32::from);
        assert_eq!(stored.partition, wanted, "{:?}", envelope.key());
        let at = (stored.partition.unwrap(), stored.offset.unwrap());
        let place = |raw: &&Raw| {
            (u32::try_from(raw.partition).unwrap(), u64::try_from(raw.offset).unwrap()) == at
        };
        let raw = found.iter().find(place).unwrap();
        assert_eq!(
            (raw.key.as_deref(), raw.text()),
            (envelope.key(), std::str::from_utf8(envelope.payload()).unwrap())
        );
        used.insert(at.0);
    }
    assert_eq!(used.len(), 8);
}

async fn an_oversized_entry(server: Server) {
    let to = create(&server, "size", Layout::Ordered(1), 1).await;
    let adapter = connect(&server).await;
    let batch = [envelope("a"), envelope(vec![b'x'; 2_000_000]), envelope("c")];
    let outcomes: Vec<_> = adapter.publish(&to, &batch).await.unwrap().into_iter().collect();
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
    let error = outcomes[1].as_ref().unwrap_err();
    assert_eq!((error.kind(), error.may_be_stored()), (ErrorKind::TooLarge, false), "{error:?}");
    assert_eq!(texts(&raw::read_all(&server, &native(&to)).await), ["a", "c"]);
}

/// The limit of the topic is below that of the client: only the broker knows it.
async fn above_the_topics_limit(server: Server) {
    let to = fresh("limit", Layout::Plain);
    raw::create(&server, &native(&to), 1, &[("max.message.bytes", "20000")]).await;
    let adapter = connect(&server).await;
    // It cannot be compressed.
    let large: Vec<u8> =
        std::iter::repeat_with(|| fastrand::u8(b'a'..=b'z')).take(60_000).collect();
    let batch = [envelope("a"), envelope(large), envelope("c")];
    let outcomes: Vec<_> = adapter.publish(&to, &batch).await.unwrap().into_iter().collect();
    let error = outcomes[1].as_ref().unwrap_err();
    assert_eq!((error.kind(), error.may_be_stored()), (ErrorKind::TooLarge, false), "{error:?}");
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
    // Many that are small enough do not become a batch that is too large.
    let small: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(b'a'..=b'z')).take(1_000).collect();
    let batch: Vec<_> = (0..300).map(|_| envelope(small.clone())).collect();
    let flights = (0..4).map(|_| adapter.store(&to, &batch));
    futures_util::future::join_all(flights).await;
    assert_eq!(raw::read_all(&server, &native(&to)).await.len(), 1_202);
    adapter.close(Instant::now() + Duration::from_secs(10)).await.unwrap();
}

async fn not_found(server: Server) {
    let adapter = connect(&server).await;
    for layout in [Layout::Plain, Layout::Ordered(3)] {
        let to = fresh("nowhere", layout);
        let start = Instant::now();
        let outcomes = adapter.publish(&to, &[envelope("a"), envelope("b")]).await.unwrap();
        assert_eq!(outcomes.len(), 2);
        for outcome in outcomes {
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
            assert!(!error.may_be_stored());
        }
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        // It is found as soon as it is there.
        raw::create(&server, &native(&to), 3, &[]).await;
        adapter.store(&to, &[envelope("a")]).await;
    }
}

async fn deleted(server: Server) {
    let to = create(&server, "deleted", Layout::Plain, 1).await;
    let adapter = connect(&server).await;
    adapter.store(&to, &[envelope("a")]).await;
    raw::delete(&server, &native(&to)).await;
    let start = Instant::now();
    let error = loop {
        let outcomes = adapter.publish(&to, &[envelope("b")]).await.unwrap();
        let error = outcomes.into_iter().next().unwrap().unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
        // What was on its way just then fails with its partition, and core would try it again.
        if error.retry() != Retry::Transient || error.may_be_stored() {
            break error;
        }
    };
    assert_eq!((error.kind(), error.may_be_stored()), (ErrorKind::NotFound, false), "{error:?}");
    raw::create(&server, &native(&to), 1, &[]).await;
    // The client may hold it for gone for as long as it takes a new topic for known everywhere.
    let until = Instant::now() + Duration::from_secs(20);
    while adapter.publish(&to, &[envelope("c")]).await.unwrap().iter().any(Result::is_err) {
        assert!(Instant::now() < until, "it is not found again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(texts(&raw::read_all(&server, &native(&to)).await), ["c"]);
}

async fn too_few_partitions(server: Server) {
    let to = fresh("few", Layout::Ordered(4));
    raw::create(&server, &native(&to), 2, &[]).await;
    let adapter = connect(&server).await;
    let outcomes = adapter.publish(&to, &[envelope("a")]).await.unwrap();
    let error = outcomes.into_iter().next().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    let strange = Destination::new(TopicName::new("a".repeat(90)).unwrap(), Layout::Plain, true);
    let outcomes = adapter.publish(&strange, &[envelope("a")]).await.unwrap();
    assert!(outcomes.iter().all(|o| o.as_ref().is_err_and(|e| e.kind() == ErrorKind::NotFound)));
}

async fn batches_in_flight(server: Server) {
    let to = create(&server, "flights", Layout::Plain, 4).await;
    let adapter = connect(&server).await;
    let flights = (0..100_u32).map(|flight| {
        let batch: Vec<_> =
            (0..100).map(|n| keyed(&format!("{flight}"), format!("{flight}/{n}"))).collect();
        let (adapter, to) = (&adapter, &to);
        async move {
            let offsets: Vec<_> = adapter
                .store(to, &batch)
                .await
                .into_iter()
                .map(|s| (s.partition, s.offset))
                .collect();
            assert!(offsets.is_sorted(), "{offsets:?}");
        }
    });
    futures_util::future::join_all(flights).await;
    let found = raw::read_all(&server, &native(&to)).await;
    let distinct: BTreeSet<_> = found.iter().map(Raw::text).collect();
    assert_eq!((found.len(), distinct.len()), (10_000, 10_000));
}

async fn nobody_waits(server: Server) {
    let to = create(&server, "dropped", Layout::Plain, 1).await;
    let adapter = connect(&server).await;
    adapter.store(&to, &[envelope("0")]).await;
    let batch: Vec<_> = (1..=100).map(|n| envelope(n.to_string())).collect();
    {
        let mut publish = std::pin::pin!(adapter.publish(&to, &batch));
        assert!(futures_util::FutureExt::now_or_never(&mut publish).is_none());
    }
    adapter.store(&to, &[envelope("101")]).await;
    assert_eq!(raw::read_all(&server, &native(&to)).await.len(), 102);
}
