//! What another program does at Kafka: the native client, without this library.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use posthaste_conformance::Foreign;
use posthaste_core::{Error, ErrorKind, Result};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};

/// By when a message is stored.
const STORED: Duration = Duration::from_secs(20);
/// How long one question to a broker may take.
const ANSWER: Duration = Duration::from_secs(2);

/// Stores a message in a topic, by its name at the broker.
pub(crate) async fn produce(address: &str, topic: &str, message: &Foreign) -> Result<()> {
    let (mut config, topic, message) = (client(address), topic.to_owned(), message.clone());
    config.set("message.timeout.ms", STORED.as_millis().to_string());
    blocking(move || {
        let producer: BaseProducer<Fate> = config.create_with_context(Fate::default())?;
        // Neither key nor headers, unless there are some: as the simplest of programs writes.
        let mut record = BaseRecord::<str, [u8]>::to(&topic).payload(&message.payload[..]);
        if let Some(key) = &message.key {
            record = record.key(key);
        }
        if !message.headers.is_empty() {
            let headers = OwnedHeaders::new_with_capacity(message.headers.len());
            record =
                record.headers(message.headers.iter().fold(headers, |headers, (key, value)| {
                    headers.insert(Header { key, value: Some(value) })
                }));
        }
        producer.send(record).map_err(|(error, _)| error)?;
        producer.flush(STORED)?;
        let fate = producer.context().0.lock().unwrap_or_else(PoisonError::into_inner).take();
        fate.unwrap_or(Err(KafkaError::Canceled))
    })
    .await
}

/// Makes a topic of one partition.
pub(crate) async fn create(address: &str, topic: &str) -> Result<()> {
    let (config, topic) = (client(address), topic.to_owned());
    let admin: AdminClient<DefaultClientContext> = config.create().map_err(failed)?;
    let wanted = [NewTopic::new(&topic, 1, TopicReplication::Fixed(1))];
    let options = AdminOptions::new().operation_timeout(Some(STORED));
    let made = admin.create_topics(&wanted, &options).await;
    // It ends only where it may block.
    blocking(move || {
        drop(admin);
        Ok(())
    })
    .await?;
    for outcome in made.map_err(failed)? {
        outcome.map_err(|(_, code)| failed(KafkaError::AdminOp(code)))?;
    }
    // The controller has made it; the broker learns of it a moment later.
    let config = self::client(address);
    blocking(move || {
        let client: BaseConsumer = config.create()?;
        let until = Instant::now() + STORED;
        loop {
            let metadata = client.fetch_metadata(Some(&topic), ANSWER)?;
            let known = metadata.topics().iter().any(|topic| !topic.partitions().is_empty());
            if known || Instant::now() > until {
                return Ok(());
            }
        }
    })
    .await
}

/// The address of the node that leads the first partition of a topic.
pub(crate) async fn leader(address: &str, topic: &str) -> Result<String> {
    let (config, topic) = (client(address), topic.to_owned());
    let found = blocking(move || {
        let client: BaseConsumer = config.create()?;
        let metadata = client.fetch_metadata(Some(&topic), ANSWER)?;
        let mut partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
        let leader = partitions.next().map(|partition| partition.leader());
        let node = metadata.brokers().iter().find(|node| Some(node.id()) == leader);
        Ok(node.map(|node| format!("{}:{}", node.host(), node.port())))
    });
    found.await?.ok_or_else(|| Error::new(ErrorKind::NotFound, "nobody leads it"))
}

/// Whether a broker can be used: it knows where it is itself.
pub(crate) async fn answers(address: &str) -> Result<()> {
    let config = client(address);
    let known = blocking(move || {
        let client: BaseConsumer = config.create()?;
        // Of no topic: a topic that nobody made is asked for, because all would be many.
        let metadata = client.fetch_metadata(Some("nobody-made-this"), ANSWER)?;
        Ok(metadata.brokers().len())
    });
    match known.await? {
        0 => Err(Error::new(ErrorKind::Connection, "no broker is there yet")),
        _ => Ok(()),
    }
}

fn client(address: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address).set("client.id", "another-program");
    config
}

/// Calls of the native client block, also that which ends it.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> KafkaResult<T> + Send + 'static,
) -> Result<T> {
    let called = tokio::task::spawn_blocking(call).await;
    called.map_err(failed)?.map_err(failed)
}

#[cold]
fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Fatal, "the native client failed").with_source(error)
}

/// What became of the only message.
#[derive(Debug, Default)]
struct Fate(Mutex<Option<KafkaResult<()>>>);

impl ClientContext for Fate {}

impl ProducerContext for Fate {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let fate = result.as_ref().map(|_| ()).map_err(|(error, _)| error.clone());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(fate);
    }
}
