//! Settings of a bus.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{Bus, bounded};
use crate::broker::Broker;
use crate::{Envelope, Error, Result, TopicConfig, TopicName, TopicSpec, Topology};

/// How much of one topic may be queued and in flight.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WindowLimits {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) source: Box<str>,
    pub(crate) topology: Topology,
    pub(crate) publish_deadline: Duration,
    pub(crate) call_deadline: Duration,
    pub(crate) window: WindowLimits,
    pub(crate) drain: Duration,
    pub(crate) declared: HashMap<TopicName, TopicSpec>,
}

/// Builds a [`Bus`] with other settings than the defaults.
#[must_use = "a builder does nothing until `build` is called"]
pub struct BusBuilder {
    broker: Arc<dyn Broker>,
    source: Option<String>,
    topology: Topology,
    publish_deadline: Duration,
    call_deadline: Duration,
    window: WindowLimits,
    drain: Duration,
    topics: Vec<TopicConfig>,
}

impl BusBuilder {
    pub(super) fn new(broker: Arc<dyn Broker>) -> Self {
        Self {
            broker,
            source: None,
            topology: Topology::Create,
            publish_deadline: Duration::from_secs(30),
            call_deadline: Duration::from_secs(20),
            window: WindowLimits { messages: 1_000, bytes: 16 << 20 },
            drain: Duration::from_secs(30),
            topics: Vec::new(),
        }
    }

    /// The CloudEvents source of what is published, a URI reference. Default: the environment's
    /// `POSTHASTE_SOURCE`, else the executable's name.
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What is done about missing topics and groups. Default: [`Topology::Create`].
    pub const fn topology(mut self, topology: Topology) -> Self {
        self.topology = topology;
        self
    }

    /// By when a publish has to end. Default: 30 s.
    pub const fn publish_deadline(mut self, deadline: Duration) -> Self {
        self.publish_deadline = deadline;
        self
    }

    /// By when every other call that asks the broker something has to end: the start of a
    /// subscription, administration, a confirmed acknowledgement. Default: 20 s.
    pub const fn call_deadline(mut self, deadline: Duration) -> Self {
        self.call_deadline = deadline;
        self
    }

    /// How much of one topic may be queued and in flight. Default: 1,000 messages, 16 MiB.
    pub const fn window(mut self, messages: usize, bytes: usize) -> Self {
        self.window = WindowLimits { messages, bytes };
        self
    }

    /// How long a dropped subscription waits for deliveries that are still held. Default: 30 s.
    pub const fn drain(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }

    /// Declares a topic: what is created at first use, and what is taken for the truth under
    /// [`Topology::Assume`].
    pub fn topic(mut self, topic: TopicConfig) -> Self {
        self.topics.push(topic);
        self
    }

    /// Builds the bus. Its tasks run on the current tokio runtime.
    ///
    /// # Errors
    /// `Invalid` names the setting that is wrong: a source that is no URI reference, a window
    /// without room, a topic's name; or that there is no tokio runtime.
    pub fn build(self) -> Result<Bus> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|error| {
            Error::invalid("a bus is built inside a tokio runtime").with_source(error)
        })?;
        let largest = tokio::sync::Semaphore::MAX_PERMITS.min(u32::MAX as usize);
        let WindowLimits { messages, bytes } = self.window;
        if !(1..=largest).contains(&messages) || !(1..=largest).contains(&bytes) {
            return Err(Error::invalid("a window has room for 1 to 4294967295 messages and bytes")
                .with_context("messages", messages)
                .with_context("bytes", bytes));
        }
        if self.publish_deadline.is_zero() || self.call_deadline.is_zero() {
            return Err(Error::invalid("a deadline must be greater than zero"));
        }
        let source = self.source.map_or_else(default_source, Ok)?;
        // The rules for a source are those of the envelope.
        Envelope::builder("posthaste.check").source(source.as_str()).build()?;
        let mut declared = HashMap::new();
        for topic in &self.topics {
            let spec = topic.check()?;
            declared.insert(spec.name.clone(), spec);
        }
        let settings = Settings {
            source: source.into(),
            topology: self.topology,
            publish_deadline: self.publish_deadline,
            call_deadline: bounded(self.call_deadline),
            window: self.window,
            drain: self.drain,
            declared,
        };
        Ok(Bus::start(self.broker, settings, runtime))
    }
}

fn default_source() -> Result<String> {
    match std::env::var("POSTHASTE_SOURCE") {
        Ok(source) if !source.is_empty() => Ok(source),
        Ok(_) | Err(std::env::VarError::NotPresent) => Ok(executable()),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(Error::invalid("the environment's POSTHASTE_SOURCE is not UTF-8"))
        }
    }
}

fn executable() -> String {
    let name = std::env::current_exe().ok();
    let name = name.as_deref().and_then(|path| path.file_stem()).and_then(|name| name.to_str());
    // Only what is legal in a URI reference; a name of nothing else is as good as none.
    let name: String = name
        .unwrap_or_default()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c))
        .collect();
    if name.is_empty() { "/posthaste".to_owned() } else { format!("/{name}") }
}

impl fmt::Debug for BusBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusBuilder")
            .field("broker", &self.broker.capabilities(None).broker)
            .field("source", &self.source)
            .field("topology", &self.topology)
            .field("publish_deadline", &self.publish_deadline)
            .field("window", &self.window)
            .field("topics", &self.topics)
            .finish_non_exhaustive()
    }
}
