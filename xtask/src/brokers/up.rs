//! Getting one broker: what is there already, else a process of our own.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use super::launch::{Answer, Launch, Program, Site};
use super::ports::Ports;
use super::probe::Target;
use super::record::{Process, Record};
use super::table::{Entry, is_line_of};
use super::turns::Turns;
use super::{install, process};
use crate::failure::{Context, Result, fail};
use crate::{wait, workspace};

/// How long one question to a server may take.
const ASK: Duration = Duration::from_secs(2);
/// How long a server may take from its start to its first answer.
/// A machine that installs or starts others meanwhile is slow.
const START: Duration = Duration::from_secs(120);
/// How long a process may take to end by itself when its data stays, and when they are deleted.
const STOP: Duration = Duration::from_secs(10);
const DROP: Duration = Duration::from_secs(3);
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

/// How a broker is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish<'a> {
    /// Whether a missing program may be installed.
    pub(crate) may_install: bool,
    /// Whether it is to stay until `down`.
    pub(crate) keep: bool,
    /// What gives ports to all brokers that start at the same time.
    pub(crate) ports: &'a Ports,
    /// What lets only a few of them start at once.
    pub(crate) turns: &'a Turns,
}

/// What is under `target/brokers`. One process at a time changes what is there of one broker; of
/// several brokers, many may.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) dir: PathBuf,
}

impl Registry {
    /// The registry of this checkout.
    pub(crate) fn open() -> Result<Self> {
        let dir = workspace::brokers_dir();
        fs::create_dir_all(&dir).context(|| format!("making {}", dir.display()))?;
        Ok(Self { dir })
    }

    /// Makes sure that `entry` is up, in the order: its variable, what is recorded, a process.
    pub(crate) fn ensure(&self, entry: &'static Entry, wish: &Wish<'_>) -> Result<Running> {
        if let Some(running) = from_environment(entry) {
            return Ok(running);
        }
        let _lock = self.lock(entry.id)?;
        let earlier = Record::read(&self.dir, entry.id)?;
        if let Some(record) = &earlier {
            if let Some(answer) = alive(entry, record) {
                if wish.keep && !record.keep {
                    Record { keep: true, ..record.clone() }.write(&self.dir)?;
                }
                return Ok(Running {
                    id: entry.id,
                    version: answer.version.unwrap_or_else(|| record.version.clone()),
                    url: record.url.clone(),
                    source: Source::AlreadyUp,
                });
            }
            // It hangs, is of another version, or is gone: start again on the same data.
            process::stop(record, STOP)?;
        }
        // A Docker Compose service, where an engine answers, would come in here. It is not used:
        // `docker-compose.yml` is for those who start it themselves and set the variables.
        let place = Place { dir: &self.dir, label: entry.id };
        let record = start(entry, &place, earlier.as_ref(), wish)?;
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
        let _lock = self.lock(label)?;
        self.remove(label, false)?;
        let place = Place { dir: &self.dir, label };
        // Also what has no record: data that were kept for a look.
        delete_folder(&place.state())?;
        let (ports, turns) = (&Ports::default(), &Turns::default());
        start(entry, &place, None, &Wish { may_install, keep: false, ports, turns })
    }

    /// Stops what was started as `id`, and forgets it. The log stays.
    pub(crate) fn down(&self, id: &str, keep_data: bool) -> Result<Down> {
        let _lock = self.lock(id)?;
        self.remove(id, keep_data)
    }

    fn remove(&self, id: &str, keep_data: bool) -> Result<Down> {
        let Some(record) = Record::read(&self.dir, id)? else { return Ok(Down::Unknown) };
        let was_up = record.processes().any(process::is_ours);
        process::stop(&record, if keep_data { STOP } else { DROP })?;
        if !keep_data {
            delete_folder(&record.state)?;
        }
        Record::delete(&self.dir, id)?;
        Ok(if was_up { Down::Stopped } else { Down::Gone })
    }

    /// Waits for its turn with the broker called `label`.
    fn lock(&self, label: &str) -> Result<File> {
        install::lock(&self.dir.join(format!("{label}.lock")), label)
    }
}

/// Where the files of one started broker go: `dir/label/`.
struct Place<'a> {
    dir: &'a Path,
    label: &'a str,
}

impl Place<'_> {
    fn folder(&self) -> PathBuf {
        self.dir.join(self.label)
    }

    fn state(&self) -> PathBuf {
        self.folder().join("state")
    }
}

