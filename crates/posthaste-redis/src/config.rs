//! What a connection to Redis shall be.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use posthaste_core::broker::address::server_and_port;
use posthaste_core::{Error, Result, TopicName};

use crate::address;
use crate::binding::Binding;

/// What a connection to Redis or Valkey shall be. Names and numbers are checked by
/// [`RedisBroker::connect`](crate::RedisBroker::connect).
///
/// ```
/// use std::time::Duration;
/// use posthaste_redis::RedisConfig;
/// let config = RedisConfig::new("redis.example")
///     .login("orders-service", "secret")
///     .database(2)
///     .tls_ca("/etc/ssl/our-ca.pem")
///     .connect_timeout(Duration::from_secs(3));
/// assert!(!format!("{config:?}").contains("secret"));
/// ```
#[derive(Clone)]
#[must_use = "a configuration does nothing until `RedisBroker::connect`"]
pub struct RedisConfig {
    pub(crate) server: String,
    pub(crate) login: Option<(String, String)>,
    pub(crate) database: u32,
    pub(crate) tls: Tls,
    pub(crate) name: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) durability: Durable,
    pub(crate) keep: Duration,
    pub(crate) max_message_bytes: usize,
    pub(crate) deduplication_window: Duration,
    pub(crate) bindings: HashMap<String, Binding>,
}

/// What the server has to be set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Durable {
    /// An append-only file, and `maxmemory-policy noeviction`: another server is refused.
    #[default]
    AppendOnly,
    /// Whatever the server is set to. [`Capabilities`](posthaste_core::Capabilities) say what that
    /// is worth.
    Server,
}

/// How the connection is encrypted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    pub(crate) required: bool,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

impl RedisConfig {
    /// A server, as `host` or `host:port`. The port is 6379 unless given. There is no login.
    pub fn new(server: impl Into<String>) -> Self {
        Self {
            server: server.into(),
            login: None,
            database: 0,
            tls: Tls::default(),
            name: "posthaste".to_owned(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            durability: Durable::default(),
            keep: Duration::ZERO,
            max_message_bytes: 8 << 20,
            deduplication_window: Duration::from_secs(120),
            bindings: HashMap::new(),
        }
    }

    /// Reads `redis://user:password@host:6379/0?connect_timeout=3s`. With `rediss://` the
    /// connection is encrypted. The options are listed in this crate's documentation.
    ///
    /// # Errors
    /// `Invalid` names the part that is wrong, and never shows the login; `Unsupported` for
    /// Sentinel, Cluster and publish/subscribe.
    pub fn from_url(url: &str) -> Result<Self> {
        address::read(url)
    }

    /// Login by user and password; an empty user is that of servers with a password alone.
    pub fn login(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.login = Some((user.into(), password.into()));
        self
    }

    /// The number of the database. Default: 0.
    pub fn database(mut self, number: u32) -> Self {
        self.database = number;
        self
    }

    /// Whether the connection is encrypted. Default: not.
    pub fn tls(mut self, required: bool) -> Self {
        self.tls.required = required;
        self
    }

    /// Trusts the certificates of this PEM file instead of the system's roots. Implies TLS.
    pub fn tls_ca(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls.required = true;
        self.tls.ca = Some(path.into());
        self
    }

    /// Shows this certificate to the server, both files in PEM. Implies TLS.
    pub fn tls_identity(
        mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.tls.required = true;
        self.tls.certificate = Some(certificate.into());
        self.tls.key = Some(key.into());
        self
    }

    /// What the connections are called in the server's `CLIENT LIST`: without spaces. Default:
    /// `posthaste`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How long connecting may take, login included. Default: 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long an answer of the server may take, the confirmation of a publish included. From
    /// 1 s to 5 minutes. Default: 10 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// What the server has to be set to. Default: [`Durable::AppendOnly`].
    pub fn durability(mut self, durability: Durable) -> Self {
        self.durability = durability;
        self
    }

    /// For how long messages are kept after every group has settled them, to be read again.
    /// Default: not at all. What a group has not settled is kept in any case, and so is
    /// everything on a topic without a group.
    pub fn keep(mut self, time: Duration) -> Self {
        self.keep = time;
        self
    }

    /// The largest message that is sent, attributes included. Large messages hold up everybody
    /// else on the server. Default: 8 MiB.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// How long the ids of messages are remembered on topics that do not say it themselves.
    /// Default: 2 minutes.
    pub fn deduplication_window(mut self, window: Duration) -> Self {
        self.deduplication_window = window;
        self
    }

    /// Uses an existing stream for a topic, instead of one of the default name. The topic is the
    /// name the application uses.
    pub fn bind(mut self, topic: impl Into<String>, binding: Binding) -> Self {
        self.bindings.insert(topic.into(), binding);
        self
    }

    /// Checks names and numbers.
    pub(crate) fn check(&self) -> Result<HashMap<TopicName, Binding>> {
        server_and_port(&self.server, 0)?;
        let wrong =
            |option: &'static str, why| Err(Error::invalid(why).with_context("option", option));
        if i32::try_from(self.database).is_err() {
            return wrong("database", "the number of a database is below 2147483648");
        }
        if self.connect_timeout.is_zero() {
            return wrong("connect_timeout", "the option must be greater than zero");
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(300)).contains(&self.request_timeout) {
            return wrong("request_timeout", "the option must be from 1 s to 5 m");
        }
        if !(4_096..=512 << 20).contains(&self.max_message_bytes) {
            return wrong("max_message_bytes", "the option must be from 4 KiB to 512 MiB");
        }
        if self.deduplication_window < Duration::from_millis(1) {
            return wrong("deduplication_window", "the option must be at least 1 ms");
        }
        let graphic = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if self.name.is_empty() || self.name.len() > 128 || !graphic(&self.name) {
            return wrong("name", "the option must be 1 to 128 printable ASCII characters");
        }
        if self.tls.certificate.is_some() != self.tls.key.is_some() {
            return Err(Error::invalid("a client certificate needs its key, and the reverse"));
        }
        let mut bindings = HashMap::with_capacity(self.bindings.len());
        for (topic, binding) in &self.bindings {
            let topic = TopicName::new(topic)?;
            binding.check().map_err(|error| error.with_topic(&topic))?;
            bindings.insert(topic, binding.clone());
        }
        Ok(bindings)
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.login.as_ref().map(|(user, _)| user);
        f.debug_struct("RedisConfig")
            .field("server", &self.server)
            .field("user", &user)
            .field("database", &self.database)
            .field("tls", &self.tls)
            .field("name", &self.name)
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("durability", &self.durability)
            .field("keep", &self.keep)
            .field("max_message_bytes", &self.max_message_bytes)
            .field("deduplication_window", &self.deduplication_window)
            .field("bindings", &self.bindings)
            .finish()
    }
}
