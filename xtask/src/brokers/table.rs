//! The table of brokers: one entry says everything about one broker at one version.
//!
//! A further broker is a further entry; nothing else in this folder names a broker.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::nats;
use crate::failure::{Result, fail};

/// One broker at one version.
pub(crate) struct Entry {
    /// What it is called on the command line and under `target/brokers`: the name alone for the
    /// version that is tested by default, `name@line` for an older line.
    pub(crate) id: &'static str,
    /// The broker's name, as `POSTHASTE_REQUIRE_BROKERS` and the tests write it.
    pub(crate) name: &'static str,
    /// The full version that is installed and started.
    pub(crate) version: &'static str,
    /// The entry that this one accompanies: `test --only` of that one brings this one up too.
    pub(crate) beside: Option<&'static str>,
    /// Where its program comes from.
    pub(crate) install: Install,
    /// How many loopback ports it needs.
    pub(crate) ports: usize,
    /// Writes its configuration and says how to start it.
    pub(crate) launch: fn(&Site<'_>) -> Result<Launch>,
    /// Asks the server behind a URL whether it is ready, within the given time.
    pub(crate) probe: fn(&str, Duration) -> std::result::Result<Answer, String>,
}

/// How a program gets into the cache folder.
pub(crate) enum Install {
    /// `go install module@vVERSION`; a program of this name and version on the `PATH` does too.
    Go { module: &'static str, program: &'static str },
}

/// What a broker that is to be started may use.
pub(crate) struct Site<'a> {
    /// A folder of its own: data and configuration. What is in it is from an earlier start.
    pub(crate) state: &'a Path,
    /// As many free loopback ports as its entry asks for.
    pub(crate) ports: &'a [u16],
}

/// How to start a broker, and what a client needs to reach it.
pub(crate) struct Launch {
    pub(crate) args: Vec<OsString>,
    pub(crate) url: String,
    /// The user name of a login by password.
    pub(crate) user: Option<String>,
    /// Files for clients: certificates, keys, passwords, by purpose.
    pub(crate) files: BTreeMap<String, PathBuf>,
}

/// What a server that is ready said about itself.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) version: String,
}

const NATS: Install =
    Install::Go { module: "github.com/nats-io/nats-server/v2", program: "nats-server" };

/// Every broker that can be brought up.
pub(crate) const TABLE: &[Entry] = &[
    Entry {
        id: "nats",
        name: "nats",
        version: "2.15.2",
        beside: None,
        install: NATS,
        ports: 1,
        launch: nats::open,
        probe: nats::probe,
    },
    Entry {
        // The line of Debian 12, the oldest one we promise to work with.
        id: "nats@2.9",
        name: "nats",
        version: "2.9.10",
        beside: None,
        install: NATS,
        ports: 1,
        launch: nats::open,
        probe: nats::probe,
    },
    Entry {
        id: "nats-tls",
        name: "nats-tls",
        version: "2.15.2",
        beside: Some("nats"),
        install: NATS,
        ports: 1,
        launch: nats::with_tls,
        probe: nats::probe,
    },
    Entry {
        id: "nats-creds",
        name: "nats-creds",
        version: "2.15.2",
        beside: Some("nats"),
        install: NATS,
        ports: 1,
        launch: nats::with_credentials,
        probe: nats::probe,
    },
    Entry {
        id: "nats-token",
        name: "nats-token",
        version: "2.15.2",
        beside: Some("nats"),
        install: NATS,
        ports: 1,
        launch: nats::with_token,
        probe: nats::probe,
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
fn is_line_of(line: &str, version: &str) -> bool {
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
            assert!(entry.beside.is_none_or(|beside| find(beside).is_ok()), "{}", entry.id);
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
        assert!(id("nats@2.1").unwrap_err().contains("nats@2.9"));
        assert!(id("kafak").is_err());
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
