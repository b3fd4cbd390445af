//! What everything on one connection shares.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use posthaste_core::{Error, ErrorKind, GroupName, Layout, Result, TopicName};
use rdkafka::admin::{AdminOptions, ResourceSpecifier};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::MetadataTopic;
use rdkafka::types::RDKafkaRespErr;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::binding::{Binding, Bindings};
use crate::concerns::Concerns;
use crate::config::KafkaConfig;
use crate::connect::{self, Administrator, Clients, Owned};
use crate::context::Signs;
use crate::error::{self, BROKER};
use crate::oauth::Tokens;
use crate::producer::Producer;
use crate::properties::Role;
use crate::worker::{self, Asked, Worker};

/// The largest batch of the client unless its properties say otherwise.
const USUAL_BATCH: usize = 1_000_000;
/// What a batch has around its messages; the client does not count all of it.
const BATCH_FRAME: usize = 512;
/// How long an answer is awaited that can be done without.
const ASIDE: Duration = Duration::from_secs(2);
/// How often a producer that has failed for good is made anew at most: the reason may last.
const RENEWAL: Duration = Duration::from_secs(1);
/// How long the end of the clients may take after the last message went out.
const ENDING: Duration = Duration::from_millis(700);

/// One connection and what is known behind it.
pub(crate) struct Hub {
    pub(crate) config: KafkaConfig,
    pub(crate) bindings: Arc<Bindings>,
    pub(crate) signs: Arc<Signs>,
    /// What is not as it should be with subscriptions.
    pub(crate) concerns: Arc<Concerns>,
    /// Blocking questions.
    pub(crate) worker: Worker,
    /// Tasks of this adapter; joined by [`close`](Self::close).
    pub(crate) tasks: TaskTracker,
    clients: Mutex<Option<Running>>,
    /// The largest batch of the producer.
    usual_batch: usize,
    topics: Mutex<HashMap<String, Known>>,
    closing: CancellationToken,
}

/// The clients, until the hub is closed.
#[derive(Debug)]
struct Running {
    producer: Arc<Producer>,
    /// For topics that do not take its batches, by what they take: a broker refuses a batch as a
    /// whole, also what is good in it.
    small: HashMap<usize, Arc<Producer>>,
    admin: Arc<Owned<Administrator>>,
    /// When a producer that had failed for good was made anew.
    renewed: Option<Instant>,
    /// The ends of those that had failed.
    ending: Vec<CancellationToken>,
}

/// What was found of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) partitions: i32,
    /// The largest batch that it takes, if the broker tells.
    pub(crate) max_batch_bytes: Option<usize>,
}

