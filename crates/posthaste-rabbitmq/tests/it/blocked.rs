//! A broker that lacks memory and takes no messages: publishes end in time, everything else goes on.

use std::time::Duration;

use posthaste_core::{Bus, ErrorKind, Health, PublishOptions, TopicConfig};
use posthaste_rabbitmq::RabbitmqBroker;
use tokio::time::Instant;

use crate::adapter::{name, numbered};
use crate::member::{join, next};
use crate::server::Private;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.private("a_broker_without_memory_stops_publishers_only", publishers_only);
}

/// What a call may take beyond its deadline on a machine that is busy.
const LATE: Duration = Duration::from_secs(3);

async fn publishers_only(private: Private) {
    let topic = name("blocked");
    let broker = RabbitmqBroker::connect(private.config()).await.unwrap();
    let bus = Bus::new(broker);
    bus.ensure(TopicConfig::new(&topic).group("g")).await.unwrap();
    let publisher = bus.publisher(&topic).unwrap();
    for outcome in
        publisher.publish_all_envelopes((0..200).map(numbered).collect()).await.outcomes()
    {
        outcome.as_ref().unwrap();
    }
    let mut inbox = join(&bus, &topic, 50).await;
    let first = next(&mut inbox).await;

    private.alarm(true).await;
    let deadline = Duration::from_secs(3);
    let options = || PublishOptions::new().deadline(deadline);
    let begun = Instant::now();
    let (one, other) = tokio::join!(
        publisher.publish_envelope_with(numbered(200), options()),
        publisher.publish_envelope_with(numbered(201), options()),
    );
    assert!(begun.elapsed() < deadline + LATE, "{:?}", begun.elapsed());
    for outcome in [one, other] {
        let error = outcome.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Backpressure | ErrorKind::Timeout), "{error:?}");
    }
    let health = bus.health().await.unwrap();
    let Health::Degraded(why) = health else { unreachable!("{health}") };
    assert!(why.contains("memory"), "the reason is named: {why}");

    // Consumers get what is there, and what they settle is settled.
    first.ack().await.unwrap();
    for _ in 1..200 {
        next(&mut inbox).await.ack().await.unwrap();
    }
    inbox.stop(Duration::from_secs(10)).await.unwrap();
    let lag = bus.admin().lag(&topic, "g").await.unwrap();
    assert_eq!(lag.ready, Some(0), "{lag:?}");

    // A publish that began while it was blocked goes out when it is not any more.
    let waiting = publisher.publish_envelope(numbered(202));
    let relief = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        private.alarm(false).await;
    };
    let (published, ()) = tokio::join!(waiting, relief);
    published.unwrap();
    assert!(matches!(bus.health().await, Ok(Health::Live)));

    // Also a goodbye ends.
    private.alarm(true).await;
    let failed = publisher.publish_envelope_with(numbered(203), options()).await;
    failed.unwrap_err();
    let begun = Instant::now();
    // It may say that something was left behind.
    let _ = bus.close(Duration::from_secs(5)).await;
    assert!(begun.elapsed() < Duration::from_secs(5) + LATE, "{:?}", begun.elapsed());
}
