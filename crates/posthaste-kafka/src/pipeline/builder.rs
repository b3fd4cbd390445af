//! From names to a pipeline that runs: everything that can be refused is, before the first input.

use std::collections::HashMap;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use posthaste_core::{Error, ErrorKind, GroupName, Result, Retry, TopicName};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::KafkaPipeline;
use super::desk::Desk;
use super::engine::{self, Job};
use super::ladder::{TRANSACTION_TIMEOUT, Transactions};
use super::transaction::Transaction;
use super::work::Limits;
use crate::config::KafkaConfig;
use crate::dead_letter;
use crate::error::{self, BROKER};
use crate::groups;
use crate::hub::Hub;
use crate::producer::Producer;
use crate::properties::Role;
use crate::topology::{self, Found};
use crate::worker::Asked;

/// What the clients of pipelines have in their names.
const MARK: &str = "-pipeline-";
/// How long members that hand over partitions wait for their handlers, at most.
const DRAIN: Duration = Duration::from_secs(5);
/// How long a broker waits for a member's sign, unless the properties say otherwise.
const SESSION: Duration = Duration::from_secs(45);
/// How long the first start of a transactional id may take: what it left open is ended then.
const STARTING: Duration = Duration::from_secs(30);
/// For how long a transaction may keep the broker from telling what a group has committed.
const STANDING: Duration = TRANSACTION_TIMEOUT;
/// What a handler may take of the time that a transaction may be open. The rest is for its end.
const HANDLING: Duration = Duration::from_secs(40);
/// A message that the client tries for longer could outlive its transaction.
const LONGEST_REQUEST: Duration = Duration::from_secs(30);
/// How many inputs a window has at most.
const MOST_INPUTS: usize = 100_000;
/// How long an id may be: the broker keeps it with each transaction.
const ID_BYTES: usize = 200;
/// The largest batch of the client unless its properties say otherwise.
const USUAL_BATCH: usize = 1_000_000;

/// A pipeline that is not started yet: see [`KafkaPipeline`].
#[derive(Debug, Clone)]
#[must_use = "a pipeline does nothing before it is started"]
pub struct PipelineBuilder {
    config: KafkaConfig,
    topic: String,
    group: String,
    transactional_id: String,
    count: usize,
    time: Duration,
}

impl PipelineBuilder {
    pub(super) const fn new(config: KafkaConfig, topic: String) -> Self {
        Self {
            config,
            topic,
            group: String::new(),
            transactional_id: String::new(),
            count: 500,
            time: Duration::from_millis(100),
        }
    }

    /// The group whose member the pipeline is. It has no subscriptions besides its pipelines. Has
    /// to be given.
    pub fn group(mut self, name: impl Into<String>) -> Self {
        self.group = name.into();
        self
    }

    /// Who writes. Each process that runs at a time has an id of its own, and keeps it when it
    /// starts again: that ends what it had left open. The start of a second pipeline with the same
    /// id is the end of the first. Has to be given.
    pub fn transactional_id(mut self, id: impl Into<String>) -> Self {
        self.transactional_id = id.into();
        self
    }

    /// How many inputs a transaction has at most, and for how long they are gathered. Consumers
    /// see nothing of it before it is committed, and each commit costs some milliseconds. Default:
    /// 500, and 100 ms.
    pub const fn window(mut self, inputs: usize, time: Duration) -> Self {
        self.count = inputs;
        self.time = time;
        self
    }

    /// Connects, ends what this transactional id has left open, and joins the group. A group that
    /// does not exist yet starts at the ends of all partitions. Its topic for dead letters is
    /// created.
    ///
    /// # Errors
    /// `Invalid` for the configuration and names, `NotFound` for the topic, `Conflict` if the
    /// group has members that are no pipelines, `Auth`, `Connection`, `Timeout`.
    ///
    /// # Cancel safety
    /// Leaves nothing behind but the topic for dead letters, and the start of the group.
    pub async fn start(self) -> Result<KafkaPipeline> {
        let named = |error: Error| error.with_operation("start a pipeline").with_broker(BROKER);
        self.try_start().await.map_err(named)
    }

