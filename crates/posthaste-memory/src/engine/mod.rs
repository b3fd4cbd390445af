//! The broker itself: topics by name, the link to it, and who waits. Everything a network broker
//! would do in its own process.
//!
//! Locks: the map of topics is never locked together with a topic, a topic never with another. The
//! fault state may be locked inside a topic's turn, and nothing is locked inside of it. Wakers run
//! while no lock is held, and no lock is held over an await.

mod append;
mod dedup;
mod group;
mod letters;
mod link;
mod log;
mod port;
mod topic;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use posthaste_core::{Capabilities, Layout, Result, TopicName, TopicSpec};

pub(crate) use append::Append;
pub(crate) use group::{Fetch, Fetched, Group, Held, Leave, Tag};
pub(crate) use link::{Connection, Link, State as LinkState};
pub(crate) use log::Entry;
pub(crate) use port::{Port, Turn, later};
pub(crate) use topic::{Settings, State, Topic, order};

use crate::fault::Injector;
use crate::{MemoryConfig, broker, error};

#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) config: MemoryConfig,
    pub(crate) link: Link,
    pub(crate) faults: Injector,
    /// What can be done on a topic that does not exist yet.
    pub(crate) capabilities: Arc<Capabilities>,
    topics: RwLock<HashMap<TopicName, Arc<Topic>>>,
    ports: Mutex<HashMap<u64, Arc<Port>>>,
    last_id: AtomicU64,
}

impl Engine {
    pub(crate) fn new(config: MemoryConfig) -> Self {
        Self {
            capabilities: Arc::new(broker::capabilities(&config)),
            faults: Injector::new(config.faults.clone()),
            link: Link::default(),
            config,
            topics: RwLock::default(),
            ports: Mutex::default(),
            last_id: AtomicU64::new(0),
        }
    }

    pub(crate) fn topic(&self, name: &TopicName) -> Option<Arc<Topic>> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// The topic, which must exist.
    pub(crate) fn existing(&self, name: &TopicName) -> Result<Arc<Topic>> {
        self.topic(name).ok_or_else(|| error::no_topic(name))
    }

    pub(crate) fn topics(&self) -> Vec<Arc<Topic>> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Creates the topic unless there is one of that name.
    pub(crate) fn create(&self, spec: &TopicSpec) -> Arc<Topic> {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        let topic = topics.entry(spec.name.clone()).or_insert_with(|| {
            let settings = self.settings(spec);
            let capabilities = Arc::new(broker::topic_capabilities(&self.capabilities, &settings));
            Arc::new(Topic::new(spec.name.clone(), settings, capabilities))
        });
        Arc::clone(topic)
    }

    /// Removes the topic and ends it; no error if there is none.
    pub(crate) fn delete(&self, name: &TopicName) {
        let topic = self.topics.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        if let Some(topic) = topic {
            topic.turn_even_if_deleted(State::delete);
        }
    }

    /// A number that is used once: for members and ports.
    pub(crate) fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn add_port(&self, id: u64, port: &Arc<Port>) {
        self.lock_ports().insert(id, Arc::clone(port));
    }

    pub(crate) fn remove_port(&self, id: u64) {
        self.lock_ports().remove(&id);
    }

    /// Wakes everything that waits, because the link or a connection changed.
    pub(crate) fn wake_all(&self) {
        let ports: Vec<Arc<Port>> = self.lock_ports().values().cloned().collect();
        ports.iter().for_each(|port| port.wake());
        self.link.notify();
    }

    /// Ends all connections and leases, and keeps what is stored.
    pub(crate) fn restart(&self) {
        self.link.count_restart();
        for topic in self.topics() {
            topic.turn(|state, turn| {
                state.groups.values_mut().for_each(|group| group.restart(turn));
            });
        }
        self.wake_all();
    }

    fn lock_ports(&self) -> MutexGuard<'_, HashMap<u64, Arc<Port>>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settings(&self, spec: &TopicSpec) -> Settings {
        let config = &self.config;
        let kept = spec.retention.max_bytes.and_then(|bytes| usize::try_from(bytes).ok());
        let window = spec.deduplication_window.unwrap_or(config.deduplication_window);
        Settings {
            layout: spec.layout,
            queue: spec.queue,
            retention: spec.retention,
            deduplication_window: window,
            max_messages: config.max_messages,
            max_bytes: config.max_bytes,
            max_message_bytes: config.largest_message().min(kept.unwrap_or(usize::MAX)),
        }
    }
}

/// Whether partitions are handed to one member each.
pub(crate) const fn is_ordered(layout: Layout) -> bool {
    layout.partitions().is_some()
}
