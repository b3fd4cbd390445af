//! Brokers for development: `cargo xtask brokers up|down|status|logs`.
//!
//! For each broker, in this order: a URL that its variable names and that answers; what an
//! earlier `up` recorded and that answers; else a native process of our own on a private loopback
//! port. Records are under `target/brokers/`, data and logs in a folder per broker there,
//! programs in a cache folder that survives `cargo clean`. Services of the system are not touched.

mod credentials;
mod install;
mod nats;
mod process;
mod record;
mod secrets;
mod session;
mod table;
mod up;

use std::process::ExitCode;

use self::record::Record;
use self::session::without_secrets;
use crate::args::{BrokersAction, BrokersOptions};
use crate::failure::Result;
use crate::workspace;

pub(crate) use self::session::Session;
pub(crate) use self::table::{Entry, IN_PROCESS, TABLE, find};
pub(crate) use self::up::Registry;

/// How much of a log `logs` prints.
const LOG_LINES: usize = 200;

/// Does `brokers …`. Fails when one of the named brokers could not be had.
pub(crate) fn run(options: &BrokersOptions) -> Result<ExitCode> {
    if options.action == BrokersAction::Down && options.names.is_empty() {
        return down_all(options.keep_data);
    }
    let entries = table::select(&options.names)?;
    let mut code = ExitCode::SUCCESS;
    for entry in entries {
        let fine = match options.action {
            BrokersAction::Up => up(entry, options.install || workspace::is_ci()),
            BrokersAction::Down => down(entry.id, options.keep_data),
            // Without names, status is a question about all of them, and "down" a good answer.
            BrokersAction::Status => status(entry).map(|is_up| is_up || options.names.is_empty()),
            BrokersAction::Logs => logs(entry).map(|()| true),
        };
        let fine = fine.unwrap_or_else(|reason| {
            eprintln!("{}: {reason}", entry.id);
            false
        });
        if !fine {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// Standard output has one line `VARIABLE=url` for each broker, the rest goes to standard error.
fn up(entry: &'static Entry, may_install: bool) -> Result<bool> {
    let running = Registry::lock()?.ensure(entry, may_install, true)?;
    eprintln!("{}", session::describe(&running));
    println!("{}={}", entry.variable(), running.url);
    Ok(true)
}

fn down(id: &str, keep_data: bool) -> Result<bool> {
    let found = match Registry::lock()?.down(id, keep_data)? {
        up::Down::Stopped => "stopped",
        up::Down::Gone => "had ended before",
        up::Down::Unknown => "nothing of ours to stop",
    };
    println!("{id}: {found}");
    Ok(true)
}

/// Stops all that is recorded, also what an interrupted run left behind.
fn down_all(keep_data: bool) -> Result<ExitCode> {
    let ids = Record::ids(&workspace::brokers_dir())?;
    if ids.is_empty() {
        println!("nothing of ours to stop");
    }
    let mut code = ExitCode::SUCCESS;
    for id in ids {
        if let Err(reason) = down(&id, keep_data) {
            eprintln!("{id}: {reason}");
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
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
    let (url, pid) = (without_secrets(&record.url), record.pid);
    match up::alive(entry, &record) {
        Some(answer) => {
            println!("{}: {} at {url} (process {pid})", entry.id, answer.version);
            Ok(true)
        }
        None if process::is_ours(&record) => {
            println!("{}: process {pid} does not answer at {url}; `up` restarts it", entry.id);
            Ok(false)
        }
        None => {
            println!("{}: process {pid} is gone; `up` starts it again at {url}", entry.id);
            Ok(false)
        }
    }
}

fn logs(entry: &'static Entry) -> Result<()> {
    let log = workspace::brokers_dir().join(entry.id).join("server.log");
    if log.is_file() {
        println!("==> {} <==\n{}", log.display(), process::tail(&log, LOG_LINES));
    } else {
        println!("{}: no log", entry.id);
    }
    Ok(())
}
