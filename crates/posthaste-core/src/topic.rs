//! What a topic shall be, what it is, and where the two differ.

use std::fmt;
use std::time::Duration;

use crate::{Error, ErrorKind, GroupName, Layout, Result, TopicName};

/// What is done about a topic or group that an operation needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Topology {
    /// Create what is missing. What exists and differs is a
    /// [`Conflict`](crate::ErrorKind::Conflict), never overwritten.
    #[default]
    Create,
    /// Create nothing; compare, and fail where something is missing or differs.
    Verify,
    /// Ask nothing: trust that all is there.
    Assume,
}

/// What a topic shall be. Names are checked when it is used.
///
/// ```
/// use posthaste_core::TopicConfig;
/// let orders = TopicConfig::new("orders").ordered(8).group("billing").group("shipping");
/// assert_eq!(orders.check()?.groups.len(), 2);
/// # Ok::<(), posthaste_core::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a TopicConfig does nothing until it is given to `Bus::ensure`"]
pub struct TopicConfig {
    name: String,
    groups: Vec<String>,
    layout: Layout,
    queue: bool,
    retention: Retention,
    deduplication_window: Option<Duration>,
    replicas: Option<u8>,
}

impl TopicConfig {
    /// A plain topic without groups and with the broker's default retention (7 days).
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            groups: Vec::new(),
            layout: Layout::Plain,
            queue: false,
            retention: Retention::default(),
            deduplication_window: None,
            replicas: None,
        }
    }

    /// A queue: a topic with exactly one group, which has the name `queue`.
    pub fn queue(name: impl Into<String>) -> Self {
        Self { queue: true, groups: vec![QUEUE_GROUP.to_owned()], ..Self::new(name) }
    }

    /// Keeps order per key, over 1 to 1024 partitions. Fixed at the topic's creation.
    pub fn ordered(mut self, partitions: u16) -> Self {
        self.layout = Layout::Ordered(partitions);
        self
    }

    /// A group that shall exist from now on, so that it gets what is published from now on.
    pub fn group(mut self, name: impl Into<String>) -> Self {
        self.groups.push(name.into());
        self
    }

    /// How long messages are kept.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.retention.max_age = Some(age);
        self
    }

    /// How many bytes are kept.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.retention.max_bytes = Some(bytes);
        self
    }

    /// How many messages are kept.
    pub fn max_messages(mut self, messages: u64) -> Self {
        self.retention.max_messages = Some(messages);
        self
    }

    /// How long the ids of published messages are remembered, for a deduplicated publish.
    pub fn deduplication_window(mut self, window: Duration) -> Self {
        self.deduplication_window = Some(window);
        self
    }

    /// How many copies a cluster keeps.
    pub fn replicas(mut self, replicas: u8) -> Self {
        self.replicas = Some(replicas);
        self
    }

    /// Checks names and numbers.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) names the part that is wrong.
    pub fn check(&self) -> Result<TopicSpec> {
        let name = TopicName::new(&self.name)?;
        let mut groups = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            let group = GroupName::new(group).map_err(|error| error.with_topic(&name))?;
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        if self.queue && groups.len() != 1 {
            return Err(Error::invalid("a queue has exactly one group").with_topic(&name));
        }
        if self.replicas == Some(0) {
            return Err(Error::invalid("a topic has at least one replica").with_topic(&name));
        }
        let zero = [
            ("max_age", self.retention.max_age == Some(Duration::ZERO)),
            ("max_bytes", self.retention.max_bytes == Some(0)),
            ("max_messages", self.retention.max_messages == Some(0)),
            ("deduplication_window", self.deduplication_window == Some(Duration::ZERO)),
        ];
        if let Some((setting, _)) = zero.into_iter().find(|(_, is_zero)| *is_zero) {
            return Err(Error::invalid("a limit of a topic must be greater than zero")
                .with_context("setting", setting)
                .with_topic(&name));
        }
        Ok(TopicSpec {
            layout: self.layout.check().map_err(|error| error.with_topic(&name))?,
            name,
            groups,
            queue: self.queue,
            retention: self.retention,
            deduplication_window: self.deduplication_window,
            replicas: self.replicas,
        })
    }
}

/// The group of a queue.
pub(crate) const QUEUE_GROUP: &str = "queue";

/// How much of a topic is kept. `None` leaves it to the adapter's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Retention {
    /// The age at which messages go.
    pub max_age: Option<Duration>,
    /// The bytes above which the oldest go.
    pub max_bytes: Option<u64>,
    /// The count above which the oldest go.
    pub max_messages: Option<u64>,
}

/// A checked [`TopicConfig`], as adapters get it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TopicSpec {
    /// The topic's name.
    pub name: TopicName,
    /// The groups that shall exist, each once.
    pub groups: Vec<GroupName>,
    /// Whether and how it orders.
    pub layout: Layout,
    /// Whether it is a queue.
    pub queue: bool,
    /// How much is kept.
    pub retention: Retention,
    /// How long ids are remembered; `None` leaves it to the adapter's default.
    pub deduplication_window: Option<Duration>,
    /// How many copies a cluster keeps; `None` leaves it to the adapter's default.
    pub replicas: Option<u8>,
}

impl TopicSpec {
    /// A plain topic without groups, as created at first use.
    #[must_use]
    pub const fn plain(name: TopicName) -> Self {
        Self {
            name,
            groups: Vec::new(),
            layout: Layout::Plain,
            queue: false,
            retention: Retention { max_age: None, max_bytes: None, max_messages: None },
            deduplication_window: None,
            replicas: None,
        }
    }
}

/// What a topic is at the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicInfo {
    /// The topic's name.
    pub name: TopicName,
    /// Whether and how it orders.
    pub layout: Layout,
    /// Whether it is a queue.
    pub queue: bool,
    /// What it is called at the broker, for example a stream or exchange.
    pub native: String,
}

impl TopicInfo {
    /// A description from its parts.
    #[must_use]
    pub const fn new(name: TopicName, layout: Layout, queue: bool, native: String) -> Self {
        Self { name, layout, queue, native }
    }
}

/// A setting that is not as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// The setting, for example `lease`.
    pub setting: &'static str,
    /// What was asked for.
    pub wanted: String,
    /// What is there.
    pub found: String,
}

impl Difference {
    /// A difference from its parts.
    pub fn new(setting: &'static str, wanted: impl fmt::Display, found: impl fmt::Display) -> Self {
        Self { setting, wanted: wanted.to_string(), found: found.to_string() }
    }

    /// The differences as one error, or nothing if there are none.
    ///
    /// # Errors
    /// [`Conflict`](crate::ErrorKind::Conflict) that names each setting, wanted and found.
    pub fn refuse(differences: &[Self]) -> Result<()> {
        let Some(first) = differences.first() else { return Ok(()) };
        let error = Error::new(
            ErrorKind::Conflict,
            format!("what exists differs from what was asked for: {first}"),
        );
        Err(differences[1..].iter().fold(error, |error, other| error.with_context("also", other)))
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: wanted {}, found {}", self.setting, self.wanted, self.found)
    }
}
