//! The adapter behind a bus: what it can do, and that it says what it cannot.

use std::time::Duration;

use posthaste_core::{Bus, Health, Order, TopicConfig};
use posthaste_kafka::KafkaNative;
use tokio::time::Instant;

use crate::adapter::{Adapter, KafkaBroker, group, keyed, name};
use crate::member::next;
use crate::server::Server;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.add("a_bus_publishes_receives_and_administers", bus);
    suite.add("the_native_client_is_within_reach", native);
    suite.add("administration_leaves_nothing_running", nothing_is_left);
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
    let mut inbox =
        bus.subscribe(&*name).group("billing").order(Order::PerKey).start().await.unwrap();
    let publisher = bus.publisher(&name).unwrap();
    publisher.publish_envelope(keyed("k", "1")).await.unwrap();
    next(&mut inbox).await.ack_confirmed().await.unwrap();
    inbox.stop(Duration::from_secs(5)).await.unwrap();
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
