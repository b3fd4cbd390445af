//! What a connection to Kafka shall be.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use posthaste_core::{Error, Layout, Result};

use crate::binding::{Binding, Bindings};
use crate::error::BROKER;
use crate::oauth::{OauthToken, Source};
use crate::{address, properties};

/// What a connection to Kafka shall be. Names and numbers are checked when it is connected.
///
/// ```
/// use std::time::Duration;
/// use posthaste_kafka::{KafkaConfig, Sasl};
/// let config = KafkaConfig::new("kafka1.example,kafka2.example:9093")
///     .login("orders-service", "secret")
///     .sasl(Sasl::ScramSha512)
///     .tls_ca("/etc/ssl/our-ca.pem")
///     .connect_timeout(Duration::from_secs(3));
/// assert!(!format!("{config:?}").contains("secret"));
/// ```
#[derive(Clone)]
#[must_use = "a configuration does nothing until it is connected"]
pub struct KafkaConfig {
    pub(crate) servers: Vec<String>,
    pub(crate) login: Option<Login>,
    pub(crate) sasl: Option<Sasl>,
    pub(crate) oauth: Option<Source>,
    pub(crate) tls: Tls,
    pub(crate) client_id: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) linger: Duration,
    pub(crate) compression: Compression,
    pub(crate) replicas: Option<u8>,
    pub(crate) partitions: Option<u16>,
    pub(crate) group_protocol: GroupProtocol,
    pub(crate) instance_id: Option<String>,
    pub(crate) rack: Option<String>,
    pub(crate) properties: Vec<(String, String)>,
    bindings: HashMap<String, Binding>,
}

/// How a login by user and password is shown to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Sasl {
    /// As it is: only over TLS, or in a network that nobody else hears.
    #[default]
    Plain,
    /// By a challenge, with SHA-256. Needs the feature `ssl`.
    ScramSha256,
    /// By a challenge, with SHA-512. Needs the feature `ssl`.
    ScramSha512,
}

/// How batches are compressed before they are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    None,
    /// Small, and slow.
    Gzip,
    /// Fast.
    #[default]
    Lz4,
    /// Fast.
    Snappy,
    /// Small, and fast. Needs the feature `zstd`.
    Zstd,
}

/// How the members of a group agree on who has which partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum GroupProtocol {
    /// One of the members decides. All brokers know it.
    #[default]
    Classic,
    /// The broker decides (KIP-848), which is quicker in large groups. Brokers from 4.0 on.
    Consumer,
}

/// A user and the password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: String,
}

/// How the connection is encrypted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    pub(crate) required: bool,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

impl KafkaConfig {
    /// One or several servers of a cluster, as `host` or `host:port` with commas between them. The
    /// port is 9092 unless given. The others of the cluster are found by asking one of these.
    pub fn new(servers: impl AsRef<str>) -> Self {
        Self {
            servers: servers.as_ref().split(',').map(str::to_owned).collect(),
            login: None,
            sasl: None,
            oauth: None,
            tls: Tls::default(),
            client_id: "posthaste".to_owned(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            linger: Duration::ZERO,
            compression: Compression::default(),
            replicas: None,
            partitions: None,
            group_protocol: GroupProtocol::default(),
            instance_id: None,
            rack: None,
            properties: Vec::new(),
            bindings: HashMap::new(),
        }
    }

    /// Reads `kafka://user:password@host1,host2:9093/?connect_timeout=3s`. With `kafkas://` the
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

    /// Login by user and password. How they are shown, [`sasl`](Self::sasl) says.
    pub fn login(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.login = Some(Login { user: user.into(), password: password.into() });
        self
    }

    /// How the login is shown to the broker. Default: [`Sasl::Plain`].
    pub fn sasl(mut self, mechanism: Sasl) -> Self {
        self.sasl = Some(mechanism);
        self
    }

    /// Login by a token (OAUTHBEARER) that this callback gives, instead of user and password. It is
    /// called on threads of the clients, for each of them when it is made, and again before its
    /// token expires; while it waits for the issuer, that client does nothing else. What it fails
    /// with is shown, so that must hold no secret. Needs the feature `ssl`.
    ///
    /// ```
    /// use posthaste_core::Timestamp;
    /// use posthaste_kafka::{KafkaConfig, OauthToken};
    /// # fn ask_the_issuer() -> Result<(String, Timestamp), std::io::Error> { unimplemented!() }
    /// let config = KafkaConfig::new("kafka.example:9093").tls(true).oauth_bearer(|| {
    ///     let (token, expires_at) = ask_the_issuer()?;
    ///     Ok::<_, std::io::Error>(OauthToken::new(token, "orders-service", expires_at))
    /// });
    /// ```
    pub fn oauth_bearer<E>(
        mut self,
        source: impl Fn() -> Result<OauthToken, E> + Send + Sync + 'static,
    ) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.oauth = Some(Source::new(source));
        self
    }

