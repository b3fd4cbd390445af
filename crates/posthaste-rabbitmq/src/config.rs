//! What a connection to RabbitMQ shall be.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use posthaste_core::{Error, Result, TopicName};

use crate::arguments::{self, QueueArgument, Said};
use crate::binding::Binding;
use crate::{address, names};

/// What a connection to RabbitMQ shall be. Names and numbers are checked by
/// [`RabbitmqBroker::connect`](crate::RabbitmqBroker::connect).
///
/// ```
/// use std::time::Duration;
/// use posthaste_rabbitmq::RabbitmqConfig;
/// let config = RabbitmqConfig::new("rabbit.example")
///     .vhost("orders")
///     .login("orders-service", "secret")
///     .tls_ca("/etc/ssl/our-ca.pem")
///     .connect_timeout(Duration::from_secs(3));
/// assert!(!format!("{config:?}").contains("secret"));
/// ```
#[derive(Clone)]
#[must_use = "a configuration does nothing until `RabbitmqBroker::connect`"]
pub struct RabbitmqConfig {
    pub(crate) servers: Vec<String>,
    pub(crate) vhost: String,
    pub(crate) login: Login,
    pub(crate) tls: Tls,
    pub(crate) name: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) heartbeat: Duration,
    pub(crate) queue_type: QueueType,
    pub(crate) queue_arguments: Said,
    pub(crate) unrouted_bytes: u64,
    pub(crate) max_message_bytes: usize,
    pub(crate) bindings: HashMap<String, Binding>,
}

/// What kind of queue new groups get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum QueueType {
    /// Replicated, and written to disk before a publish is confirmed. Counts deliveries.
    #[default]
    Quorum,
    /// On one node, without a count of deliveries.
    Classic,
}

/// How the client shows who it is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Login {
    Password {
        user: String,
        password: String,
    },
    /// By the client certificate.
    External,
}

/// How the connection is encrypted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    pub(crate) required: bool,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

impl RabbitmqConfig {
    /// One or several servers of a cluster, as `host` or `host:port` with commas between them. The
    /// port is 5672, with TLS 5671, unless given. The login is that of `guest`, whom a broker lets
    /// in from its own machine only.
    pub fn new(servers: impl AsRef<str>) -> Self {
        Self {
            servers: servers.as_ref().split(',').map(str::to_owned).collect(),
            vhost: "/".to_owned(),
            login: Login::Password { user: "guest".to_owned(), password: "guest".to_owned() },
            tls: Tls::default(),
            name: "posthaste".to_owned(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            heartbeat: Duration::from_secs(10),
            queue_type: QueueType::default(),
            queue_arguments: Said::new(),
            unrouted_bytes: 64 << 20,
            max_message_bytes: (16 << 20) - (64 << 10),
            bindings: HashMap::new(),
        }
    }

    /// Reads `amqp://user:password@host1,host2:5672/vhost?connect_timeout=3s`. With `amqps://` the
    /// connection is encrypted. The options are listed in this crate's documentation.
    ///
    /// # Errors
    /// `Invalid` names the part that is wrong, and never shows the login.
    pub fn from_url(url: &str) -> Result<Self> {
        address::read(url)
    }

    /// Another server of the same cluster.
    pub fn server(mut self, server: impl Into<String>) -> Self {
        self.servers.push(server.into());
        self
    }

    /// The virtual host, at most 36 bytes. Default: `/`.
    pub fn vhost(mut self, vhost: impl Into<String>) -> Self {
        self.vhost = vhost.into();
        self
    }

    /// Login by user and password.
    pub fn login(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.login = Login::Password { user: user.into(), password: password.into() };
        self
    }

    /// Login by the client certificate: the mechanism `EXTERNAL`, a plugin of the broker.
    pub fn login_by_certificate(mut self) -> Self {
        self.login = Login::External;
        self
    }

    /// Whether the connection is encrypted. Default: not.
    pub fn tls(mut self, required: bool) -> Self {
        self.tls.required = required;
        self
    }

    /// Trusts the certificates of this PEM file besides the system's roots. Implies TLS.
    pub fn tls_ca(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls.required = true;
        self.tls.ca = Some(path.into());
        self
    }

    /// Shows this certificate to the broker, both files in PEM. Implies TLS.
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

    /// What the connections are called in the broker's monitoring. Default: `posthaste`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How long connecting may take, login included. Default: 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long an answer of the broker may take, the confirmation of a publish included. From
    /// 1 s to 5 minutes. Default: 10 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How often both sides show that they are there; a connection is given up when nothing was
    /// heard for twice that time. Whole seconds, at least 1. Default: 10 s.
    pub fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = interval;
        self
    }

    /// What kind of queue new groups get. Default: [`QueueType::Quorum`].
    pub fn queue_type(mut self, kind: QueueType) -> Self {
        self.queue_type = kind;
        self
    }