    async fn try_start(self) -> Result<KafkaPipeline> {
        self.check()?;
        let (topic, group) = (TopicName::new(&self.topic)?, GroupName::new(&self.group)?);
        let named = |error: Error| error.with_topic(&topic).with_group(&group);
        let hub = Arc::new(Hub::connect(self.config.clone()).await?);
        let until = Instant::now() + STARTING;
        let found = topology::find(&hub, &topic, hub.deadline()).await?;
        let client = self.producer();
        let batch = client.get("batch.size").and_then(|size| size.parse().ok());
        let desk = Arc::new(Desk::default());
        let (signs, watched) = (Arc::clone(&hub.signs), Arc::clone(&desk));
        let id = self.transactional_id.clone();
        // What this id has left open is ended first: what the group has committed is not told
        // before.
        let begin = move |_: &Asked, _| {
            let producer = Arc::new(Producer::create(&client, &signs)?);
            let transactions = Transactions::new(Arc::clone(&producer), watched, id);
            transactions.begin_all(until)?;
            Ok((producer, transactions))
        };
        let begun = hub.worker.run(until, begin).await;
        let (producer, transactions) = begun.map_err(|error| named(hub.explain(error)))?;
        prepare(&hub, &topic, &group, &found).await.map_err(named)?;

        // One window is out at a time.
        let (offers, offered) = mpsc::channel(1);
        let (give_back, verdicts) = sync_channel(1);
        let transaction = Transaction {
            hub: Arc::clone(&hub),
            desk: Arc::clone(&desk),
            producer,
            batch_bytes: batch.unwrap_or(USUAL_BATCH),
            topic: topic.clone(),
            group: group.clone(),
            targets: Mutex::new(HashMap::new()),
        };
        let mut client = hub.config.client(Role::Consumer(&hub.group_id(&topic, &group)));
        // Members of a group that are called alike can make it divide its partitions without an
        // end.
        client.set("client.id", self.client_id());
        let session = client.get("session.timeout.ms").and_then(|millis| millis.parse().ok());
        let session = session.map_or(SESSION, Duration::from_millis);
        let (tell, told) = oneshot::channel();
        let ended = CancellationToken::new();
        let job = Job {
            client,
            signs: Arc::clone(&hub.signs),
            desk: Arc::clone(&desk),
            transactions,
            topic: found.native,
            limits: Limits { count: self.count, time: self.time, handling: HANDLING },
            drain: DRAIN.min(session / 3),
            offers,
            verdicts,
        };
        engine::spawn(job, tell, ended.clone())?;
        // From here on, whatever is started ends with the pipeline.
        let pipeline = KafkaPipeline { hub, desk, offered, give_back, transaction, ended };
        let answer = tokio::time::timeout_at(until, told).await;
        let answer = answer.unwrap_or_else(|_| Ok(Err(not_in_time())));
        let answer = answer.unwrap_or_else(|_| Err(error::closed()));
        answer.map_err(|error| named(pipeline.hub.explain(error)))?;
        Ok(pipeline)
    }

    fn check(&self) -> Result<()> {
        let wrong = |option: &'static str, why: &'static str| {
            Err(Error::invalid(why).with_context("option", option))
        };
        if self.group.is_empty() {
            return wrong("group", "a pipeline is a member of a group");
        }
        let id = &self.transactional_id;
        if id.is_empty() || id.len() > ID_BYTES || id.contains(char::is_control) {
            return wrong(
                "transactional_id",
                "the option must be 1 to 200 bytes without control characters",
            );
        }
        if !(1..=MOST_INPUTS).contains(&self.count) {
            return wrong("window", "a window takes from 1 to 100,000 inputs");
        }
        if self.time > TRANSACTION_TIMEOUT {
            return wrong("window", "inputs are gathered for a minute at most");
        }
        Ok(())
    }

