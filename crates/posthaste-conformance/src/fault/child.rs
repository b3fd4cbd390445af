//! This test binary once more, as a process that a test may kill: a consumer with a hundred
//! deliveries in flight, a publisher in the middle of a batch.
//!
//! The child tells what it did by lines on its output. There is no way back to it but its
//! environment and signals, because a child that has to be told things is not killed at random.

use std::fmt::Display;
use std::io::{Read, Write};
use std::process::{ExitStatus, Stdio};
use std::sync::Once;
use std::time::Duration;

use posthaste_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::process::{Process, Reach};

/// The variable that holds a child's role.
pub const ROLE_VARIABLE: &str = "POSTHASTE_FAULT_ROLE";

/// Lines that wait to be read. When they are so many, the child blocks in its next line.
const LINES: usize = 1024;
/// The longest line in bytes; a longer one arrives in pieces.
const LINE: u64 = 64 * 1024;

/// The role in which this process was started by [`Child::spawn`], or `None` in the test process
/// itself.
///
/// The `main` of the test binary asks first of all, and plays the role instead of running tests.
/// In a child the first call also starts a thread that ends the process when its parent is gone,
/// however that ended, so that no child outlives its test.
///
/// ```no_run
/// use posthaste_conformance::fault;
///
/// fn main() {
///     match fault::role().as_deref() {
///         None => { /* run the tests */ }
///         Some("consumer") => { /* subscribe, and say what was handled */ }
///         Some(other) => panic!("no role {other}"),
///     }
/// }
/// ```
#[must_use]
pub fn role() -> Option<String> {
    static WATCH: Once = Once::new();
    let role = std::env::var(ROLE_VARIABLE).ok()?;
    WATCH.call_once(|| {
        std::thread::spawn(end_with_parent);
    });
    Some(role)
}

/// The parent holds the other end of our input and never writes: reading ends when it is gone.
fn end_with_parent() {
    let mut input = std::io::stdin().lock();
    while input.read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
    std::process::exit(1);
}

/// Prints a line for the parent and flushes it: when this returns, the line survives a SIGKILL of
/// this process.
///
/// It blocks while the parent has many lines unread. A parent that is gone is no error here; it
/// ends the process by itself.
pub fn say(line: impl Display) {
    let mut output = std::io::stdout().lock();
    let _ = writeln!(output, "{line}").and_then(|()| output.flush());
}

/// A child process, running this executable in a role. Dropping it kills it and never blocks.
///
/// Its errors go where those of the test go, so that a panic in a child is seen.
///
/// ```no_run
/// # async fn example() -> posthaste_core::Result<()> {
/// # use std::time::Duration;
/// use posthaste_conformance::fault::Child;
///
/// let mut consumer = Child::spawn("consumer", &[("TOPIC", "orders".to_owned())])?;
/// while consumer.next_line(Duration::from_secs(10)).await?.as_deref() != Some("100 in flight") {}
/// consumer.kill().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Child {
    process: Process,
    lines: mpsc::Receiver<String>,
    /// Its end is how the child knows that we are gone. Held here, because waiting for a process
    /// closes the input that is still its own.
    _input: Option<ChildStdin>,
    /// Owns the task that reads the lines. It ends with the output or with the receiver.
    _reader: TaskTracker,
}

impl Child {
    /// Starts [`std::env::current_exe`] in a role, with these variables besides those of this
    /// process and without arguments.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] or [`ErrorKind::Invalid`] when it cannot be started, as when the
    /// executable was replaced meanwhile, or outside of a tokio runtime.
    pub fn spawn(role: &str, env: &[(&str, String)]) -> Result<Self> {
        tokio::runtime::Handle::try_current().map_err(|error| {
            Error::invalid("a child is started on a tokio runtime").with_source(error)
        })?;
        let program = std::env::current_exe().map_err(|error| {
            Error::new(ErrorKind::NotFound, "this executable has no path").with_source(error)
        })?;
        let mut command = Command::new(program);
        command.env(ROLE_VARIABLE, role).envs(env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let name = format!("the child in role {role}");
        let mut process = Process::spawn(name, &mut command, Reach::Process)?;

        let (sender, lines) = mpsc::channel(LINES);
        let reader = TaskTracker::new();
        if let Some(output) = process.child_mut().stdout.take() {
            reader.spawn(read_lines(output, sender));
        }
        reader.close();
        let input = process.child_mut().stdin.take();
        Ok(Self { process, lines, _input: input, _reader: reader })
    }

    /// The process id, or `None` once it was seen to have ended.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// The next line it printed, without its end. `None` when it has ended and every line was
    /// read: what it printed before a kill is not lost.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] when there was no line within the deadline.
    ///
    /// # Cancel safety
    /// No line is lost.
    pub async fn next_line(&mut self, deadline: Duration) -> Result<Option<String>> {
        match timeout(deadline, self.lines.recv()).await {
            Ok(line) => Ok(line),
            Err(_) => Err(self.process.late("print a line", deadline)),
        }
    }

    /// SIGKILL, and waits until it is gone. A child that has ended only tells how.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] when the kernel did not end it within 10 s.
    ///
    /// # Cancel safety
    /// The signal is sent at once; dropping the future gives up waiting.
    pub async fn kill(&mut self) -> Result<ExitStatus> {
        self.process.kill().await
    }

    /// SIGTERM, and after the deadline SIGKILL. The status tells which it was.
    ///
    /// # Errors
    /// As [`kill`](Self::kill).
    ///
    /// # Cancel safety
    /// SIGTERM is sent at once; dropping the future gives up waiting and the SIGKILL.
    pub async fn terminate(&mut self, deadline: Duration) -> Result<ExitStatus> {
        self.process.terminate(deadline).await
    }

    /// SIGSTOP, and waits until it stands still: a consumer that keeps its connection and lets
    /// its leases run out.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] when it does not run, [`ErrorKind::Timeout`] when it did not stop
    /// within 10 s.
    ///
    /// # Cancel safety
    /// The signal is sent at once; dropping the future gives up waiting.
    pub async fn pause(&mut self) -> Result<()> {
        self.process.pause().await
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] when it does not run.
    pub fn resume(&self) -> Result<()> {
        self.process.resume()
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] when it did not; it goes on running.
    ///
    /// # Cancel safety
    /// It only waits.
    pub async fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        match timeout(deadline, self.process.wait()).await {
            Ok(status) => status,
            Err(_) => Err(self.process.late("end", deadline)),
        }
    }
}

async fn read_lines(output: ChildStdout, lines: mpsc::Sender<String>) {
    let mut output = BufReader::new(output);
    loop {
        let mut line = Vec::new();
        let mut one = (&mut output).take(LINE);
        let read = tokio::select! {
            () = lines.closed() => return,
            read = one.read_until(b'\n', &mut line) => read,
        };
        if !read.is_ok_and(|count| count > 0) {
            return;
        }
        let line = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line)).into_owned();
        if lines.send(line).await.is_err() {
            return;
        }
    }
}
