//! The bus: what an application holds of a broker.

mod admin;
mod builder;
mod clock;
mod core;
mod deadline;
mod queue;
mod shield;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

pub(crate) use self::core::Core;
pub(crate) use self::deadline::{after, bounded};
pub(crate) use self::shield::{shielded, shielded_call};
pub use admin::Admin;
pub use builder::BusBuilder;
pub use queue::Queue;

use self::core::Open;
use builder::Settings;

use crate::broker::Broker;
use crate::publisher::Window;
use crate::subscription::Ledger;
use crate::{
    Capabilities, Difference, Error, ErrorKind, Health, Publisher, Result, SubscribeBuilder,
    Timestamp, TopicConfig, TopicInfo, TopicName,
};

/// What the end of a close may take beyond its deadline.
const LAST_CALL: Duration = Duration::from_secs(3);

/// A connection to a broker with everything that runs on it. Cheap to clone.
///
/// Its tasks run on the tokio runtime it was built in and end with [`close`](Self::close).
/// Dropping the last clone, publisher and subscription without closing warns if something was not
/// sent yet; the tasks finish what they hold as long as the runtime lives.
#[derive(Clone)]
pub struct Bus {
    core: Arc<Core>,
    // Counts clones of the bus and of what holds one; tasks hold only the core.
    guard: Arc<Guard>,
}

impl Bus {
    /// A bus with the default settings.
    ///
    /// # Panics
    /// Outside of a tokio runtime, or with a malformed `POSTHASTE_SOURCE` in the environment.
    /// [`Bus::builder`] returns an error instead.
    #[must_use]
    pub fn new(broker: impl Broker) -> Self {
        #[expect(clippy::panic, reason = "documented; the builder is the way without")]
        Self::builder(broker).build().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Begins a bus with other settings.
    pub fn builder(broker: impl Broker) -> BusBuilder {
        Self::shared(Arc::new(broker))
    }

    /// Begins a bus over a broker that is chosen at run time or held elsewhere too. Closing the
    /// bus closes the broker.
    pub fn shared(broker: Arc<dyn Broker>) -> BusBuilder {
        BusBuilder::new(broker)
    }

    fn start(broker: Arc<dyn Broker>, settings: Settings, runtime: Handle) -> Self {
        let core = Arc::new(Core::new(broker, settings, runtime));
        let guard = Arc::new(Guard { core: Arc::clone(&core) });
        Self { core, guard }
    }

    /// The sending handle of a topic. No I/O.
    ///
    /// # Errors
    /// `Invalid` for a malformed name; `Closed`.
    pub fn publisher(&self, topic: impl AsRef<str>) -> Result<Publisher> {
        let topic = TopicName::new(topic)?;
        let window = self.core.window(topic, false)?;
        Ok(Publisher::new(self.clone(), window))
    }

    /// The handle of a queue: a topic with exactly one group, addressed directly. No I/O.
    ///
    /// # Errors
    /// `Invalid` for a malformed name; `Unsupported` where the broker has no queues; `Closed`.
    pub fn queue(&self, name: impl AsRef<str>) -> Result<Queue> {
        let name = TopicName::new(name)?;
        self.core.broker.capabilities(Some(&name)).queue.require("queue")?;
        let window = self.core.window(name.clone(), true)?;
        Ok(Queue::new(name, Publisher::new(self.clone(), window)))
    }

    /// Begins a subscription to one topic, or to several as an array.
    ///
    /// ```no_run
    /// # async fn example(bus: posthaste_core::Bus) -> posthaste_core::Result<()> {
    /// let mut inbox = bus.subscribe("orders").group("billing").start().await?;
    /// while let Some(delivery) = inbox.next().await {
    ///     let delivery = delivery?;
    ///     println!("{}", delivery.id());
    ///     delivery.ack().await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn subscribe<T>(&self, topics: T) -> SubscribeBuilder
    where
        T: Topics,
    {
        SubscribeBuilder::new(self.clone(), topics.into_names(), false)
    }

    /// Brings about a topic with its groups, by the bus's topology: creates it, verifies it, or
    /// takes it for the truth.
    ///
    /// # Errors
    /// `Invalid` for a malformed name or number; `Conflict` naming setting, wanted and found
    /// where what exists differs; `NotFound` under `Verify`; `Unsupported`; `Auth`; `Connection`;
    /// `Timeout`; `Closed`.
    ///
    /// # Cancel safety
    /// When dropped, the topic may or may not exist. Calling it again completes it.
    pub async fn ensure(&self, topic: TopicConfig) -> Result<TopicInfo> {
        let spec = topic.check()?;
        self.open()?;
        let capabilities = self.core.broker.capabilities(Some(&spec.name));
        if spec.layout.partitions().is_some() {
            capabilities.order.require("ordered topic").map_err(|e| e.with_topic(&spec.name))?;
        }
        if spec.queue {
            capabilities.queue.require("queue").map_err(|e| e.with_topic(&spec.name))?;
        }
        let ensured = self.core.broker.admin().ensure(&spec, self.core.settings.topology);
        self.core
            .answer(ensured)
            .await
            .map_err(|error| error.with_operation("ensure").with_topic(&spec.name))
    }

    /// Compares a topic with what exists, and changes nothing.
    ///
    /// # Errors
    /// `Invalid`; `NotFound` if the topic or one of the groups does not exist; `Closed`.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn verify(&self, topic: TopicConfig) -> Result<Vec<Difference>> {
        let spec = topic.check()?;
        self.open()?;
        let compared = self.core.answer(self.core.broker.admin().verify(&spec)).await;
        compared.map_err(|error| error.with_operation("verify").with_topic(&spec.name))
    }