fn delete_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).context(|| format!("deleting {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Starts `entry`; what a first start that failed left of its data is deleted.
fn start(
    entry: &Entry,
    place: &Place<'_>,
    earlier: Option<&Record>,
    wish: &Wish<'_>,
) -> Result<Record> {
    let is_first = !place.state().exists();
    let started = start_on(entry, place, earlier, wish);
    if is_first && started.is_err() {
        delete_folder(&place.state())?;
    }
    started
}

/// Starts `entry` as native processes, records them, and waits until it answers.
///
/// `earlier` is the record of the same place's last start: its ports are taken again, and its logs
/// go on.
fn start_on(
    entry: &Entry,
    place: &Place<'_>,
    earlier: Option<&Record>,
    wish: &Wish<'_>,
) -> Result<Record> {
    let installed = install::find(entry, wish.may_install)?;
    let _turn = wish.turns.take();
    let (folder, state) = (place.folder(), place.state());
    fs::create_dir_all(&state).context(|| format!("making {}", state.display()))?;
    if earlier.is_none() {
        delete_logs(&folder).context(|| format!("deleting the logs in {}", folder.display()))?;
    }
    let mut wanted = earlier.map(|record| record.ports.clone()).unwrap_or_default();
    let mut attempt = 1;
    loop {
        let ports = wish.ports.take(entry.ports, &wanted)?;
        if !wanted.is_empty() && ports != wanted {
            eprintln!("{}: a port of {wanted:?} is in use: now at {ports:?}", place.label);
        }
        let log = folder.join("prepare.log");
        let site = Site { installed: &installed, state: &state, ports: &ports, log: &log };
        let launch = (entry.launch)(&site)?;
        let Spawned { server, others, mut children } = spawn_all(&launch, &folder, &state)?;
        let record = Record {
            id: place.label.to_owned(),
            name: entry.name.to_owned(),
            version: entry.version.to_owned(),
            url: launch.url,
            urls: launch.urls,
            server,
            others,
            ports,
            state: state.clone(),
            user: launch.user,
            files: launch.files,
            keep: wish.keep,
        };
        // Before it answers: whoever interrupts us can still find and stop it.
        record.write(place.dir)?;
        match ready(entry, &record, &mut children) {
            Ok(answer) => {
                let version = answer.version.unwrap_or_else(|| entry.version.to_owned());
                let record = Record { version, ..record };
                record.write(place.dir)?;
                return Ok(record);
            }
            Err(reason) => {
                process::stop(&record, DROP)?;
                match earlier {
                    // Its data are still there: for another try, or to be deleted by `down`.
                    Some(earlier) => earlier.write(place.dir)?,
                    None => Record::delete(place.dir, place.label)?,
                }
                if attempt < PORT_ATTEMPTS && says_port_in_use(&record) {
                    attempt += 1;
                    wanted.clear();
                    continue;
                }
                let log = &record.server.log;
                let said = process::tail(log, 5);
                return fail(format!("{reason}; the end of {}:\n{said}", log.display()));
            }
        }
    }
}

/// The processes of a start.
struct Spawned {
    server: Process,
    others: Vec<Process>,
    /// All of them with their roles, so that their end is seen.
    children: Vec<(String, Child)>,
}

/// Starts all processes of `launch`, the server last; none is left when one cannot be started.
fn spawn_all(launch: &Launch, folder: &Path, state: &Path) -> Result<Spawned> {
    let mut children = Vec::new();
    let mut others: Vec<Process> = Vec::new();
    let log = |program: &Program| folder.join(format!("{}.log", program.role));
    let mut all = || {
        for program in &launch.others {
            let (mut child, process) = process::start(program, state, &log(program))?;
            others.push(process);
            await_port(program, &mut child)?;
            children.push((program.role.clone(), child));
        }
        let program = &launch.server;
        let (child, process) = process::start(program, state, &log(program))?;
        children.push((program.role.clone(), child));
        Ok(process)
    };
    match all() {
        Ok(server) => Ok(Spawned { server, others, children }),
        Err(failure) => {
            for process in others.iter().rev() {
                process::end(process, DROP)?;
            }
            Err(failure)
        }
    }
}

/// Waits until `program` listens at the port that it names, if it names one.
fn await_port(program: &Program, child: &mut Child) -> Result<()> {
    let Some(port) = program.listens else { return Ok(()) };
    let listens = wait::until(START, || {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(fail(format!("the {} ended with {status}", program.role)));
        }
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok().then_some(Ok(()))
    });
    listens.unwrap_or_else(|| fail(format!("the {} does not listen at port {port}", program.role)))
}

/// The logs of an earlier broker of this name.
fn delete_logs(folder: &Path) -> std::io::Result<()> {
    for log in process::logs(folder) {
        fs::remove_file(log)?;
    }
    Ok(())
}

/// Whether a process of this start could not have its port.
fn says_port_in_use(record: &Record) -> bool {
    record.processes().any(|process| {
        let said = process::tail(&process.log, 60).to_lowercase();
        said.contains("in use") || said.contains("eaddrinuse")
    })
}

/// Waits until the server answers, or a process has ended.
fn ready(
    entry: &Entry,
    record: &Record,
    children: &mut [(String, Child)],
) -> std::result::Result<Answer, String> {
    let mut last = String::from("nothing yet");
    let target = Target::of_record(record);
    let answer = wait::until(START, || {
        for (role, child) in children.iter_mut() {
            if let Ok(Some(status)) = child.try_wait() {
                return Some(Err(format!("the {role} ended with {status}")));
            }
        }
        match (entry.probe)(&target, ASK) {
            Ok(answer) => Some(Ok(answer)),
            Err(reason) => {
                last = reason;
                None
            }
        }
    });
    answer.unwrap_or_else(|| Err(format!("not ready after {} s: {last}", START.as_secs())))
}

/// The broker that its variable names, if it answers; says so when it does not.
pub(crate) fn from_environment(entry: &'static Entry) -> Option<Running> {
    let variable = entry.variable();
    let url = workspace::env_text(&variable)?;
    match (entry.probe)(&Target::of_url(&url), ASK) {
        Ok(answer) => Some(Running {
            id: entry.id,
            version: answer.version.unwrap_or_else(|| "a version it does not tell".to_owned()),
            url,
            source: Source::Environment,
        }),
        Err(reason) => {
            eprintln!("{variable} is set, but there is no {}: {reason}", entry.id);
            None
        }
    }
}

/// The answer of a recorded broker, if its processes are ours, it answers, and is of the right
/// version.
pub(crate) fn alive(entry: &Entry, record: &Record) -> Option<Answer> {
    if !record.processes().all(process::is_ours) {
        return None;
    }
    let answer = (entry.probe)(&Target::of_record(record), ASK).ok()?;
    let right = |version: &String| is_line_of(entry.version, version);
    answer.version.as_ref().is_none_or(right).then_some(answer)
}
