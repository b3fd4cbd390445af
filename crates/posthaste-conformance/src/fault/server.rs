//! A broker process of the test's own, which it may kill, pause and start again on its data.
//!
//! It does not install, configure or clean up anything: the caller says what to run and where the
//! data lies, and the data stays when the server is gone.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use posthaste_core::{Error, ErrorKind, Result};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::process::{Process, Reach};
use super::wait;

/// Long enough for a JVM on a busy machine.
const START: Duration = Duration::from_secs(60);
/// How much of the output is searched for the line that says that the server is ready.
const SEARCHED: u64 = 1024 * 1024;
/// How much of the output stands in an error.
const TAIL: u64 = 2 * 1024;

type Check = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<()>> + Send>> + Send + Sync>;

/// How a server shows that it can be used.
#[derive(Clone)]
#[non_exhaustive]
pub enum Ready {
    /// Its output, of this start, contains the text.
    Line(String),
    /// The address takes connections.
    Tcp(SocketAddr),
    /// What [`Ready::check`] was given says so.
    Check(Check),
}

impl Ready {
    /// Ready when the future is `Ok`, for example after a first ping. It is asked anew, in short
    /// intervals, until then; its last error stands in the error of a failed start.
    pub fn check<F, Fut>(check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        Self::Check(Arc::new(move || Box::pin(check())))
    }
}

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(text) => f.debug_tuple("Line").field(text).finish(),
            Self::Tcp(addr) => f.debug_tuple("Tcp").field(addr).finish(),
            Self::Check(_) => f.debug_tuple("Check").finish_non_exhaustive(),
        }
    }
}

/// What to run. The port is part of the arguments or of the configuration they name, so that it
/// is the same at every start; [`free_port`](super::free_port) finds one.
#[derive(Clone)]
pub struct ServerSpec {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    data_dir: PathBuf,
    ready: Ready,
    start_within: Duration,
}

impl ServerSpec {
    /// A program that keeps its data in this folder, which is created where it is missing. Both
    /// its outputs are appended to the folder's path with `.log` at the end, beside the folder,
    /// because some brokers accept no file in it that they do not know.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>, data_dir: impl Into<PathBuf>, ready: Ready) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            data_dir: data_dir.into(),
            ready,
            start_within: START,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable, besides those of this process.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// How long a start may take until the server is ready; 60 s if not set.
    #[must_use]
    pub const fn start_within(mut self, deadline: Duration) -> Self {
        self.start_within = deadline;
        self
    }

    fn name(&self) -> String {
        self.program.file_name().unwrap_or(OsStr::new("server")).to_string_lossy().into_owned()
    }

    fn log(&self) -> PathBuf {
        let mut path = self.data_dir.clone().into_os_string();
        path.push(".log");
        PathBuf::from(path)
    }
}

impl fmt::Debug for ServerSpec {
    /// Without the values of variables, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("ServerSpec")
            .field("program", &self.program)
            .field("args", &self.args)
            .field("env", &names)
            .field("data_dir", &self.data_dir)
            .field("ready", &self.ready)
            .finish_non_exhaustive()
    }
}

/// A server that this test started.
///
/// It leads a process group of its own and every signal goes to the whole group, so that it may
/// be started by a script. It must stay in the foreground: a program that puts itself into the
/// background counts as ended. Its input is empty.
///
/// Dropping it kills the group and never blocks. A test process that is itself killed hard leaves
/// the server behind; nothing short of unsafe code prevents that.
///
/// ```no_run
/// # async fn example() -> posthaste_core::Result<()> {
/// use posthaste_conformance::fault::{Ready, Server, ServerSpec, free_port};
///
/// let port = free_port()?;
/// let spec = ServerSpec::new("nats-server", "data", Ready::Line("Server is ready".into()))
///     .args(["-js", "-a", "127.0.0.1", "-sd", "data", "-p"])
///     .arg(port.to_string());
/// let mut server = Server::start(spec).await?;
/// server.kill().await?; // SIGKILL: no goodbye, no flush
/// server.restart().await?; // the same data, the same port
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    spec: ServerSpec,
    process: Process,
}

