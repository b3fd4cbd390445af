//! Brokers for development: `cargo xtask brokers up|down|status|logs`.
//!
//! For each broker, in this order: a URL that its variable names and that answers; what an
//! earlier `up` recorded and that answers; else a native process of our own on a private loopback
//! port. Records are under `target/brokers/`, data and logs in a folder per broker there,
//! programs in a cache folder that survives `cargo clean`. Services of the system are not touched.

#[cfg(test)]
mod compose;
mod credentials;
mod install;
mod java;
mod kafka;
mod launch;
mod nats;
mod ports;
mod postgres;
mod probe;
mod process;
mod rabbitmq;
mod record;
mod redis;
mod secrets;
mod session;
mod sns;
mod sqs;
mod table;
mod tree;
mod turns;
mod up;

use std::process::ExitCode;
use std::thread;

use self::ports::Ports;
use self::record::Record;
use self::session::without_secrets;
use self::turns::Turns;
use self::up::{Running, Wish};
use crate::args::{BrokersAction, BrokersOptions};
use crate::failure::Result;
use crate::workspace;

pub(crate) use self::session::Session;
pub(crate) use self::table::{Entry, TABLE, breakable, find, testable};
pub(crate) use self::up::Registry;

/// How much of a log `logs` prints.
const LOG_LINES: usize = 200;

/// Does `brokers …`. Fails when one of the named brokers could not be had.
pub(crate) fn run(options: &BrokersOptions) -> Result<ExitCode> {
    let entries = table::select(&options.names)?;
    let ids = || entries.iter().map(|entry| entry.id.to_owned()).collect();
    let fine = match options.action {
        BrokersAction::Up => up(&entries, options.install || workspace::is_ci()),
        BrokersAction::Down if options.names.is_empty() => down_all(options.keep_data)?,
        BrokersAction::Down => down(ids(), options.keep_data),
        // Without names, status is a question about all of them, and "down" a good answer.
        BrokersAction::Status => each(&entries, status) || options.names.is_empty(),
        BrokersAction::Logs => each(&entries, |entry| logs(entry).map(|()| true)),
    };
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Does `chore` for one entry after the other; `true` when all went well.
fn each(entries: &[&'static Entry], chore: fn(&'static Entry) -> Result<bool>) -> bool {
    let one = |entry: &&'static Entry| {
        chore(entry).unwrap_or_else(|reason| {
            eprintln!("{}: {reason}", entry.id);
            false
        })
    };
    // Every one has its turn, also after a failure.
    let outcomes: Vec<bool> = entries.iter().map(one).collect();
    outcomes.into_iter().all(|fine| fine)
}

/// Brings all up at the same time; what cannot be had is named, and the rest goes on.
///
/// Standard output has one line `VARIABLE=url` for each broker, the rest goes to standard error.
fn up(entries: &[&'static Entry], may_install: bool) -> bool {
    let (ports, turns) = (&Ports::default(), &Turns::default());
    let wish = Wish { may_install, keep: true, ports, turns };
    let running: Vec<Option<Running>> = thread::scope(|scope| {
        let threads: Vec<_> =
            entries.iter().map(|&entry| scope.spawn(move || up_one(entry, &wish))).collect();
        // A panic of a thread is a broker that is not there; it has said why.
        threads.into_iter().map(|thread| thread.join().unwrap_or_default()).collect()
    });
    for (entry, running) in entries.iter().zip(&running) {
        if let Some(running) = running {
            println!("{}={}", entry.variable(), running.url);
        }
    }
    running.iter().all(Option::is_some)
}

fn up_one(entry: &'static Entry, wish: &Wish<'_>) -> Option<Running> {
    match Registry::open().and_then(|registry| registry.ensure(entry, wish)) {
        Ok(running) => {
            eprintln!("{}", session::describe(&running));
            Some(running)
        }
        Err(reason) => {
            eprintln!("{}: not available: {reason}", entry.id);
            None
        }
    }
}

/// Stops what is called `ids`, all at the same time.
fn down(ids: Vec<String>, keep_data: bool) -> bool {
    thread::scope(|scope| {
        let threads: Vec<_> =
            ids.into_iter().map(|id| scope.spawn(move || down_one(&id, keep_data))).collect();
        // Each is joined, also after a failure.
        let outcomes: Vec<bool> =
            threads.into_iter().map(|thread| thread.join().unwrap_or(false)).collect();
        outcomes.into_iter().all(|fine| fine)
    })
}

fn down_one(id: &str, keep_data: bool) -> bool {
    let found = match Registry::open().and_then(|registry| registry.down(id, keep_data)) {
        Ok(up::Down::Stopped) => "stopped",
        Ok(up::Down::Gone) => "had ended before",
        Ok(up::Down::Unknown) => "nothing of ours to stop",
        Err(reason) => {
            eprintln!("{id}: {reason}");
            return false;
        }
    };
    println!("{id}: {found}");
    true
}

/// Stops all that is recorded, also what an interrupted run left behind.
fn down_all(keep_data: bool) -> Result<bool> {
    let ids = Record::ids(&workspace::brokers_dir())?;
    if ids.is_empty() {
        println!("nothing of ours to stop");
    }
    Ok(down(ids, keep_data))
}

/// Prints one line; `false` when the broker is not up.
fn status(entry: &'static Entry) -> Result<bool> {
    if let Some(running) = up::from_environment(entry) {
        println!("{}", session::describe(&running));
        return Ok(true);
    }
    let Some(record) = Record::read(&workspace::brokers_dir(), entry.id)? else {
        println!("{}: down", entry.id);
        return Ok(false);
    };
    let (url, pid) = (without_secrets(&record.url), record.server.pid);
    match up::alive(entry, &record) {
        Some(answer) => {
            let version = answer.version.unwrap_or(record.version);
            println!("{}: {version} at {url} (process {pid})", entry.id);
            Ok(true)
        }
        None => {
            let gone = record.processes().find(|process| !process::is_ours(process));
            let what = match gone {
                Some(process) => format!("its {} (process {}) is gone", process.role, process.pid),
                None => format!("process {pid} does not answer"),
            };
            println!("{}: {what} at {url}; `up` starts it again", entry.id);
            Ok(false)
        }
    }
}

fn logs(entry: &'static Entry) -> Result<()> {
    let logs = process::logs(&workspace::brokers_dir().join(entry.id));
    if logs.is_empty() {
        println!("{}: no log", entry.id);
    }
    for log in logs {
        println!("==> {} <==\n{}", log.display(), process::tail(&log, LOG_LINES));
    }
    Ok(())
}
