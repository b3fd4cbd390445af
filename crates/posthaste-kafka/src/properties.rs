//! From a configuration to the properties of the client.
//!
//! Some of them are what the promises of this library rest on; the application cannot change those.

use std::time::Duration;

use posthaste_core::{Error, Result};
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use crate::config::{Compression, GroupProtocol, KafkaConfig, Sasl};
use crate::error::{self, BROKER};

/// What a client is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role<'a> {
    /// It publishes.
    Producer,
    /// It reads for the group of this id.
    Consumer(&'a str),
    /// It asks, and changes topics and groups.
    Admin,
}

/// What a consumer's client reads ahead, in bytes.
pub(crate) const READ_AHEAD: usize = 16 << 20;

/// Properties that cannot be set, and why.
const REFUSED: [(&[&str], &str); 21] = [
    (
        &["acks", "request.required.acks"],
        "a publish is confirmed when all replicas in sync have it",
    ),
    (
        &[
            "enable.idempotence",
            "enable.gapless.guarantee",
            "max.in.flight",
            "max.in.flight.requests.per.connection",
            "retries",
            "message.send.max.retries",
            "queuing.strategy",
            "msg_order_cmp",
        ],
        "what the client sends again is stored once, and in order",
    ),
    (
        &[
            "enable.auto.commit",
            "auto.commit.enable",
            "auto.commit.interval.ms",
            "enable.auto.offset.store",
            "offset.store.method",
            "offset.store.path",
            "offset.store.sync.interval.ms",
        ],
        "only what was settled is committed",
    ),
    (&["auto.offset.reset"], "the start of a group decides, and a lost offset is reported"),
    (
        &["partitioner", "partitioner_cb"],
        "messages of one key go to one partition, the same for all producers",
    ),
    (&["isolation.level"], "what a transaction took back is not delivered"),
    (&["group.id", "group.protocol.type"], "the group is named by the subscription"),
    (
        &["partition.assignment.strategy", "group.protocol"],
        "members hand over only what they must; use the option group_protocol",
    ),
    (&["group.instance.id"], "use the option instance_id"),
    (&["transactional.id", "transaction.timeout.ms"], "each message is confirmed by itself"),
    (&["bootstrap.servers", "metadata.broker.list"], "servers are options of their own"),
    (
        &["message.timeout.ms", "delivery.timeout.ms", "request.timeout.ms"],
        "a publish ends by its deadline; use the option request_timeout",
    ),
    (&["socket.connection.setup.timeout.ms"], "use the option connect_timeout"),
    (&["linger.ms", "queue.buffering.max.ms"], "use the option linger"),
    (&["compression.type", "compression.codec"], "use the option compression"),
    (&["client.id"], "use the option client_id"),
    (&["client.rack"], "use the option rack"),
    (
        &[
            "security.protocol",
            "sasl.username",
            "sasl.password",
            "ssl.ca.location",
            "ssl.certificate.location",
            "ssl.key.location",
        ],
        "use the options for TLS and the login",
    ),
    (
        &["queue.buffering.max.messages", "queue.buffering.max.kbytes"],
        "the window of the publishers bounds what waits",
    ),
    (&["allow.auto.create.topics"], "a topic is never created by accident"),
    (
        &[
            "delivery.report.only.error",
            "enable.partition.eof",
            "enabled_events",
            "log.queue",
            "log_level",
        ],
        "this library reads what the client reports, and nobody else does",
    ),
];

impl KafkaConfig {
    /// What a client is made with. Properties of the application win; [`check`] has refused those
    /// that must not.
    pub(crate) fn client(&self, role: Role<'_>) -> ClientConfig {
        let mut client = ClientConfig::new();
        // A broker that hangs up is told at this level, and with it what may be wrong.
        client.set_log_level(RDKafkaLogLevel::Info);
        self.connection(&mut client);
        match role {
            Role::Producer => self.producer(&mut client),
            Role::Consumer(group) => self.consumer(&mut client, group),
            Role::Admin => {}
        }
        for (name, value) in &self.properties {
            if concerns(name, role) {
                client.set(name, value);
            }
        }
        client
    }

    /// The largest message that the client sends, with its key, headers and frame. Topics have a
    /// limit of their own, which the broker tells by refusing.
    pub(crate) fn max_message_bytes(&self) -> usize {
        let set = self.properties.iter().rev().find(|(name, _)| name == "message.max.bytes");
        set.and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(1_000_000)
    }

