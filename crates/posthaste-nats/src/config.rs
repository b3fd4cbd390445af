//! What a connection to NATS shall be.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use posthaste_core::{Error, Result, TopicName};

use crate::Binding;
use crate::address;

/// What a connection to NATS shall be. Names and numbers are checked by
/// [`NatsBroker::connect`](crate::NatsBroker::connect).
///
/// ```
/// use std::time::Duration;
/// use posthaste_nats::NatsConfig;
/// let config = NatsConfig::new("nats.example:4222")
///     .login("orders-service", "secret")
///     .tls_ca("/etc/ssl/our-ca.pem")
///     .connect_timeout(Duration::from_secs(3));
/// assert!(!format!("{config:?}").contains("secret"));
/// ```
#[derive(Clone)]
#[must_use = "a configuration does nothing until `NatsBroker::connect`"]
pub struct NatsConfig {
    pub(crate) servers: Vec<String>,
    pub(crate) login: Login,
    pub(crate) tls: Tls,
    pub(crate) name: Option<String>,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) ping_interval: Duration,
    pub(crate) inbox_prefix: Option<String>,
    pub(crate) domain: Option<String>,
    pub(crate) defaults: Defaults,
    pub(crate) bindings: HashMap<String, Binding>,
}

/// What streams and consumers are created with where a topic does not say it.
#[derive(Debug, Clone)]
pub(crate) struct Defaults {
    pub(crate) storage: Storage,
    pub(crate) replicas: Option<u8>,
    pub(crate) max_age: Duration,
    pub(crate) duplicate_window: Duration,
    pub(crate) max_ack_pending: u32,
}

/// Where streams keep their messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Storage {
    /// In files: messages survive a restart of the server.
    #[default]
    File,
    /// In memory: messages live as long as the server, or as the majority of its replicas.
    Memory,
}

/// How the client shows who it is.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) enum Login {
    #[default]
    None,
    Password {
        user: String,
        password: String,
    },
    Token(String),
    /// The seed itself.
    NKey(String),
    /// A file that holds the seed.
    NKeyFile(PathBuf),
    /// A credentials file: a JWT and a seed.
    Credentials(PathBuf),
}

/// How the connection is encrypted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    pub(crate) required: bool,
    pub(crate) first: bool,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

impl NatsConfig {
    /// A server as `host` or `host:port`; the port is 4222 unless given.
    pub fn new(server: impl Into<String>) -> Self {
        Self {
            servers: vec![server.into()],
            login: Login::None,
            tls: Tls::default(),
            name: None,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(10),
            inbox_prefix: None,
            domain: None,
            defaults: Defaults {
                storage: Storage::File,
                replicas: None,
                max_age: Duration::from_secs(7 * 24 * 3600),
                duplicate_window: Duration::from_secs(120),
                max_ack_pending: 65_536,
            },
            bindings: HashMap::new(),
        }
    }

    /// Reads `nats://user:password@host1,host2:4222/?connect_timeout=3s`. With `tls://` the
    /// connection must be encrypted. A user without password is a token. The options are listed
    /// in this crate's documentation.
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

    /// Login by user and password.
    pub fn login(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.login = Login::Password { user: user.into(), password: password.into() };
        self
    }

