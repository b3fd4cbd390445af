//! The table of brokers: one entry says everything about one broker at one version.
//!
//! A further broker is a further entry; nothing else in this folder names a broker.

use std::time::Duration;

use super::install::Install;
use super::launch::{Answer, Launch, Site};
use super::probe::{Probed, Target};
use super::{kafka, nats, postgres, rabbitmq, redis, sns, sqs};
use crate::failure::{Result, fail};

/// One broker at one version.
pub(crate) struct Entry {
    /// What it is called on the command line and under `target/brokers`: the name alone for the
    /// version that is tested by default, `name@line` for an older line.
    pub(crate) id: &'static str,
    /// The broker's name, as `POSTHASTE_REQUIRE_BROKERS` and the tests write it.
    pub(crate) name: &'static str,
    /// The version that is installed and started: whole, or the line of which the source has the
    /// newest.
    pub(crate) version: &'static str,
    /// The entry that this one accompanies: `test --only` of that one brings this one up too.
    pub(crate) beside: Option<&'static str>,
    /// Whether `cargo xtask test` brings it up. The others have no adapter that could be tested.
    pub(crate) in_suite: bool,
    /// Whether it does so only for `--only`: an older line of a broker that takes long, or one with a
    /// finding that is known and still open.
    pub(crate) only_asked: bool,
    /// Whether `cargo xtask faults` can break it, though the suite does not test it: the suite has
    /// the same broker as one server.
    pub(crate) in_faults: bool,
    /// Where its program comes from.
    pub(crate) install: Install,
    /// How many loopback ports it needs.
    pub(crate) ports: usize,
    /// Writes its configuration and says how to start it.
    pub(crate) launch: fn(&Site<'_>) -> Result<Launch>,
    /// Asks the server whether it is ready, within the given time for each answer.
    pub(crate) probe: fn(&Target<'_>, Duration) -> Probed<Answer>,
}

const NATS: Entry = Entry {
    id: "nats",
    name: "nats",
    version: "2.15.2",
    beside: None,
    in_suite: true,
    only_asked: false,
    in_faults: false,
    install: Install::Go { module: "github.com/nats-io/nats-server/v2", program: "nats-server" },
    ports: 1,
    launch: nats::open,
    probe: nats::probe,
};

const KAFKA: Entry = Entry {
    id: "kafka",
    name: "kafka",
    version: "4.2.0",
    beside: None,
    in_suite: true,
    only_asked: false,
    in_faults: false,
    install: Install::Maven {
        name: "kafka-with-tools",
        artifact: "org.apache.kafka:kafka_2.13",
        // Kafka brings no way to write a log of its own. The tests use its own tools, too.
        further: &["org.slf4j:slf4j-simple:1.7.36", "org.apache.kafka:kafka-tools:4.2.0"],
        rehearsal: kafka::open,
    },
    ports: 3,
    launch: kafka::open,
    probe: kafka::probe,
};

const RABBITMQ: Entry = Entry {
    id: "rabbitmq",
    name: "rabbitmq",
    version: "4.0.5",
    beside: None,
    in_suite: true,
    only_asked: true,
    in_faults: false,
    install: Install::Debian { suite: "trixie", package: "rabbitmq-server", further: &[] },
    ports: 4,
    launch: rabbitmq::open,
    probe: rabbitmq::probe,
};

const POSTGRES: Entry = Entry {
    id: "postgres",
    name: "postgres",
    version: "15",
    beside: None,
    in_suite: false,
    only_asked: false,
    in_faults: false,
    install: Install::Debian { suite: "bookworm", package: "postgresql-15", further: &[] },
    ports: 1,
    launch: postgres::open,
    probe: postgres::probe,
};

const REDIS: Entry = Entry {
    id: "redis",
    name: "redis",
    version: "8.0.2",
    beside: None,
    in_suite: true,
    only_asked: true,
    in_faults: false,
    install: Install::Debian { suite: "trixie", package: "redis-server", further: &[] },
    ports: 1,
    launch: redis::open,
    probe: redis::probe,
};

/// Every broker that can be brought up.
pub(crate) const TABLE: &[Entry] = &[
    NATS,
    // The line of Debian 12, the oldest one we promise to work with.
    Entry { id: "nats@2.9", version: "2.9.10", ..NATS },
    Entry {
        id: "nats-tls",
        name: "nats-tls",
        beside: Some("nats"),
        launch: nats::with_tls,
        ..NATS
    },
    Entry {
        id: "nats-creds",
        name: "nats-creds",
        beside: Some("nats"),
        launch: nats::with_credentials,
        ..NATS
    },
    Entry {
        id: "nats-token",
        name: "nats-token",
        beside: Some("nats"),
        launch: nats::with_token,
        ..NATS
    },
    Entry {
        id: "nats3",
        name: "nats3",
        in_suite: false,
        ports: 6,
        launch: nats::three,
        probe: nats::probe_cluster,
        ..NATS
    },
    KAFKA,
    Entry {
        id: "kafka3",
        name: "kafka3",
        in_suite: false,
        only_asked: false,
        in_faults: true,
        ports: 6,
        launch: kafka::three,
        ..KAFKA
    },
    Entry {
        id: "kafka-tls",
        name: "kafka-tls",
        beside: Some("kafka"),
        ports: 3,
        launch: kafka::with_tls,
        ..KAFKA
    },
    RABBITMQ,
    Entry {
        id: "rabbitmq@3.10",
        version: "3.10.8",
        only_asked: true,
        install: Install::Debian { suite: "bookworm", package: "rabbitmq-server", further: &[] },
        ..RABBITMQ
    },
    Entry {
        id: "rabbitmq-tls",
        name: "rabbitmq-tls",
        beside: Some("rabbitmq"),
        launch: rabbitmq::with_tls,
        ..RABBITMQ
    },
    REDIS,
    Entry {
        id: "redis@7.0",
        version: "7.0.15",
        only_asked: true,
        install: Install::Debian { suite: "bookworm", package: "redis-server", further: &[] },
        ..REDIS
    },
    Entry {
        id: "redis-tls",
        name: "redis-tls",
        beside: Some("redis"),
        launch: redis::with_tls,
        ..REDIS
    },
    Entry {
        id: "valkey",
        name: "valkey",
        version: "8.1.1",
        only_asked: true,
        install: Install::Debian { suite: "trixie", package: "valkey-server", further: &[] },
        launch: redis::valkey,
        ..REDIS
    },
    Entry {
        id: "sqs",
        name: "sqs",
        version: "1.7.1",
        beside: None,
        in_suite: false,
        only_asked: false,
        in_faults: false,
        install: Install::Maven {
            name: "elasticmq",
            artifact: "org.elasticmq:elasticmq-server_2.13",
            further: &[],
            rehearsal: sqs::open,
        },
        ports: 1,
        launch: sqs::open,
        probe: sqs::probe,
    },
    Entry {
        id: "sns",
        name: "sns",
        version: "1.9.2",
        beside: None,
        in_suite: false,
        only_asked: false,
        in_faults: false,
        install: Install::Npm { package: "fauxqs" },
        ports: 1,
        launch: sns::open,
        probe: sns::probe,
    },
    POSTGRES,
    Entry {
        id: "postgres-password",
        name: "postgres-password",
        beside: Some("postgres"),
        launch: postgres::with_password,
        ..POSTGRES
    },
];

/// Brokers that need no process of their own, so that they are always there.
pub(crate) const IN_PROCESS: &[&str] = &["memory"];

impl Entry {
    /// The variable that names a server which is already there: `POSTHASTE_NATS_URL`,
    /// `POSTHASTE_NATS_2_9_URL`.
    pub(crate) fn variable(&self) -> String {
        let id: String = self
            .id
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
            .collect();
        format!("POSTHASTE_{id}_URL")
    }
}

/// The entry called `spec`: an id, or `name@version` with a version or the beginning of one.
///
/// # Errors
/// Names what there is, when nothing is called so.
pub(crate) fn find(spec: &str) -> Result<&'static Entry> {
    if let Some(entry) = TABLE.iter().find(|entry| entry.id == spec) {
        return Ok(entry);
    }
    if let Some((name, version)) = spec.split_once('@') {
        let fits = |entry: &&Entry| entry.name == name && is_line_of(version, entry.version);
        if let Some(entry) = TABLE.iter().find(fits) {
            return Ok(entry);
        }
    }
    let known: Vec<&str> = TABLE.iter().map(|entry| entry.id).collect();
    fail(format!("there is no broker `{spec}`; there are: {}", known.join(", ")))
}

/// The entry called `spec`, if there is an adapter to test with it; none for a broker in the
/// process.
///
/// # Errors
/// Names what can be tested.
pub(crate) fn testable(spec: &str) -> Result<Option<&'static Entry>> {
    if IN_PROCESS.contains(&spec) {
        return Ok(None);
    }
    let why = match find(spec) {
        Ok(entry) if entry.in_suite => return Ok(Some(entry)),
        Ok(entry) => format!("{} has no adapter yet", entry.id),
        Err(_) => format!("there is no broker `{spec}`"),
    };
    let ids = TABLE.iter().filter(|entry| entry.in_suite).map(|entry| entry.id);
    let ids: Vec<&str> = IN_PROCESS.iter().copied().chain(ids).collect();
    fail(format!("{why}; those that can be tested are: {}", ids.join(", ")))
}

