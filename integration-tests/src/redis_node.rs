//! A private server: of the recorded version and configuration, with its own data, which may be
//! killed, paused and started again on them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use posthaste_conformance::fault::{Ready, Server, ServerSpec, free_port};
use posthaste_core::{Error, Result};
use tokio::sync::Mutex;

use crate::folder::Folder;
use crate::record::Record;
use crate::redis_foreign;

/// How long an orderly stop may take.
const STOP: Duration = Duration::from_secs(15);
/// Configuration, inside the state folder.
const CONFIG: &str = "server.conf";
/// A server that syncs each second answers before it has written while its disk is slow, and loses
/// that when it is killed: the window that `Capabilities` tell. What has to survive a kill needs
/// one that syncs before it answers.
const SYNC: &str = "appendfsync always\n";

/// The server goes before its folder does.
#[derive(Debug)]
pub(crate) struct Node {
    server: Mutex<Server>,
    addr: SocketAddr,
    _folder: Folder,
}

impl Node {
    /// Starts one like the recorded one, and waits until it answers.
    pub(crate) async fn start(like: &Record) -> Result<Self> {
        let port = free_port()?;
        let folder = Folder::of("redis", port);
        let state = folder.path().join("state");
        configure(&like.state, &state, port)?;
        let addr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let args = like.server.args.iter().map(|argument| {
            if Path::new(argument) == like.state {
                return state.display().to_string();
            }
            argument.clone()
        });
        let ready = Ready::check(move || redis_foreign::answers(addr));
        let spec = ServerSpec::new(&like.server.program, &state, ready).args(args);
        let spec = like.server.env.iter().fold(spec, |spec, (name, value)| spec.env(name, value));
        let server = Mutex::new(Server::start(spec).await?);
        Ok(Self { server, addr, _folder: folder })
    }

    /// Where clients connect that nothing happens to.
    pub(crate) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) async fn stop(&self) -> Result<()> {
        self.server.lock().await.terminate(STOP).await.map(drop)
    }

    pub(crate) async fn kill(&self) -> Result<()> {
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

/// The configuration of the recorded server with a port of its own, for one that is killed.
fn configure(like: &Path, state: &Path, port: u16) -> Result<()> {
    let recorded = like.join(CONFIG);
    let text = std::fs::read_to_string(&recorded).map_err(|error| unusable(&recorded, &error))?;
    let other = |line: &&str| !(line.starts_with("port ") || line.starts_with("appendfsync "));
    let kept = text.lines().filter(other);
    let kept: String = kept.flat_map(|line| [line, "\n"]).collect();
    std::fs::create_dir_all(state).map_err(|error| unusable(state, &error))?;
    let file = state.join(CONFIG);
    std::fs::write(&file, format!("port {port}\n{kept}{SYNC}"))
        .map_err(|error| unusable(&file, &error))
}

#[cold]
fn unusable(path: &Path, error: &std::io::Error) -> Error {
    Error::invalid(format!("{} cannot be used: {error}", path.display()))
}