    /// An argument that the queues of new groups are declared with, besides those that the promises
    /// rest on. What operators may want to change later belongs into a policy instead: arguments
    /// cannot be changed, and a group that has others is a
    /// [`Conflict`](posthaste_core::ErrorKind::Conflict) that names the argument.
    ///
    /// With `x-message-ttl`, a message that waits longer for its group becomes a dead letter with
    /// the reason [`Expired`](posthaste_core::Reason::Expired), also one that nobody failed; no
    /// queue has one unless it is said here. `x-max-priority` is for
    /// [classic](QueueType::Classic) queues.
    ///
    /// ```
    /// use posthaste_rabbitmq::RabbitmqConfig;
    /// let config = RabbitmqConfig::new("localhost")
    ///     .queue_argument("x-max-length", 100_000)
    ///     .queue_argument("x-queue-leader-locator", "balanced");
    /// ```
    pub fn queue_argument(
        mut self,
        name: impl Into<String>,
        value: impl Into<QueueArgument>,
    ) -> Self {
        self.queue_arguments.insert(name.into(), value.into());
        self
    }

    /// How many bytes of messages are kept for the first group of a topic that has none. Beyond
    /// that a publish is `Backpressure`. Default: 64 MiB.
    pub fn unrouted_bytes(mut self, bytes: u64) -> Self {
        self.unrouted_bytes = bytes;
        self
    }

    /// The largest message that is sent. At most what the broker is set to (`max_message_size`,
    /// 16 MiB unless changed). Default: 16 MiB less 64 KiB.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// Uses an existing exchange for a topic, instead of one of the default name. The topic is the
    /// name the application uses.
    pub fn bind(mut self, topic: impl Into<String>, binding: Binding) -> Self {
        self.bindings.insert(topic.into(), binding);
        self
    }

    /// Checks names and numbers.
    pub(crate) fn check(&self) -> Result<HashMap<TopicName, Binding>> {
        if self.servers.is_empty() {
            return Err(Error::invalid("at least one server must be named"));
        }
        for server in &self.servers {
            address::check_server(server)?;
        }
        let wrong =
            |option: &'static str, why| Err(Error::invalid(why).with_context("option", option));
        if self.connect_timeout.is_zero() {
            return wrong("connect_timeout", "the option must be greater than zero");
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(300)).contains(&self.request_timeout) {
            return wrong("request_timeout", "the option must be from 1 s to 5 m");
        }
        if !(1..=3_600).contains(&self.heartbeat.as_secs()) || self.heartbeat.subsec_nanos() != 0 {
            return wrong("heartbeat", "the option must be whole seconds, at least 1");
        }
        if self.unrouted_bytes == 0 {
            return wrong("unrouted_bytes", "the option must be greater than zero");
        }
        if !(4_096..=512 << 20).contains(&self.max_message_bytes) {
            return wrong("max_message_bytes", "the option must be from 4 KiB to 512 MiB");
        }
        let texts = [("vhost", &*self.vhost), ("name", &*self.name)];
        for (option, text) in texts {
            if text.is_empty() || text.len() > 255 || text.contains(char::is_control) {
                let why = "the option must be 1 to 255 bytes of text without control characters";
                return wrong(option, why);
            }
        }
        if self.vhost.len() > names::VHOST {
            return wrong("vhost", "the option must be at most 36 bytes: answers would be cut");
        }
        if let Login::Password { user, .. } = &self.login
            && user.is_empty()
        {
            return wrong("user", "the option must not be empty");
        }
        if self.login == Login::External && self.tls.certificate.is_none() {
            return wrong("auth", "a login by certificate needs the options cert and key");
        }
        if self.tls.certificate.is_some() != self.tls.key.is_some() {
            return Err(Error::invalid("a client certificate needs its key, and the reverse"));
        }
        arguments::check(&self.queue_arguments)?;
        let mut bindings = HashMap::with_capacity(self.bindings.len());
        for (topic, binding) in &self.bindings {
            let topic = TopicName::new(topic)?;
            binding.check().map_err(|error| error.with_topic(&topic))?;
            bindings.insert(topic, binding.clone());
        }
        Ok(bindings)
    }
}

impl fmt::Debug for RabbitmqConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RabbitmqConfig")
            .field("servers", &self.servers)
            .field("vhost", &self.vhost)
            .field("login", &self.login)
            .field("tls", &self.tls)
            .field("name", &self.name)
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("heartbeat", &self.heartbeat)
            .field("queue_type", &self.queue_type)
            .field("queue_arguments", &self.queue_arguments)
            .field("unrouted_bytes", &self.unrouted_bytes)
            .field("max_message_bytes", &self.max_message_bytes)
            .field("bindings", &self.bindings)
            .finish()
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { user, .. } => write!(f, "password of {user:?}"),
            Self::External => f.write_str("client certificate"),
        }
    }
}