    /// Administration of topics, groups and dead letters.
    #[must_use]
    pub const fn admin(&self) -> Admin<'_> {
        Admin::new(self)
    }

    /// What the broker can do on a topic, or by default.
    ///
    /// # Errors
    /// `Invalid` for a malformed name.
    pub fn capabilities(&self, topic: Option<&str>) -> Result<Arc<Capabilities>> {
        let topic = topic.map(TopicName::new).transpose()?;
        Ok(self.core.broker.capabilities(topic.as_ref()))
    }

    /// Whether the broker can be used now: one cheap round trip.
    ///
    /// # Errors
    /// `Closed`. A broker that cannot be reached is [`Health::Down`].
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn health(&self) -> Result<Health> {
        self.open()?;
        match self.core.answer(self.core.broker.health()).await {
            Err(error) if error.kind() == ErrorKind::Timeout => Ok(Health::Down(error.to_string())),
            answered => answered,
        }
    }

    /// The adapter's native client, if it is of that type: for what this library does not cover.
    #[must_use]
    pub fn native<T: 'static>(&self) -> Option<&T> {
        self.core.broker.native()?.downcast_ref()
    }

    /// Sends what is queued, drains subscriptions, ends every connection and joins every task.
    /// Closing again does nothing.
    ///
    /// The deadline is shared: publishers are flushed first, then subscriptions stop and wait for
    /// deliveries that are held, then the broker is closed.
    ///
    /// # Errors
    /// `Timeout` if messages could not be sent or deliveries were still held; they fail, or come
    /// again. The bus is closed all the same.
    ///
    /// # Cancel safety
    /// When dropped, the bus takes nothing new, and its tasks end by themselves or with the
    /// runtime.
    pub async fn close(&self, deadline: Duration) -> Result<()> {
        let deadline = after(deadline);
        let end = deadline + LAST_CALL;
        let Some(Open { windows, ledgers }) = self.core.shut() else { return Ok(()) };
        windows.iter().for_each(|window| window.close());
        ledgers.iter().for_each(|ledger| ledger.stop(deadline));
        let unsent: usize =
            join_all(windows.iter().map(|window| flush(window, deadline))).await.iter().sum();
        let drained =
            join_all(ledgers.iter().map(|ledger| timeout_at(end, ledger.stopped()))).await;
        let undrained = drained.iter().filter(|held| held.is_err()).count();
        let held: usize = drained.into_iter().filter_map(Result::ok).sum();
        let closed = timeout_at(end, shielded(self.core.broker.close(deadline))).await;
        let joined = timeout_at(end, self.core.join()).await;
        let late = |message| Error::new(ErrorKind::Timeout, message).with_operation("close");
        closed
            .unwrap_or_else(|_| Err(late("the adapter has not closed in time")))
            .map_err(|error| error.with_operation("close"))?;
        if unsent + held > 0 {
            return Err(late("closed before everything was done")
                .with_context("messages not confirmed", unsent)
                .with_context("deliveries still held", held));
        }
        if undrained > 0 || joined.is_err() {
            return Err(late("closed, but a task has not ended"));
        }
        Ok(())
    }

    pub(crate) const fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(crate) fn source(&self) -> &str {
        &self.core.settings.source
    }

    /// The time of day at an instant that is now.
    pub(crate) fn time(&self, now: Instant) -> Timestamp {
        self.core.clock.at(now)
    }

    pub(crate) fn publish_deadline(&self) -> Duration {
        self.core.settings.publish_deadline
    }

    pub(crate) fn open(&self) -> Result<()> {
        if self.core.is_closed() { Err(Error::closed("the bus is closed")) } else { Ok(()) }
    }
}