impl Server {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such program, [`ErrorKind::Invalid`] when it, its
    /// data folder or its log cannot be used, [`ErrorKind::Closed`] when it ended before it was
    /// ready, [`ErrorKind::Timeout`] when it was not ready in time. The last two carry the end of
    /// its output.
    ///
    /// # Cancel safety
    /// Dropping the future kills the process.
    pub async fn start(spec: ServerSpec) -> Result<Self> {
        let process = launch(&spec).await?;
        Ok(Self { spec, process })
    }

    /// The process id, or `None` once it was seen to have ended.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// Where the output of every start goes.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.spec.log()
    }

    /// Where it keeps its data.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.spec.data_dir
    }

    /// SIGKILL, and waits until it is gone. A server that has ended only tells how.
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

    /// SIGSTOP, and waits until it stands still: its sockets stay open and the kernel goes on
    /// accepting for it, but nothing answers.
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

    /// Starts it again with the same arguments, hence on the same data and the same port, and
    /// waits until it is ready. A server that runs is killed first (SIGKILL); for an orderly
    /// restart, [`terminate`](Self::terminate) it before.
    ///
    /// # Errors
    /// As [`start`](Self::start) and [`kill`](Self::kill). It does not run then.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it killed.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill().await?;
        self.process = launch(&self.spec).await?;
        Ok(())
    }
}

async fn launch(spec: &ServerSpec) -> Result<Process> {
    std::fs::create_dir_all(&spec.data_dir).map_err(|error| unusable(&spec.data_dir, &error))?;
    let path = spec.log();
    let log = OpenOptions::new().create(true).append(true).read(true).open(&path);
    let log = log.map_err(|error| unusable(&path, &error))?;
    let begin = log.metadata().map_err(|error| unusable(&path, &error))?.len();
    let writer = || log.try_clone().map_err(|error| unusable(&path, &error));

    let mut command = Command::new(&spec.program);
    command.args(&spec.args).envs(spec.env.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(writer()?).stderr(writer()?);
    let mut process = Process::spawn(spec.name(), &mut command, Reach::Group)?;
    let started = tokio::select! {
        biased;
        ready = ready(spec, &log, begin) => ready,
        status = process.ended() => status.and_then(|status| {
            let message = format!("{} ended before it was ready: {status}", spec.name());
            Err(Error::closed(message))
        }),
    };
    started.map_err(|error| {
        error.with_context("log", path.display()).with_context("output", tail(&log, begin))
    })?;
    Ok(process)
}

async fn ready(spec: &ServerSpec, log: &File, begin: u64) -> Result<()> {
    let what = format!("{} is ready", spec.name());
    let within = spec.start_within;
    match &spec.ready {
        Ready::Line(text) => {
            wait::until(&what, within, || async {
                // A read of the page cache, no reason for a thread of its own.
                let output = read(log, begin, SEARCHED);
                if output.contains(text) { Ok(()) } else { Err("other output, or none") }
            })
            .await
        }
        Ready::Tcp(addr) => {
            wait::until(&what, within, || async {
                match TcpStream::connect(addr).await {
                    Ok(_) => Ok(()),
                    Err(error) => Err(error.to_string()),
                }
            })
            .await
        }
        Ready::Check(check) => wait::until(&what, within, || check()).await,
    }
}

/// The output from a position on, at most so much of it. What cannot be read is empty.
fn read(mut log: &File, from: u64, at_most: u64) -> String {
    let mut bytes = Vec::new();
    // Moving the shared position is harmless: the writers append.
    let _ = log.seek(SeekFrom::Start(from)).and_then(|_| log.take(at_most).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn tail(log: &File, begin: u64) -> String {
    let end = log.metadata().map_or(begin, |log| log.len());
    read(log, begin.max(end.saturating_sub(TAIL)), TAIL)
}

#[cold]
fn unusable(path: &Path, error: &std::io::Error) -> Error {
    Error::new(ErrorKind::Invalid, format!("{} cannot be used: {error}", path.display()))
}
