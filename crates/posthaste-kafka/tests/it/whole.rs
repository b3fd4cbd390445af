//! The adapter behind a bus: what it can do, and that it says what it cannot.

use std::time::Duration;

use posthaste_core::broker::{Broker as _, DeadLetterQuery, SubscribeRequest};
use posthaste_core::{Bus, ErrorKind, Health, TopicConfig};
use posthaste_kafka::KafkaNative;
use tokio::time::Instant;

use crate::adapter::{Adapter, KafkaBroker, failed, group, name, topic};
use crate::raw;
use crate::server::Server;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.add("receiving_is_refused_before_anything_is_touched", no_receiving);
    suite.add("a_bus_publishes_and_administers", bus);
    suite.add("the_native_client_is_within_reach", native);
    suite.add("administration_leaves_nothing_running", nothing_is_left);
}

const NO_RECEIVING: &str = "this adapter does not receive yet";

async fn no_receiving(server: Server) {
    let adapter = Adapter::connect(server.config()).await.unwrap();
    let (name, g) = (name("receive"), group("g"));
    let request = SubscribeRequest::new(vec![topic(&name)], Some(g.clone()), "m".to_owned());
    let refused = adapter.0.subscribe(request).await;
    failed(refused, ErrorKind::Unsupported, &[NO_RECEIVING]);
    let (admin, name) = (adapter.admin(), topic(&name));
    let query = DeadLetterQuery::first(1);
    for refused in [
        admin.dead_letters(&name, &g, &query).await.map(drop),
        admin.replay(&name, &g, &[]).await.map(drop),
        admin.discard(&name, &g, &[]).await.map(drop),
    ] {
        failed(refused, ErrorKind::Unsupported, &[NO_RECEIVING]);
    }
    assert!(!raw::topics(&server).await.contains(&name.as_str().to_owned()));
}

async fn bus(server: Server) {
    let bus = Bus::new(KafkaBroker::connect(server.config()).await.unwrap());
    let name = name("bus");
    let info = bus.ensure(TopicConfig::new(&name).ordered(3).group("billing")).await.unwrap();
    assert_eq!(info.native, format!("{name}__of3"));
    bus.ensure(TopicConfig::queue(format!("{name}.q"))).await.unwrap();
    let lag = bus.admin().lag(&name, "billing").await.unwrap();
    assert_eq!(lag.ready, Some(0));
    bus.admin().seek(&name, "billing", posthaste_core::broker::Start::Earliest).await.unwrap();
    assert_eq!(bus.admin().groups(&name).await.unwrap().len(), 1);
    assert_eq!(bus.health().await.unwrap(), Health::Live);
    let refused = bus.subscribe(&*name).group("billing").start().await;
    failed(refused.map(drop), ErrorKind::Unsupported, &[NO_RECEIVING]);
    bus.admin().delete_topic(&name).await.unwrap();
    bus.close(Duration::from_secs(10)).await.unwrap();
}

async fn native(server: Server) {
    let bus = Bus::new(KafkaBroker::connect(server.config()).await.unwrap());
    {
        let native = bus.native::<KafkaNative>().unwrap();
        let config = native.client_config();
        assert!(config.get("bootstrap.servers").unwrap().contains(server.address()));
        let admin = native.admin().unwrap();
        let cluster = move || admin.inner().fetch_cluster_id(Duration::from_secs(5));
        assert!(tokio::task::spawn_blocking(cluster).await.unwrap().is_some());
    }
    bus.close(Duration::from_secs(10)).await.unwrap();
}

/// Clients that were made for a call have ended when the connection has.
async fn nothing_is_left(server: Server) {
    let adapter = Adapter::connect(server.config()).await.unwrap();
    let name = name("left");
    let to = adapter.ensure(TopicConfig::new(&name).group("g")).await;
    for _ in 0..5 {
        adapter.admin().lag(&to.topic, &group("g")).await.unwrap();
    }
    // Nobody waits for this one.
    let g = group("g");
    let lag = adapter.admin().lag(&to.topic, &g);
    assert!(tokio::time::timeout(Duration::from_millis(20), lag).await.is_err());
    let start = Instant::now();
    adapter.close(Instant::now() + Duration::from_secs(10)).await.unwrap();
    println!("closing took {:?}", start.elapsed());
}