    /// How the broker is reached.
    fn connection(&self, client: &mut ClientConfig) {
        client.set("bootstrap.servers", self.servers.join(","));
        client.set("client.id", &self.client_id);
        client.set("socket.connection.setup.timeout.ms", millis(self.connect_timeout, 1_000));
        // A request without an answer ends the connection, which is how a network that swallows
        // everything is noticed. A fetch waits 500 ms at the broker and needs a second more.
        client.set("socket.timeout.ms", millis(self.request_timeout, 2_000).as_str());
        client.set("socket.keepalive.enable", "true");
        // Ten seconds by default: a restarted broker is to be found at once.
        client.set("reconnect.backoff.ms", "100");
        client.set("reconnect.backoff.max.ms", "1000");
        // New partitions and moved leaders are noticed within half a minute also while nothing is
        // sent or read.
        client.set("topic.metadata.refresh.interval.ms", "30000");
        // For so long a topic that the broker does not know is taken for one that is just being
        // created. Less than a publish takes, so that it ends with `NotFound` and not in doubt.
        client.set("topic.metadata.propagation.max.ms", "5000");
        client.set("allow.auto.create.topics", "false");
        // The broker may ask clients for their measurements; the application did not.
        client.set("enable.metrics.push", "false");
        if let Some(rack) = &self.rack {
            client.set("client.rack", rack);
        }
        self.security(client);
    }

    fn security(&self, client: &mut ClientConfig) {
        // Logins that have no option here, as Kerberos, are set by properties.
        let other =
            |(name, _): &(String, String)| name == "sasl.mechanism" || name == "sasl.mechanisms";
        let login =
            self.login.is_some() || self.oauth.is_some() || self.properties.iter().any(other);
        let protocol = match (self.tls.required, login) {
            (false, false) => "plaintext",
            (true, false) => "ssl",
            (false, true) => "sasl_plaintext",
            (true, true) => "sasl_ssl",
        };
        client.set("security.protocol", protocol);
        if let Some(login) = &self.login {
            let mechanism = match self.sasl.unwrap_or_default() {
                Sasl::Plain => "PLAIN",
                Sasl::ScramSha256 => "SCRAM-SHA-256",
                Sasl::ScramSha512 => "SCRAM-SHA-512",
            };
            client.set("sasl.mechanisms", mechanism);
            client.set("sasl.username", &login.user);
            client.set("sasl.password", &login.password);
        }
        if self.oauth.is_some() {
            client.set("sasl.mechanisms", "OAUTHBEARER");
        }
        let files = [
            ("ssl.ca.location", &self.tls.ca),
            ("ssl.certificate.location", &self.tls.certificate),
            ("ssl.key.location", &self.tls.key),
        ];
        for (name, path) in files {
            if let Some(path) = path {
                client.set(name, path.to_string_lossy());
            }
        }
    }

    fn producer(&self, client: &mut ClientConfig) {
        client.set("acks", "all");
        client.set("enable.idempotence", "true");
        client.set("partitioner", "murmur2_random");
        // What has no key is spread over all partitions, also within one burst: it is work that
        // members share. The client would keep to one partition for twice the linger.
        client.set("sticky.partitioning.linger.ms", "0");
        client.set("linger.ms", float_millis(self.linger));
        client.set(
            "compression.type",
            match self.compression {
                Compression::None => "none",
                Compression::Gzip => "gzip",
                Compression::Lz4 => "lz4",
                Compression::Snappy => "snappy",
                Compression::Zstd => "zstd",
            },
        );
        // How long the client tries by itself, and how long a message stays in its queue after
        // nobody waits for it any more. Core sends what is in doubt again with the same id until
        // the deadline of the publish; a longer time here would let the old copy leave after the
        // new one, a shorter one would make doubt of each restart of a broker.
        client.set("message.timeout.ms", millis(self.request_timeout, 1));
        client.set("request.timeout.ms", millis(self.request_timeout, 1));
        // Nets far above the windows of the publishers: 1 GiB by default.
        client.set("queue.buffering.max.messages", "100000");
        client.set("queue.buffering.max.kbytes", "262144");
    }