    /// Whether the connection is encrypted. Needs the feature `ssl`. Default: not.
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

    /// What this client is called in the broker's logs and quotas. Default: `posthaste`.
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.client_id = id.into();
        self
    }

    /// How long connecting may take, login included. Default: 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long an answer of the broker may take, that to a publish included. From 1 s to 5
    /// minutes. Default: 10 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How long a message waits for others to travel with. Default: not at all, because messages
    /// that are published together travel together anyway.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// How batches are compressed. Default: [`Compression::Lz4`].
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// How many replicas new topics have where the topic does not say it. Default: what the broker
    /// is set to.
    pub fn replicas(mut self, replicas: u8) -> Self {
        self.replicas = Some(replicas);
        self
    }

    /// How many partitions new plain topics and queues have, at most 1024. Default: what the broker
    /// is set to, and six where that is one. No more members of a group have work than a topic has
    /// partitions.
    pub fn partitions(mut self, partitions: u16) -> Self {
        self.partitions = Some(partitions);
        self
    }

    /// How the members of a group divide the partitions. It is the same for all members of a
    /// group. Default: [`GroupProtocol::Classic`].
    pub fn group_protocol(mut self, protocol: GroupProtocol) -> Self {
        self.group_protocol = protocol;
        self
    }

    /// What this process is called in its groups. It keeps its partitions over a restart that is
    /// shorter than the lease. No other member of a group may have the same id.
    pub fn instance_id(mut self, id: impl Into<String>) -> Self {
        self.instance_id = Some(id.into());
        self
    }

    /// Where this process is, so that it reads from a replica near to it.
    pub fn rack(mut self, rack: impl Into<String>) -> Self {
        self.rack = Some(rack.into());
        self
    }

    /// A property of librdkafka that has no option here. It wins over what this library would set.
    /// One that would break a promise is refused when connecting, with the reason.
    ///
    /// ```
    /// use posthaste_kafka::KafkaConfig;
    /// let config = KafkaConfig::new("localhost").property("message.max.bytes", "4000000");
    /// ```
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.push((name.into(), value.into()));
        self
    }

    /// Uses an existing Kafka topic for a topic, instead of one of the default name. The topic is
    /// the name the application uses.
    ///
    /// ```
    /// use posthaste_kafka::{Binding, KafkaConfig};
    /// let config = KafkaConfig::new("localhost").bind(
    ///     "orders",
    ///     Binding::topic("Legacy.Orders").group("billing", "billing-consumer-v3"),
    /// );
    /// ```
    pub fn bind(mut self, topic: impl Into<String>, binding: Binding) -> Self {
        self.bindings.insert(topic.into(), binding);
        self
    }

    /// Checks names and numbers.
    pub(crate) fn check(&self) -> Result<()> {
        self.check_parts().map_err(|error| error.with_broker(BROKER))?;
        self.bindings()?;
        properties::check(self)
    }

    /// What is bound.
    ///
    /// # Errors
    /// `Invalid` for names.
    pub(crate) fn bindings(&self) -> Result<Bindings> {
        Bindings::new(&self.bindings).map_err(|error| error.with_broker(BROKER))
    }

    fn check_parts(&self) -> Result<()> {
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
        if self.linger >= self.request_timeout {
            return wrong("linger", "the option must be less than the request timeout");
        }
        if self.partitions.is_some_and(|count| !(1..=Layout::MAX_PARTITIONS).contains(&count)) {
            return wrong("partitions", "the option must be from 1 to 1024");
        }
        if self.replicas == Some(0) {
            return wrong("replicas", "the option must be greater than zero");
        }
        let texts = [
            ("client_id", Some(&self.client_id)),
            ("instance_id", self.instance_id.as_ref()),
            ("rack", self.rack.as_ref()),
            ("user", self.login.as_ref().map(|login| &login.user)),
            ("password", self.login.as_ref().map(|login| &login.password)),
        ];
        for (option, text) in texts {
            if text.is_some_and(|text| text.is_empty() || text.contains(char::is_control)) {
                return wrong(option, "the option must be text without control characters");
            }
        }
        if self.sasl.is_some() && self.login.is_none() {
            return wrong("sasl", "the option needs a login by user and password");
        }
        if self.oauth.is_some() && self.login.is_some() {
            return wrong("oauth_bearer", "there is a login by user and password already");
        }
        if self.tls.certificate.is_some() != self.tls.key.is_some() {
            return Err(Error::invalid("a client certificate needs its key, and the reverse"));
        }
        if !self.tls.required && self.tls != Tls::default() {
            return wrong("tls", "certificates are of no use without TLS");
        }
        self.check_build()
    }

    /// What this build has no code for is told here, because the client tells it late or not.
    fn check_build(&self) -> Result<()> {
        let scram = matches!(self.sasl, Some(Sasl::ScramSha256 | Sasl::ScramSha512));
        let missing = if cfg!(not(feature = "ssl")) && self.tls.required {
            ("TLS", "ssl")
        } else if cfg!(not(feature = "ssl")) && (scram || self.oauth.is_some()) {
            ("this login", "ssl")
        } else if cfg!(not(feature = "zstd")) && self.compression == Compression::Zstd {
            ("this compression", "zstd")
        } else {
            return Ok(());
        };
        let (what, feature) = missing;
        Err(Error::unsupported(format!("{what} is not part of this build"))
            .with_context("feature of posthaste-kafka", feature))
    }
}

impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values of properties may be secrets.
        let properties: Vec<_> = self.properties.iter().map(|(name, _)| name).collect();
        f.debug_struct("KafkaConfig")
            .field("servers", &self.servers)
            .field("login", &self.login)
            .field("sasl", &self.sasl)
            .field("oauth", &self.oauth)
            .field("tls", &self.tls)
            .field("client_id", &self.client_id)
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("linger", &self.linger)
            .field("compression", &self.compression)
            .field("replicas", &self.replicas)
            .field("partitions", &self.partitions)
            .field("group_protocol", &self.group_protocol)
            .field("instance_id", &self.instance_id)
            .field("rack", &self.rack)
            .field("properties", &properties)
            .field("bindings", &self.bindings)
            .finish()
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "password of {:?}", self.user)
    }
}

#[cfg(test)]
mod tests {
    use posthaste_core::ErrorKind;

    use super::*;

    #[test]
    fn what_this_build_cannot_do_names_the_feature() {
        let config = || KafkaConfig::new("h").login("u", "SECRET");
        let token = || Err::<OauthToken, _>("not asked for");
        let cases = [
            (KafkaConfig::new("h").oauth_bearer(token), "ssl", cfg!(feature = "ssl")),
            (config().tls(true), "ssl", cfg!(feature = "ssl")),
            (config().sasl(Sasl::ScramSha256), "ssl", cfg!(feature = "ssl")),
            (config().sasl(Sasl::ScramSha512), "ssl", cfg!(feature = "ssl")),
            (config().compression(Compression::Zstd), "zstd", cfg!(feature = "zstd")),
        ];
        for (config, feature, built) in cases {
            match config.check() {
                Ok(()) => assert!(built, "{config:?}"),
                Err(error) => {
                    assert!(!built, "{error}");
                    assert_eq!(error.kind(), ErrorKind::Unsupported);
                    assert!(error.to_string().contains(&format!("kafka: {feature})")), "{error}");
                }
            }
        }
    }

    #[test]
    fn refuses_what_does_not_go_together() {
        let new = || KafkaConfig::new("h");
        let token = || Err::<OauthToken, _>("not asked for");
        let mut no_server = new();
        no_server.servers.clear();
        for (config, names) in [
            (no_server, "server"),
            (new().server("a b"), "a b"),
            (KafkaConfig::new("h1, h2"), "host"),
            (new().sasl(Sasl::Plain), "sasl"),
            (new().login("u", "p").oauth_bearer(token), "oauth_bearer"),
            (new().login("", "p"), "user"),
            (new().login("u", ""), "password"),
            (new().client_id(""), "client_id"),
            (new().instance_id("a\nb"), "instance_id"),
            (new().rack(""), "rack"),
            (new().replicas(0), "replicas"),
            (new().partitions(0), "partitions"),
            (new().partitions(1_025), "partitions"),
            (new().connect_timeout(Duration::ZERO), "connect_timeout"),
            (new().request_timeout(Duration::ZERO), "request_timeout"),
            (new().request_timeout(Duration::MAX), "request_timeout"),
            (new().linger(Duration::from_secs(10)), "linger"),
            (new().tls_ca("ca.pem").tls(false), "tls"),
            (new().bind("a b", Binding::topic("o")), "a b"),
            (new().bind("orders", Binding::topic("a/b")), "a/b"),
        ] {
            let error = config.check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{config:?}: {error}");
            assert_eq!(error.broker(), Some(BROKER));
            assert!(error.to_string().contains(names), "{config:?}: {error}");
        }
    }
}
