//! TLS and logins.

use posthaste_core::{ErrorKind, Health};

use crate::adapter::{self, RedisBroker, RedisConfig, failed, join, name, next, send};
use crate::server::Server;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.on("redis-tls", "a_user_comes_in_by_tls", comes_in);
    suite.on("redis-tls", "a_wrong_password_is_not_shown", wrong_password);
    suite.on("redis-tls", "a_certificate_of_somebody_else_is_refused", wrong_ca);
    suite.on("redis-tls", "who_has_no_login_is_refused", no_login);
}

fn password(server: &Server) -> String {
    let text = std::fs::read_to_string(&server.files["password"]).expect("the password");
    text.trim().to_owned()
}

fn config(server: &Server, password: &str, ca: &str) -> RedisConfig {
    server.config().login(&server.user, password).tls_ca(&server.files[ca])
}

async fn comes_in(server: Server) {
    let bus = adapter::bus(config(&server, &password(&server), "ca")).await;
    let topic = name("tls");
    let mut inbox = join(&bus, &topic).await;
    send(&bus, &topic, 0..3).await;
    for _ in 0..3 {
        next(&mut inbox).await.ack().await.expect("settled");
    }
    assert_eq!(bus.health().await.expect("an answer"), Health::Live);
    bus.admin().delete_topic(&topic).await.expect("deleted");
}

async fn wrong_password(server: Server) {
    let wrong = "not-the-pa55word";
    let refused = RedisBroker::connect(config(&server, wrong, "ca")).await;
    let error = refused.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Auth);
    assert!(!format!("{error:?}").contains(wrong), "{error:?}");
}

async fn wrong_ca(server: Server) {
    let refused = RedisBroker::connect(config(&server, &password(&server), "foreign_ca")).await;
    failed(refused, ErrorKind::Connection, &["TLS"]);
}

async fn no_login(server: Server) {
    let refused = RedisBroker::connect(server.config().tls_ca(&server.files["ca"])).await;
    failed(refused, ErrorKind::Auth, &[]);
}