    fn consumer(&self, client: &mut ClientConfig, group: &str) {
        client.set("group.id", group);
        // Commits carry what is settled beyond the watermark; the client's own do not.
        client.set("enable.auto.commit", "false");
        client.set("enable.auto.offset.store", "false");
        // Starts are given as offsets. An offset that is gone is a loss, which must be seen.
        client.set("auto.offset.reset", "error");
        client.set("isolation.level", "read_committed");
        // As much as a subscription holds by default. What is fetched ahead of that is memory, and
        // lost work when a partition goes to another member.
        client.set("queued.max.messages.kbytes", (READ_AHEAD >> 10).to_string());
        client.set("queued.min.messages", "10000");
        // What comes at once, 50 MB by default, comes on top of that. It has to hold a message.
        client.set("fetch.max.bytes", READ_AHEAD.max(self.max_message_bytes()).to_string());
        // A second by default: for so long a consumer would stand still after its queue was full.
        client.set("fetch.queue.backoff.ms", "20");
        match self.group_protocol {
            GroupProtocol::Classic => {
                client.set("partition.assignment.strategy", "cooperative-sticky");
            }
            GroupProtocol::Consumer => {
                client.set("group.protocol", "consumer");
            }
        }
        if let Some(id) = &self.instance_id {
            client.set("group.instance.id", id);
        }
    }
}

/// Checks properties that the application sets, and whether the client takes all there is.
pub(crate) fn check(config: &KafkaConfig) -> Result<()> {
    for (name, value) in &config.properties {
        refuse(name, why_not(config, name))?;
        by_token(name, value)?;
    }
    for role in [Role::Producer, Role::Consumer("check"), Role::Admin] {
        // Only sets properties: nothing is connected, and no thread started.
        config.client(role).create_native_config().map_err(|native| error::of(&native))?;
    }
    Ok(())
}

/// Logins by tokens come from a callback, and not from properties: nobody would ask for the tokens.
fn by_token(name: &str, value: &str) -> Result<()> {
    let mechanism = matches!(name, "sasl.mechanism" | "sasl.mechanisms");
    let is_asked = name.starts_with("sasl.oauthbearer.")
        || name == "enable.sasl.oauthbearer.unsecure.jwt"
        || (mechanism && value.trim().eq_ignore_ascii_case("OAUTHBEARER"));
    if !is_asked {
        return Ok(());
    }
    let why = "tokens are given by KafkaConfig::oauth_bearer; the client's own way to an issuer \
               (OIDC) is not part of this build";
    Err(Error::unsupported("logins by tokens are not set by properties")
        .with_context("property", name.escape_debug())
        .with_context("because", why)
        .with_broker(BROKER))
}

/// Whether a property is one for such a client. The client would only warn of others, but at each
/// connect, and of what the application has done right.
fn concerns(name: &str, role: Role<'_>) -> bool {
    const CONSUMER: [&str; 10] = [
        "check.crcs",
        "consume.",
        "coordinator.",
        "fetch.",
        "group.",
        "heartbeat.",
        "max.partition.",
        "max.poll.",
        "queued.",
        "session.",
    ];
    const PRODUCER: [&str; 5] =
        ["batch.", "compression.", "produce.", "queue.buffering.", "sticky.partitioning."];
    let one_of = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    match role {
        Role::Producer | Role::Admin => !one_of(&CONSUMER),
        Role::Consumer(_) => !one_of(&PRODUCER),
    }
}

/// Why a property cannot be set, if it cannot.
fn why_not(config: &KafkaConfig, name: &str) -> Option<&'static str> {
    if name.starts_with("plugin.") {
        return Some("a plugin would act between this library and the client");
    }
    let refused = REFUSED.iter().find(|(names, _)| names.contains(&name));
    if let Some((_, why)) = refused {
        return Some(why);
    }
    match name {
        "sasl.mechanism" | "sasl.mechanisms" if config.login.is_some() => {
            Some("the login by user and password has the option sasl")
        }
        "sasl.mechanism" | "sasl.mechanisms" if config.oauth.is_some() => {
            Some("the login is by a token")
        }
        "session.timeout.ms" | "heartbeat.interval.ms"
            if config.group_protocol == GroupProtocol::Consumer =>
        {
            Some("the broker decides on it in this group protocol")
        }
        _ => None,
    }
}

fn refuse(name: &str, why: Option<&'static str>) -> Result<()> {
    match why {
        None => Ok(()),
        Some(why) => Err(Error::invalid("the property cannot be set")
            .with_context("property", name.escape_debug())
            .with_context("because", why)
            .with_broker(BROKER)),
    }
}

/// Whole milliseconds within what the client takes.
fn millis(time: Duration, least: u128) -> String {
    time.as_millis().clamp(least, 300_000).to_string()
}

