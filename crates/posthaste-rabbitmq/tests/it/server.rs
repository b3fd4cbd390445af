//! The brokers that are there, and private ones that a test may break.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use posthaste_rabbitmq::RabbitmqConfig;
use serde::Deserialize;
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// The program inside the tree that is a node; what stands before it in the recorded arguments
/// enters the tree.
const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const CONTROL: &str = "/usr/lib/rabbitmq/bin/rabbitmqctl";
/// How long a node may take to come up on a machine that is busy.
const UP: Duration = Duration::from_secs(90);

/// A broker that is there.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Server {
    pub(crate) url: String,
    #[serde(default)]
    program: PathBuf,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    others: Vec<Helper>,
    #[serde(default)]
    ports: Vec<u16>,
    #[serde(default)]
    state: PathBuf,
}

/// A process that a node needs.
#[derive(Debug, Clone, Deserialize)]
struct Helper {
    args: Vec<String>,
}

/// The broker of that id: by its variable, else as it was recorded.
pub(crate) fn find(id: &str) -> Option<Server> {
    let name: String = id
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
        .collect();
    let records = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/brokers");
    let recorded = std::fs::read(records.join(format!("{id}.json"))).ok();
    let recorded: Option<Server> = recorded.and_then(|text| serde_json::from_slice(&text).ok());
    match std::env::var(format!("POSTHASTE_{name}_URL")) {
        Ok(url) if !url.is_empty() => {
            let recorded = recorded.filter(|server| server.url == url);
            Some(recorded.unwrap_or_else(|| Server {
                url,
                program: PathBuf::new(),
                args: Vec::new(),
                env: BTreeMap::new(),
                others: Vec::new(),
                ports: Vec::new(),
                state: PathBuf::new(),
            }))
        }
        _ => recorded,
    }
}

impl Server {
    pub(crate) fn config(&self) -> RabbitmqConfig {
        RabbitmqConfig::from_url(&self.url).expect("a recorded URL is sound")
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        let address = self.url.split('@').next_back().and_then(|rest| rest.split('/').next());
        let mut found = address.expect("a URL").to_socket_addrs().expect("a known host");
        found.next().expect("an address")
    }

    /// Whether it is recorded how to start another one.
    pub(crate) fn can_be_started(&self) -> bool {
        self.args.iter().any(|argument| argument == SERVER)
            && self.others.len() == 1
            && self.ports.len() == 4
    }
}

/// A broker of the test's own. It is killed when it is dropped; its data goes too.
pub(crate) struct Private {
    like: Server,
    folder: PathBuf,
    port: u16,
    distribution: u16,
    names: u16,
    epmd: Option<Child>,
    node: Option<Child>,
}

impl Private {
    /// Starts one of the same version and configuration.
    pub(crate) async fn start(like: &Server) -> Self {
        let port = free_port();
        let folder =
            std::env::temp_dir().join(format!("posthaste-rabbitmq-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let config = std::fs::read_to_string(like.state.join("rabbitmq.conf"));
        let config = config.expect("the configuration of the other");
        let other =
            |line: &&str| !(line.starts_with("listeners.") || line.starts_with("management"));
        let mut lines: Vec<String> = config.lines().filter(other).map(str::to_owned).collect();
        lines.push(format!("listeners.tcp.local = 127.0.0.1:{port}"));
        std::fs::write(folder.join("rabbitmq.conf"), lines.join("\n") + "\n").expect("a file");
        std::fs::write(folder.join("enabled_plugins"), "[].\n").expect("a file");
        let (distribution, names) = (free_port(), free_port());
        let like = like.clone();
        let mut broker = Self { like, folder, port, distribution, names, epmd: None, node: None };
        broker.epmd = Some(broker.helper().spawn().expect("the program can be started"));
        wait_for("epmd listens", async || {
            tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, names)).await.is_ok()
        })
        .await;
        broker.up().await;
        broker
    }

    pub(crate) fn config(&self) -> RabbitmqConfig {
        RabbitmqConfig::from_url(&self.url()).expect("a sound URL")
    }

    pub(crate) fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// Starts it on its data, and waits until it answers.
    pub(crate) async fn up(&mut self) {
        self.node = Some(self.inside(&[SERVER]).spawn().expect("the program can be started"));
        let url = self.url();
        wait_for("the node answers", async || crate::raw::answers(&url).await).await;
    }

    /// Ends it, as an administrator does.
    pub(crate) async fn down(&mut self) {
        let status = self.inside(&[CONTROL, "stop_app"]).status().await;
        let status = status.expect("the program can be started");
        assert!(status.success(), "the broker could not be stopped: {status}");
    }

    /// Starts it after that.
    pub(crate) async fn up_again(&mut self) {
        let status = self.inside(&[CONTROL, "start_app"]).status().await;
        let status = status.expect("the program can be started");
        assert!(status.success(), "the broker could not be started: {status}");
    }

    /// Has the node take no messages, because it lacks memory, or has it take them again.
    pub(crate) async fn alarm(&self, on: bool) {
        let mark = if on { "0.0000001" } else { "0.6" };
        let mut command = self.inside(&[CONTROL, "set_vm_memory_high_watermark", mark]);
        let status = command.status().await.expect("the program can be started");
        assert!(status.success(), "the watermark could not be set: {status}");
    }

    /// A program in the tree, with the variables of the node.
    fn inside(&self, program: &[&str]) -> Command {
        let at = self.like.args.iter().position(|argument| argument == SERVER);
        let enter = &self.like.args[..at.expect("a node")];
        let mut command = self.command(enter);
        command.args(program);
        for (name, value) in &self.like.env {
            match name.as_str() {
                "RABBITMQ_DIST_PORT" => command.env(name, self.distribution.to_string()),
                "ERL_EPMD_PORT" => command.env(name, self.names.to_string()),
                _ => command.env(name, value),
            };
        }
        command
    }

    fn helper(&self) -> Command {
        let old = self.like.ports[2].to_string();
        let args = self.like.others[0].args.iter();
        let args: Vec<String> = args
            .map(|arg| if *arg == old { self.names.to_string() } else { arg.clone() })
            .collect();
        self.command(&args)
    }

    fn command(&self, args: &[String]) -> Command {
        let state = self.folder.display().to_string();
        let here = |arg: &String| {
            if Path::new(arg) == self.like.state { state.clone() } else { arg.clone() }
        };
        let mut command = Command::new(&self.like.program);
        command
            .args(args.iter().map(here))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        command
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        for child in self.node.iter_mut().chain(&mut self.epmd) {
            let _ = child.start_kill();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

async fn wait_for(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + UP;
    while !is_so().await {
        assert!(Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn free_port() -> u16 {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    socket.local_addr().expect("a bound socket").port()
}
