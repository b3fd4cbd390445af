//! Connecting by URL: which broker a scheme is, and what is said of a URL that is wrong.

use std::time::Duration;

use posthaste::ErrorKind::{self, Invalid};
use posthaste::{Error, Health};

/// The error of `connect`, within a deadline, and through `builder` too.
async fn refused(url: &str) -> Error {
    let connecting = tokio::time::timeout(Duration::from_secs(10), posthaste::connect(url));
    let error = connecting.await.expect("it ends soon").expect_err(url);
    let same = posthaste::builder(url).await.expect_err(url);
    assert_eq!(error.to_string(), same.to_string());
    error
}

#[tokio::test]
async fn memory_is_always_there() {
    for url in ["memory://", "memory://tests", "memory://tests?max_messages=10"] {
        let bus = posthaste::connect(url).await.expect(url);
        assert_eq!(bus.capabilities(None).expect("no topic is named").broker, "memory");
        assert!(matches!(bus.health().await, Ok(Health::Live)));
        bus.close(Duration::from_secs(5)).await.expect("nothing is open");
    }
}

#[tokio::test]
async fn a_builder_takes_what_is_in_no_url() {
    let builder = posthaste::builder("memory://").await.expect("it is memory");
    let bus = builder.source("/shop").build().expect("the source is fine");
    assert!(format!("{bus:?}").contains("/shop"));
}

#[tokio::test]
async fn a_wrong_url_is_told_apart_and_shows_no_secret() {
    let cases: &[(&str, ErrorKind, &str)] = &[
        ("", Invalid, "no scheme"),
        ("localhost:4222", Invalid, "no scheme"),
        ("://localhost", Invalid, "no scheme"),
        ("hunter2@localhost", Invalid, "no scheme"),
        ("user:hunter2@nats://localhost", Invalid, "no scheme"),
        ("na ts://user:hunter2@localhost", Invalid, "no scheme"),
        ("carrierpigeon://user:hunter2@localhost", Invalid, "carrierpigeon"),
        ("memory://user:hunter2@tests", Invalid, "memory"),
        ("memory://tests?max_message=1", Invalid, "max_message"),
        ("memory://tests/path", Invalid, "memory"),
    ];
    for (url, kind, says) in cases {
        let error = refused(url).await;
        assert_eq!(error.kind(), *kind, "{url}: {error}");
        let report = format!("{error:?}");
        assert!(report.contains(says), "{url}: {report}");
        assert!(!report.contains("hunter2") && !report.contains("user"), "{url}: {report}");
    }
}

#[tokio::test]
async fn an_unknown_scheme_lists_the_known_ones() {
    for url in ["carrierpigeon://localhost", "localhost"] {
        let text = refused(url).await.to_string();
        for scheme in
            ["memory://", "kafka://", "nats://", "tls://", "nats-core://", "amqp://", "redis://"]
        {
            assert!(text.contains(scheme), "{text}");
        }
    }
}

#[cfg(not(feature = "nats"))]
#[tokio::test]
async fn a_broker_whose_feature_is_off_names_the_feature() {
    for scheme in ["nats", "tls", "nats-core"] {
        let error = refused(&format!("{scheme}://user:hunter2@localhost:1")).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let report = format!("{error:?}");
        assert!(report.contains("features = [\"nats\"]"), "{report}");
        assert!(!report.contains("hunter2"), "{report}");
    }
}

#[cfg(feature = "nats")]
#[tokio::test]
async fn a_server_that_says_nothing_is_a_timeout_without_the_password() {
    // Connections reach the queue of this listener and nobody's ears.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let url = format!("nats://user:hunter2@{address}?connect_timeout=300ms");
    let error = refused(&url).await;
    assert!(matches!(error.kind(), ErrorKind::Connection | ErrorKind::Timeout), "{error}");
    let report = format!("{error:?}");
    assert!(!report.contains("hunter2"), "{report}");
}

#[cfg(feature = "nats")]
#[tokio::test]
async fn the_rest_of_a_url_is_the_adapters() {
    for scheme in ["nats", "tls", "nats-core"] {
        let error = refused(&format!("{scheme}://user:hunter2@localhost?no_such=1")).await;
        assert_eq!(error.kind(), Invalid, "{error}");
        let report = format!("{error:?}");
        assert!(report.contains("no_such") && !report.contains("hunter2"), "{report}");
    }
}

#[cfg(not(feature = "rabbitmq"))]
#[tokio::test]
async fn rabbitmq_without_its_feature_names_the_feature() {
    for scheme in ["amqp", "amqps"] {
        let error = refused(&format!("{scheme}://user:hunter2@localhost:1")).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let report = format!("{error:?}");
        assert!(report.contains("features = [\"rabbitmq\"]"), "{report}");
        assert!(!report.contains("hunter2"), "{report}");
    }
}

#[cfg(feature = "rabbitmq")]
#[tokio::test]
async fn the_rest_of_a_rabbitmq_url_is_the_adapters() {
    for scheme in ["amqp", "amqps"] {
        let error = refused(&format!("{scheme}://user:hunter2@localhost/%2f?no_such=1")).await;
        assert_eq!(error.kind(), Invalid, "{error}");
        let report = format!("{error:?}");
        assert!(report.contains("no_such") && !report.contains("hunter2"), "{report}");
    }
}

#[cfg(not(feature = "redis"))]
#[tokio::test]
async fn redis_without_its_feature_names_the_feature() {
    for scheme in ["redis", "rediss", "redis+sentinel"] {
        let error = refused(&format!("{scheme}://user:hunter2@localhost:1")).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let report = format!("{error:?}");
        assert!(report.contains("features = [\"redis\"]"), "{report}");
        assert!(!report.contains("hunter2"), "{report}");
    }
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn the_rest_of_a_redis_url_is_the_adapters() {
    for scheme in ["redis", "rediss"] {
        let error = refused(&format!("{scheme}://user:hunter2@localhost/0?no_such=1")).await;
        assert_eq!(error.kind(), Invalid, "{error}");
        let report = format!("{error:?}");
        assert!(report.contains("no_such") && !report.contains("hunter2"), "{report}");
    }
    for scheme in ["redis+sentinel", "redis+cluster", "redis-pubsub"] {
        let error = refused(&format!("{scheme}://user:hunter2@localhost")).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}

/// The clients of two brokers bring TLS. Where they bring different providers of its cryptography,
/// the first handshake panics; so every client shakes hands here, in one process, with a server
/// that hangs up.
#[cfg(all(feature = "nats", feature = "rabbitmq"))]
#[tokio::test]
async fn all_clients_with_tls_live_in_one_process() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Longer than a greeting that some clients wait for, and no handshake.
            let _ = std::io::Write::write_all(&mut &stream, b"INFO {}\r\n");
        }
    });
    for url in [format!("tls://{address}"), format!("amqps://{address}")] {
        let error = refused(&url).await;
        assert!(
            matches!(error.kind(), ErrorKind::Connection | ErrorKind::Timeout | ErrorKind::Auth),
            "{url}: {error:?}"
        );
    }
}
