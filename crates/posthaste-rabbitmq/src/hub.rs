//! What everything on one bus shares.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use posthaste_core::{Capabilities, GroupName, Layout, Result, TopicName, TopicSpec};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::arguments::Said;
use crate::binding::Binding;
use crate::checks::Checks;
use crate::config::{QueueType, RabbitmqConfig};
use crate::connect::Connector;
use crate::error;
use crate::link::Link;
use crate::pool::Pool;

/// The connections and what is known behind them.
pub(crate) struct Hub {
    /// For topology and questions: what is refused there may end the connection.
    pub(crate) admin: Arc<Link>,
    /// For messages that leave. The broker stops it when it is short of something.
    pub(crate) publish: Arc<Link>,
    /// For messages that come, and for what becomes of them. It is never stopped.
    pub(crate) consume: Arc<Link>,
    pub(crate) pool: Pool,
    pub(crate) settings: Settings,
    /// Tasks of this adapter; joined by `close`.
    pub(crate) tasks: TaskTracker,
    bindings: HashMap<TopicName, Arc<Binding>>,
    topics: Mutex<Topics>,
    /// Calls that take dead letters or records out to look at them; one at a time.
    pub(crate) looking: tokio::sync::Mutex<()>,
    /// Looking at topics before messages are sent to them.
    pub(crate) checks: Checks,
    /// Whether the levels of delay are known to be there.
    pub(crate) delays: tokio::sync::Mutex<bool>,
    closing: CancellationToken,
}

/// What of the configuration is asked for later.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) request_timeout: Duration,
    pub(crate) queue_type: QueueType,
    pub(crate) queue_arguments: Said,
    pub(crate) unrouted_bytes: u64,
    pub(crate) max_message_bytes: usize,
}

impl Settings {
    pub(crate) fn of(config: &RabbitmqConfig) -> Self {
        Self {
            request_timeout: config.request_timeout,
            queue_type: config.queue_type,
            queue_arguments: config.queue_arguments.clone(),
            unrouted_bytes: config.unrouted_bytes,
            max_message_bytes: config.max_message_bytes,
        }
    }
}

#[derive(Default)]
struct Topics {
    known: HashMap<TopicName, Known>,
    lives: HashMap<String, Arc<str>>,
    capabilities: HashMap<Option<TopicName>, Arc<Capabilities>>,
}

/// What was found of a topic, or said of it.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) layout: Layout,
    pub(crate) queue: bool,
    /// The connection by which it was looked at before messages were sent to it.
    pub(crate) seen: u32,
    /// What the application asked for, to create it again.
    pub(crate) spec: Option<Arc<TopicSpec>>,
}

impl Hub {
    /// # Errors
    /// Those of connecting.
    pub(crate) async fn connect(
        config: &RabbitmqConfig,
        bindings: HashMap<TopicName, Binding>,
    ) -> Result<Self> {
        let connector = Arc::new(Connector::new(config).await?);
        let link = |role| Arc::new(Link::new(role));
        let (admin, publish, consume) = (link("admin"), link("publish"), link("consume"));
        admin.open(&connector).await?;
        let (tasks, closing) = (TaskTracker::new(), CancellationToken::new());
        for link in [&admin, &publish, &consume] {
            tasks.spawn(Arc::clone(link).keep(Arc::clone(&connector), closing.clone()));
        }
        Ok(Self {
            pool: Pool::new(Arc::clone(&publish), config.request_timeout),
            admin,
            publish,
            consume,
            settings: Settings::of(config),
            tasks,
            bindings: bindings.into_iter().map(|(topic, b)| (topic, Arc::new(b))).collect(),
            topics: Mutex::default(),
            looking: tokio::sync::Mutex::default(),
            checks: Checks::default(),
            delays: tokio::sync::Mutex::default(),
            closing,
        })
    }

    pub(crate) fn binding(&self, topic: &TopicName) -> Option<Arc<Binding>> {
        self.bindings.get(topic).cloned()
    }

    /// The existing queue of a group, where one is named.
    pub(crate) fn bound_queue(&self, topic: &TopicName, group: &GroupName) -> Option<String> {
        self.bindings.get(topic)?.queues.get(group.as_str()).cloned()
    }

    /// When a question that is asked now has to be answered.
    pub(crate) fn until(&self) -> Instant {
        Instant::now() + self.settings.request_timeout
    }

    pub(crate) fn known(&self, topic: &TopicName) -> Option<Known> {
        self.topics().known.get(topic).cloned()
    }

    /// Remembers what was found. What the application asked for is kept.
    pub(crate) fn learn(&self, topic: &TopicName, mut known: Known) {
        let mut topics = self.topics();
        if known.spec.is_none() {
            known.spec = topics.known.get(topic).and_then(|before| before.spec.clone());
        }
        topics.capabilities.remove(&Some(topic.clone()));
        topics.known.insert(topic.clone(), known);
    }

    pub(crate) fn forget(&self, topic: &TopicName) {
        let mut topics = self.topics();
        topics.known.remove(topic);
        topics.capabilities.remove(&Some(topic.clone()));
    }

    /// The topic may have changed: it is looked at before the next message is sent to it.
    pub(crate) fn forget_seen(&self, topic: &TopicName) {
        if let Some(known) = self.topics().known.get_mut(topic) {
            known.seen = 0;
        }
    }

    /// Which life of a group's queue this is, as it was found.
    pub(crate) fn life(&self, queue: &str) -> Option<Arc<str>> {
        self.topics().lives.get(queue).cloned()
    }

    pub(crate) fn learn_life(&self, queue: &str, life: &str) {
        self.topics().lives.insert(queue.to_owned(), life.into());
    }

    pub(crate) fn forget_life(&self, queue: &str) {
        self.topics().lives.remove(queue);
    }

    /// The capabilities, found anew only after something changed: each publish asks for them.
    pub(crate) fn capabilities(
        &self,
        topic: Option<&TopicName>,
        find: impl FnOnce(Option<&Known>) -> Capabilities,
    ) -> Arc<Capabilities> {
        let mut topics = self.topics();
        let topic = topic.cloned();
        if let Some(found) = topics.capabilities.get(&topic) {
            return Arc::clone(found);
        }
        let known = topic.as_ref().and_then(|topic| topics.known.get(topic));
        let found = Arc::new(find(known));
        topics.capabilities.insert(topic, Arc::clone(&found));
        found
    }

    fn topics(&self) -> std::sync::MutexGuard<'_, Topics> {
        // Nothing panics while it is held but an allocation that failed.
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// `Closed` after [`shut`](Self::shut).
    pub(crate) fn open(&self) -> Result<()> {
        if self.closing.is_cancelled() { Err(error::closed()) } else { Ok(()) }
    }

    /// Takes nothing new, and tells the tasks to end.
    pub(crate) fn shut(&self) {
        self.closing.cancel();
    }

    pub(crate) fn closing(&self) -> CancellationToken {
        self.closing.clone()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // What its tasks hold would keep the connections open.
        self.closing.cancel();
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("admin", &self.admin)
            .field("publish", &self.publish)
            .field("consume", &self.consume)
            .finish_non_exhaustive()
    }
}
