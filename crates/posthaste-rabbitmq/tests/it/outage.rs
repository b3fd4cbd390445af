//! The network or the broker goes while much is under way: every publish has its outcome, what was
//! confirmed is there, and members go on by themselves.

use std::collections::BTreeSet;
use std::time::Duration;

use posthaste_core::{Bus, ErrorKind, PublishOptions, TopicConfig, Topology};
use posthaste_rabbitmq::RabbitmqConfig;
use tokio::time::Instant;

use crate::adapter::{Adapter, RabbitmqBroker, name, numbered};
use crate::member::{bus, join, next, number};
use crate::raw::Raw;
use crate::relay::Relay;
use crate::server::{Private, Server};
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.add("a_cut_with_a_thousand_in_flight_leaves_none_without_an_outcome", in_flight);
    suite.add("ten_windows_of_publishes_that_nobody_awaits_end", unawaited);
    suite.add("publishers_in_a_hurry_get_through_on_a_slow_network", hurry);
    suite.private("members_go_on_after_ten_seconds_without_a_broker", ten_seconds);
}

/// The contract without core, which would send again what is unknown.
async fn in_flight(server: Server) {
    let relay = Relay::to(server.address()).await;
    let through = format!("amqp://guest:guest@{}/%2f", relay.addr());
    let adapter = Adapter::connect(RabbitmqConfig::from_url(&through).unwrap()).await.unwrap();
    let topic = name("in-flight");
    let to = adapter.ensure(TopicConfig::new(&topic).group("g")).await;
    adapter.store(&to, &[numbered(9_999)]).await;
    let batches: Vec<Vec<_>> =
        (0..8).map(|batch| (batch * 128..(batch + 1) * 128).map(numbered).collect()).collect();
    let sending =
        futures_util::future::join_all(batches.iter().map(|one| adapter.publish(&to, one)));
    let cutting = async {
        tokio::time::sleep(Duration::from_micros(fastrand::u64(2_000..40_000))).await;
        relay.cut();
    };
    let begun = Instant::now();
    let (sent, ()) = tokio::join!(sending, cutting);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let (mut confirmed, mut unknown) = (BTreeSet::from([9_999]), 0);
    for (outcome, number) in sent.into_iter().flat_map(Result::unwrap).zip(0_u32..) {
        match outcome {
            Ok(_) => drop(confirmed.insert(number)),
            Err(error) => {
                let kinds = [ErrorKind::Connection, ErrorKind::Timeout];
                assert!(kinds.contains(&error.kind()), "{error:?}");
                unknown += u32::from(error.may_be_stored());
            }
        }
    }
    println!("{} confirmed, {unknown} unknown", confirmed.len());
    let (raw, mut stored) = (Raw::connect(&server.url).await, BTreeSet::new());
    while let Some(payload) = raw.get(&format!("{topic}__g")).await {
        let number: u32 = std::str::from_utf8(&payload).unwrap().parse().unwrap();
        assert!(stored.insert(number), "{number} is there twice");
    }
    assert!(confirmed.is_subset(&stored), "confirmed, and not there");
    assert!(stored.len() <= confirmed.len() + unknown as usize, "there, and said not to be");
    raw.close().await;
}

/// The window is what bounds them, and it empties by itself.
async fn unawaited(server: Server) {
    let (raw, topic) = (Raw::connect(&server.url).await, name("unawaited"));
    let bus = bus(server.config()).await;
    bus.ensure(TopicConfig::new(&topic).group("g")).await.unwrap();
    let publisher = bus.publisher(&topic).unwrap();
    let all = 10_000;
    for number in 0..all {
        drop(publisher.enqueue_envelope(numbered(number)).await.unwrap());
    }
    publisher.flush().await;
    assert_eq!(raw.ready(&format!("{topic}__g")).await, all);
    bus.admin().delete_topic(&topic).await.unwrap();
    raw.close().await;
}

/// A round trip fits their deadline. Looking at the topic does not, and the opening of a channel
/// with a publish does not either.
async fn hurry(server: Server) {
    let relay = Relay::slow(server.address(), Duration::from_millis(200)).await;
    let through = format!("amqp://guest:guest@{}/%2f?connect_timeout=20s", relay.addr());
    let topic = name("hurry");
    let direct = Adapter::connect(server.config()).await.unwrap();
    direct.ensure(TopicConfig::new(&topic).group("g")).await;
    let broker = RabbitmqBroker::connect(RabbitmqConfig::from_url(&through).unwrap()).await;
    // Core asks nothing of a topic that is taken for what it was said to be.
    let bus = Bus::builder(broker.unwrap()).topology(Topology::Assume).build().unwrap();
    let publisher = bus.publisher(&topic).unwrap();
    let begun = Instant::now();
    let mut in_a_row = 0;
    while in_a_row < 3 {
        let options = PublishOptions::new().deadline(Duration::from_secs(1));
        let outcome = publisher.publish_envelope_with(numbered(in_a_row), options).await;
        in_a_row = if outcome.is_ok() { in_a_row + 1 } else { 0 };
        assert!(begun.elapsed() < Duration::from_secs(30), "nothing gets through: {outcome:?}");
    }
}

async fn ten_seconds(mut private: Private) {
    let topic = name("ten-seconds");
    let bus = bus(private.config()).await;
    bus.ensure(TopicConfig::new(&topic).group("g")).await.unwrap();
    let publisher = bus.publisher(&topic).unwrap();
    publisher.publish_envelope(numbered(0)).await.unwrap();
    let mut inbox = join(&bus, &topic, 10).await;
    let held = next(&mut inbox).await;
    private.down().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    private.up_again().await;
    let back = Instant::now();
    let again = next(&mut inbox).await;
    assert!(back.elapsed() < Duration::from_secs(15), "{:?}", back.elapsed());
    assert_eq!((number(&again), again.attempt()), (0, 2));
    // What was held before is somebody else's, and saying so costs no channel.
    let late = held.ack_confirmed().await;
    assert!(late.is_err_and(|error| error.kind() == ErrorKind::LeaseLost));
    again.ack_confirmed().await.unwrap();
    publisher.publish_envelope(numbered(1)).await.unwrap();
    let last = next(&mut inbox).await;
    assert_eq!((number(&last), last.attempt()), (1, 1));
    last.ack_confirmed().await.unwrap();
    bus.close(Duration::from_secs(10)).await.unwrap();
}
