//! Encryption and logins, against servers that insist on them.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use posthaste_core::broker::Broker as _;
use posthaste_core::{ErrorKind, Health};
use posthaste_nats::{NatsBroker, NatsConfig};

use crate::server::Server;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.on("nats-tls", "a_password_opens_over_tls", password);
    suite.on("nats-tls", "a_key_opens_over_tls", key);
    suite.on("nats-tls", "a_wrong_password_is_refused_and_not_shown", wrong_password);
    suite.on("nats-tls", "a_stranger_s_certificate_is_not_trusted", foreign_ca);
    suite.on("nats-creds", "a_credentials_file_opens_with_a_client_certificate", credentials);
    suite.on("nats-creds", "foreign_credentials_are_refused", foreign_credentials);
    suite.on("nats-token", "a_token_opens", token);
    suite.on("nats-token", "no_login_is_refused", no_login);
}

/// The server's address, without a login.
fn to(server: &Server) -> NatsConfig {
    NatsConfig::from_url(&server.url).unwrap().connect_timeout(Duration::from_secs(5))
}

fn file(server: &Server, purpose: &str) -> PathBuf {
    server.files.get(purpose).unwrap_or_else(|| panic!("no file for {purpose}")).clone()
}

fn secret(server: &Server, purpose: &str) -> String {
    fs::read_to_string(file(server, purpose)).unwrap().trim().to_owned()
}

async fn opens(config: NatsConfig) {
    let broker = NatsBroker::connect(config).await.unwrap();
    assert_eq!(broker.health().await.unwrap(), Health::Live);
    broker.close(tokio::time::Instant::now() + Duration::from_secs(5)).await.unwrap();
}

/// The kind and all texts of a refusal, which came in time.
async fn refused(config: NatsConfig) -> (ErrorKind, String) {
    let start = Instant::now();
    let shown = format!("{config:?}");
    let error = NatsBroker::connect(config).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    (error.kind(), format!("{shown}\n{error}\n{error:?}"))
}

async fn password(server: Server) {
    let user = server.user.clone().unwrap();
    opens(to(&server).tls_ca(file(&server, "ca")).login(user, secret(&server, "password"))).await;
}

async fn key(server: Server) {
    let config = to(&server).tls_ca(file(&server, "ca"));
    opens(config.clone().nkey_file(file(&server, "nkey_seed"))).await;
    opens(config.nkey(secret(&server, "nkey_seed"))).await;
}

async fn wrong_password(server: Server) {
    let user = server.user.clone().unwrap();
    let config = to(&server).tls_ca(file(&server, "ca")).login(user, "wrong-hunter2");
    let (kind, texts) = refused(config).await;
    assert_eq!(kind, ErrorKind::Auth, "{texts}");
    assert!(!texts.contains("hunter2"), "{texts}");
}

async fn foreign_ca(server: Server) {
    let user = server.user.clone().unwrap();
    let password = secret(&server, "password");
    let config = to(&server).tls_ca(file(&server, "foreign_ca")).login(user, password.clone());
    let (kind, texts) = refused(config).await;
    assert!(matches!(kind, ErrorKind::Connection | ErrorKind::Auth), "{kind:?} {texts}");
    assert!(!texts.contains(&password), "{texts}");
}

async fn credentials(server: Server) {
    let config = to(&server)
        .tls_ca(file(&server, "ca"))
        .tls_certificate(file(&server, "client_cert"), file(&server, "client_key"));
    opens(config.credentials(file(&server, "credentials"))).await;
}

async fn foreign_credentials(server: Server) {
    let config = to(&server)
        .tls_ca(file(&server, "ca"))
        .tls_certificate(file(&server, "client_cert"), file(&server, "client_key"));
    let (kind, texts) = refused(config.credentials(file(&server, "foreign_credentials"))).await;
    assert_eq!(kind, ErrorKind::Auth, "{texts}");
}

async fn token(server: Server) {
    opens(to(&server).token(secret(&server, "token"))).await;
}

async fn no_login(server: Server) {
    let (kind, texts) = refused(to(&server)).await;
    assert_eq!(kind, ErrorKind::Auth, "{texts}");
}
