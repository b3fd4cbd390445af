//! A process of ours and the signals it gets: what [`Server`](super::Server) and
//! [`Child`](super::Child) have in common.
//!
//! A process that was reaped gets no signal any more, since its id may belong to another one.

use std::process::ExitStatus;
use std::time::Duration;

use posthaste_core::{Error, ErrorKind, Result};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, test_kill_process_group,
    waitid,
};
use tokio::process::Command;
use tokio::time::{Instant, timeout, timeout_at};

use super::wait;

/// How long the kernel may take to end or stop a process: only a disk that hangs takes so long.
const KERNEL: Duration = Duration::from_secs(10);

/// Who gets the signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// The process alone. It stays in our group, so that a Ctrl-C at the terminal reaches it.
    Process,
    /// It and all that it starts, as a process group of its own: brokers are often started by a
    /// script, and killing the script would kill nothing.
    Group,
}

/// A running or ended process. Dropping it kills it without waiting.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    child: tokio::process::Child,
    reach: Reach,
}

impl Process {
    /// Starts it. `name` is how errors call it.
    pub(super) fn spawn(name: String, command: &mut Command, reach: Reach) -> Result<Self> {
        command.kill_on_drop(true);
        if reach == Reach::Group {
            command.process_group(0);
        }
        let child = command.spawn().map_err(|error| {
            let kind = match error.kind() {
                std::io::ErrorKind::NotFound => ErrorKind::NotFound,
                _ => ErrorKind::Invalid,
            };
            Error::new(kind, format!("{name} cannot be started: {error}"))
        })?;
        Ok(Self { name, child, reach })
    }

    /// The process id, until it was reaped.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    pub(super) const fn child_mut(&mut self) -> &mut tokio::process::Child {
        &mut self.child
    }

    /// Waits for its end, however long that takes. Cancel-safe.
    pub(super) async fn wait(&mut self) -> Result<ExitStatus> {
        self.child.wait().await.map_err(|error| {
            Error::new(ErrorKind::Fatal, format!("{} cannot be waited for: {error}", self.name))
        })
    }

    /// SIGKILL, and waits until nothing of it runs. An ended process only tells how it ended.
    pub(super) async fn kill(&mut self) -> Result<ExitStatus> {
        let pid = self.raw_pid();
        self.signal(Signal::KILL)?;
        let Ok(status) = timeout(KERNEL, self.wait()).await else {
            return Err(self.late("end after SIGKILL", KERNEL));
        };
        self.group_gone(pid, KERNEL).await?;
        status
    }

    /// SIGTERM, and to what still runs at the deadline SIGKILL.
    pub(super) async fn terminate(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + deadline;
        let pid = self.raw_pid();
        self.signal(Signal::TERM)?;
        // A stopped process takes the request only when it goes on.
        self.signal(Signal::CONT)?;
        let Ok(status) = timeout_at(end, self.wait()).await else { return self.kill().await };
        let left = end.saturating_duration_since(Instant::now());
        if self.group_gone(pid, left).await.is_err() {
            self.sweep(pid);
            self.group_gone(pid, KERNEL).await?;
        }
        status
    }

    /// Waits for its end and kills what it leaves behind. Cancel-safe.
    pub(super) async fn ended(&mut self) -> Result<ExitStatus> {
        let pid = self.raw_pid();
        let status = self.wait().await;
        self.sweep(pid);
        status
    }

    /// SIGSTOP, and waits until the kernel has stopped every thread.
    pub(super) async fn pause(&mut self) -> Result<()> {
        let Some(pid) = self.raw_pid() else { return Err(self.not_running()) };
        self.signal(Signal::STOP)?;
        let what = format!("{} stops", self.name);
        wait::until(&what, KERNEL, || async {
            let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            match waitid(WaitId::Pid(pid), options) {
                Ok(Some(_)) => Ok(()),
                Ok(None) => Err("it runs".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await
    }

    /// SIGCONT.
    pub(super) fn resume(&self) -> Result<()> {
        if self.pid().is_none() {
            return Err(self.not_running());
        }
        self.signal(Signal::CONT)
    }

    /// An error that says that it did not do this in time.
    pub(super) fn late(&self, what: &str, deadline: Duration) -> Error {
        Error::new(ErrorKind::Timeout, format!("{} did not {what} in {deadline:?}", self.name))
    }

    fn not_running(&self) -> Error {
        Error::closed(format!("{} does not run", self.name))
    }

    /// Its id as the kernel wants it. It is the group's id as well, where it leads one.
    fn raw_pid(&self) -> Option<Pid> {
        self.pid().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw)
    }

    /// Kills what is left of a group whose leader was just reaped. The group keeps its id from
    /// being given away while it has members; when it has none, the id is free, but the system
    /// hands ids out in turn and does not come back to it at once.
    fn sweep(&self, leader: Option<Pid>) {
        if let (Reach::Group, Some(group)) = (self.reach, leader) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    /// Waits until no member of the group runs, so that its ports and files are free.
    async fn group_gone(&self, leader: Option<Pid>, deadline: Duration) -> Result<()> {
        let (Reach::Group, Some(group)) = (self.reach, leader) else { return Ok(()) };
        let what = format!("every process of {} ends", self.name);
        wait::until(&what, deadline, || async {
            match test_kill_process_group(group) {
                Ok(()) if group_runs(group) => Err("one runs"),
                _ => Ok(()),
            }
        })
        .await
    }

    /// Does nothing to a process that was reaped.
    fn signal(&self, signal: Signal) -> Result<()> {
        let Some(pid) = self.raw_pid() else { return Ok(()) };
        let sent = match self.reach {
            Reach::Process => kill_process(pid, signal),
            Reach::Group => kill_process_group(pid, signal),
        };
        match sent {
            // It has ended and was not reaped yet; its group may be gone already.
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => {
                Err(Error::new(ErrorKind::Fatal, format!("{} takes no signal: {error}", self.name)))
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The runtime kills and reaps the process itself; its group is ours to kill.
        let _ = self.signal(Signal::KILL);
    }
}

/// Whether a group that exists has more than dead members. In a container nobody may be there to
/// reap an orphan, which keeps its group for ever and holds nothing else.
///
/// A process counts as dead in its state as soon as its first thread is, while another one may
/// still hold the files; hence the number of threads.
#[cfg(target_os = "linux")]
fn group_runs(group: Pid) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else { return true };
    processes.flatten().any(|process| {
        let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        // "pid (name) state parent group ...": the name may hold anything, also parentheses.
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let state = fields.next();
        let of = fields.nth(1).and_then(|group| group.parse().ok()).and_then(Pid::from_raw);
        let threads = fields.nth(14);
        of == Some(group) && !(matches!(state, Some("Z" | "X")) && threads == Some("1"))
    })
}

#[cfg(not(target_os = "linux"))]
fn group_runs(_group: Pid) -> bool {
    true
}
