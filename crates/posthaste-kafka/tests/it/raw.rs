//! The native client, for what another program does and sees.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::metadata::MetadataTopic;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::server::Server;

/// A record as it is at the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Raw {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: Option<Vec<u8>>,
    /// `None` is a tombstone.
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Raw {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(self.payload.as_deref().expect("a payload")).expect("a text")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(found, _)| found == name).and_then(|(_, v)| v.as_deref())
    }
}

fn client(server: &Server) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", server.address());
    config
}

/// Blocking calls of the native client, where they may block.
async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(call).await.expect("no panic")
}

/// Whether the broker can be used.
pub(crate) async fn answers(server: &Server) -> bool {
    let config = client(server);
    blocking(move || {
        let client: BaseConsumer = config.create().expect("a client");
        let metadata = client.fetch_metadata(Some("any"), Duration::from_secs(2));
        metadata.is_ok_and(|metadata| !metadata.brokers().is_empty())
    })
    .await
}

/// Makes a topic with these settings, and waits until it can be used.
pub(crate) async fn create(
    server: &Server,
    name: &str,
    partitions: u16,
    settings: &'static [(&'static str, &'static str)],
) {
    let (server, name) = (client(server), name.to_owned());
    blocking(move || {
        let admin: AdminClient<DefaultClientContext> = server.create().expect("a client");
        let topic = NewTopic::new(&name, partitions.into(), TopicReplication::Fixed(1));
        let topic = settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value));
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
        let making = admin.create_topics([&topic], &options);
        let made = Handle::current().block_on(making);
        made.expect("an answer")[0].clone().expect("a topic");
        // A node learns of it a moment after the controller has made it.
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let limit = Duration::from_secs(5);
            let metadata = admin.inner().fetch_metadata(Some(&name), limit).expect("an answer");
            let led = |topic: &MetadataTopic| {
                topic.partitions().iter().filter(|partition| partition.leader() >= 0).count()
            };
            if metadata.topics().iter().map(led).sum::<usize>() == usize::from(partitions) {
                return;
            }
            assert!(Instant::now() < until, "the topic does not come up");
            std::thread::yield_now();
        }
    })
    .await;
}

/// Deletes a topic.
pub(crate) async fn delete(server: &Server, name: &str) {
    let (server, name) = (client(server), name.to_owned());
    blocking(move || {
        let admin: AdminClient<DefaultClientContext> = server.create().expect("a client");
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
        let deleting = admin.delete_topics(&[&name], &options);
        let done = Handle::current().block_on(deleting);
        done.expect("an answer")[0].clone().expect("a topic");
    })
    .await;
}

/// Everything that is in a topic, partition by partition, each in its order.
pub(crate) async fn read_all(server: &Server, name: &str) -> Vec<Raw> {
    let mut config = client(server);
    config.set("group.id", "it-reads").set("enable.auto.commit", "false");
    let name = name.to_owned();
    let mut found = blocking(move || {
        let client: BaseConsumer = config.create().expect("a client");
        let limit = Duration::from_secs(20);
        let metadata = client.fetch_metadata(Some(&name), limit).expect("an answer");
        let mut from = TopicPartitionList::new();
        let mut missing = 0;
        for partition in metadata.topics()[0].partitions() {
            let id = partition.id();
            from.add_partition_offset(&name, id, Offset::Beginning).expect("an offset");
            let (low, high) = client.fetch_watermarks(&name, id, limit).expect("an answer");
            missing += high - low;
        }
        client.assign(&from).expect("an assignment");
        drop(from);
        let mut found = Vec::new();
        while missing > 0 {
            let message = client.poll(limit).expect("a message in time").expect("a message");
            missing -= 1;
            let headers = message.headers().map(|headers| {
                let one = |header: rdkafka::message::Header<'_, &[u8]>| {
                    (header.key.to_owned(), header.value.map(<[u8]>::to_vec))
                };
                headers.iter().map(one).collect()
            });
            found.push(Raw {
                partition: message.partition(),
                offset: message.offset(),
                key: message.key().map(<[u8]>::to_vec),
                payload: message.payload().map(<[u8]>::to_vec),
                headers: headers.unwrap_or_default(),
            });
        }
        found
    })
    .await;
    found.sort_by_key(|raw| (raw.partition, raw.offset));
    found
}

/// How many offsets a topic holds, in all of its partitions.
pub(crate) async fn held(server: &Server, name: &str) -> i64 {
    let (config, name) = (client(server), name.to_owned());
    blocking(move || {
        let client: BaseConsumer = config.create().expect("a client");
        let limit = Duration::from_secs(20);
        let metadata = client.fetch_metadata(Some(&name), limit).expect("an answer");
        let held = |id| {
            let (low, high) = client.fetch_watermarks(&name, id, limit).expect("an answer");
            high - low
        };
        metadata.topics()[0].partitions().iter().map(|partition| held(partition.id())).sum()
    })
    .await
}

