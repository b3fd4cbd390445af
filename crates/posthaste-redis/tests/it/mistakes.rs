//! Servers that are set up wrongly, and users that may not do what is needed.

use posthaste_core::broker::Broker as _;
use posthaste_core::{Durability, ErrorKind, Health, TopicConfig};

use crate::adapter::{Durable, RedisBroker, bus, ensure, failed, name, numbered, publish};
use crate::server::{Private, Server};
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.each("the_version_is_that_of_the_server", version);
    suite.each("a_user_who_may_not_is_told_the_rule", denied);
    suite.each("a_key_of_another_type_is_a_conflict", wrong_type);
    suite.private("a_server_that_keeps_nothing_is_refused", "appendonly no", keeps_nothing);
    suite.private("a_server_that_evicts_is_refused", "maxmemory-policy allkeys-lru", evicts);
    suite.private("a_server_that_syncs_always_loses_nothing", "appendfsync always", syncs);
}

async fn version(server: Server) {
    let broker = RedisBroker::connect(server.config()).await.expect("connected");
    assert_eq!(broker.capabilities(None).server.as_deref(), Some(server.version.as_str()));
}

/// One command is missing in the rights, and the error says which.
async fn denied(server: Server) {
    let topic = name("denied");
    let owner = RedisBroker::connect(server.config()).await.expect("connected");
    ensure(&owner, TopicConfig::new(&topic)).await.expect("a topic");
    let user = format!("u{:08x}", fastrand::u32(..));
    let rules = ["on", ">pw-of-the-test", "~*", "&*", "+@all", "-xadd"];
    let mut words = vec!["ACL", "SETUSER", &user];
    words.extend(rules);
    let mut raw = server.raw().await;
    raw.run(&words).await;
    let config = server.config().login(&user, "pw-of-the-test");
    let broker = RedisBroker::connect(config).await.expect("connected");
    let outcomes = publish(&broker, &topic, &[numbered(1)]).await.expect("an outcome");
    let outcome = outcomes.into_iter().next().expect("one");
    failed(outcome, ErrorKind::Auth, &["xadd", "+xadd"]);
    raw.run(&["ACL", "DELUSER", &user]).await;
}

async fn wrong_type(server: Server) {
    let (topic, mut raw) = (name("type"), server.raw().await);
    raw.run(&["SET", &format!("ph:{{{topic}}}"), "a string"]).await;
    let broker = RedisBroker::connect(server.config()).await.expect("connected");
    let made = ensure(&broker, TopicConfig::new(&topic)).await;
    failed(made, ErrorKind::Conflict, &["WRONGTYPE"]);
    raw.run(&["DEL", &format!("ph:{{{topic}}}")]).await;
}

async fn keeps_nothing(server: Private) {
    let refused = RedisBroker::connect(server.config()).await;
    failed(refused, ErrorKind::Unsupported, &["appendonly", "durability=server"]);
    let taken = server.config().durability(Durable::Server);
    let broker = RedisBroker::connect(taken).await.expect("taken as it is");
    assert_eq!(broker.capabilities(None).durability, Durability::Process);
}

async fn evicts(server: Private) {
    let refused = RedisBroker::connect(server.config()).await;
    failed(refused, ErrorKind::Unsupported, &["maxmemory-policy", "allkeys-lru"]);
    let bus = bus(server.config().durability(Durable::Server)).await;
    assert!(matches!(bus.health().await, Ok(Health::Degraded(why)) if why.contains("allkeys-lru")));
}

async fn syncs(server: Private) {
    let broker = RedisBroker::connect(server.config()).await.expect("connected");
    let wanted = Durability::Server { loss_window: None };
    assert_eq!(broker.capabilities(None).durability, wanted);
}