/// Milliseconds with their fraction.
fn float_millis(time: Duration) -> String {
    let micros = time.as_micros();
    format!("{}.{:03}", micros / 1_000, micros % 1_000)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use posthaste_core::ErrorKind;
    use rdkafka::ClientContext;
    use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
    use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};

    use super::*;

    const ROLES: [Role<'_>; 3] = [Role::Producer, Role::Consumer("g"), Role::Admin];

    fn config() -> KafkaConfig {
        KafkaConfig::new("127.0.0.1:1")
    }

    /// Keeps what a client says about its properties.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<String>>>);

    impl ClientContext for Log {
        fn log(&self, _: RDKafkaLogLevel, facility: &str, text: &str) {
            if facility == "CONFWARN" {
                self.0.lock().unwrap().push(text.to_owned());
            }
        }
        fn error(&self, _: rdkafka::error::KafkaError, _: &str) {}
    }
    impl ConsumerContext for Log {}
    impl ProducerContext for Log {
        type DeliveryOpaque = ();
        fn delivery(&self, _: &rdkafka::message::DeliveryResult<'_>, (): ()) {}
    }

    /// Makes all three clients and gives back what they warn of.
    fn warnings(config: &KafkaConfig) -> Vec<String> {
        config.check().unwrap();
        let log = Log::default();
        for role in [Role::Producer, Role::Admin] {
            let client = config.client(role);
            let producer: BaseProducer<Log> = client.create_with_context(log.clone()).unwrap();
            producer.poll(Duration::from_millis(20));
            assert!(producer.client().fatal_error().is_none());
        }
        let client = config.client(Role::Consumer("g"));
        let consumer: BaseConsumer<Log> = client.create_with_context(log.clone()).unwrap();
        let _ = consumer.poll(Duration::from_millis(20));
        assert!(consumer.client().fatal_error().is_none());
        drop(consumer);
        let said = log.0.lock().unwrap();
        said.clone()
    }

    #[test]
    fn clients_are_made_without_a_warning() {
        let all = config()
            .login("u", "p")
            .linger(Duration::from_micros(1_500))
            .compression(Compression::Gzip)
            .instance_id("pod-7")
            .rack("eu-1a")
            .connect_timeout(Duration::from_millis(1))
            .request_timeout(Duration::from_secs(1))
            .property("session.timeout.ms", "6000")
            .property("fetch.min.bytes", "10")
            .property("batch.size", "500000")
            .property("compression.level", "3")
            .property("message.max.bytes", "4000000");
        let broker =
            config().group_protocol(GroupProtocol::Consumer).connect_timeout(Duration::MAX);
        for config in [config(), all, broker] {
            assert_eq!(warnings(&config), [""; 0], "{config:?}");
        }
    }

    #[test]
    fn properties_are_those_of_the_promises() {
        let config =
            config().server("h2").login("u", "SECRET").request_timeout(Duration::from_secs(7));
        let of = |role, name: &str| config.client(role).get(name).map(str::to_owned);
        let cases = [
            (Role::Producer, "acks", Some("all")),
            (Role::Producer, "enable.idempotence", Some("true")),
            (Role::Producer, "partitioner", Some("murmur2_random")),
            (Role::Producer, "message.timeout.ms", Some("7000")),
            (Role::Producer, "linger.ms", Some("0.000")),
            (Role::Producer, "compression.type", Some("lz4")),
            (Role::Producer, "group.id", None),
            (Role::Consumer("g"), "group.id", Some("g")),
            (Role::Consumer("g"), "enable.auto.commit", Some("false")),
            (Role::Consumer("g"), "enable.auto.offset.store", Some("false")),
            (Role::Consumer("g"), "auto.offset.reset", Some("error")),
            (Role::Consumer("g"), "isolation.level", Some("read_committed")),
            (Role::Consumer("g"), "partition.assignment.strategy", Some("cooperative-sticky")),
            (Role::Consumer("g"), "acks", None),
            (Role::Admin, "acks", None),
            (Role::Admin, "group.id", None),
        ];
        for (role, name, value) in cases {
            assert_eq!(of(role, name).as_deref(), value, "{role:?} {name}");
        }
        for role in ROLES {
            assert_eq!(of(role, "bootstrap.servers").as_deref(), Some("127.0.0.1:1,h2"));
            assert_eq!(of(role, "allow.auto.create.topics").as_deref(), Some("false"));
            assert_eq!(of(role, "security.protocol").as_deref(), Some("sasl_plaintext"));
            assert_eq!(of(role, "sasl.mechanisms").as_deref(), Some("PLAIN"));
            assert_eq!(of(role, "socket.timeout.ms").as_deref(), Some("7000"));
        }
        let tls = KafkaConfig::new("h").tls_identity("c.pem", "k.pem").client(Role::Admin);
        assert_eq!(tls.get("security.protocol"), Some("ssl"));
        assert_eq!(tls.get("ssl.key.location"), Some("k.pem"));
        let kerberos = KafkaConfig::new("h").tls(true).property("sasl.mechanisms", "GSSAPI");
        assert_eq!(kerberos.client(Role::Admin).get("security.protocol"), Some("sasl_ssl"));
    }

    #[test]
    fn what_would_break_a_promise_is_refused_with_the_reason() {
        let names = REFUSED.iter().flat_map(|(names, _)| names.iter()).chain([&"plugin.any"]);
        let mut seen = Vec::new();
        for name in names {
            assert!(!seen.contains(name), "{name} is there twice");
            seen.push(name);
            let error = config().property(*name, "SECRET").check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{name}");
            let text = format!("{error} {error:?}");
            assert!(text.contains(*name) && text.contains("because"), "{text}");
            assert!(!text.contains("SECRET"), "{text}");
        }
        let login = config().login("u", "p").property("sasl.mechanism", "GSSAPI");
        let broker = config().group_protocol(GroupProtocol::Consumer);
        for (config, name) in [
            (login, "sasl.mechanism"),
            (broker.property("session.timeout.ms", "6000"), "session.timeout.ms"),
        ] {
            let error = config.check().unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    /// The list above is complete: whatever else a client is made with, it can be set.
    #[test]
    fn what_this_library_sets_is_refused_or_may_be_set() {
        let free = [
            "enable.metrics.push",
            "fetch.max.bytes",
            "fetch.queue.backoff.ms",
            "queued.max.messages.kbytes",
            "queued.min.messages",
            "reconnect.backoff.max.ms",
            "reconnect.backoff.ms",
            "socket.keepalive.enable",
            "socket.timeout.ms",
            "sticky.partitioning.linger.ms",
            "topic.metadata.propagation.max.ms",
            "topic.metadata.refresh.interval.ms",
        ];
        let full = config()
            .login("u", "p")
            .tls_ca("ca.pem")
            .tls_identity("c.pem", "k.pem")
            .instance_id("i")
            .rack("r");
        let broker = full.clone().group_protocol(GroupProtocol::Consumer);
        for (config, role) in [&full, &broker].into_iter().flat_map(|c| ROLES.map(|role| (c, role)))
        {
            let client = config.client(role);
            for (name, _) in client.config_map() {
                let refused = why_not(config, name).is_some();
                assert_ne!(refused, free.contains(&name), "{name}");
            }
        }
    }

    #[test]
    fn tokens_are_not_asked_for_by_properties() {
        for (name, value) in [
            ("sasl.mechanisms", "OAUTHBEARER"),
            ("sasl.mechanism", "oauthbearer"),
            ("sasl.oauthbearer.method", "oidc"),
            ("sasl.oauthbearer.config", "SECRET"),
            ("enable.sasl.oauthbearer.unsecure.jwt", "true"),
        ] {
            let error = config().property(name, value).check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            let text = error.to_string();
            assert!(text.contains(name) && text.contains("oauth_bearer"), "{text}");
            assert!(!text.contains("SECRET"), "{text}");
        }
    }

    #[test]
    fn a_property_that_the_client_does_not_know_is_refused() {
        for (name, value) in [
            ("no.such.property", "1"),
            ("fetch.min.bytes", "lots"),
            ("message.max.bytes", "1"),
            ("debug", "nothing"),
            ("a\0b", "1"),
            ("debug", "a\0b"),
            ("", "1"),
        ] {
            let error = config().property(name, value).check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{name:?}: {error}");
        }
    }

    #[test]
    fn the_last_limit_for_messages_counts() {
        assert_eq!(config().max_message_bytes(), 1_000_000);
        let set =
            config().property("message.max.bytes", "2000").property("message.max.bytes", "3000");
        assert_eq!(set.max_message_bytes(), 3_000);
        assert_eq!(set.client(Role::Producer).get("message.max.bytes"), Some("3000"));
    }

    #[test]
    fn shows_no_secret() {
        let config = config().login("u", "SECRET").property("ssl.key.password", "SECRET");
        let shown = format!("{config:?}");
        assert!(shown.contains("ssl.key.password") && !shown.contains("SECRET"), "{shown}");
    }
}
