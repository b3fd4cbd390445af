//! Which brokers are there, which are not, and which had to be.

use std::env;
use std::sync::Arc;
use std::time::Duration;

use posthaste_conformance::Harness;
use posthaste_core::{Capabilities, Result};
use tokio::time::Instant;

use crate::{kafka, memory, nats, rabbitmq, redis};

/// A broker that answers, and what it can do.
#[derive(Debug, Clone)]
pub struct Found {
    /// How it is reached, and broken.
    pub harness: Arc<dyn Harness>,
    /// What it can do for topics in general.
    pub can: Arc<Capabilities>,
}

/// A broker that is not there.
#[derive(Debug, Clone)]
pub struct Missing {
    /// What it is called on the command line.
    pub id: String,
    /// Why it is not there.
    pub why: String,
    /// Whether it was named as one that must not be missing.
    pub required: bool,
}

/// What is known here: the id, and how to get a harness.
type Known = (&'static str, fn() -> std::result::Result<Arc<dyn Harness>, String>);

const KNOWN: &[Known] = &[
    ("memory", memory::harness),
    ("nats", || nats::harness("nats")),
    ("nats@2.9", || nats::harness("nats@2.9")),
    ("kafka", || kafka::harness("kafka")),
    ("rabbitmq", || rabbitmq::harness("rabbitmq")),
    ("rabbitmq@3.10", || rabbitmq::harness("rabbitmq@3.10")),
    ("redis", || redis::harness("redis")),
    ("redis@7.0", || redis::harness("redis@7.0")),
    ("valkey", || redis::harness("valkey")),
];

/// What is only broken: the suite has the same broker as one server.
const BROKEN_ONLY: &[Known] = &[("kafka3", || kafka::harness("kafka3"))];

/// Looks for every broker that is asked for.
#[must_use]
pub fn find() -> (Vec<Found>, Vec<Missing>) {
    let only = variable("POSTHASTE_ONLY");
    let required = variable("POSTHASTE_REQUIRE_BROKERS").unwrap_or_default();
    let required: Vec<&str> =
        required.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for (id, harness) in KNOWN {
        if only.as_deref().is_some_and(|only| !is_called(id, only)) {
            continue;
        }
        match harness().and_then(probe) {
            Ok(broker) => found.push(broker),
            Err(why) => missing.push(Missing {
                id: (*id).to_owned(),
                why,
                required: required.iter().any(|name| is_called(id, name)) || only.is_some(),
            }),
        }
    }
    // A name that nothing here has is missing as well.
    let asked = required.iter().copied().chain(only.as_deref());
    for name in asked.filter(|name| !KNOWN.iter().any(|(id, _)| is_called(id, name))) {
        let why = "there is no such broker here".to_owned();
        missing.push(Missing { id: name.to_owned(), why, required: true });
    }
    (found, missing)
}

/// Whether that is a name of this broker: its id, or a longer version of it.
fn is_called(id: &str, name: &str) -> bool {
    let longer = || name.strip_prefix(id).is_some_and(|rest| rest.starts_with('.'));
    id == name || (id.contains('@') && longer())
}

/// Connects once, so that what does not answer is not there.
fn probe(harness: Arc<dyn Harness>) -> std::result::Result<Found, String> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let asked: Result<Arc<Capabilities>> = runtime.block_on(async {
        let broker = harness.connect().await?;
        let can = broker.capabilities(None);
        broker.close(Instant::now() + Duration::from_secs(5)).await?;
        Ok(can)
    });
    runtime.shutdown_background();
    let can = asked.map_err(|error| error.to_string())?;
    Ok(Found { harness, can })
}

/// The broker of that name.
///
/// # Errors
/// Why it is not there, or that there is no such broker.
pub fn one(name: &str) -> std::result::Result<Found, String> {
    let all = || KNOWN.iter().chain(BROKEN_ONLY);
    match all().find(|(id, _)| is_called(id, name)) {
        Some((_, harness)) => harness().and_then(probe),
        None => {
            let known: Vec<&str> = all().map(|(id, _)| *id).collect();
            Err(format!("there is no broker `{name}` here, but {}", known.join(", ")))
        }
    }
}

/// The variable that names a server which is there: `POSTHASTE_NATS_2_9_URL` of `nats@2.9`.
pub(crate) fn url_variable(id: &str) -> String {
    let upper = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("POSTHASTE_{}_URL", id.chars().map(upper).collect::<String>())
}

/// The value of an environment variable; empty counts as unset.
#[must_use]
pub fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}
