//! Messages for later, and what old servers say to them.

use std::time::Duration;

use async_nats::jetstream;
use posthaste_core::broker::{Broker as _, SendOptions, Verdict};
use posthaste_core::{ErrorKind, Timestamp, TopicConfig};
use tokio::time::Instant;

use crate::drive::{
    Reader, ensure, envelope, fresh, keyed, publish_one, publish_with, request, topic,
};
use crate::server::Server;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.add("a_message_for_later_comes_later", later);
    suite.add("a_message_for_later_outlives_the_retention", outlives);
    suite.add("a_stream_of_an_old_server_refuses_messages_for_later", old_stream);
    suite.on("nats@2.9", "an_old_server_refuses_messages_for_later", old_server);
}

async fn later(server: Server) {
    let broker = server.connect().await;
    for ordered in [false, true] {
        let name = fresh("later");
        let config = TopicConfig::new(&name).group("g");
        let to = ensure(&broker, if ordered { config.ordered(4) } else { config }).await;
        assert!(broker.capabilities(Some(&topic(&name))).deliver_at.is_kept());
        let mut reader = Reader::start(&broker, request(&[&name], Some("g"))).await;
        let delay = Duration::from_millis(1_500);
        let options = SendOptions::default().deliver_at(Some(Timestamp::now() + delay));
        let start = Instant::now();
        let sent = keyed("k", "late");
        publish_with(&broker, &to, sent.clone(), options).await.unwrap();
        let past = SendOptions::default().deliver_at(Some(Timestamp::now() - delay));
        publish_with(&broker, &to, keyed("k", "at once"), past).await.unwrap();
        assert_eq!(reader.drain(1).await, ["at once"]);
        assert!(start.elapsed() < delay, "{:?}", start.elapsed());
        let late = reader.one().await;
        assert!(start.elapsed() >= delay, "{:?}", start.elapsed());
        assert!(start.elapsed() < delay + Duration::from_secs(2), "{:?}", start.elapsed());
        assert_eq!(late.envelope, sent);
        assert_eq!(late.position.partition.is_some(), ordered);
        reader.settle([(&late, Verdict::Ack)].into_iter()).await;
        assert!(reader.is_quiet(Duration::from_millis(500)).await, "it comes once");
    }
}

async fn outlives(server: Server) {
    let broker = server.connect().await;
    let name = fresh("outlives");
    let config = TopicConfig::new(&name).max_age(Duration::from_secs(1)).group("g");
    let to = ensure(&broker, config).await;
    let mut reader = Reader::start(&broker, request(&[&name], Some("g"))).await;
    let at = Timestamp::now() + Duration::from_secs(4);
    let options = SendOptions::default().deliver_at(Some(at));
    publish_with(&broker, &to, envelope("late"), options).await.unwrap();
    assert_eq!(reader.drain(1).await, ["late"]);
}

async fn old_stream(server: Server) {
    let broker = server.connect().await;
    let name = fresh("old");
    let context = jetstream::new(server.native().await);
    let config = jetstream::stream::Config {
        name: name.replace('.', "+"),
        subjects: vec![name.clone(), format!("{name}.__g.*")],
        ..Default::default()
    };
    context.create_stream(config).await.unwrap();
    let to = ensure(&broker, TopicConfig::new(&name)).await;
    publish_one(&broker, &to, envelope("x")).await.unwrap();
    assert!(!broker.capabilities(Some(&topic(&name))).deliver_at.is_kept());
    let at = Timestamp::now() + Duration::from_secs(60);
    let options = SendOptions::default().deliver_at(Some(at));
    let error = publish_with(&broker, &to, envelope("x"), options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

async fn old_server(server: Server) {
    let broker = server.connect().await;
    let to = ensure(&broker, TopicConfig::new(fresh("old"))).await;
    assert!(!broker.capabilities(None).deliver_at.is_kept());
    let at = Timestamp::now() + Duration::from_secs(60);
    let options = SendOptions::default().deliver_at(Some(at));
    let error = publish_with(&broker, &to, envelope("x"), options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let text = error.to_string();
    assert!(text.contains("2.12") && text.contains("2.9"), "{text}");
}
