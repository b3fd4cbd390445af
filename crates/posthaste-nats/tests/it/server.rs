//! The servers that are there, and private ones that a test may kill.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use posthaste_nats::{NatsBroker, NatsConfig};
use serde::Deserialize;
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// A server that is there.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Server {
    pub(crate) url: String,
    #[serde(default)]
    pub(crate) program: PathBuf,
    #[serde(default)]
    pub(crate) user: Option<String>,
    /// Files that clients need, by purpose.
    #[serde(default)]
    pub(crate) files: BTreeMap<String, PathBuf>,
}

/// The server of that id: by its variable, else as it was recorded.
pub(crate) fn find(id: &str) -> Option<Server> {
    let name: String = id
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
        .collect();
    let recorded = std::fs::read(records().join(format!("{id}.json"))).ok();
    let recorded: Option<Server> = recorded.and_then(|text| serde_json::from_slice(&text).ok());
    match std::env::var(format!("POSTHASTE_{name}_URL")) {
        Ok(url) if !url.is_empty() => {
            let program = recorded.map(|server| server.program).unwrap_or_default();
            Some(Server { url, program, user: None, files: BTreeMap::new() })
        }
        _ => recorded,
    }
}

fn records() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target =
        target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"));
    target.join("brokers")
}

/// Deletes the streams of this run.
pub(crate) fn clean_up() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return };
    let ours = format!("{}-", std::process::id());
    runtime.block_on(async {
        for server in ["nats", "nats@2.9"].into_iter().filter_map(find) {
            let Ok(client) = async_nats::connect(&server.url).await else { continue };
            let context = async_nats::jetstream::new(client);
            let names: Vec<String> = context.stream_names().try_collect().await.unwrap_or_default();
            for name in names.iter().filter(|name| name.contains(&ours)) {
                let _ = context.delete_stream(name).await;
            }
        }
    });
}

impl Server {
    pub(crate) fn config(&self) -> NatsConfig {
        NatsConfig::from_url(&self.url).expect("a recorded URL is sound")
    }

    pub(crate) async fn connect(&self) -> NatsBroker {
        NatsBroker::connect(self.config()).await.expect("the server is there")
    }

    /// A client of the native library, for what another program does.
    pub(crate) async fn native(&self) -> async_nats::Client {
        async_nats::connect(&self.url).await.expect("the server is there")
    }
}

/// A server of the test's own. It is killed when it is dropped; its data goes too.
pub(crate) struct Private {
    program: PathBuf,
    folder: PathBuf,
    port: u16,
    /// What its configuration file says, where it has one.
    config: Option<String>,
    child: Option<Child>,
}

impl Private {
    /// Starts one of the same version.
    pub(crate) async fn start(like: &Server) -> Self {
        Self::configured(like, None).await
    }

    /// Starts one of the same version, with a configuration beside the arguments.
    pub(crate) async fn configured(like: &Server, config: Option<String>) -> Self {
        let port = {
            let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
            socket.local_addr().expect("a bound socket").port()
        };
        let folder =
            std::env::temp_dir().join(format!("posthaste-nats-{}-{port}", std::process::id()));
        let program = like.program.clone();
        let mut server = Self { program, folder, port, config, child: None };
        server.up().await;
        server
    }

    pub(crate) fn server(&self) -> Server {
        Server {
            url: format!("nats://127.0.0.1:{}", self.port),
            program: self.program.clone(),
            user: None,
            files: BTreeMap::new(),
        }
    }

    /// Starts it on its data, and waits until it answers.
    pub(crate) async fn up(&mut self) {
        let port = self.port.to_string();
        std::fs::create_dir_all(&self.folder).expect("a folder");
        let file = self.folder.join("server.conf");
        std::fs::write(&file, self.config.as_deref().unwrap_or_default()).expect("a file");
        let child = Command::new(&self.program)
            .args(["-js", "-a", "127.0.0.1", "-p", &port, "-sd"])
            .arg(self.folder.join("data"))
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the program can be started");
        self.child = Some(child);
        let until = Instant::now() + Duration::from_secs(20);
        while tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.is_err() {
            assert!(Instant::now() < until, "the server did not come up");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends it as a power cut would.
    pub(crate) async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.expect("the server is ours");
        }
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.start_kill();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