impl Hub {
    /// Connects, by the deadline of the configuration.
    ///
    /// # Errors
    /// `Invalid` for the configuration, `Auth`, `Connection`, `Timeout`.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn connect(config: KafkaConfig) -> Result<Self> {
        config.check()?;
        let bindings = Arc::new(config.bindings()?);
        let tokens = config.oauth.clone().map(Tokens::new);
        let signs = Arc::new(Signs::new(tokens));
        let Clients { producer, admin, worker } = connect::connect(&config, &signs).await?;
        let usual_batch = config.client(Role::Producer);
        let usual_batch = usual_batch.get("batch.size").and_then(|size| size.parse().ok());
        Ok(Self {
            usual_batch: usual_batch.unwrap_or(USUAL_BATCH),
            config,
            bindings,
            signs,
            concerns: Arc::default(),
            worker,
            tasks: TaskTracker::new(),
            clients: Mutex::new(Some(Running {
                producer: Arc::new(producer),
                small: HashMap::new(),
                admin,
                renewed: None,
                ending: Vec::new(),
            })),
            topics: Mutex::default(),
            closing: CancellationToken::new(),
        })
    }

    /// # Errors
    /// `Closed` after [`shut`](Self::shut).
    pub(crate) fn open(&self) -> Result<()> {
        if self.closing.is_cancelled() { Err(error::closed()) } else { Ok(()) }
    }

    /// The producer for a topic. One that has failed for good is made anew: what it had was told
    /// to have failed, and what comes now is not to fail for that.
    ///
    /// # Errors
    /// `Closed` after [`shut`](Self::shut); what keeps another client from being made.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn producer(&self, topic: Known, until: Instant) -> Result<Arc<Producer>> {
        self.open()?;
        let limit = topic.max_batch_bytes.filter(|limit| *limit < self.usual_batch);
        let found = self.with_clients(|clients| clients.find(limit))?;
        match found {
            Some(found) if found.fatal().is_none() => Ok(found),
            found => self.make(limit, found, until).await,
        }
    }

    /// Makes a producer that is missing, or the next one of one that has failed.
    async fn make(
        &self,
        limit: Option<usize>,
        failed: Option<Arc<Producer>>,
        until: Instant,
    ) -> Result<Arc<Producer>> {
        if let Some(failed) = failed {
            let may = self.with_clients(|clients| {
                let may = clients.renewed.is_none_or(|at| at.elapsed() >= RENEWAL);
                clients.renewed = clients.renewed.filter(|_| !may).or_else(|| Some(Instant::now()));
                may
            })?;
            let Some(why) = failed.fatal().filter(|_| may) else { return Ok(failed) };
            tracing::warn!(%why, "the producer is made anew");
        }
        let mut client = self.config.client(Role::Producer);
        if let Some(limit) = limit {
            client.set("batch.size", limit.saturating_sub(BATCH_FRAME).max(1).to_string());
        }
        let signs = Arc::clone(&self.signs);
        // To make a client may read files.
        let make = move |_: &Asked, _| Producer::create(&client, &signs);
        let made = Arc::new(self.worker.run(until, make).await?);
        self.with_clients(|clients| clients.put(limit, made))
    }

    /// # Errors
    /// `Closed` after [`shut`](Self::shut).
    pub(crate) fn admin(&self) -> Result<Arc<Owned<Administrator>>> {
        self.open()?;
        self.with_clients(|clients| Arc::clone(&clients.admin))
    }

    fn with_clients<T>(&self, get: impl FnOnce(&mut Running) -> T) -> Result<T> {
        lock(&self.clients).as_mut().map(get).ok_or_else(error::closed)
    }

    /// When a request that begins now is given up.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.config.request_timeout
    }

    /// What the topic is bound to, if it is.
    pub(crate) fn binding(&self, topic: &TopicName) -> Option<&Binding> {
        self.bindings.get(topic)
    }

    /// The name of a topic at the broker: its own, or the one it is bound to.
    pub(crate) fn native_name(&self, topic: &TopicName, layout: Layout, queue: bool) -> String {
        self.bindings.native_name(topic, layout, queue)
    }

    /// The id of a group at the broker: its own, or the one it is bound to.
    pub(crate) fn group_id(&self, topic: &TopicName, group: &GroupName) -> String {
        self.bindings.group_id(topic, group)
    }

    /// Whether what holds the topic is ours to change.
    ///
    /// # Errors
    /// `Unsupported` for a topic that is bound.
    pub(crate) fn check_ours(&self, topic: &TopicName) -> Result<()> {
        let Some(binding) = self.binding(topic) else { return Ok(()) };
        Err(Error::unsupported("a bound topic is never changed or deleted")
            .with_context("name", &binding.name)
            .with_topic(topic)
            .with_broker(BROKER))
    }

    /// What is known of a topic at the broker, which is asked the first time.
    ///
    /// # Errors
    /// `NotFound`; what keeps the broker from answering.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn find(&self, name: &str, until: Instant) -> Result<Known> {
        if let Some(known) = lock(&self.topics).get(name) {
            return Ok(*known);
        }
        let asked = name.to_owned();
        let answer = self.worker.run(until, move |client, left| describe(client, &asked, left));
        let partitions = answer.await.map_err(|error| self.explain(error))?;
        let known = Known { partitions, max_batch_bytes: self.max_batch_bytes(name, until).await? };
        self.learn(name, known);
        Ok(known)
    }

    /// The largest batch that a topic takes. `None` if the broker does not tell, which it does only
    /// to who has the right to ask: then it is taken for the usual one.
    async fn max_batch_bytes(&self, name: &str, until: Instant) -> Result<Option<usize>> {
        let until = until.min(Instant::now() + ASIDE);
        let left = until.saturating_duration_since(Instant::now());
        let options = AdminOptions::new().request_timeout(Some(left));
        let topic = [ResourceSpecifier::Topic(name)];
        let answer = self.admin()?.describe_configs(&topic, &options);
        let Ok(Ok(found)) = tokio::time::timeout_at(until, answer).await else { return Ok(None) };
        let setting = found.iter().flatten().find_map(|topic| topic.get("max.message.bytes"));
        Ok(setting.and_then(|setting| setting.value.as_deref()?.parse().ok()))
    }

    /// Remembers what was found, or made.
    pub(crate) fn learn(&self, name: &str, known: Known) {
        lock(&self.topics).insert(name.to_owned(), known);
    }

    /// The topic was deleted, or was seen to be gone.
    pub(crate) fn forget(&self, name: &str) {
        lock(&self.topics).remove(name);
    }

    /// Adds to a failure what the client said of its connection, and which servers were asked.
    pub(crate) fn explain(&self, error: Error) -> Error {
        if !matches!(error.kind(), ErrorKind::Connection | ErrorKind::Timeout) {
            return error;
        }
        match self.signs.trouble() {
            Some(trouble) => error.with_context("client", trouble.text.escape_debug()),
            None => error,
        }
    }

    /// Why a message was not stored, or may not have been.
    #[cold]
    pub(crate) fn not_stored(&self, code: RDKafkaErrorCode, maybe_written: bool) -> Error {
        // Others that wait are told now, too. After `shut` there may be no clients.
        let _ = self.with_clients(|clients| clients.give_up_failed());
        let given_up =
            matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight);
        if given_up && self.open().is_ok() {
            // Nobody closes: its producer had failed for good, and another one has its place now.
            return error::outlived(maybe_written);
        }
        self.explain(error::publish(code, maybe_written))
    }

    /// One small question to any broker.
    ///
    /// # Errors
    /// What keeps it from answering; `Fatal` if a producer has failed for good, which is told once:
    /// it is made anew then, as if somebody had published.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn ping(&self, until: Instant) -> Result<()> {
        self.open()?;
        if let Some((limit, failed)) = self.with_clients(|clients| clients.failed())? {
            let why = failed.fatal();
            self.make(limit, Some(failed), until).await?;
            return why.map_or(Ok(()), Err);
        }
        let ping =
            |client: &Asked, left| connect::ping(client, left).map_err(|native| error::of(&native));
        self.worker.run(until, ping).await.map_err(|error| self.explain(error))?;
        self.signs.well();
        Ok(())
    }

    /// Takes nothing new, and tells the tasks to end.
    pub(crate) fn shut(&self) {
        self.closing.cancel();
    }

    /// Waits until [`shut`](Self::shut).
    pub(crate) async fn closing(&self) {
        self.closing.cancelled().await;
    }

    /// Lets go out what was published, and ends the clients and threads, by the deadline. What
    /// could not go out is told to who waits for it.
    ///
    /// # Errors
    /// `Timeout` if something had to be given up.
    ///
    /// # Cancel safety
    /// When dropped, the clients end by themselves by the deadline.
    pub(crate) async fn close(&self, deadline: Instant) -> Result<()> {
        self.shut();
        self.tasks.close();
        let threads = self.worker.stop();
        // The second to close has nothing to do.
        let Some(Running { producer, small, admin, ending: mut ended, .. }) =
            lock(&self.clients).take()
        else {
            return Ok(());
        };
        let producers: Vec<_> = std::iter::once(producer).chain(small.into_values()).collect();
        ended.extend(producers.iter().map(|one| one.client().ended()));
        ended.push(admin.ended());
        let (tell, told) = tokio::sync::oneshot::channel();
        let thread = thread::Builder::new().name("posthaste-kafka-close".to_owned());
        let end = move || {
            let until = deadline.checked_sub(ENDING).unwrap_or(deadline);
            let unconfirmed: usize = producers.iter().map(|one| one.finish(until)).sum();
            drop((producers, admin));
            for thread in threads {
                // One that panicked has ended too.
                let _ = thread.join();
            }
            // Nobody may wait any more.
            let _ = tell.send(unconfirmed);
        };
        thread.spawn(end).map_err(worker::no_thread)?;
        let ending = async {
            let unconfirmed = told.await.unwrap_or(0);
            for ended in ended {
                ended.cancelled().await;
            }
            self.tasks.wait().await;
            unconfirmed
        };
        match tokio::time::timeout_at(deadline, ending).await {
            Ok(0) => Ok(()),
            Ok(unconfirmed) => Err(late().with_context("unconfirmed messages", unconfirmed)),
            Err(_) => Err(late()),
        }
    }
}

