//! What `up` started, as one file per broker: `target/brokers/<id>.json`.
//!
//! Tests, faults and benchmarks read these files; the names of the fields are theirs to rely on.

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
    /// The server's executable, for tests that start an instance of their own.
    pub(crate) program: PathBuf,
    /// The arguments it was started with.
    pub(crate) args: Vec<String>,
    pub(crate) pid: u32,
    /// When the process started, as the system counts it: with `pid` and `program` it tells this
    /// process from a later one of the same number.
    pub(crate) started: String,
    pub(crate) ports: Vec<u16>,
    /// Data and configuration; deleted by `down`.
    pub(crate) state: PathBuf,
    /// Standard output and error of the server.
    pub(crate) log: PathBuf,
    /// The user name of a login by password; the password is in `files.password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    /// Files that clients need, by purpose: `ca`, `client_cert`, `password`, ...
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) files: BTreeMap<String, PathBuf>,
    /// `true` after `brokers up`; `false` when a test run started it and will stop it.
    pub(crate) keep: bool,
}

impl Record {
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

    fn sample() -> Record {
        Record {
            id: "nats@2.9".to_owned(),
            name: "nats".to_owned(),
            version: "2.9.10".to_owned(),
            url: "nats://127.0.0.1:4222".to_owned(),
            program: "nats-server".into(),
            args: vec!["-c".to_owned(), "server.conf".to_owned()],
            pid: 7,
            started: "123".to_owned(),
            ports: vec![4222],
            state: "state".into(),
            log: "server.log".into(),
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
        for field in ["id", "name", "version", "url", "program", "args", "pid", "started", "log"] {
            assert!(json.get(field).is_some(), "{field}");
        }
        assert!(json.get("user").is_none() && json.get("files").is_none());
    }
}
