//! Getting one broker: what is there already, else a process of our own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use super::record::Record;
use super::table::{Answer, Entry, Site};
use super::{install, process};
use crate::failure::{Context, Result, fail};
use crate::{wait, workspace};

/// How long one question to a server may take.
const ASK: Duration = Duration::from_secs(2);
/// How long a server may take from its start to its first answer.
const START: Duration = Duration::from_secs(60);
/// How long a server may take to end by itself.
const STOP: Duration = Duration::from_secs(10);
/// Another program can take a port between our choice and the server's start.
const PORT_ATTEMPTS: usize = 3;

/// A broker that answers.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    pub(crate) id: &'static str,
    /// The version that the server named.
    pub(crate) version: String,
    pub(crate) url: String,
    pub(crate) source: Source,
}

/// Why a broker is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Its variable names it; we know nothing else about it.
    Environment,
    /// An earlier command started it.
    AlreadyUp,
    /// This command started it.
    Started,
}

/// What `down` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Down {
    Stopped,
    /// Its process had ended before.
    Gone,
    /// We did not start it.
    Unknown,
}

/// One process at a time changes what is under `target/brokers`.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) dir: PathBuf,
    _lock: File,
}

impl Registry {
    /// Waits for its turn.
    pub(crate) fn lock() -> Result<Self> {
        let dir = workspace::brokers_dir();
        fs::create_dir_all(&dir).context(|| format!("making {}", dir.display()))?;
        let lock = File::create(dir.join("lock")).context(|| "opening the lock".to_owned())?;
        lock.lock().context(|| "waiting for another xtask".to_owned())?;
        Ok(Self { dir, _lock: lock })
    }

    /// Makes sure that `entry` is up, in the order: its variable, what is recorded, a process.
    /// `keep` says that it is to stay until `down`.
    pub(crate) fn ensure(
        &self,
        entry: &'static Entry,
        may_install: bool,
        keep: bool,
    ) -> Result<Running> {
        if let Some(running) = from_environment(entry) {
            return Ok(running);
        }
        let earlier = Record::read(&self.dir, entry.id)?;
        if let Some(record) = &earlier {
            if let Some(answer) = alive(entry, record) {
                if keep && !record.keep {
                    Record { keep, ..record.clone() }.write(&self.dir)?;
                }
                return Ok(Running {
                    id: entry.id,
                    version: answer.version,
                    url: record.url.clone(),
                    source: Source::AlreadyUp,
                });
            }
            // It hangs, is of another version, or is gone: start again on the same data.
            process::stop(record, STOP)?;
        }
        // A Docker Compose service, where an engine answers, comes in here.
        let place = Place { dir: &self.dir, label: entry.id };
        let record = start(entry, &place, earlier.as_ref(), may_install, keep)?;
        record.write(&self.dir)?;
        Ok(Running {
            id: entry.id,
            version: record.version,
            url: record.url,
            source: Source::Started,
        })
    }

    /// Starts a fresh instance of `entry` under a name of its own, beside any shared one. What an
    /// interrupted run left under this name is stopped first.
    pub(crate) fn fresh(&self, entry: &Entry, label: &str, may_install: bool) -> Result<Record> {
        self.down(label, false)?;
        let place = Place { dir: &self.dir, label };
        let record = start(entry, &place, None, may_install, false)?;
        record.write(&self.dir)?;
        Ok(record)
    }

    /// Stops what was started as `id`, and forgets it. The log stays.
    pub(crate) fn down(&self, id: &str, keep_data: bool) -> Result<Down> {
        let Some(record) = Record::read(&self.dir, id)? else { return Ok(Down::Unknown) };
        let outcome = if process::is_ours(&record) { Down::Stopped } else { Down::Gone };
        process::stop(&record, STOP)?;
        if !keep_data && record.state.exists() {
            fs::remove_dir_all(&record.state)
                .context(|| format!("deleting {}", record.state.display()))?;
        }
        Record::delete(&self.dir, id)?;
        Ok(outcome)
    }
}

/// Where the files of one started broker go: `dir/label/`.
struct Place<'a> {
    dir: &'a Path,
    label: &'a str,
}

/// Starts `entry` as a native process and waits until it answers.
///
/// `earlier` is the record of the same place's last process: its ports are taken again, and its
/// log goes on. The record is not written.
fn start(
    entry: &Entry,
    place: &Place<'_>,
    earlier: Option<&Record>,
    may_install: bool,
    keep: bool,
) -> Result<Record> {
    let program = install::program(entry, may_install)?;
    let folder = place.dir.join(place.label);
    let (state, log) = (folder.join("state"), folder.join("server.log"));
    fs::create_dir_all(&state).context(|| format!("making {}", state.display()))?;
    if earlier.is_none() {
        File::create(&log).context(|| format!("making {}", log.display()))?;
    }
    let mut ports = earlier.map(|record| record.ports.clone()).unwrap_or_default();
    let mut attempt = 1;
    loop {
        ports = process::free_ports(entry.ports, &ports)?;
        let launch = (entry.launch)(&Site { state: &state, ports: &ports })?;
        let args: Vec<String> =
            launch.args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
        let (mut child, identity) = process::start(&program, &args, &state, &log)?;
        let mut record = Record {
            id: place.label.to_owned(),
            name: entry.name.to_owned(),
            version: entry.version.to_owned(),
            url: launch.url,
            program: program.clone(),
            args,
            pid: child.id(),
            started: identity.started,
            ports: ports.clone(),
            state: state.clone(),
            log: log.clone(),
            user: launch.user,
            files: launch.files,
            keep,
        };
        match ready(entry, &record.url, &mut child) {
            Ok(answer) => {
                record.version = answer.version;
                return Ok(record);
            }
            Err(reason) => {
                process::stop(&record, STOP)?;
                let said = process::tail(&log, 5);
                if attempt < PORT_ATTEMPTS && said.contains("in use") {
                    attempt += 1;
                    ports.clear();
                    continue;
                }
                let log = log.display();
                return fail(format!("{} {reason}; the end of {log}:\n{said}", place.label));
            }
        }
    }
}

/// Waits until the server answers, or has ended.
fn ready(entry: &Entry, url: &str, child: &mut Child) -> std::result::Result<Answer, String> {
    let mut last = String::from("nothing yet");
    let answer = wait::until(START, || {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(Err(format!("ended with {status}")));
        }
        match (entry.probe)(url, ASK) {
            Ok(answer) => Some(Ok(answer)),
            Err(reason) => {
                last = reason;
                None
            }
        }
    });
    answer.unwrap_or_else(|| Err(format!("is not ready after {} s: {last}", START.as_secs())))
}

/// The broker that its variable names, if it answers; says so when it does not.
pub(crate) fn from_environment(entry: &'static Entry) -> Option<Running> {
    let variable = entry.variable();
    let url = workspace::env_text(&variable)?;
    match (entry.probe)(&url, ASK) {
        Ok(answer) => Some(Running {
            id: entry.id,
            version: answer.version,
            url,
            source: Source::Environment,
        }),
        Err(reason) => {
            eprintln!("{variable} is set, but there is no {}: {reason}", entry.id);
            None
        }
    }
}

/// The answer of a recorded broker, if its process is ours, answers, and is of the right version.
pub(crate) fn alive(entry: &Entry, record: &Record) -> Option<Answer> {
    if !process::is_ours(record) {
        return None;
    }
    (entry.probe)(&record.url, ASK).ok().filter(|answer| answer.version == entry.version)
}