impl Running {
    /// The producer of the usual batches, or of those that fit the limit.
    fn find(&self, limit: Option<usize>) -> Option<Arc<Producer>> {
        match limit {
            None => Some(Arc::clone(&self.producer)),
            Some(limit) => self.small.get(&limit).map(Arc::clone),
        }
    }

    /// Uses that one from now on, unless somebody else was faster.
    fn put(&mut self, limit: Option<usize>, made: Arc<Producer>) -> Arc<Producer> {
        let there = self.find(limit);
        if let Some(there) = there.filter(|there| there.fatal().is_none()) {
            return there;
        }
        let before = match limit {
            None => Some(std::mem::replace(&mut self.producer, Arc::clone(&made))),
            Some(limit) => self.small.insert(limit, Arc::clone(&made)),
        };
        self.ending.retain(|ended| !ended.is_cancelled());
        self.ending.extend(before.map(|before| before.client().ended()));
        made
    }

    /// What a producer has that has failed for good is given up.
    fn give_up_failed(&self) {
        let all = std::iter::once(&self.producer).chain(self.small.values());
        all.filter(|producer| producer.fatal().is_some()).for_each(|failed| failed.give_up());
    }

    /// A producer that has failed for good.
    fn failed(&self) -> Option<(Option<usize>, Arc<Producer>)> {
        let small = self.small.iter().map(|(limit, producer)| (Some(*limit), producer));
        let mut all = std::iter::once((None, &self.producer)).chain(small);
        let (limit, failed) = all.find(|(_, producer)| producer.fatal().is_some())?;
        Some((limit, Arc::clone(failed)))
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

/// Asks the broker for a topic, and gives the number of its partitions.
fn describe(client: &Asked, name: &str, limit: Duration) -> Result<i32> {
    let metadata = client.fetch_metadata(Some(name), limit);
    let metadata = metadata.map_err(|native| error::of(&native))?;
    let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else {
        return Err(no_topic(name));
    };
    check_there(topic)?;
    Ok(i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX))
}

/// Whether a topic that was asked for by its name is there: the answer names it in any case.
///
/// # Errors
/// `NotFound`; what the broker says of it.
pub(crate) fn check_there(topic: &MetadataTopic) -> Result<()> {
    match topic.error() {
        // Its partitions are being made, or wait for a leader: the client waits for them too.
        None | Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE) => Ok(()),
        Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART) => {
            Err(no_topic(topic.name()))
        }
        Some(code) => Err(error::of(&rdkafka::error::KafkaError::MetadataFetch(code.into()))),
    }
}

#[cold]
fn no_topic(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, "the topic does not exist")
        .with_context("name", name)
        .with_broker(BROKER)
}

#[cold]
fn late() -> Error {
    Error::new(ErrorKind::Timeout, "the connection did not end in time").with_broker(BROKER)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held but an allocation that failed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("servers", &self.config.servers).finish_non_exhaustive()
    }
}
