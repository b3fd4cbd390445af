//! What everything on a bus shares: the broker, the settings and the tasks.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use super::builder::Settings;
use super::clock::Clock;
use super::{bounded, shielded};
use crate::broker::Broker;
use crate::publisher::Window;
use crate::subscription::Ledger;
use crate::topic::QUEUE_GROUP;
use crate::{Error, ErrorKind, GroupName, Result, TopicInfo, TopicName, TopicSpec, Topology};

pub(crate) struct Core {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) settings: Settings,
    pub(super) clock: Clock,
    runtime: Handle,
    tasks: TaskTracker,
    rooms: Mutex<Rooms>,
}

/// What is open on the bus.
#[derive(Default)]
struct Rooms {
    closed: bool,
    /// By topic, and whether it is addressed as a queue.
    windows: HashMap<(TopicName, bool), Weak<Window>>,
    ledgers: Vec<Weak<Ledger>>,
}

/// What was open when the bus was shut.
pub(super) struct Open {
    pub(super) windows: Vec<Arc<Window>>,
    pub(super) ledgers: Vec<Arc<Ledger>>,
}

impl Core {
    pub(super) fn new(broker: Arc<dyn Broker>, settings: Settings, runtime: Handle) -> Self {
        let tasks = TaskTracker::new();
        let clock = Clock::new();
        Self { broker, settings, clock, runtime, tasks, rooms: Mutex::default() }
    }

    /// Runs a task that [`join`](Self::join) waits for.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(task, &self.runtime);
    }

    /// Awaits the adapter's answer to a call that has no deadline of its own.
    pub(crate) async fn answer<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.answer_within(Duration::ZERO, call).await
    }

    /// As [`answer`](Self::answer), for a call that may take that much longer.
    pub(crate) async fn answer_within<T>(
        &self,
        longer: Duration,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let patience = bounded(self.settings.call_deadline.saturating_add(longer));
        tokio::time::timeout(patience, shielded(call)).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, "the broker did not answer in time")
                .with_broker(self.broker.capabilities(None).broker)
                .with_context("seconds", patience.as_secs_f32()))
        })
    }

    /// The topic's window, shared by all its publishers.
    pub(super) fn window(self: &Arc<Self>, topic: TopicName, queue: bool) -> Result<Arc<Window>> {
        let mut rooms = self.rooms();
        if rooms.closed {
            return Err(Error::closed("the bus is closed").with_topic(topic));
        }
        let room = (topic, queue);
        if let Some(window) = rooms.windows.get(&room).and_then(Weak::upgrade) {
            return Ok(window);
        }
        let window = Arc::new(Window::new(Arc::clone(self), room.0.clone(), queue));
        rooms.windows.retain(|_, window| window.strong_count() > 0);
        rooms.windows.insert(room, Arc::downgrade(&window));
        Ok(window)
    }

    /// Counts the subscription among those that closing drains.
    pub(crate) fn register(&self, ledger: &Arc<Ledger>) -> Result<()> {
        let mut rooms = self.rooms();
        if rooms.closed {
            return Err(Error::closed("the bus is closed"));
        }
        rooms.ledgers.retain(|ledger| ledger.strong_count() > 0);
        rooms.ledgers.push(Arc::downgrade(ledger));
        Ok(())
    }

    /// Takes nothing new. Returns what was open, or nothing if it was closed before.
    pub(super) fn shut(&self) -> Option<Open> {
        let mut rooms = self.rooms();
        if std::mem::replace(&mut rooms.closed, true) {
            return None;
        }
        let windows = rooms.windows.values().filter_map(Weak::upgrade).collect();
        let ledgers = rooms.ledgers.iter().filter_map(Weak::upgrade).collect();
        drop(rooms);
        self.tasks.close();
        Some(Open { windows, ledgers })
    }

    /// Waits until every task has ended. Only after [`shut`](Self::shut).
    pub(super) async fn join(&self) {
        self.tasks.wait().await;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.rooms().closed
    }

    /// What a topic is, after it was created, verified or assumed as the application chose.
    pub(crate) async fn resolve(&self, topic: &TopicName, queue: bool) -> Result<TopicInfo> {
        self.resolve_as(topic, queue, self.settings.topology).await
    }

    /// As [`resolve`](Self::resolve), with another choice.
    pub(crate) async fn resolve_as(
        &self,
        topic: &TopicName,
        queue: bool,
        topology: Topology,
    ) -> Result<TopicInfo> {
        let found = self.find(topic, queue, topology).await?;
        if found.queue == queue { Ok(found) } else { Err(mismatch(&found, queue)) }
    }

    async fn find(&self, topic: &TopicName, queue: bool, topology: Topology) -> Result<TopicInfo> {
        let admin = self.broker.admin();
        if let Some(declared) = self.settings.declared.get(topic) {
            return admin.ensure(declared, topology).await;
        }
        let spec = self.undeclared(topic, queue)?;
        if topology == Topology::Assume {
            return admin.ensure(&spec, topology).await;
        }
        match admin.describe(topic).await {
            Err(error) if error.kind() == ErrorKind::NotFound && topology == Topology::Create => {
                admin.ensure(&spec, topology).await
            }
            outcome => outcome,
        }
    }

    fn undeclared(&self, topic: &TopicName, queue: bool) -> Result<TopicSpec> {
        let mut spec = TopicSpec::plain(topic.clone());
        if queue {
            spec.queue = true;
            spec.groups = vec![GroupName::new(QUEUE_GROUP)?];
        }
        Ok(spec)
    }

    fn rooms(&self) -> std::sync::MutexGuard<'_, Rooms> {
        // Nothing panics while it is held but an allocation that failed.
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cold]
fn mismatch(found: &TopicInfo, queue: bool) -> Error {
    let word = |queue: bool| if queue { "a queue" } else { "a topic" };
    Error::new(ErrorKind::Conflict, "queues and topics are addressed differently")
        .with_context("wanted", word(queue))
        .with_context("found", word(found.queue))
        .with_topic(&found.name)
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("broker", &self.broker).finish_non_exhaustive()
    }
}
