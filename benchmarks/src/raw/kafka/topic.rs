//! A topic of a run: made, counted, deleted. Nothing of that is measured.

use std::time::Duration;

use posthaste::Result;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::{PATIENCE, failed, miscounted};
use crate::message::fresh_topic;
use crate::ours::GROUP;
use crate::raw::Load;

/// As many replicas as the broker's default says, as for topics of ours.
const BROKERS_CHOICE: i32 = -1;
/// The pause after a count that was not complete yet.
const PAUSE: Duration = Duration::from_millis(10);

/// A topic of one partition.
pub(super) struct Topic {
    name: String,
    client: ClientConfig,
}

impl Topic {
    /// A new one, which can be used.
    pub(super) async fn create(load: &Load) -> Result<Self> {
        let (name, client) = (fresh_topic(), client(load));
        let (topic, config) = (name.clone(), client.clone());
        blocking(move || {
            let admin: AdminClient<DefaultClientContext> = config.create().map_err(failed)?;
            let new = NewTopic::new(&topic, 1, TopicReplication::Fixed(BROKERS_CHOICE));
            let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
            let made = Handle::current().block_on(admin.create_topics([&new], &options));
            for made in made.map_err(failed)? {
                made.map_err(|(_, code)| failed(code))?;
            }
            // Whoever made it only told the controller.
            let end = Instant::now() + PATIENCE;
            loop {
                let found = admin.inner().fetch_metadata(Some(&topic), PATIENCE).map_err(failed)?;
                let mut partitions = found.topics().iter().flat_map(|topic| topic.partitions());
                if partitions.any(|partition| partition.leader() >= 0) {
                    return Ok(());
                }
                if Instant::now() >= end {
                    return Err(failed("a new topic has no leader"));
                }
                std::thread::park_timeout(PAUSE);
            }
        })
        .await?;
        Ok(Self { name, client })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What a client of this topic is made with.
    pub(super) fn client(&self) -> ClientConfig {
        self.client.clone()
    }

    /// The id of the group that reads it. Nobody else has it, so that joining waits for nobody.
    pub(super) fn group(&self) -> String {
        format!("{}-{GROUP}", self.name)
    }

    /// Reads the count back.
    pub(super) async fn all_stored(&self, messages: u32) -> Result<()> {
        let (config, name) = (self.client(), self.name.clone());
        self.counted("messages that are stored", messages, move |wanted| {
            let client: BaseConsumer = config.create().map_err(failed)?;
            until(wanted, || {
                let (first, end) = client.fetch_watermarks(&name, 0, PATIENCE).map_err(failed)?;
                Ok(end - first)
            })
        })
        .await
    }

    /// Reads the group's offset back. A commit may be under way when its consumer has ended.
    pub(super) async fn all_committed(&self, messages: u32) -> Result<()> {
        let (mut config, name) = (self.client(), self.name.clone());
        config.set("group.id", self.group());
        self.counted("messages that are committed", messages, move |wanted| {
            let client: BaseConsumer = config.create().map_err(failed)?;
            until(wanted, || {
                let mut asked = TopicPartitionList::new();
                asked.add_partition(&name, 0);
                let found = client.committed_offsets(asked, PATIENCE).map_err(failed)?;
                match found.elements().first().map(|element| element.offset()) {
                    Some(Offset::Offset(offset)) => Ok(offset),
                    _ => Ok(0),
                }
            })
        })
        .await
    }

    async fn counted(
        &self,
        what: &'static str,
        wanted: u32,
        count: impl FnOnce(i64) -> Result<i64> + Send + 'static,
    ) -> Result<()> {
        let found = blocking(move || count(wanted.into())).await?;
        if found == i64::from(wanted) {
            return Ok(());
        }
        Err(miscounted(what, u64::try_from(found).unwrap_or(0), wanted.into()))
    }

    /// The group goes too, if there was one.
    pub(super) async fn delete(self) -> Result<()> {
        blocking(move || {
            let admin: AdminClient<DefaultClientContext> = self.client.create().map_err(failed)?;
            let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
            let group = self.group();
            // Before the topic, with which its offsets and sometimes the group itself go. That
            // there is none is no failure.
            let groups = [group.as_str()];
            let gone = Handle::current().block_on(admin.delete_groups(&groups, &options));
            gone.map_err(failed)?;
            let deleted = Handle::current().block_on(admin.delete_topics(&[&self.name], &options));
            for deleted in deleted.map_err(failed)? {
                deleted.map_err(|(_, code)| failed(code))?;
            }
            Ok(())
        })
        .await
    }
}

/// What any client is made with.
pub(super) fn client(load: &Load) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers(&load.url));
    config.set("allow.auto.create.topics", "false");
    config
}

/// The servers of a URL without login.
pub(super) fn servers(url: &str) -> &str {
    let servers = url.split_once("://").map_or(url, |(_, rest)| rest);
    servers.split_once('/').map_or(servers, |(servers, _)| servers)
}

/// Counts until it is that many, or for as long as patience lasts.
fn until(wanted: i64, count: impl Fn() -> Result<i64>) -> Result<i64> {
    let end = Instant::now() + PATIENCE;
    loop {
        let found = count()?;
        if found >= wanted || Instant::now() >= end {
            return Ok(found);
        }
        std::thread::park_timeout(PAUSE);
    }
}

/// Calls of the client that block, and ends of clients, where they may.
pub(super) async fn blocking<T, F>(call: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    tokio::task::spawn_blocking(call).await.map_err(failed)?
}
