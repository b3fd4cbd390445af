//! The servers that are there, and private ones that a test may break.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use posthaste_redis::RedisConfig;
use serde::Deserialize;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::raw::Raw;

/// How long a server may take to come up on a machine that is busy.
const UP: Duration = Duration::from_secs(30);

/// A server that is there.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Server {
    pub(crate) url: String,
    #[serde(default)]
    pub(crate) version: String,
    #[serde(default)]
    pub(crate) user: String,
    /// Files that clients need, by purpose.
    #[serde(default)]
    pub(crate) files: BTreeMap<String, PathBuf>,
    #[serde(default)]
    program: PathBuf,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    state: PathBuf,
}

/// The server of that id: by its variable, else as it was recorded.
pub(crate) fn find(id: &str) -> Option<Server> {
    let upper = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let name: String = id.chars().map(upper).collect();
    let records = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/brokers");
    let recorded = std::fs::read(records.join(format!("{id}.json"))).ok();
    let recorded: Option<Server> = recorded.and_then(|text| serde_json::from_slice(&text).ok());
    match std::env::var(format!("POSTHASTE_{name}_URL")) {
        Ok(url) if !url.is_empty() => recorded.filter(|server| server.url == url),
        _ => recorded,
    }
}

impl Server {
    pub(crate) fn config(&self) -> RedisConfig {
        RedisConfig::from_url(&self.url).expect("a recorded URL is sound")
    }

    pub(crate) async fn raw(&self) -> Raw {
        Raw::connect(&self.url).await
    }
}

/// A server of the test's own. It is killed when it is dropped; its data goes too.
pub(crate) struct Private {
    like: Server,
    folder: PathBuf,
    pub(crate) url: String,
    process: Option<Child>,
}

impl Private {
    /// Starts one of the same version and configuration.
    pub(crate) async fn start(like: &Server, further: &str) -> Self {
        let port = free_port();
        let folder =
            std::env::temp_dir().join(format!("posthaste-redis-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let config = std::fs::read_to_string(like.state.join("server.conf"));
        let config = config.expect("the configuration of the other");
        let kept = config.lines().filter(|line| !line.starts_with("port "));
        let kept: String = kept.flat_map(|line| [line, "\n"]).collect();
        std::fs::write(folder.join("server.conf"), format!("port {port}\n{kept}{further}\n"))
            .expect("a file");
        let url = format!("redis://127.0.0.1:{port}/0");
        let mut server = Self { like: like.clone(), folder, url, process: None };
        server.up().await;
        server
    }

    pub(crate) fn config(&self) -> RedisConfig {
        RedisConfig::from_url(&self.url).expect("our own URL is sound")
    }

    pub(crate) async fn raw(&self) -> Raw {
        Raw::connect(&self.url).await
    }

    async fn up(&mut self) {
        let args = self.like.args.iter().map(|argument| {
            if Path::new(argument) == self.like.state {
                return self.folder.clone();
            }
            PathBuf::from(argument)
        });
        let mut command = Command::new(&self.like.program);
        command.args(args).env("LC_ALL", "C").kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(command.spawn().expect("the program can be started"));
        let end = Instant::now() + UP;
        while Raw::try_connect(&self.url).await.is_err() {
            assert!(Instant::now() < end, "the server does not come up");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            drop(process.start_kill());
        }
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}
