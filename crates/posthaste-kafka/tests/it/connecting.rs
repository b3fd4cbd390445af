//! Logins, TLS, and what a failed connect says.

use std::time::Duration;

use posthaste_core::{Error, ErrorKind, Retry};
use tokio::time::Instant;

use crate::adapter::{Adapter, KafkaConfig, Sasl};
use crate::server::Server;
use crate::suite::Suite;
use posthaste_kafka::OauthToken;

const SECRET: &str = "S3CRET-of-nobody";

pub(crate) fn add(suite: &mut Suite) {
    suite.add("one_of_several_servers_is_enough", several);
    suite.add("a_login_that_the_broker_does_not_want_is_named", unwanted_login);
    suite.add("its_health_tells_that_the_broker_lives", health);
    #[cfg(feature = "ssl")]
    tokens::add(suite);
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
    let token = || Err::<OauthToken, _>("it is not asked for");
    for config in [server.config().tls(true), server.config().oauth_bearer(token)] {
        let error = fails(config, ErrorKind::Unsupported).await;
        assert!(error.to_string().contains("ssl"), "{error}");
    }
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

/// Logins by tokens, which that broker takes unsigned.
#[cfg(feature = "ssl")]
mod tokens {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use posthaste_core::{Bus, ErrorKind, Timestamp, TopicConfig};
    use posthaste_kafka::{KafkaBroker, OauthToken};

    use super::{SECRET, fails};
    use crate::adapter::{KafkaConfig, keyed, name};
    use crate::member::next;
    use crate::server::Private;
    use crate::suite::Suite;

    pub(super) fn add(suite: &mut Suite) {
        suite.with_tokens("a_token_opens_all_that_a_connection_does", opens);
        suite.with_tokens("a_refused_or_missing_token_is_named_and_never_shown", refused);
    }

    /// A token that says who has it and until when, for a broker that believes that.
    fn token(who: &str, lasts: Duration) -> OauthToken {
        let (now, expires_at) = (Timestamp::now(), Timestamp::now() + lasts);
        let seconds = |time: Timestamp| time.as_micros() / 1_000_000;
        let (from, until) = (seconds(now), seconds(expires_at));
        let claims = format!("{{\"sub\":\"{who}\",\"iat\":{from},\"exp\":{until}}}");
        let value = format!("{}.{}.", base64(b"{\"alg\":\"none\"}"), base64(claims.as_bytes()));
        OauthToken::new(value, who, expires_at)
    }

    /// The alphabet for URLs, without padding.
    fn base64(bytes: &[u8]) -> String {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let digit = |three: u32, at: usize| ALPHABET[(three >> (18 - 6 * at)) as usize & 63];
        let chunk = |chunk: &[u8]| {
            let all = (0..3)
                .fold(0, |all, at| (all << 8) | u32::from(chunk.get(at).copied().unwrap_or(0)));
            (0..=chunk.len()).map(|at| char::from(digit(all, at))).collect::<String>()
        };
        bytes.chunks(3).map(chunk).collect()
    }

    async fn opens(_broker: Private, config: KafkaConfig) {
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        // It expires soon, so that the next ones are asked for while it is used.
        let config = config.oauth_bearer(move || {
            count.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(token("app", Duration::from_secs(8)))
        });
        let bus = Bus::new(KafkaBroker::connect(config).await.unwrap());
        let topic = name("tokens");
        bus.ensure(TopicConfig::new(&topic).group("g")).await.unwrap();
        let mut inbox = bus.subscribe(&*topic).group("g").start().await.unwrap();
        let publisher = bus.publisher(&topic).unwrap();
        // Over the ends of several tokens: who asks is asked again by then.
        let mut beat = tokio::time::interval(Duration::from_millis(500));
        for n in 0..50 {
            beat.tick().await;
            publisher.publish_envelope(keyed("k", n.to_string())).await.unwrap();
            next(&mut inbox).await.ack().await.unwrap();
            assert!(bus.admin().lag(&topic, "g").await.unwrap().ready.is_some());
            bus.admin().describe(&topic).await.unwrap();
        }
        println!("{} tokens were asked for", asked.load(Ordering::Relaxed));
        assert!(asked.load(Ordering::Relaxed) >= 4);
        bus.admin().delete_topic(&topic).await.unwrap();
        bus.close(Duration::from_secs(10)).await.unwrap();
    }

    async fn refused(_broker: Private, config: KafkaConfig) {
        let unreadable = config.clone().oauth_bearer(|| {
            let until = Timestamp::now() + Duration::from_secs(60);
            Ok::<_, std::io::Error>(OauthToken::new(SECRET, "app", until))
        });
        fails(unreadable, ErrorKind::Auth).await;
        let missing = config.oauth_bearer(|| Err::<OauthToken, _>("the issuer is away"));
        let error = fails(missing, ErrorKind::Auth).await;
        assert!(error.to_string().contains("the issuer is away"), "{error}");
    }
}
