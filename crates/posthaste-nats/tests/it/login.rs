//! Logins, TLS, and what a failed connect says.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use posthaste_core::broker::Broker as _;
use posthaste_core::{Error, ErrorKind, Health, TopicConfig};
use posthaste_nats::{NatsBroker, NatsConfig};
use tokio::time::Instant;

use crate::drive::{Reader, ensure, fresh, publish_numbers, request};
use crate::server::Server;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.on("nats-tls", "a_password_opens_over_tls", password);
    suite.on("nats-tls", "an_nkey_opens_over_tls", nkey);
    suite.on("nats-tls", "a_wrong_login_is_named_and_never_shown", wrong_login);
    suite.on("nats-tls", "an_unknown_ca_is_named", unknown_ca);
    suite.on("nats-creds", "credentials_open_with_a_client_certificate", credentials);
    suite.on("nats-creds", "wrong_credentials_and_certificates_are_named", wrong_credentials);
    suite.on("nats-token", "a_token_opens", token);
    suite.add("tls_to_a_plain_port_is_named", plain_port);
    suite.add("what_cannot_be_reached_is_named_in_time", unreachable);
    suite.add("files_that_cannot_be_read_are_named", files);
    suite.add("one_of_several_servers_is_enough", several);
    suite.add("after_close_everything_is_closed", closed);
}

fn read(server: &Server, file: &str) -> String {
    std::fs::read_to_string(&server.files[file]).expect("a recorded file").trim().to_owned()
}

fn user(server: &Server) -> String {
    server.user.clone().expect("a recorded user")
}

async fn works(config: NatsConfig) {
    let broker = NatsBroker::connect(config).await.expect("a connection");
    assert_eq!(broker.health().await.unwrap(), Health::Live);
    let name = fresh("login");
    let to = ensure(&broker, TopicConfig::new(&name).group("g")).await;
    publish_numbers(&broker, &to, 0..3).await;
    let mut reader = Reader::start(&broker, request(&[&name], Some("g"))).await;
    assert_eq!(reader.drain(3).await.len(), 3);
    drop(reader);
    broker.close(Instant::now() + Duration::from_secs(5)).await.expect("a clean end");
}

async fn fails(config: NatsConfig, kind: ErrorKind, secret: &str) -> Error {
    let start = Instant::now();
    let error = NatsBroker::connect(config).await.expect_err("a failed connect");
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    assert_eq!(error.kind(), kind, "{error:?}");
    let shown = format!("{error} {error:?}");
    assert!(secret.is_empty() || !shown.contains(secret), "{shown}");
    error
}

fn tls(server: &Server) -> NatsConfig {
    server.config().tls_ca(&server.files["ca"])
}

async fn password(server: Server) {
    works(tls(&server).login(user(&server), read(&server, "password"))).await;
}

async fn nkey(server: Server) {
    works(tls(&server).nkey_file(&server.files["nkey_seed"])).await;
    works(tls(&server).nkey(read(&server, "nkey_seed"))).await;
}

async fn wrong_login(server: Server) {
    let secret = "S3CRET-of-nobody";
    fails(tls(&server).login(user(&server), secret), ErrorKind::Auth, secret).await;
    fails(tls(&server).nkey(secret), ErrorKind::Auth, secret).await;
    fails(tls(&server), ErrorKind::Auth, "").await;
}

async fn unknown_ca(server: Server) {
    let secret = read(&server, "password");
    for config in [server.config().tls_ca(&server.files["foreign_ca"]), server.config()] {
        let error =
            fails(config.login(user(&server), &secret), ErrorKind::Connection, &secret).await;
        assert!(error.to_string().contains("TLS"), "{error}");
    }
}

async fn credentials(server: Server) {
    let config = tls(&server).credentials(&server.files["credentials"]);
    works(config.tls_certificate(&server.files["client_cert"], &server.files["client_key"])).await;
}

async fn wrong_credentials(server: Server) {
    let with_certificate = |config: NatsConfig| {
        config.tls_certificate(&server.files["client_cert"], &server.files["client_key"])
    };
    let foreign = tls(&server).credentials(&server.files["foreign_credentials"]);
    fails(with_certificate(foreign), ErrorKind::Auth, "").await;
    // A seed is not shown, also when the file is not one of credentials.
    let not_one = tls(&server).credentials(&server.files["client_key"]);
    let key = read(&server, "client_key");
    let line = key.lines().nth(1).expect("a key in PEM");
    fails(with_certificate(not_one), ErrorKind::Invalid, line).await;
    let without = tls(&server).credentials(&server.files["credentials"]);
    fails(without, ErrorKind::Connection, "").await;
}

async fn token(server: Server) {
    works(server.config().token(read(&server, "token"))).await;
    let secret = "S3CRET-of-nobody";
    fails(server.config().token(secret), ErrorKind::Auth, secret).await;
}

async fn plain_port(server: Server) {
    let error = fails(server.config().tls(), ErrorKind::Connection, "").await;
    assert!(error.to_string().contains("TLS"), "{error}");
}

async fn unreachable(_: Server) {
    let unknown = NatsConfig::new("no-such-host.invalid").login("u", "S3CRET");
    let error = fails(unknown, ErrorKind::Connection, "S3CRET").await;
    assert!(error.to_string().contains("no-such-host.invalid"), "{error}");
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    fails(NatsConfig::new(format!("127.0.0.1:{port}")), ErrorKind::Connection, "").await;
    // It takes the connection and never says a word.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let config = NatsConfig::new(silent.local_addr().unwrap().to_string());
    let start = Instant::now();
    fails(config.connect_timeout(Duration::from_millis(700)), ErrorKind::Timeout, "").await;
    assert!(start.elapsed() < Duration::from_millis(1_500), "{:?}", start.elapsed());
}

async fn files(server: Server) {
    let nowhere = "/nowhere/at.all";
    for config in [
        server.config().tls_ca(nowhere),
        server.config().credentials(nowhere),
        server.config().nkey_file(nowhere),
        server.config().tls_certificate(nowhere, nowhere),
        // It is there, and holds no certificate.
        server.config().tls_ca(env!("CARGO_MANIFEST_PATH")),
    ] {
        let error = fails(config, ErrorKind::Invalid, "").await;
        let text = error.to_string();
        assert!(text.contains(nowhere) || text.contains("Cargo.toml"), "{text}");
    }
}

async fn several(server: Server) {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let address = server.url.split_once("://").unwrap().1.to_owned();
    for servers in [[format!("127.0.0.1:{port}"), address.clone()], [address, "h.invalid".into()]] {
        let [first, second] = servers;
        works(NatsConfig::new(first).server(second)).await;
    }
}

async fn closed(server: Server) {
    let broker = server.connect().await;
    let name = fresh("closed");
    let to = ensure(&broker, TopicConfig::new(&name).group("g")).await;
    let mut reader = Reader::start(&broker, request(&[&name], Some("g"))).await;
    broker.close(Instant::now() + Duration::from_secs(5)).await.unwrap();
    broker.close(Instant::now() + Duration::from_secs(5)).await.unwrap();
    let sent = crate::drive::publish_one(&broker, &to, crate::drive::envelope("x")).await;
    for error in [
        sent.err().unwrap(),
        broker.health().await.err().unwrap(),
        broker.admin().describe(&to.topic).await.err().unwrap(),
        Reader::try_start(&broker, request(&[&name], Some("g"))).await.err().unwrap(),
        reader.next().await.err().unwrap(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    }
}
