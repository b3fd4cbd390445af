//! Native processes: starting a server detached, telling it from others, stopping it.

use std::fs::{self, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::record::Record;
use crate::failure::{Context, Result, fail};
use crate::wait;

/// What tells one process from another that got the same number later.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) program: PathBuf,
    pub(crate) started: String,
}

/// The identity of process `pid`; `None` when it has ended (also when nobody collected it yet).
#[cfg(target_os = "linux")]
pub(crate) fn identity(pid: u32) -> Option<Identity> {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    let started = start_time(&stat)?;
    let program = fs::read_link(folder.join("exe")).ok()?;
    Some(Identity { program: without_deleted_mark(program), started })
}

/// The identity of process `pid`, by `ps`.
#[cfg(not(target_os = "linux"))]
pub(crate) fn identity(pid: u32) -> Option<Identity> {
    let ask = |column: &str| {
        let output = Command::new("ps").args(["-p", &pid.to_string(), "-o", column]).output();
        let text = String::from_utf8(output.ok()?.stdout).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    Some(Identity { program: ask("comm=")?.into(), started: ask("lstart=")? })
}

/// Whether the process of `record` is still the one that was started for it.
pub(crate) fn is_ours(record: &Record) -> bool {
    identity(record.pid).is_some_and(|now| {
        let same = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        now.started == record.started && same(&now.program) == same(&record.program)
    })
}

/// Starts `program` so that it outlives us and gets no Ctrl-C of our terminal; its output goes
/// to the end of `log`.
pub(crate) fn start(
    program: &Path,
    args: &[String],
    folder: &Path,
    log: &Path,
) -> Result<(Child, Identity)> {
    let doing = || format!("opening {}", log.display());
    let output = OpenOptions::new().create(true).append(true).open(log).context(doing)?;
    let errors = output.try_clone().context(doing)?;
    let child = Command::new(program)
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .context(|| format!("starting {}", program.display()))?;
    // `spawn` returns after exec, so that this is the server's identity and not ours.
    match identity(child.id()) {
        Some(identity) => Ok((child, identity)),
        None => fail(format!("{} ended at once; see {}", program.display(), log.display())),
    }
}

/// Ends the process of `record`: asks first, and kills after `patience`.
///
/// A process that is not ours any more is left alone, and counts as ended.
pub(crate) fn stop(record: &Record, patience: Duration) -> Result<()> {
    for (signal, limit) in [(Signal::TERM, patience), (Signal::KILL, Duration::from_secs(5))] {
        if !is_ours(record) {
            return Ok(());
        }
        let pid = i32::try_from(record.pid).ok().and_then(Pid::from_raw);
        let Some(pid) = pid else { return fail(format!("{} is no process id", record.pid)) };
        // An error means that it ended in between, which the wait sees.
        let _ended = kill_process(pid, signal);
        if wait::until(limit, || (!is_ours(record)).then_some(())).is_some() {
            return Ok(());
        }
    }
    fail(format!("{} (process {}) does not end", record.id, record.pid))
}

/// The ports of an earlier start if all of them are free, else `count` other free ones.
///
/// Another program can take a port between this and the server's start; the caller tries again
/// when the server says so.
pub(crate) fn free_ports(count: usize, earlier: &[u16]) -> Result<Vec<u16>> {
    let open = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    if earlier.len() == count && earlier.iter().all(|&port| port != 0 && open(port).is_ok()) {
        return Ok(earlier.to_vec());
    }
    let listeners: std::io::Result<Vec<TcpListener>> = (0..count).map(|_| open(0)).collect();
    // All are held until all are known, else the system could give one port twice.
    let listeners = listeners.context(|| "asking for a free port".to_owned())?;
    let ports: std::io::Result<Vec<u16>> =
        listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect();
    ports.context(|| "asking for a free port".to_owned())
}

/// The last `lines` lines of a log; empty when there is none.
pub(crate) fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let text = text.unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// The start time, in ticks since boot, from the text of `/proc/<pid>/stat`: the 22nd field. The
/// second one is the program's name in parentheses and may hold anything.
#[cfg(target_os = "linux")]
fn start_time(stat: &str) -> Option<String> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19).map(str::to_owned)
}

/// Linux appends this to the path of an executable that was replaced since it was started.
#[cfg(target_os = "linux")]
fn without_deleted_mark(program: PathBuf) -> PathBuf {
    match program.to_str().and_then(|path| path.strip_suffix(" (deleted)")) {
        Some(path) => PathBuf::from(path),
        None => program,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// A process that only ends when it is told to, and its record.
    fn sleeper() -> (Child, Record) {
        let log = std::env::temp_dir().join(format!("posthaste-sleeper-{}", std::process::id()));
        let program = PathBuf::from("/bin/sleep").canonicalize().unwrap();
        let (child, identity) =
            start(&program, &["60".to_owned()], &std::env::temp_dir(), &log).unwrap();
        let record = Record {
            id: "sleeper".to_owned(),
            name: "sleeper".to_owned(),
            version: "1".to_owned(),
            url: String::new(),
            program,
            args: Vec::new(),
            pid: child.id(),
            started: identity.started,
            ports: Vec::new(),
            state: PathBuf::new(),
            log,
            user: None,
            files: BTreeMap::new(),
            keep: true,
        };
        (child, record)
    }

    #[test]
    fn only_the_very_same_process_is_ours_and_is_stopped() {
        let (mut child, record) = sleeper();
        assert!(is_ours(&record));

        let mut reused = record.clone();
        reused.started = "0".to_owned();
        assert!(!is_ours(&reused));
        stop(&reused, Duration::from_secs(5)).unwrap();
        let mut other_program = record.clone();
        other_program.program = std::env::current_exe().unwrap();
        stop(&other_program, Duration::from_secs(5)).unwrap();
        assert!(is_ours(&record), "a stranger's process must not be stopped");

        stop(&record, Duration::from_secs(5)).unwrap();
        assert!(!is_ours(&record), "not collected yet, but ended");
        child.wait().unwrap();
        stop(&record, Duration::from_secs(5)).unwrap();
    }

    #[test]
    fn earlier_ports_are_used_again_unless_taken() {
        let first = free_ports(2, &[]).unwrap();
        assert_eq!(first.len(), 2);
        assert_ne!(first[0], first[1]);
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = holder.local_addr().unwrap().port();
        assert_ne!(free_ports(1, &[taken]).unwrap(), [taken]);
        drop(holder);
        assert_eq!(free_ports(1, &[taken]).unwrap(), [taken]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_start_time_is_found_behind_any_program_name() {
        let fields: Vec<String> = (3..=52).map(|field| field.to_string()).collect();
        let stat = format!("7 (odd) name) {}", fields.join(" "));
        assert_eq!(start_time(&stat).as_deref(), Some("22"));
        assert_eq!(start_time("garbage"), None);
    }
}