/// The entry called `spec`, if there is an adapter to break it under; none for a broker in the
/// process.
///
/// # Errors
/// Names what can be broken.
pub(crate) fn breakable(spec: &str) -> Result<Option<&'static Entry>> {
    match find(spec) {
        Ok(entry) if entry.in_faults => Ok(Some(entry)),
        _ => testable(spec),
    }
}

/// The entries called `specs`, each once; all of the table when there is no spec.
pub(crate) fn select(specs: &[String]) -> Result<Vec<&'static Entry>> {
    if specs.is_empty() {
        return Ok(TABLE.iter().collect());
    }
    let mut chosen: Vec<&'static Entry> = Vec::new();
    for spec in specs {
        let entry = find(spec)?;
        if !chosen.iter().any(|other| other.id == entry.id) {
            chosen.push(entry);
        }
    }
    Ok(chosen)
}

/// Whether `line` is `version` or its first numbers: `2.9` of `2.9.10`, but not `2.1` of `2.15.2`.
pub(crate) fn is_line_of(line: &str, version: &str) -> bool {
    version.strip_prefix(line).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_variables_are_unique() {
        for (i, entry) in TABLE.iter().enumerate() {
            for other in &TABLE[i + 1..] {
                assert_ne!(entry.id, other.id);
                assert_ne!(entry.variable(), other.variable());
            }
            assert!(!IN_PROCESS.contains(&entry.name));
            let beside = entry.beside.map(|beside| find(beside).unwrap());
            assert!(beside.is_none_or(|it| it.in_suite == entry.in_suite), "{}", entry.id);
        }
    }

    #[test]
    fn a_broker_is_found_by_id_version_or_line() {
        let id = |spec: &str| find(spec).map(|entry| entry.id).map_err(|e| e.to_string());
        assert_eq!(id("nats").as_deref(), Ok("nats"));
        assert_eq!(id("nats@2.15.2").as_deref(), Ok("nats"));
        assert_eq!(id("nats@2.15").as_deref(), Ok("nats"));
        assert_eq!(id("nats@2.9").as_deref(), Ok("nats@2.9"));
        assert_eq!(id("nats@2.9.10").as_deref(), Ok("nats@2.9"));
        assert_eq!(id("rabbitmq@3").as_deref(), Ok("rabbitmq@3.10"));
        assert!(id("nats@2.1").unwrap_err().contains("nats@2.9"));
        assert!(id("kafak").is_err());
    }

    #[test]
    fn what_can_be_tested_has_an_adapter() {
        assert_eq!(breakable("kafka3").unwrap().unwrap().id, "kafka3");
        assert_eq!(breakable("kafka").unwrap().unwrap().id, "kafka");
        assert!(breakable("sqs").is_err() && testable("kafka3").is_err());
        assert!(testable("memory").unwrap().is_none());
        assert_eq!(testable("nats@2.9").unwrap().unwrap().id, "nats@2.9");
        let no_adapter = TABLE.iter().filter(|entry| !entry.in_suite).map(|entry| entry.id);
        for spec in no_adapter.chain(["nats@1", "kafak"]) {
            let why = testable(spec).err().map(|failure| failure.to_string());
            assert!(why.is_some_and(|why| why.contains("memory, nats")), "{spec}");
        }
    }

    #[test]
    fn a_selection_names_each_broker_once() {
        let specs = ["nats@2.15", "nats", "nats@2.9"].map(str::to_owned);
        let ids: Vec<&str> = select(&specs).unwrap().iter().map(|entry| entry.id).collect();
        assert_eq!(ids, ["nats", "nats@2.9"]);
        assert_eq!(select(&[]).unwrap().len(), TABLE.len());
    }

    #[test]
    fn the_variable_is_made_of_the_id() {
        assert_eq!(find("nats").unwrap().variable(), "POSTHASTE_NATS_URL");
        assert_eq!(find("nats@2.9").unwrap().variable(), "POSTHASTE_NATS_2_9_URL");
        assert_eq!(find("nats-tls").unwrap().variable(), "POSTHASTE_NATS_TLS_URL");
    }
}
