//! Prints the generated tables of the README as one JSON object, for `cargo xtask tables`.
//!
//! Everything comes from `Capabilities`, which depend on the server's version. So NATS is asked
//! through servers that only say hello: no broker is needed, and each version has its column.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use posthaste::{Capabilities, Promise, Result, Support};

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let memory = posthaste::connect("memory://").await?.capabilities(None)?;
    let columns = [
        ("memory", memory),
        ("Kafka", kafka().await?),
        ("RabbitMQ", Arc::new(rabbitmq())),
        ("Redis Streams", Arc::new(redis())),
        ("NATS JetStream, server 2.12 or later", nats("nats", "2.12.0").await?),
        ("NATS JetStream, server 2.9 to 2.11", nats("nats", "2.9.0").await?),
        ("NATS without JetStream", nats("nats-core", "2.12.0").await?),
    ];
    println!("{}", serde_json::json!({ "parity": parity(&columns) }));
    Ok(())
}

/// One line for each promise, one column for each broker.
fn parity(columns: &[(&str, Arc<Capabilities>)]) -> String {
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let mut table = format!("| | promise | {} |\n", names.join(" | "));
    table += &format!("|---|---|{}\n", "---|".repeat(columns.len()));
    for promise in Promise::ALL {
        let cells: Vec<String> =
            columns.iter().map(|(_, can)| cell(&can.promise(*promise))).collect();
        table += &format!("| {promise} | {} | {} |\n", promise.title(), cells.join(" | "));
    }
    table
}

fn cell(support: &Support) -> String {
    match support {
        Support::Kept => "yes".to_owned(),
        Support::Limited(how) => how.replace('|', "\\|"),
        Support::Refused(why) => format!("**no**: {}", why.replace('|', "\\|")),
        other => format!("{other:?}"),
    }
}

/// What the adapter says it can do with a broker that its client simulates.
async fn kafka() -> Result<Arc<Capabilities>> {
    let bus = posthaste::connect("kafka://localhost/?property.test.mock.num.brokers=1").await?;
    bus.capabilities(None)
}

/// What the adapter says it can do with any broker.
fn rabbitmq() -> Capabilities {
    use posthaste::rabbitmq::{RabbitmqBroker, RabbitmqConfig};
    RabbitmqBroker::capabilities_of(&RabbitmqConfig::new("localhost"))
}

/// What the adapter says it can do with a server that is set to sync each second.
fn redis() -> Capabilities {
    use posthaste::redis::{RedisBroker, RedisConfig};
    RedisBroker::capabilities_of(&RedisConfig::new("localhost"))
}

/// What the adapter says it can do with a server of that version.
async fn nats(scheme: &str, version: &'static str) -> Result<Arc<Capabilities>> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(broken)?;
    let address = listener.local_addr().map_err(broken)?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // The client has gone: what it needed, it had.
            let _ = say_hello(stream, version);
        }
    });
    posthaste::connect(&format!("{scheme}://{address}")).await?.capabilities(None)
}

fn say_hello(mut stream: TcpStream, version: &str) -> std::io::Result<()> {
    let info = serde_json::json!({
        "server_id": "HELLO", "server_name": "hello", "version": version, "proto": 1,
        "go": "", "host": "127.0.0.1", "port": 0, "headers": true, "max_payload": 1 << 20,
        "jetstream": true, "client_id": 1,
    });
    write!(stream, "INFO {info}\r\n")?;
    let mut answers = stream.try_clone()?;
    for line in BufReader::new(stream).lines() {
        if line?.trim_end() == "PING" {
            answers.write_all(b"PONG\r\n")?;
        }
    }
    Ok(())
}

fn broken(error: std::io::Error) -> posthaste::Error {
    posthaste::Error::new(posthaste::ErrorKind::Connection, "no port to listen on")
        .with_source(error)
}
