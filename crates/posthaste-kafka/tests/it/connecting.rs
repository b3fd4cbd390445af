//! Logins, TLS, and what a failed connect says.

use std::time::Duration;

use posthaste_core::{Error, ErrorKind, Retry};
use tokio::time::Instant;

use crate::adapter::{Adapter, KafkaConfig, Sasl};
use crate::server::Server;
use crate::suite::Suite;

const SECRET: &str = "S3CRET-of-nobody";

pub(crate) fn add(suite: &mut Suite) {
    suite.add("one_of_several_servers_is_enough", several);
    suite.add("a_login_that_the_broker_does_not_want_is_named", unwanted_login);
    suite.add("its_health_tells_that_the_broker_lives", health);
    if cfg!(feature = "ssl") {
        suite.add("tls_to_a_plain_port_is_named", tls_to_a_plain_port);
        suite.on("kafka-tls", "a_password_opens_over_tls", password);
        suite.on("kafka-tls", "a_wrong_password_is_named_and_never_shown", wrong_password);
        suite.on("kafka-tls", "an_unknown_ca_is_named", unknown_ca);
        suite.on("kafka-tls", "no_tls_to_a_port_that_wants_it_fails_in_time", plain_to_tls);
    } else {
        suite.add("tls_is_refused_by_a_build_without_it", no_tls_in_this_build);
    }
}

async fn works(config: KafkaConfig) {
    let adapter = Adapter::connect(config).await.expect("a connection");
    adapter.lives(Instant::now() + Duration::from_secs(5)).await;
    adapter.close(Instant::now() + Duration::from_secs(10)).await.expect("a clean end");
}

/// Ends in time, with that kind, and shows no secret.
async fn fails(config: KafkaConfig, kind: ErrorKind) -> Error {
    let start = Instant::now();
    let error = Adapter::connect(config).await.expect_err("a failed connect");
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    assert_eq!(error.kind(), kind, "{error:?}");
    assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?}");
    error
}

async fn several(server: Server) {
    let closed = {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap().to_string()
    };
    for other in [&*closed, "no-such-host.invalid:9092"] {
        works(KafkaConfig::new(format!("{other},{}", server.address()))).await;
        works(KafkaConfig::new(format!("{},{other}", server.address()))).await;
    }
}

async fn unwanted_login(server: Server) {
    let error = fails(server.config().login("u", SECRET), ErrorKind::Auth).await;
    assert!(error.to_string().contains(server.address()), "{error}");
}

async fn health(server: Server) {
    let adapter = Adapter::connect(server.config()).await.expect("a connection");
    let start = Instant::now();
    for _ in 0..10 {
        adapter.lives(Instant::now() + Duration::from_secs(5)).await;
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

async fn no_tls_in_this_build(server: Server) {
    let error = fails(server.config().tls(true), ErrorKind::Unsupported).await;
    assert!(error.to_string().contains("ssl"), "{error}");
}

async fn tls_to_a_plain_port(server: Server) {
    let error = fails(server.config().tls(true), ErrorKind::Connection).await;
    assert!(error.to_string().contains("TLS"), "{error}");
    assert_eq!(error.retry(), Retry::Never, "{error:?}");
}

fn tls(server: &Server) -> KafkaConfig {
    server.config().tls_ca(&server.files["ca"])
}

fn user(server: &Server) -> String {
    server.user.clone().expect("a recorded user")
}

async fn password(server: Server) {
    let password = std::fs::read_to_string(&server.files["password"]).unwrap();
    for sasl in [Sasl::Plain, Sasl::ScramSha512] {
        works(tls(&server).login(user(&server), password.trim()).sasl(sasl)).await;
    }
}

async fn wrong_password(server: Server) {
    for sasl in [Sasl::Plain, Sasl::ScramSha512] {
        fails(tls(&server).login(user(&server), SECRET).sasl(sasl), ErrorKind::Auth).await;
    }
    // A mechanism that the broker does not offer.
    let other = tls(&server).login(user(&server), SECRET).sasl(Sasl::ScramSha256);
    fails(other, ErrorKind::Auth).await;
}

async fn unknown_ca(server: Server) {
    let config = server.config().tls_ca(&server.files["foreign_ca"]);
    let error = fails(config.login(user(&server), SECRET), ErrorKind::Connection).await;
    assert!(error.to_string().contains("TLS"), "{error}");
}

/// The broker hangs up without a word.
async fn plain_to_tls(server: Server) {
    let error = fails(KafkaConfig::new(server.address()), ErrorKind::Connection).await;
    assert!(error.to_string().contains(server.address()), "{error}");
}
