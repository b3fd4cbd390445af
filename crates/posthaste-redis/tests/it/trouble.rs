//! What happens to a server while it is used, each on a server of the test's own.

use std::collections::BTreeSet;
use std::time::Duration;

use posthaste_core::{ErrorKind, Nack, SubscriptionEvent, TopicConfig};
use tokio::time::Instant;

use crate::adapter::{
    RedisBroker, bus, ensure, failed, join, name, next, number, numbered, publish, send,
};
use crate::server::Private;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.private("killed_connections_come_back_and_nothing_is_missed", "", killed);
    suite.private("scripts_that_were_flushed_are_given_again", "", flushed_scripts);
    suite.private("a_flush_under_a_reader_is_told", "", flushed);
    suite.private("a_server_without_memory_is_backpressure", "", no_memory);
    suite.private("a_server_that_becomes_a_replica_is_waited_for", "", replica);
    suite.private("what_is_trimmed_while_it_is_pending_is_lost_and_told", "", trimmed);
    suite.private("what_everybody_has_settled_is_removed", "", tidied);
    suite.private("a_paused_client_is_waited_for", "", paused);
}

/// The server drops all clients again and again, the one that waits with a read too.
async fn killed(server: Private) {
    let bus = bus(server.config()).await;
    let topic = name("killed");
    let mut inbox = join(&bus, &topic).await;
    let publisher = bus.publisher(&topic).expect("sound");
    let killing = async {
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let mut raw = server.raw().await;
            raw.run(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        }
    };
    let publishing = async {
        for number in 0..300 {
            // The same id until it is confirmed: it may be stored twice.
            while publisher.publish_envelope(numbered(number)).await.is_err() {}
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let mut seen = BTreeSet::new();
    let reading = async {
        let end = Instant::now() + Duration::from_secs(60);
        while seen.len() < 300 {
            assert!(Instant::now() < end, "{} of 300 came", seen.len());
            let delivery = next(&mut inbox).await;
            seen.insert(number(&delivery));
            delivery.ack().await.expect("settled");
        }
    };
    tokio::join!(killing, publishing, reading);
}

async fn flushed_scripts(server: Private) {
    let bus = bus(server.config()).await;
    let topic = name("scripts");
    let mut inbox = join(&bus, &topic).await;
    let mut raw = server.raw().await;
    for round in 0..5 {
        raw.run(&["SCRIPT", "FLUSH"]).await;
        send(&bus, &topic, round..round + 1).await;
        let first = next(&mut inbox).await;
        assert_eq!((number(&first), first.attempt()), (round, 1));
        raw.run(&["SCRIPT", "FLUSH"]).await;
        first.nack(Nack::requeue()).await.expect("given back");
        let again = next(&mut inbox).await;
        assert_eq!((number(&again), again.attempt()), (round, 2));
        again.ack_confirmed().await.expect("settled");
    }
}

async fn flushed(server: Private) {
    let bus = bus(server.config()).await;
    let topic = name("flushed");
    let mut inbox = join(&bus, &topic).await;
    let mut events = inbox.events();
    send(&bus, &topic, 0..1).await;
    next(&mut inbox).await.ack_confirmed().await.expect("settled");
    server.raw().await.run(&["FLUSHALL"]).await;
    let told = async {
        loop {
            match events.next().await {
                Some(SubscriptionEvent::Lost { .. }) => return,
                Some(_) => {}
                None => unreachable!("the subscription ended"),
            }
        }
    };
    tokio::select! {
        () = told => {}
        _ = inbox.next() => unreachable!("nothing was published"),
        () = tokio::time::sleep(Duration::from_secs(20)) => unreachable!("nothing was told"),
    }
    send(&bus, &topic, 1..2).await;
    assert_eq!(number(&next(&mut inbox).await), 1);
}

async fn no_memory(server: Private) {
    let broker = RedisBroker::connect(server.config()).await.expect("connected");
    let topic = name("memory");
    ensure(&broker, TopicConfig::new(&topic).group("g")).await.expect("a topic");
    let mut raw = server.raw().await;
    raw.run(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    let outcomes = publish(&broker, &topic, &[numbered(1)]).await.expect("an outcome");
    let outcome = outcomes.into_iter().next().expect("one");
    failed(outcome, ErrorKind::Backpressure, &["OOM"]);
    raw.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
    for outcome in publish(&broker, &topic, &[numbered(1)]).await.expect("an outcome") {
        outcome.expect("stored");
    }
}

/// As after a failover to another server, and back.
async fn replica(server: Private) {
    let bus = bus(server.config()).await;
    let topic = name("replica");
    let mut inbox = join(&bus, &topic).await;
    send(&bus, &topic, 0..1).await;
    next(&mut inbox).await.ack_confirmed().await.expect("settled");
    let mut raw = server.raw().await;
    raw.run(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let publisher = bus.publisher(&topic).expect("sound");
    let publishing = async { publisher.publish_envelope(numbered(1)).await.expect("stored") };
    let back = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        raw.run(&["REPLICAOF", "NO", "ONE"]).await;
    };
    tokio::join!(publishing, back);
    let delivery = next(&mut inbox).await;
    assert_eq!(number(&delivery), 1);
    delivery.ack_confirmed().await.expect("settled");
}

async fn trimmed(server: Private) {
    let bus = bus(server.config()).await;
    let topic = name("trimmed");
    let mut inbox = join(&bus, &topic).await;
    let mut events = inbox.events();
    send(&bus, &topic, 0..4).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(next(&mut inbox).await);
    }
    server.raw().await.run(&["XTRIM", &format!("ph:{{{topic}}}:s"), "MAXLEN", "0"]).await;
    for delivery in held {
        delivery.release().await.expect("given back");
    }
    let told = async {
        let mut lost = 0;
        while lost < 4 {
            match events.next().await {
                Some(SubscriptionEvent::Lost { count, .. }) => lost += count.unwrap_or(0),
                Some(_) => {}
                None => unreachable!("the subscription ended"),
            }
        }
        lost
    };
    tokio::select! {
        lost = told => assert_eq!(lost, 4),
        _ = inbox.next() => unreachable!("they are gone"),
        () = tokio::time::sleep(Duration::from_secs(20)) => unreachable!("nothing was told"),
    }
}

/// A stream does not grow with what was settled.
async fn tidied(server: Private) {
    let bus = bus(server.config()).await;
    let topic = name("tidied");
    let mut inbox = join(&bus, &topic).await;
    let publisher = bus.publisher(&topic).expect("sound");
    let batch: Vec<_> = (0..2_000).map(numbered).collect();
    let report = publisher.publish_all_envelopes(batch).await;
    assert!(report.is_ok());
    for _ in 0..2_000 {
        next(&mut inbox).await.ack().await.expect("settled");
    }
    let (mut raw, key) = (server.raw().await, format!("ph:{{{topic}}}:s"));
    let end = Instant::now() + Duration::from_secs(40);
    // Whole nodes of the stream are removed: some entries stay.
    while raw.number(&["XLEN", &key]).await > 200 {
        assert!(Instant::now() < end, "nothing is removed");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn paused(server: Private) {
    let bus = bus(server.config()).await;
    let topic = name("paused");
    let mut inbox = join(&bus, &topic).await;
    send(&bus, &topic, 0..1).await;
    next(&mut inbox).await.ack_confirmed().await.expect("settled");
    let mut raw = server.raw().await;
    raw.run(&["CLIENT", "PAUSE", "3000", "ALL"]).await;
    send(&bus, &topic, 1..2).await;
    assert_eq!(number(&next(&mut inbox).await), 1);
}
