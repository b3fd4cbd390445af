//! Another client, in another language: what it writes arrives with its properties and typed
//! headers, and what we write reads naturally there.

use std::process::Stdio;
use std::time::Duration;

use posthaste_core::{Envelope, TopicConfig};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::adapter::name;
use crate::member::{bus, join, next};
use crate::server::Server;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.with_pika("what_pika_writes_arrives_with_its_properties_and_types", written);
    suite.with_pika("what_we_write_reads_naturally_in_pika", read);
}

/// Python 3 with the package `pika`, found by the interpreter itself or by `PYTHONPATH`.
const PYTHON: &str = "python3";

pub(crate) fn is_there() -> bool {
    let mut asking = std::process::Command::new(PYTHON);
    let asking = asking.args(["-c", "import pika"]).stdout(Stdio::null()).stderr(Stdio::null());
    asking.stdin(Stdio::null()).status().is_ok_and(|status| status.success())
}

const OPEN: &str = "
import decimal, json, sys, pika
connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
channel = connection.channel()
";

const WRITE: &str = "
channel.confirm_delivery()
headers = {
    'tenant': 'K\\u00fcche', 'count': 7, 'large': 2 ** 40, 'ratio': decimal.Decimal('1.5'),
    'flag': True, 'nothing': None, 'bytes': b'\\x00\\xff', 'list': ['a', 'b'], 'mixed': [1, 'b'],
    'table': {'deep': {'er': 1}},
}
properties = pika.BasicProperties(
    content_type='text/plain', delivery_mode=2, message_id='pika-1', type='order.placed',
    correlation_id='c-1', reply_to='answers', timestamp=1700000000, app_id='elsewhere',
    priority=3, headers=headers)
channel.basic_publish(sys.argv[2], 'elsewhere.created', b'hello', properties, mandatory=True)
print(json.dumps('written'))
connection.close()
";

const READ: &str = "
method, properties, body = channel.basic_get(sys.argv[2], auto_ack=True)
print(json.dumps({
    'id': properties.message_id, 'type': properties.type, 'mode': properties.delivery_mode,
    'content': properties.content_type, 'correlation': properties.correlation_id,
    'time': properties.timestamp, 'expiration': properties.expiration,
    'headers': properties.headers, 'body': body.decode(),
}))
connection.close()
";

/// Runs a script, and returns what it says.
async fn run(script: &str, server: &Server, argument: &str) -> Value {
    let running = Command::new(PYTHON)
        .arg("-c")
        .arg(format!("{OPEN}{script}"))
        .args([&*server.url, argument])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(60), running).await;
    let output = output.expect("an end in time").unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn written(server: Server) {
    let (bus, topic) = (bus(server.config()).await, name("pika-writes"));
    bus.ensure(TopicConfig::new(&topic).group("g")).await.unwrap();
    let mut inbox = join(&bus, &topic, 1).await;
    assert_eq!(run(WRITE, &server, &topic).await, json!("written"));
    let delivery = next(&mut inbox).await;
    let envelope = delivery.envelope();
    assert_eq!((envelope.id(), envelope.event_type()), ("pika-1", "order.placed"));
    assert_eq!(envelope.content_type(), Some("text/plain"));
    assert_eq!((envelope.correlation_id(), envelope.reply_to()), (Some("c-1"), Some("answers")));
    let time = envelope.time().map(posthaste_core::Timestamp::as_micros);
    assert_eq!(time, Some(1_700_000_000_000_000));
    assert_eq!(&envelope.payload()[..], b"hello");
    let text = |name: &str| envelope.header(name).map(String::from_utf8_lossy);
    for (name, value) in [
        ("tenant", "K\u{fc}che"),
        ("count", "7"),
        ("large", "1099511627776"),
        ("ratio", "1.5"),
        ("flag", "true"),
        ("nothing", ""),
        ("mixed", r#"[1,"b"]"#),
        ("table", r#"{"deep":{"er":1}}"#),
    ] {
        assert_eq!(text(name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(envelope.header("bytes"), Some(&b"\x00\xff"[..]));
    // A list of texts is a name that is repeated.
    let list: Vec<_> = envelope.header_all("list").collect();
    assert_eq!(list, [b"a", b"b"]);
    assert_eq!(delivery.attempt(), 1);
    delivery.ack().await.unwrap();
    inbox.stop(Duration::from_secs(10)).await.unwrap();
    bus.admin().delete_topic(&topic).await.unwrap();
}

async fn read(server: Server) {
    let (bus, topic) = (bus(server.config()).await, name("pika-reads"));
    bus.ensure(TopicConfig::new(&topic).group("g")).await.unwrap();
    let envelope = Envelope::builder("order.placed")
        .id("ours-1")
        .source("/shop")
        .content_type("application/json")
        .correlation_id("c-2")
        .header("tenant", "K\u{fc}che")
        .header("tag", "a")
        .header("tag", "b")
        .payload(r#"{"total":1}"#)
        .build()
        .unwrap();
    bus.publisher(&topic).unwrap().publish_envelope(envelope).await.unwrap();
    let said = run(READ, &server, &format!("{topic}__g")).await;
    println!("{said}");
    for (name, value) in [
        ("id", json!("ours-1")),
        ("type", json!("order.placed")),
        ("mode", json!(2)),
        ("content", json!("application/json")),
        ("correlation", json!("c-2")),
        ("expiration", Value::Null),
        ("body", json!(r#"{"total":1}"#)),
    ] {
        assert_eq!(said[name], value, "{name}");
    }
    assert!(said["time"].as_u64().is_some_and(|seconds| seconds > 1_700_000_000), "{said}");
    let headers = &said["headers"];
    assert_eq!((&headers["tenant"], &headers["tag"]), (&json!("K\u{fc}che"), &json!(["a", "b"])));
    assert_eq!(headers["cloudEvents:source"], json!("/shop"));
    bus.admin().delete_topic(&topic).await.unwrap();
}