    fn client_id(&self) -> String {
        format!("{}{MARK}{}", self.config.client_id, self.transactional_id)
    }

    fn producer(&self) -> rdkafka::ClientConfig {
        let mut config = self.config.clone();
        config.request_timeout = config.request_timeout.min(LONGEST_REQUEST);
        let mut client = config.client(Role::Producer);
        client.set("client.id", self.client_id());
        client.set("transactional.id", &self.transactional_id);
        client.set("transaction.timeout.ms", TRANSACTION_TIMEOUT.as_millis().to_string());
        client
    }
}

/// Makes what the group needs.
async fn prepare(hub: &Hub, topic: &TopicName, group: &GroupName, found: &Found) -> Result<()> {
    let until = hub.deadline();
    refuse_others(hub, &hub.group_id(topic, group), until).await?;
    dead_letter::ensure(hub, topic, group, until).await?;
    let until = Instant::now() + STANDING;
    loop {
        match groups::ensure(hub, topic, found, group).await {
            // A transaction may be open that another process has left.
            Err(error) if error.retry() == Retry::Transient && Instant::now() < until => {}
            done => return done,
        }
    }
}

/// Members that are no pipelines settle in another way: what one has settled above a committed
/// offset would come again to the other. The broker does not tell members of the newer protocol.
async fn refuse_others(hub: &Hub, id: &str, until: Instant) -> Result<()> {
    let asked = id.to_owned();
    let others = hub.worker.run(until, move |client, left| {
        let list = client.fetch_group_list(Some(&asked), left);
        let list = list.map_err(|native| error::of(&native))?;
        let members = list.groups().iter().flat_map(rdkafka::groups::GroupInfo::members);
        let others = members.filter(|member| !member.client_id().contains(MARK));
        let shown = others.map(|one| format!("{} at {}", one.client_id(), one.client_host()));
        Ok(shown.collect::<Vec<_>>())
    });
    let others = others.await.map_err(|error| hub.explain(error))?;
    if others.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, "the group has members that are no pipelines")
        .with_context("members", others.join(", ").escape_debug()))
}

#[cold]
fn not_in_time() -> Error {
    Error::new(ErrorKind::Timeout, "the pipeline did not start in time").with_broker(BROKER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder() -> PipelineBuilder {
        KafkaPipeline::builder(KafkaConfig::new("h"), "orders").group("g").transactional_id("g-0")
    }

    #[test]
    fn refuses_what_cannot_run() {
        builder().check().unwrap();
        for (builder, names) in [
            (builder().group(""), "group"),
            (builder().transactional_id(""), "transactional_id"),
            (builder().transactional_id("a\nb"), "transactional_id"),
            (builder().transactional_id("x".repeat(201)), "transactional_id"),
            (builder().window(0, Duration::ZERO), "window"),
            (builder().window(100_001, Duration::ZERO), "window"),
            (builder().window(1, Duration::from_secs(61)), "window"),
        ] {
            let error = builder.check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(error.to_string().contains(names), "{error}");
        }
    }

    #[test]
    fn the_client_takes_what_a_pipeline_sets() {
        let long = KafkaConfig::new("h").request_timeout(Duration::from_secs(300));
        for config in [KafkaConfig::new("h"), long] {
            let builder = PipelineBuilder { config, ..builder() };
            let client = builder.producer();
            client.create_native_config().unwrap();
            assert_eq!(client.get("transactional.id"), Some("g-0"));
            assert_eq!(
                (client.get("acks"), client.get("enable.idempotence")),
                (Some("all"), Some("true"))
            );
            // The client checks what goes together only when it is made.
            Producer::create(&client, &Arc::default()).unwrap();
        }
    }
}