    /// Login by token.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.login = Login::Token(token.into());
        self
    }

    /// Login by NKey, from its seed (`SU...`).
    pub fn nkey(mut self, seed: impl Into<String>) -> Self {
        self.login = Login::NKey(seed.into());
        self
    }

    /// Login by NKey, from a file that holds its seed.
    pub fn nkey_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.login = Login::NKeyFile(path.into());
        self
    }

    /// Login by credentials file, which holds a JWT and a seed.
    pub fn credentials(mut self, path: impl Into<PathBuf>) -> Self {
        self.login = Login::Credentials(path.into());
        self
    }

    /// Connects only if the connection is encrypted.
    pub fn tls(mut self) -> Self {
        self.tls.required = true;
        self
    }

    /// Encrypts before the server has said a word, as servers with `handshake_first` want it.
    pub fn tls_first(mut self) -> Self {
        self.tls.required = true;
        self.tls.first = true;
        self
    }

    /// Trusts the certificates of this PEM file instead of the system's roots. Implies TLS.
    pub fn tls_ca(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls.required = true;
        self.tls.ca = Some(path.into());
        self
    }

    /// Shows this certificate to the server, both files in PEM. Implies TLS.
    pub fn tls_certificate(
        mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.tls.required = true;
        self.tls.certificate = Some(certificate.into());
        self.tls.key = Some(key.into());
        self
    }

    /// What the connection is called in the server's monitoring.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// How long connecting may take, login included. Default: 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long an answer of the server may take, that to a publish included. Default: 10 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How often the server is asked whether it is there; the connection is given up when three
    /// answers are missing. Default: 10 s.
    pub fn ping_interval(mut self, interval: Duration) -> Self {
        self.ping_interval = interval;
        self
    }

    /// What subjects for answers begin with instead of `_INBOX`, where permissions ask for it.
    pub fn inbox_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.inbox_prefix = Some(prefix.into());
        self
    }

    /// The JetStream domain, for servers behind a leaf node.
    pub fn domain(mut self, domain: impl Into<String>) -> Self {
        self.domain = Some(domain.into());
        self
    }

    /// Where new streams keep their messages. Default: in files.
    pub fn storage(mut self, storage: Storage) -> Self {
        self.defaults.storage = storage;
        self
    }

    /// How many replicas new streams have where the topic does not say it. Default: 3 in a
    /// cluster, else 1.
    pub fn replicas(mut self, replicas: u8) -> Self {
        self.defaults.replicas = Some(replicas);
        self
    }

    /// How long messages are kept where the topic does not say it. Default: 7 days.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.defaults.max_age = age;
        self
    }

    /// How long message ids are remembered where the topic does not say it. Default: 2 minutes.
    /// The server keeps every id of that time in memory.
    pub fn duplicate_window(mut self, window: Duration) -> Self {
        self.defaults.duplicate_window = window;
        self
    }

    /// How many deliveries a new group may have unsettled over all of its members. Default:
    /// 65,536. Each member is bounded by its own prefetch besides.
    pub fn max_ack_pending(mut self, deliveries: u32) -> Self {
        self.defaults.max_ack_pending = deliveries;
        self
    }

    /// Uses an existing stream for a topic, instead of one of the default name. The topic is the
    /// name the application uses.
    ///
    /// ```
    /// use posthaste_nats::{Binding, NatsConfig};
    /// let config = NatsConfig::new("localhost").bind(
    ///     "orders",
    ///     Binding::stream("LEGACY").subject("legacy.orders").consumer("billing", "BILLING_V1"),
    /// );
    /// ```
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
        let zero = [
            ("connect_timeout", self.connect_timeout.is_zero()),
            ("request_timeout", self.request_timeout.is_zero()),
            ("ping_interval", self.ping_interval.is_zero()),
            ("max_age", self.defaults.max_age.is_zero()),
            ("duplicate_window", self.defaults.duplicate_window.is_zero()),
            ("max_ack_pending", self.defaults.max_ack_pending == 0),
            ("replicas", self.defaults.replicas == Some(0)),
        ];
        if let Some((option, _)) = zero.into_iter().find(|(_, is_zero)| *is_zero) {
            return Err(Error::invalid("the option must be greater than zero")
                .with_context("option", option));
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

impl fmt::Debug for NatsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsConfig")
            .field("servers", &self.servers)
            .field("login", &self.login)
            .field("tls", &self.tls)
            .field("name", &self.name)
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("ping_interval", &self.ping_interval)
            .field("inbox_prefix", &self.inbox_prefix)
            .field("domain", &self.domain)
            .field("defaults", &self.defaults)
            .field("bindings", &self.bindings)
            .finish()
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Password { user, .. } => write!(f, "password of {user:?}"),
            Self::Token(_) => f.write_str("token"),
            Self::NKey(_) => f.write_str("nkey"),
            Self::NKeyFile(path) => write!(f, "nkey in {}", path.display()),
            Self::Credentials(path) => write!(f, "credentials in {}", path.display()),
        }
    }
}
