//! A private broker: one node of the recorded version and configuration, with its own data, which
//! may be killed, paused and started again on them.
//!
//! A node asks `epmd` for the ports of other nodes, and does not start without one. The private
//! node has one of its own, which stays when the node is killed.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use posthaste_conformance::fault::{Ready, Server, ServerSpec, free_port};
use posthaste_core::{Error, Result};
use tokio::sync::{Mutex, OwnedSemaphorePermit};
use tokio::time::Instant;

use crate::folder::Folder;
use crate::rabbitmq_foreign;
use crate::record::{Process, Record};

/// How long an orderly stop may take.
const STOP: Duration = Duration::from_secs(30);
/// How long a node may take to note its queues, and how often that is looked at.
const NOTING: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(50);
/// What nodes are called, and their folders.
const NODE: &str = "posthaste@localhost";
/// Where a node notes its queues, inside the folder that has one folder for each.
const NOTES: &str = "names.dets";
/// Configuration, inside the state folder.
const CONFIG: &str = "rabbitmq.conf";
const PLUGINS: &str = "enabled_plugins";
/// Management would double the time of a start.
const NO_PLUGINS: &str = "[].\n";
/// A log that grows to its usual 512 MB before it is written to the queues would make each start
/// after a kill longer than the one before.
const SMALL_LOG: &str = "raft.wal_max_size_bytes = 16777216\n";
/// What says which port, in the environment of the recorded processes.
const DISTRIBUTION: &str = "RABBITMQ_DIST_PORT";
const NAMES: &str = "ERL_EPMD_PORT";

/// The node goes before `epmd`, both before the folder, and the next one may start after that.
#[derive(Debug)]
pub(crate) struct Node {
    server: Mutex<Server>,
    _epmd: Server,
    addr: SocketAddr,
    /// Where the node keeps its quorum queues.
    quorum: PathBuf,
    _folder: Folder,
    _permit: OwnedSemaphorePermit,
}

/// The ports of a node.
struct Ports {
    clients: u16,
    distribution: u16,
    names: u16,
}

impl Node {
    /// Starts one like the recorded one, and waits until it answers.
    pub(crate) async fn start(like: &Record, permit: OwnedSemaphorePermit) -> Result<Self> {
        let [epmd] = &*like.others else {
            return Err(Error::invalid("the record does not say how epmd is started"));
        };
        let &[_, _, old_names, ..] = &*like.ports else {
            return Err(Error::invalid("the record does not name four ports"));
        };
        let ports =
            Ports { clients: free_port()?, distribution: free_port()?, names: free_port()? };
        let folder = Folder::of("rabbitmq", ports.clients);
        let state = folder.path().join("state");
        configure(&like.state, &state, ports.clients)?;
        let addr = local(ports.clients);
        let (moved, names) = (Moved { like, state: &state, ports: &ports }, local(ports.names));
        let old_names = old_names.to_string();
        let epmd_data = folder.path().join("epmd");
        let spec = moved.spec(epmd, &epmd_data, Ready::Tcp(names), |argument| {
            (argument == old_names).then(|| ports.names.to_string())
        });
        let epmd = Server::start(spec).await?;
        let ready = Ready::check(move || rabbitmq_foreign::answers(addr));
        let spec = moved.spec(&like.server, &state, ready, |_| None);
        let server = Mutex::new(Server::start(spec).await?);
        let quorum = state.join(NODE).join("quorum").join(NODE);
        Ok(Self { server, _epmd: epmd, addr, quorum, _folder: folder, _permit: permit })
    }

    /// Where clients connect that nothing happens to.
    pub(crate) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) async fn stop(&self) -> Result<()> {
        self.server.lock().await.terminate(STOP).await.map(drop)
    }

    /// Once the node has noted which queues it has, which it does a moment after it has said that
    /// they are there. Killed before that, it begins with an empty member of a queue that it has
    /// confirmed, which never becomes its leader: a fault of the broker, and not what is tested.
    pub(crate) async fn kill(&self) -> Result<()> {
        let end = Instant::now() + NOTING;
        while let Some(queue) = unnoted(&self.quorum)? {
            if Instant::now() >= end {
                return Err(Error::invalid("the node does not note its queues")
                    .with_context("queue", queue));
            }
            tokio::time::sleep(LOOK).await;
        }
        self.server.lock().await.kill().await.map(drop)
    }

    pub(crate) async fn start_again(&self) -> Result<()> {
        self.server.lock().await.restart().await
    }

    pub(crate) async fn pause(&self) -> Result<()> {
        self.server.lock().await.pause().await
    }

    pub(crate) async fn resume(&self) -> Result<()> {
        self.server.lock().await.resume()
    }
}

/// A queue that has its folder and is not among what the node has noted.
fn unnoted(quorum: &Path) -> Result<Option<String>> {
    let read = || -> std::io::Result<Option<String>> {
        let notes = std::fs::read(quorum.join(NOTES))?;
        let is_noted = |queue: &str| notes.windows(queue.len()).any(|at| at == queue.as_bytes());
        for entry in std::fs::read_dir(quorum)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_dir() && !is_noted(&name) {
                return Ok(Some(name));
            }
        }
        Ok(None)
    };
    read().map_err(|error| unusable(quorum, &error))
}

/// The recorded processes with a state folder and ports of their own.
struct Moved<'a> {
    like: &'a Record,
    state: &'a Path,
    ports: &'a Ports,
}

impl Moved<'_> {
    /// How to start that process here; `other` says what an argument is instead.
    fn spec(
        &self,
        process: &Process,
        data: &Path,
        ready: Ready,
        other: impl Fn(&str) -> Option<String>,
    ) -> ServerSpec {
        let state = self.state.display().to_string();
        let args = process.args.iter().map(|argument| {
            if Path::new(argument) == self.like.state {
                return state.clone();
            }
            other(argument).unwrap_or_else(|| argument.clone())
        });
        let spec = ServerSpec::new(&process.program, data, ready).args(args);
        process.env.iter().fold(spec, |spec, (name, value)| match name.as_str() {
            DISTRIBUTION => spec.env(name, self.ports.distribution.to_string()),
            NAMES => spec.env(name, self.ports.names.to_string()),
            _ => spec.env(name, value),
        })
    }
}

/// The configuration of the recorded broker with a port of its own, and without management.
fn configure(like: &Path, state: &Path, port: u16) -> Result<()> {
    let recorded = like.join(CONFIG);
    let text = std::fs::read_to_string(&recorded).map_err(|error| unusable(&recorded, &error))?;
    let kept = text
        .lines()
        .filter(|line| !(line.starts_with("listeners.") || line.starts_with("management.")));
    let kept: String = kept.flat_map(|line| [line, "\n"]).collect();
    let text = format!("listeners.tcp.local = 127.0.0.1:{port}\n{kept}{SMALL_LOG}");
    std::fs::create_dir_all(state).map_err(|error| unusable(state, &error))?;
    for (name, text) in [(CONFIG, text.as_str()), (PLUGINS, NO_PLUGINS)] {
        let file = state.join(name);
        std::fs::write(&file, text).map_err(|error| unusable(&file, &error))?;
    }
    Ok(())
}

const fn local(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

#[cold]
fn unusable(path: &Path, error: &std::io::Error) -> Error {
    Error::invalid(format!("{} cannot be used: {error}", path.display()))
}
