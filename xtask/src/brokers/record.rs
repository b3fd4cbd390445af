//! What `up` started, as one file per broker: `target/brokers/<id>.json`.
//!
//! Tests, faults and benchmarks read these files; the names of the fields are theirs to rely on.
//! `program`, `args`, `env` and `folder` are the whole of how the server was started: who killed
//! it can start the same again, on the same data.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::{Context, Result};

/// One broker that was started here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// What it is called on the command line: `nats`, `nats@2.9`.
    pub(crate) id: String,
    /// The broker's name without a version.
    pub(crate) name: String,
    /// The version that is running.
    pub(crate) version: String,
    /// Where clients connect. It holds no password.
    pub(crate) url: String,
    /// Further URLs, by purpose: `management` is the HTTP API of RabbitMQ. They hold no login.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) urls: BTreeMap<String, String>,
    /// The process that is the broker; of several nodes the first. Its fields stand beside ours.
    #[serde(flatten)]
    pub(crate) server: Process,
    /// Further processes: nodes, or helpers that the server needs. They were started before it in
    /// this order, and are stopped after it in the reverse one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) others: Vec<Process>,
    pub(crate) ports: Vec<u16>,
    /// Data and configuration; deleted by `down`.
    pub(crate) state: PathBuf,
    /// The user name of a login by password; the password is in `files.password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    /// Files that clients need, by purpose: `ca`, `client_cert`, `password`, ...
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) files: BTreeMap<String, PathBuf>,
    /// `true` after `brokers up`; `false` when a test run started it and will stop it.
    pub(crate) keep: bool,
}

/// One process of a broker, and how it was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// What it is for its broker: `server`, `epmd`, `node2`.
    pub(crate) role: String,
    /// What was executed, for tests that start an instance of their own. The process may have
    /// become another program since.
    pub(crate) program: PathBuf,
    /// The arguments it was started with.
    pub(crate) args: Vec<String>,
    /// Variables beside those that it inherits.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) env: BTreeMap<String, String>,
    /// The folder it was started in.
    pub(crate) folder: PathBuf,
    pub(crate) pid: u32,
    /// When the process started, as the system counts it: with `pid` it tells this process from a
    /// later one of the same number.
    pub(crate) started: String,
    /// Its standard output and error.
    pub(crate) log: PathBuf,
}

impl Record {
    /// Every process, in the order in which they were started.
    pub(crate) fn processes(&self) -> impl DoubleEndedIterator<Item = &Process> {
        self.others.iter().chain([&self.server])
    }

    /// Reads the record of `id` in `dir`; `None` when there is none.
    pub(crate) fn read(dir: &Path, id: &str) -> Result<Option<Self>> {
        let path = file(dir, id);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context(|| format!("reading {}", path.display())),
        };
        // A record of an older layout cannot be trusted to name a process of ours.
        serde_json::from_slice(&text)
            .map(Some)
            .context(|| format!("{} is not a record (delete it by hand)", path.display()))
    }

    /// The ids of all records in `dir`, sorted.
    pub(crate) fn ids(dir: &Path) -> Result<Vec<String>> {
        let files = match fs::read_dir(dir) {
            Ok(files) => files,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).context(|| format!("reading {}", dir.display())),
        };
        let names = files.filter_map(|file| file.ok()?.file_name().into_string().ok());
        let mut ids: Vec<String> =
            names.filter_map(|name| Some(name.strip_suffix(".json")?.to_owned())).collect();
        ids.sort();
        Ok(ids)
    }

    /// Writes the record in one step, so that no reader sees half of it.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let path = file(dir, &self.id);
        let doing = || format!("writing {}", path.display());
        let text = serde_json::to_string_pretty(self).context(doing)?;
        let draft = path.with_extension("json.new");
        fs::write(&draft, text + "\n").context(doing)?;
        fs::rename(&draft, &path).context(doing)
    }

    /// Deletes the record of `id`, if there is one.
    pub(crate) fn delete(dir: &Path, id: &str) -> Result<()> {
        let path = file(dir, id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).context(|| format!("deleting {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Where the record of `id` is.
pub(crate) fn file(dir: &Path, id: &str) -> PathBuf {
    dir.join(format!("{id}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(role: &str, pid: u32) -> Process {
        Process {
            role: role.to_owned(),
            program: "nats-server".into(),
            args: vec!["-c".to_owned(), "server.conf".to_owned()],
            env: BTreeMap::new(),
            folder: "state".into(),
            pid,
            started: "123".to_owned(),
            log: "server.log".into(),
        }
    }

    fn sample() -> Record {
        Record {
            id: "nats@2.9".to_owned(),
            name: "nats".to_owned(),
            version: "2.9.10".to_owned(),
            url: "nats://127.0.0.1:4222".to_owned(),
            urls: BTreeMap::new(),
            server: process("server", 7),
            others: Vec::new(),
            ports: vec![4222],
            state: "state".into(),
            user: None,
            files: BTreeMap::new(),
            keep: true,
        }
    }

    #[test]
    fn a_record_comes_back_as_written_and_goes_when_deleted() {
        let dir = std::env::temp_dir().join(format!("posthaste-record-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let mut record = sample();
        record.files.insert("ca".to_owned(), "ca.pem".into());
        record.urls.insert("management".to_owned(), "http://127.0.0.1:4225".to_owned());
        record.others.push(process("node2", 8));
        record.server.env.insert("A".to_owned(), "b".to_owned());
        record.write(&dir).unwrap();
        assert_eq!(Record::read(&dir, "nats@2.9").unwrap(), Some(record));
        assert_eq!(Record::read(&dir, "nats").unwrap(), None);
        assert_eq!(Record::ids(&dir).unwrap(), ["nats@2.9"]);
        Record::delete(&dir, "nats@2.9").unwrap();
        Record::delete(&dir, "nats@2.9").unwrap();
        assert_eq!(Record::read(&dir, "nats@2.9").unwrap(), None);
        fs::write(file(&dir, "nats"), "{}").unwrap();
        assert!(Record::read(&dir, "nats").unwrap_err().to_string().contains("not a record"));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_fields_that_tests_read_are_there() {
        let json = serde_json::to_value(sample()).unwrap();
        for field in ["id", "name", "version", "url", "program", "args", "folder", "pid", "log"] {
            assert!(json.get(field).is_some(), "{field}");
        }
        for field in ["user", "files", "urls", "env", "others"] {
            assert!(json.get(field).is_none(), "{field}");
        }
    }
}
