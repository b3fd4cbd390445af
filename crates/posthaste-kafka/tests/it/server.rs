//! The brokers that are there, and private ones that a test may kill.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::adapter::KafkaConfig;

/// The class that a broker runs, as the last but one of its arguments.
const MAIN: &str = "kafka.Kafka";

/// The configuration of a private broker, in its folder.
const CONFIG: &str = "node.properties";

/// A broker that is there.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Server {
    pub(crate) url: String,
    #[serde(default)]
    program: PathBuf,
    #[serde(default)]
    args: Vec<String>,
    /// Where it runs: its class path is relative.
    #[serde(default)]
    folder: PathBuf,
    #[serde(default)]
    pub(crate) user: Option<String>,
    /// Files that clients need, by purpose.
    #[serde(default)]
    pub(crate) files: BTreeMap<String, PathBuf>,
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
            Some(recorded.unwrap_or_else(|| Server { url, ..Server::nowhere() }))
        }
        _ => recorded,
    }
}

/// How long one of Kafka's own tools may take.
const TOOL: Duration = Duration::from_secs(60);

impl Server {
    /// None.
    pub(crate) fn nowhere() -> Self {
        Self {
            url: "kafka://127.0.0.1:1".to_owned(),
            program: PathBuf::new(),
            args: Vec::new(),
            folder: PathBuf::new(),
            user: None,
            files: BTreeMap::new(),
        }
    }

    /// Whether Kafka's own tools are installed with it.
    pub(crate) fn has_tools(&self) -> bool {
        let Ok(jars) = std::fs::read_dir(self.folder.join("libs")) else { return false };
        let mut names = jars.filter_map(|jar| jar.ok()?.file_name().into_string().ok());
        self.can_be_started() && names.any(|name| name.starts_with("kafka-tools-"))
    }

    /// Runs one of Kafka's own tools with that input, and gives what it printed.
    pub(crate) async fn tool(&self, class: &str, arguments: &[&str], input: &str) -> String {
        let mut child = Command::new(&self.program)
            .args(["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .args(["-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8"])
            .args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", "libs/*", class])
            .args(arguments)
            .current_dir(&self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program can be started");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(input.as_bytes()).await.expect("it reads");
        drop(stdin);
        let ended = tokio::time::timeout(TOOL, child.wait_with_output()).await;
        let output = ended.expect("an end in time").expect("an end");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{class}: {}: {said}", output.status);
        String::from_utf8(output.stdout).expect("a text")
    }

    pub(crate) fn config(&self) -> KafkaConfig {
        KafkaConfig::from_url(&self.url).expect("a recorded URL is sound")
    }

    /// Its address, as the native client takes it.
    pub(crate) fn address(&self) -> &str {
        self.url.split_once("://").map_or(&*self.url, |(_, rest)| rest).trim_end_matches('/')
    }

    /// Whether it is recorded how to start another one.
    pub(crate) fn can_be_started(&self) -> bool {
        self.args.iter().rev().nth(1).is_some_and(|main| main == MAIN)
    }
}

/// A broker of the test's own. It is killed when it is dropped; its data goes too.
pub(crate) struct Private {
    program: PathBuf,
    /// Arguments before the class.
    java: Vec<String>,
    /// Where the other one runs.
    runs_in: PathBuf,
    folder: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl Private {
    /// Starts one of the same version and configuration.
    pub(crate) async fn start(like: &Server) -> Self {
        Self::start_with(like, None).await
    }

    /// The same with a second port, where clients log in by tokens that nobody signed.
    #[cfg(feature = "ssl")]
    pub(crate) async fn with_tokens(like: &Server) -> (Self, KafkaConfig) {
        let login = free_port();
        let private = Self::start_with(like, Some(login)).await;
        (private, KafkaConfig::new(format!("127.0.0.1:{login}")))
    }

    async fn start_with(like: &Server, login: Option<u16>) -> Self {
        let (port, controller) = (free_port(), free_port());
        let folder =
            std::env::temp_dir().join(format!("posthaste-kafka-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let (config, args) = like.args.split_last().expect("recorded arguments");
        let config = std::fs::read_to_string(config).expect("the configuration of the other");
        let mut listeners =
            format!("CLIENTS://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}");
        let mut own = vec![
            ("controller.quorum.voters", format!("1@127.0.0.1:{controller}")),
            ("log.dirs", folder.join("data").display().to_string()),
        ];
        if let Some(login) = login {
            listeners += &format!(",LOGIN://127.0.0.1:{login}");
            let module = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule";
            let who = format!("{module} required unsecuredLoginStringClaim_sub=\"broker\";");
            own.push(("sasl.enabled.mechanisms", "OAUTHBEARER".to_owned()));
            own.push(("listener.name.login.oauthbearer.sasl.jaas.config", who));
        }
        own.push(("listeners", listeners.clone()));
        own.push(("advertised.listeners", listeners));
        let mut lines: Vec<String> = config.lines().map(str::to_owned).collect();
        lines.retain(|line| !own.iter().any(|(name, _)| line.starts_with(&format!("{name}="))));
        lines.extend(own.iter().map(|(name, value)| format!("{name}={value}")));
        std::fs::write(folder.join(CONFIG), lines.join("\n")).expect("a file");
        let java = args[..args.len() - 1].to_vec();
        let mut broker = Self {
            program: like.program.clone(),
            java,
            runs_in: like.folder.clone(),
            folder,
            port,
            child: None,
        };
        broker.format().await;
        broker.up().await;
        broker
    }

    pub(crate) fn server(&self) -> Server {
        Server {
            url: format!("kafka://127.0.0.1:{}", self.port),
            program: self.program.clone(),
            ..Server::nowhere()
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.java)
            .current_dir(&self.runs_in)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        command
    }

    async fn format(&self) {
        let mut command = self.command();
        command.args(["kafka.tools.StorageTool", "format", "--cluster-id"]);
        command.args(["cG9zdGhhc3RlLXRlc3RzIQ", "--config"]).arg(self.folder.join(CONFIG));
        let status = command.status().await.expect("the program can be started");
        assert!(status.success(), "the data folder could not be prepared");
    }

    /// Starts it on its data, and waits until it answers.
    pub(crate) async fn up(&mut self) {
        let mut command = self.command();
        command.arg(MAIN).arg(self.folder.join(CONFIG));
        self.child = Some(command.spawn().expect("the program can be started"));
        let server = self.server();
        let until = Instant::now() + Duration::from_secs(90);
        while !crate::raw::answers(&server).await {
            assert!(Instant::now() < until, "the broker did not come up");
        }
    }

    /// Ends it as a power cut would.
    pub(crate) async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().await.expect("the broker is ours");
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

fn free_port() -> u16 {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    socket.local_addr().expect("a bound socket").port()
}