/// How many partitions a topic has.
pub(crate) async fn partitions(server: &Server, name: &str) -> usize {
    let (config, name) = (client(server), name.to_owned());
    blocking(move || {
        let client: BaseConsumer = config.create().expect("a client");
        let metadata = client.fetch_metadata(Some(&name), Duration::from_secs(20));
        metadata.expect("an answer").topics()[0].partitions().len()
    })
    .await
}

/// The names of all topics.
pub(crate) async fn topics(server: &Server) -> Vec<String> {
    let config = client(server);
    blocking(move || {
        let client: BaseConsumer = config.create().expect("a client");
        let metadata = client.fetch_metadata(None, Duration::from_secs(20)).expect("an answer");
        metadata.topics().iter().map(|topic| topic.name().to_owned()).collect()
    })
    .await
}

/// What a group has committed, and said with it, for each partition.
pub(crate) async fn committed(
    server: &Server,
    group: &str,
    topic: &str,
    partitions: i32,
) -> Vec<(Option<i64>, String)> {
    let mut config = client(server);
    config.set("group.id", group);
    let topic = topic.to_owned();
    blocking(move || {
        let client: BaseConsumer = config.create().expect("a client");
        let mut asked = TopicPartitionList::new();
        asked.add_partition_range(&topic, 0, partitions - 1);
        let found = client.committed_offsets(asked, Duration::from_secs(20)).expect("an answer");
        let one = |offset| if let Offset::Offset(offset) = offset { Some(offset) } else { None };
        found.elements().iter().map(|e| (one(e.offset()), e.metadata().to_owned())).collect()
    })
    .await
}

/// Publishes one message in a transaction, which is committed or taken back, and waits until who
/// reads only what is committed can read on behind it.
pub(crate) async fn transaction(server: &Server, topic: &str, payload: &str, commit: bool) {
    let (mut config, reads) = (client(server), client(server));
    config.set("transactional.id", format!("it-{:08x}", fastrand::u32(..)));
    let (topic, payload) = (topic.to_owned(), payload.to_owned());
    blocking(move || {
        let limit = Duration::from_secs(20);
        let producer: BaseProducer = config.create().expect("a client");
        producer.init_transactions(limit).expect("the right to it");
        producer.begin_transaction().expect("a transaction");
        let record = BaseRecord::<str, str>::to(&topic).payload(&payload);
        producer.send(record).map_err(|(error, _)| error).expect("sent");
        producer.flush(limit).expect("stored");
        if commit {
            producer.commit_transaction(limit).expect("committed");
        } else {
            producer.abort_transaction(limit).expect("taken back");
        }
        let ends = |isolation| {
            let mut config = reads.clone();
            config.set("isolation.level", isolation);
            let client: BaseConsumer = config.create().expect("a client");
            let metadata = client.fetch_metadata(Some(&topic), limit).expect("an answer");
            let partitions = metadata.topics()[0].partitions().iter();
            let end = |id| client.fetch_watermarks(&topic, id, limit).expect("an answer").1;
            partitions.map(|partition| end(partition.id())).collect::<Vec<_>>()
        };
        // The partitions learn of the end from its coordinator, after it has answered.
        let until = Instant::now() + limit;
        while ends("read_committed") != ends("read_uncommitted") {
            assert!(Instant::now() < until, "the transaction does not end");
        }
    })
    .await;
}

/// A member of a group, of another program.
pub(crate) struct Member {
    stop: std::sync::mpsc::SyncSender<()>,
    ended: tokio::task::JoinHandle<()>,
}

impl Member {
    /// Joins, and waits until it has partitions.
    pub(crate) async fn join(
        server: &Server,
        group: &str,
        topic: &str,
        settings: &'static [(&'static str, &'static str)],
    ) -> Self {
        let mut config = client(server);
        config
            .set("group.id", group)
            .set("client.id", "it-member")
            .set("enable.auto.commit", "false");
        settings.iter().for_each(|(name, value)| {
            config.set(*name, *value);
        });
        let topic = topic.to_owned();
        let (tell, joined) = tokio::sync::oneshot::channel();
        let (stop, stopped) = std::sync::mpsc::sync_channel(1);
        let ended = tokio::task::spawn_blocking(move || {
            let client: BaseConsumer = config.create().expect("a client");
            client.subscribe(&[&topic]).expect("a subscription");
            let mut tell = Some(tell);
            while stopped.try_recv().is_err() {
                let _ = client.poll(Duration::from_millis(50));
                if client.assignment().is_ok_and(|list| list.count() > 0)
                    && let Some(tell) = tell.take()
                {
                    tell.send(()).expect("somebody waits");
                }
            }
        });
        tokio::time::timeout(Duration::from_secs(60), joined)
            .await
            .expect("joined")
            .expect("alive");
        Self { stop, ended }
    }

    /// Leaves the group.
    pub(crate) async fn leave(self) {
        self.stop.send(()).expect("alive");
        self.ended.await.expect("no panic");
    }
}