/// Flushes until the deadline; what is left then is given up. Returns its count.
async fn flush(window: &Arc<Window>, deadline: Instant) -> usize {
    if timeout_at(deadline, window.flush()).await.is_ok() {
        return 0;
    }
    let unsent = window.outstanding();
    window.abort();
    unsent
}

/// One topic name, or several.
pub trait Topics {
    /// The names, unchecked.
    fn into_names(self) -> Vec<String>;
}

impl Topics for &str {
    fn into_names(self) -> Vec<String> {
        vec![self.to_owned()]
    }
}

impl Topics for String {
    fn into_names(self) -> Vec<String> {
        vec![self]
    }
}

impl Topics for &String {
    fn into_names(self) -> Vec<String> {
        vec![self.clone()]
    }
}

impl Topics for &TopicName {
    fn into_names(self) -> Vec<String> {
        vec![self.as_str().to_owned()]
    }
}

impl<S: AsRef<str>, const N: usize> Topics for [S; N] {
    fn into_names(self) -> Vec<String> {
        self.iter().map(|name| name.as_ref().to_owned()).collect()
    }
}

impl<S: AsRef<str>> Topics for &[S] {
    fn into_names(self) -> Vec<String> {
        self.iter().map(|name| name.as_ref().to_owned()).collect()
    }
}

impl<S: AsRef<str>> Topics for Vec<S> {
    fn into_names(self) -> Vec<String> {
        self.iter().map(|name| name.as_ref().to_owned()).collect()
    }
}

/// Ends what runs on a bus that nobody holds any more.
struct Guard {
    core: Arc<Core>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(Open { windows, ledgers }) = self.core.shut() else { return };
        let deadline = after(self.core.settings.drain);
        windows.iter().for_each(|window| window.close());
        ledgers.iter().for_each(|ledger: &Arc<Ledger>| ledger.stop(deadline));
        let unsent: usize = windows.iter().map(|window| window.outstanding()).sum();
        if unsent > 0 {
            tracing::warn!(
                broker = self.core.broker.capabilities(None).broker,
                unsent,
                "the bus was dropped without close: messages may not have been sent"
            );
        }
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus")
            .field("broker", &self.core.broker.capabilities(None).broker)
            .field("source", &self.source())
            .field("handles", &Arc::strong_count(&self.guard))
            .finish_non_exhaustive()
    }
}
