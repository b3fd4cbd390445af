//! What everything on one connection shares.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::{self, ContextBuilder};
use async_nats::{Client, Subscriber};
use posthaste_core::{Capabilities, Durability, Layout, Result, TopicName, TopicSpec};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answers::Answers;
use crate::api::Api;
use crate::binding::Binding;
use crate::config::{Defaults, NatsConfig};
use crate::error;
use crate::link::Link;
use crate::resend::Resends;
use crate::route::Route;
use crate::version::Version;

/// How many messages that the client confirms by itself, dead letters and the records of lanes,
/// may wait for that. Beyond it the client makes them wait, and batches that wait for each other
/// would never end: prefetch bounds them, and this is far above the sum of it.
const MAX_ACK_INFLIGHT: usize = 1 << 20;
/// How long capabilities are not looked at again where nothing is seen to have changed.
const CAPABILITIES_LAST: Duration = Duration::from_secs(5);

/// One connection and what is known behind it.
pub(crate) struct Hub {
    pub(crate) client: Client,
    pub(crate) jetstream: jetstream::Context,
    pub(crate) api: Api,
    pub(crate) link: Link,
    pub(crate) defaults: Defaults,
    pub(crate) request_timeout: Duration,
    pub(crate) resends: Resends,
    pub(crate) answers: Answers,
    /// Tasks of this adapter; joined by `close`.
    pub(crate) tasks: TaskTracker,
    bindings: HashMap<TopicName, Arc<Binding>>,
    topics: Mutex<Topics>,
    closing: CancellationToken,
}

/// When something was found: what is known changes with the topics and with the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moment {
    changes: u64,
    losses: u64,
    connected: bool,
}

#[derive(Debug, Default)]
struct Topics {
    known: HashMap<TopicName, Known>,
    /// How often that changed.
    changes: u64,
    /// What follows from it, and from the server that was connected when it was asked for.
    capabilities: HashMap<Option<TopicName>, Cached>,
}

#[derive(Debug)]
struct Cached {
    moment: Moment,
    /// What the client knows of a server comes a moment after it is connected to it.
    until: Instant,
    found: Arc<Capabilities>,
}

/// What was found of a topic, or said of it.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) layout: Layout,
    pub(crate) queue: bool,
    /// Whether its stream takes messages for later.
    pub(crate) schedules: bool,
    /// Whether its stream lets single messages outlive `max_age`.
    pub(crate) message_ttl: bool,
    pub(crate) max_age: Option<Duration>,
    pub(crate) durability: Durability,
    /// A stream that keeps messages only for consumers: when it was seen to have one.
    pub(crate) interest: Option<Interest>,
    /// What the application asked for, to create it again.
    pub(crate) spec: Option<Arc<TopicSpec>>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Interest {
    pub(crate) consumers: usize,
    pub(crate) seen: Instant,
}

impl Hub {
    pub(crate) fn new(
        client: Client,
        link: Link,
        config: &NatsConfig,
        bindings: HashMap<TopicName, Binding>,
        (answers, messages): (Answers, Subscriber),
    ) -> Self {
        let builder = ContextBuilder::new()
            .timeout(config.request_timeout)
            .ack_timeout(config.request_timeout)
            .max_ack_inflight(MAX_ACK_INFLIGHT);
        let (jetstream, prefix) = match &config.domain {
            Some(domain) => {
                let with_domain = ContextBuilder::new().domain(domain);
                let with_domain = with_domain
                    .timeout(config.request_timeout)
                    .ack_timeout(config.request_timeout)
                    .max_ack_inflight(MAX_ACK_INFLIGHT);
                (with_domain.build(client.clone()), format!("$JS.{domain}.API"))
            }
            None => (builder.build(client.clone()), "$JS.API".to_owned()),
        };
        let api = Api {
            client: client.clone(),
            link: link.clone(),
            prefix,
            timeout: config.request_timeout,
        };
        let (tasks, closing) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(closing.clone().run_until_cancelled_owned(answers.read(messages)));
        tasks.spawn(closing.clone().run_until_cancelled_owned(answers.watch(link.clone())));
        Self {
            client,
            jetstream,
            api,
            link,
            defaults: config.defaults.clone(),
            request_timeout: config.request_timeout,
            resends: Resends::new(config.defaults.duplicate_window),
            answers,
            tasks,
            bindings: bindings.into_iter().map(|(topic, b)| (topic, Arc::new(b))).collect(),
            topics: Mutex::default(),
            closing,
        }
    }

    pub(crate) fn route(&self, topic: &TopicName) -> Route {
        Route { topic: topic.clone(), binding: self.bindings.get(topic).cloned() }
    }

    /// The version of the server that is connected now.
    pub(crate) fn version(&self) -> Version {
        Version::read(&self.client.server_info().version)
    }

    pub(crate) fn known(&self, topic: &TopicName) -> Option<Known> {
        self.topics().known.get(topic).cloned()
    }

    /// The capabilities, found anew only after something changed: each publish asks for them.
    pub(crate) fn capabilities(
        &self,
        topic: Option<&TopicName>,
        find: impl FnOnce() -> Capabilities,
    ) -> Arc<Capabilities> {
        let (losses, connected) = self.link.state();
        let (topic, at) = (topic.cloned(), Instant::now());
        let now = {
            let topics = self.topics();
            let now = Moment { changes: topics.changes, losses, connected };
            match topics.capabilities.get(&topic) {
                Some(kept) if kept.moment == now && at < kept.until => {
                    return Arc::clone(&kept.found);
                }
                _ => now,
            }
        };
        let found = Arc::new(find());
        let kept = Cached { moment: now, until: at + CAPABILITIES_LAST, found: Arc::clone(&found) };
        self.topics().capabilities.insert(topic, kept);
        found
    }

    /// Remembers what was found. What the application asked for is kept.
    pub(crate) fn learn(&self, topic: &TopicName, mut known: Known) {
        let mut topics = self.topics();
        if known.spec.is_none() {
            known.spec = topics.known.get(topic).and_then(|before| before.spec.clone());
        }
        topics.known.insert(topic.clone(), known);
        topics.changes += 1;
    }

    pub(crate) fn forget(&self, topic: &TopicName) {
        let mut topics = self.topics();
        topics.known.remove(topic);
        topics.capabilities.remove(&Some(topic.clone()));
        topics.changes += 1;
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

    /// Waits until [`shut`](Self::shut).
    pub(crate) async fn closing(&self) {
        self.closing.cancelled().await;
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // What its tasks hold of the client would keep the connection open.
        self.closing.cancel();
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("link", &self.link).finish_non_exhaustive()
    }
}
