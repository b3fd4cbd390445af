//! Running children so that Ctrl-C ends them, and lets us clean up after them.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::{Context, Result};
use crate::wait;

/// Catches the signals that ask a program to end, from its creation to the end of the process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    came: u32,
    /// The process group of the child that runs now.
    child: Option<Pid>,
}

impl Interrupt {
    /// Catches SIGINT, SIGTERM and SIGHUP. The thread that waits for them lives as long as the
    /// program.
    pub(crate) fn install() -> Result<Self> {
        let interrupt = Self::default();
        let mut signals =
            Signals::new([SIGINT, SIGTERM, SIGHUP]).context(|| "catching signals".to_owned())?;
        let on_signal = interrupt.clone();
        std::thread::spawn(move || {
            for _ in signals.forever() {
                on_signal.forward();
            }
        });
        Ok(interrupt)
    }

    /// Whether a signal came.
    pub(crate) fn came(&self) -> bool {
        self.state().came > 0
    }

    /// Runs `command` with our output as its own; `true` when it succeeded.
    pub(crate) fn status(&self, command: &mut Command) -> Result<bool> {
        let child = self.spawn(command)?;
        self.wait(child, command)
    }

    /// Runs `command` with our output as its own; its exit code, none if a signal ended it.
    pub(crate) fn code(&self, command: &mut Command) -> Result<Option<i32>> {
        let child = self.spawn(command)?;
        Ok(self.ended(child, command)?.code())
    }

    /// Runs `command` and gives each line of its standard output to `each`.
    pub(crate) fn lines(&self, command: &mut Command, mut each: impl FnMut(&str)) -> Result<bool> {
        let mut child = self.spawn(command.stdout(Stdio::piped()))?;
        if let Some(output) = child.stdout.take() {
            for line in BufReader::new(output).split(b'\n') {
                let line = line.context(|| "reading the child's output".to_owned())?;
                each(String::from_utf8_lossy(&line).trim_end_matches('\r'));
            }
        }
        self.wait(child, command)
    }

    /// Runs `command` to its end, but no longer than `limit`; `None` when it had to be killed.
    pub(crate) fn within(&self, command: &mut Command, limit: Duration) -> Result<Option<bool>> {
        let mut child = self.spawn(command)?;
        if wait::until(limit, || child.try_wait().transpose()).is_none() {
            self.kill();
            self.wait(child, command)?;
            return Ok(None);
        }
        self.wait(child, command).map(Some)
    }

    /// Starts a child in a process group of its own, so that what it starts ends with it.
    fn spawn(&self, command: &mut Command) -> Result<Child> {
        // Held over the start: a signal finds either no child, or one that it can reach.
        let mut state = self.state();
        let child = command.process_group(0).spawn().context(|| name(command))?;
        state.child = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let too_late = state.came > 0;
        drop(state);
        if too_late {
            self.forward();
        }
        Ok(child)
    }

    fn wait(&self, child: Child, command: &Command) -> Result<bool> {
        Ok(self.ended(child, command)?.success())
    }

    fn ended(&self, mut child: Child, command: &Command) -> Result<ExitStatus> {
        let status = child.wait().context(|| name(command))?;
        self.state().child = None;
        Ok(status)
    }

    /// Counts a signal and passes it on; the second one kills.
    fn forward(&self) {
        let mut state = self.state();
        state.came += 1;
        let signal = if state.came > 1 { Signal::KILL } else { Signal::TERM };
        if let Some(group) = state.child {
            // It has ended by itself if it cannot be reached.
            let _ended = kill_process_group(group, signal);
        }
    }

    /// Ends the child and all that it started.
    fn kill(&self) {
        if let Some(group) = self.state().child {
            let _ended = kill_process_group(group, Signal::KILL);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name(command: &Command) -> String {
    format!("running {}", command.get_program().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn the_outcome_and_the_lines_of_a_child_are_seen() {
        let interrupt = Interrupt::default();
        let mut lines = Vec::new();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo one; echo two; exit 3"]);
        let fine = interrupt.lines(&mut command, |line| lines.push(line.to_owned())).unwrap();
        assert_eq!((fine, lines), (false, vec!["one".to_owned(), "two".to_owned()]));
        assert!(interrupt.status(&mut Command::new("/bin/true")).unwrap());
        let mut seven = Command::new("/bin/sh");
        assert_eq!(interrupt.code(seven.args(["-c", "exit 7"])).unwrap(), Some(7));
        assert!(!interrupt.came());
    }

    #[test]
    fn a_signal_ends_the_child_and_what_it_started() {
        let interrupt = Interrupt::default();
        let mut command = Command::new("/bin/sh");
        // The shell's child holds the pipe open: it must end too for the lines to end.
        command.args(["-c", "sleep 60 & echo started; wait"]);
        let begun = Instant::now();
        let fine = interrupt.lines(&mut command, |_| interrupt.forward()).unwrap();
        assert!(!fine && interrupt.came());
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_child_that_takes_too_long_is_killed() {
        let interrupt = Interrupt::default();
        let limit = Duration::from_millis(50);
        let mut slow = Command::new("/bin/sleep");
        assert_eq!(interrupt.within(slow.arg("60"), limit).unwrap(), None);
        let mut quick = Command::new("/bin/true");
        assert_eq!(interrupt.within(&mut quick, Duration::from_secs(30)).unwrap(), Some(true));
    }

    #[test]
    fn a_signal_before_the_start_ends_the_child_too() {
        let interrupt = Interrupt::default();
        interrupt.forward();
        let mut command = Command::new("/bin/sleep");
        assert!(!interrupt.status(command.arg("60")).unwrap());
    }
}
