//! What `cargo xtask brokers up` left about the brokers that it started.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A broker that was started for development, as far as tests need to know.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: String,
    pub(crate) url: String,
    /// Further URLs, by purpose.
    #[serde(default)]
    pub(crate) urls: BTreeMap<String, String>,
    /// The server, or the first of several: how it was started, for private instances.
    #[serde(flatten)]
    pub(crate) server: Process,
    /// Further servers, and helpers, in the order in which they were started.
    #[serde(default)]
    pub(crate) others: Vec<Process>,
    pub(crate) ports: Vec<u16>,
    /// Its data and configuration.
    pub(crate) state: PathBuf,
    /// The user of a login by password.
    #[serde(default)]
    pub(crate) user: Option<String>,
    /// Files that clients need, by purpose.
    #[serde(default)]
    pub(crate) files: BTreeMap<String, PathBuf>,
}

/// A process that was started, for private instances.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Process {
    /// The executable.
    pub(crate) program: PathBuf,
    /// How it was called, and where.
    pub(crate) args: Vec<String>,
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) folder: PathBuf,
}

/// `target/brokers` of this workspace.
#[must_use]
pub fn dir() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).join("target").join("brokers")
}

/// The record of a broker, by its id: `nats`, `nats@2.9`.
pub(crate) fn read(id: &str) -> Result<Record, String> {
    let path = dir().join(format!("{id}.json"));
    let text = fs::read(&path).map_err(|_| "it is not up (cargo xtask brokers up)".to_owned())?;
    serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))
}
