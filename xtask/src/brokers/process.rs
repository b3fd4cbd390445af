//! Native processes: starting a server detached, telling it from others, stopping it.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
#[cfg(not(target_os = "linux"))]
use std::process::Command;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::install::on_path;
use super::launch::Program;
use super::record::{Process, Record};
use crate::failure::{Context, Result, fail};
use crate::wait;

/// When process `pid` started: what tells it from another that got the same number later, also
/// when it becomes another program. `None` when it has ended, also when nobody collected it yet.
#[cfg(target_os = "linux")]
pub(crate) fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks = start_time(&stat)?;
    // The ticks count from the boot.
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Some(format!("{}:{ticks}", boot.trim()))
}

/// When process `pid` started, by `ps`.
#[cfg(not(target_os = "linux"))]
pub(crate) fn started(pid: u32) -> Option<String> {
    let mut ps = Command::new("ps");
    let output = ps.args(["-p", &pid.to_string(), "-o", "stat=", "-o", "lstart="]).output();
    let text = String::from_utf8(output.ok()?.stdout).ok()?;
    let (state, started) = text.trim().split_once(' ')?;
    (!state.starts_with('Z')).then(|| started.trim().to_owned())
}

/// Whether this process is still the one that was started here.
pub(crate) fn is_ours(process: &Process) -> bool {
    started(process.pid).is_some_and(|now| now == process.started)
}

/// Starts `program` so that it outlives us and gets no Ctrl-C of our terminal; its output goes
/// to the end of `log`.
pub(crate) fn start(program: &Program, folder: &Path, log: &Path) -> Result<(Child, Process)> {
    let doing = || format!("opening {}", log.display());
    let output = OpenOptions::new().create(true).append(true).open(log).context(doing)?;
    let errors = output.try_clone().context(doing)?;
    // The whole path, for those who start the same again with another `PATH`.
    let program = Program {
        program: on_path(&program.program).unwrap_or_else(|| program.program.clone()),
        ..program.clone()
    };
    let child = program
        .command()
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .context(|| format!("starting {}", program.program.display()))?;
    let Some(started) = started(child.id()) else {
        let program = program.program.display();
        return fail(format!("{program} ended at once; see {}", log.display()));
    };
    let process = Process {
        role: program.role,
        program: program.program,
        args: program.args,
        env: program.env,
        folder: folder.to_owned(),
        pid: child.id(),
        started,
        log: log.to_owned(),
    };
    Ok((child, process))
}

/// Ends all processes of `record`, the server first.
pub(crate) fn stop(record: &Record, patience: Duration) -> Result<()> {
    let outcomes: Vec<Result<()>> =
        record.processes().rev().map(|process| end(process, patience)).collect();
    // One that does not end is no reason to leave the others.
    outcomes.into_iter().collect::<Result<()>>().context(|| record.id.clone())
}

/// Ends one process: asks first, and kills after `patience`.
///
/// A process that is not ours any more is left alone, and counts as ended.
pub(crate) fn end(process: &Process, patience: Duration) -> Result<()> {
    for (signal, limit) in [(Signal::TERM, patience), (Signal::KILL, Duration::from_secs(5))] {
        if !is_ours(process) {
            return Ok(());
        }
        let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
        let Some(pid) = pid else { return fail(format!("{} is no process id", process.pid)) };
        // An error means that it ended in between, which the wait sees.
        let _ended = kill_process(pid, signal);
        if wait::until(limit, || (!is_ours(process)).then_some(())).is_some() {
            return Ok(());
        }
    }
    fail(format!("the {} (process {}) does not end", process.role, process.pid))
}

/// The logs in the folder of a broker, sorted by name.
pub(crate) fn logs(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).into_iter().flatten();
    let mut logs: Vec<PathBuf> = files.filter_map(|file| Some(file.ok()?.path())).collect();
    logs.retain(|path| path.extension() == Some(OsStr::new("log")));
    logs.sort();
    logs
}

/// The last `lines` lines of a log; empty when there is none.
pub(crate) fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let text = text.unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// The start time, in ticks since boot, from the text of `/proc/<pid>/stat`: the 22nd field.
/// `None` of one that has ended. The second field is the program's name in parentheses and may
/// hold anything.
#[cfg(target_os = "linux")]
fn start_time(stat: &str) -> Option<&str> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") { None } else { fields.nth(18) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that only ends when it is told to.
    fn sleeper() -> (Child, Process) {
        let folder = std::env::temp_dir();
        let log = folder.join(format!("posthaste-sleeper-{}", std::process::id()));
        start(&Program::new("/bin/sleep", ["60"]), &folder, &log).unwrap()
    }

    #[test]
    fn only_the_very_same_process_is_ours_and_is_stopped() {
        let (mut child, process) = sleeper();
        assert!(is_ours(&process));

        let mut reused = process.clone();
        reused.started = "0".to_owned();
        assert!(!is_ours(&reused));
        end(&reused, Duration::from_secs(5)).unwrap();
        assert!(is_ours(&process), "a stranger's process must not be stopped");

        end(&process, Duration::from_secs(5)).unwrap();
        assert!(!is_ours(&process), "not collected yet, but ended");
        child.wait().unwrap();
        end(&process, Duration::from_secs(5)).unwrap();
    }

    #[test]
    fn a_process_that_becomes_another_program_is_still_ours() {
        let folder = std::env::temp_dir();
        let log = folder.join(format!("posthaste-becomes-{}", std::process::id()));
        let shell = Program::new("/bin/sh", ["-c", "echo ready; exec sleep 60"]);
        let (mut child, process) = start(&shell, &folder, &log).unwrap();
        let name = || fs::read_to_string(format!("/proc/{}/comm", process.pid)).ok();
        let slept = wait::until(Duration::from_secs(10), || {
            name().filter(|name| cfg!(not(target_os = "linux")) || name.trim() == "sleep")
        });
        assert!(slept.is_some() || cfg!(not(target_os = "linux")));
        assert!(is_ours(&process));
        end(&process, Duration::from_secs(5)).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn variables_reach_the_process() {
        let folder = std::env::temp_dir();
        let log = folder.join(format!("posthaste-env-{}", std::process::id()));
        fs::write(&log, "").unwrap();
        let shell = Program::new("/bin/sh", ["-c", "echo $POSTHASTE_WORD; sleep 60"]);
        let (mut child, process) =
            start(&shell.env("POSTHASTE_WORD", "here"), &folder, &log).unwrap();
        let said = wait::until(Duration::from_secs(10), || {
            Some(tail(&log, 1)).filter(|line| line == "here")
        });
        end(&process, Duration::from_secs(5)).unwrap();
        child.wait().unwrap();
        assert!(said.is_some());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_start_time_is_found_behind_any_program_name() {
        let fields: Vec<String> = (4..=52).map(|field| field.to_string()).collect();
        let stat = |state: &str| format!("7 (odd) name) {state} {}", fields.join(" "));
        assert_eq!(start_time(&stat("S")), Some("22"));
        assert_eq!(start_time(&stat("Z")), None);
        assert_eq!(start_time("garbage"), None);
    }
}
