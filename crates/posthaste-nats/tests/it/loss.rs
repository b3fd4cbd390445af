//! What is gone is told: by retention, by a purge, by deletion.

use std::time::Duration;

use async_nats::jetstream;
use posthaste_core::broker::{Broker as _, DriverEvent, Verdict};
use posthaste_core::{ErrorKind, TopicConfig, Topology};

use crate::drive::{Reader, ensure, fresh, publish_numbers, request, topic};
use crate::server::Server;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.both("what_retention_removed_is_told", lost_to_retention);
    suite.both("what_was_removed_before_the_first_delivery_is_told", lost_before_the_first);
    suite.both("a_deleted_group_is_made_again_or_ends_the_subscription", deleted_group);
    suite.both("a_deleted_stream_is_made_again", deleted_stream);
}

async fn lost_to_retention(server: Server) {
    let broker = server.connect().await;
    let name = fresh("lost");
    let to = ensure(&broker, TopicConfig::new(&name).max_messages(10).group("g")).await;
    let lost = |events: &[DriverEvent]| {
        let counts = events.iter().filter_map(|event| match event {
            DriverEvent::Lost { count, .. } => *count,
            _ => None,
        });
        counts.sum::<u64>()
    };
    // While nobody was there.
    publish_numbers(&broker, &to, 0..1).await;
    let mut reader = Reader::start(&broker, request(&[&name], Some("g"))).await;
    reader.drain(1).await;
    reader.stop().await;
    publish_numbers(&broker, &to, 1..101).await;
    let mut reader = Reader::start(&broker, request(&[&name], Some("g"))).await;
    assert_eq!(reader.drain(10).await.first().unwrap(), "91");
    assert_eq!(lost(&reader.events), 90, "{:?}", reader.events);
    // While a member was there but had no room.
    reader.stop().await;
    let mut ask = request(&[&name], Some("g"));
    ask.prefetch.count = 1;
    let mut reader = Reader::start(&broker, ask).await;
    publish_numbers(&broker, &to, 101..102).await;
    let held = reader.one().await;
    publish_numbers(&broker, &to, 102..152).await;
    reader.settle([(&held, Verdict::Ack)].into_iter()).await;
    let mut events = std::mem::take(&mut reader.events);
    assert_eq!(lost(&events), 0);
    assert_eq!(reader.drain(10).await.first().unwrap(), "142");
    reader.until(|events| lost(events) > 0).await;
    events.append(&mut reader.events);
    assert_eq!(lost(&events), 40, "{events:?}");
}

async fn lost_before_the_first(server: Server) {
    let broker = server.connect().await;
    for purged in [false, true] {
        let name = fresh("first");
        let config = TopicConfig::new(&name).group("g");
        let to = ensure(&broker, if purged { config } else { config.max_messages(10) }).await;
        publish_numbers(&broker, &to, 0..25).await;
        if purged {
            assert_eq!(broker.admin().purge(&topic(&name)).await.unwrap(), Some(25));
            publish_numbers(&broker, &to, 25..28).await;
        }
        let (kept, gone) = if purged { (3, 25) } else { (10, 15) };
        let mut reader = Reader::start(&broker, request(&[&name], Some("g"))).await;
        reader.drain(kept).await;
        let lost = |event: &DriverEvent| match event {
            DriverEvent::Lost { count, .. } => *count,
            _ => None,
        };
        let lost: u64 = reader.events.iter().filter_map(lost).sum();
        assert_eq!(lost, gone, "{:?}", reader.events);
    }
}

async fn deleted_group(server: Server) {
    let broker = server.connect().await;
    let context = jetstream::new(server.native().await);
    for topology in [Topology::Create, Topology::Verify] {
        let name = fresh("deleted");
        let stream = context.get_stream_no_info(name.replace('.', "+")).await.unwrap();
        let to = ensure(&broker, TopicConfig::new(&name).group("g")).await;
        let mut ask = request(&[&name], Some("g"));
        ask.topology = topology;
        let mut reader = Reader::start(&broker, ask).await;
        publish_numbers(&broker, &to, 0..3).await;
        reader.drain(3).await;
        stream.delete_consumer("g").await.unwrap();
        if topology == Topology::Verify {
            let error = reader.next().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            continue;
        }
        publish_numbers(&broker, &to, 3..5).await;
        assert_eq!(reader.drain(2).await, ["3", "4"]);
        assert!(matches!(reader.events[..], [DriverEvent::Lost { .. }]), "{:?}", reader.events);
    }
}

async fn deleted_stream(server: Server) {
    let broker = server.connect().await;
    let name = fresh("gone");
    let context = jetstream::new(server.native().await);
    let config = TopicConfig::new(&name).max_age(Duration::from_secs(3600)).group("g");
    let to = ensure(&broker, config.clone()).await;
    let mut reader = Reader::start(&broker, request(&[&name], Some("g"))).await;
    publish_numbers(&broker, &to, 0..3).await;
    reader.drain(3).await;
    context.delete_stream(name.replace('.', "+")).await.unwrap();
    reader.until(|events| !events.is_empty()).await;
    assert!(matches!(reader.events[..], [DriverEvent::Lost { .. }]), "{:?}", reader.events);
    publish_numbers(&broker, &to, 3..5).await;
    assert_eq!(reader.drain(2).await, ["3", "4"]);
    // It came back as it was asked for, with all that belongs to the group.
    let spec = config.check().unwrap();
    while broker.admin().verify(&spec).await.is_err() {
        assert!(reader.is_quiet(Duration::from_millis(50)).await);
    }
    assert!(broker.admin().verify(&spec).await.unwrap().is_empty());
}
