//! A node of a private broker: of the recorded version and configuration, with ways to it that can
//! be broken.
//!
//! A client of Kafka connects to the address that the broker itself gives, not to the one that it
//! asked first. So the broker has a listener for each way, and gives the address of the proxy in
//! front of it to whoever comes by that listener.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use posthaste_conformance::fault::{Proxy, Ready, Server, ServerSpec, free_port};
use posthaste_conformance::proxy_to;
use posthaste_core::{Error, ErrorKind, Result};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::folder::Folder;
use crate::kafka_foreign;
use crate::record::Process;

/// The class that is a broker, last but one of the recorded arguments; the last is its
/// configuration.
const MAIN: &str = "kafka.Kafka";
/// How many ways there are to each node. More connections than these share them.
pub(crate) const WAYS: usize = 4;
/// A private broker holds little.
const HEAP: &str = "-Xmx256m";
/// How long an orderly stop may take.
const STOP: Duration = Duration::from_secs(30);
/// A program has no folder of its own to start in, and the class path is relative to one.
const IN_FOLDER: &str = r#"cd "$0" && exec "$@""#;
/// The controller takes a broker that was killed for alive, and refuses the next one of its number,
/// for so long; 9 s unless set.
const WATCHFUL: &str = "broker.session.timeout.ms=3000\nbroker.heartbeat.interval.ms=500\n";
/// What makes a data folder one of this version; everything else comes at the first start.
const FORMATTED: [&str; 2] = ["meta.properties", "bootstrap.checkpoint"];

/// The ports of a node: for clients, for its controller, and one behind each way.
#[derive(Debug, Clone)]
pub(crate) struct Ports(Vec<u16>);

/// The broker goes before its folder does.
#[derive(Debug)]
pub(crate) struct Node {
    server: Mutex<Server>,
    addr: SocketAddr,
    ways: Vec<Arc<Proxy>>,
    _folder: Folder,
}

impl Ports {
    /// Ports that nobody has, and that differ from each other, for so many nodes.
    pub(crate) fn free(nodes: usize) -> Result<Vec<Self>> {
        let ports = free_ports(nodes * (2 + WAYS))?;
        Ok(ports.chunks(2 + WAYS).map(|ports| Self(ports.to_vec())).collect())
    }

    fn all(&self) -> Result<(u16, u16, &[u16])> {
        match self.0.as_slice() {
            [client, controller, behind @ ..] => Ok((*client, *controller, behind)),
            _ => Err(Error::new(ErrorKind::Invalid, "a node takes two ports")),
        }
    }
}

/// The controllers of all nodes, as each node has to know them.
pub(crate) fn voters(all: &[Ports]) -> Result<String> {
    let voter =
        |(number, ports): (usize, &Ports)| Ok(format!("{number}@127.0.0.1:{}", ports.all()?.1));
    let voters: Result<Vec<String>> = (1..).zip(all).map(voter).collect();
    Ok(voters?.join(","))
}

impl Node {
    /// Starts one like the recorded one, and waits until it answers.
    pub(crate) async fn start(like: &Process, ports: &Ports, voters: &str) -> Result<Self> {
        let [java @ .., main, config] = &*like.args else {
            return Err(Error::invalid("the record does not say how Kafka is started"));
        };
        if main != MAIN {
            return Err(Error::invalid("the record is of another program").with_context("it", main));
        }
        let (port, controller, behind) = ports.all()?;
        let ways: Result<Vec<_>> = behind.iter().map(|port| proxy_to(local(*port))).collect();
        let ways = ways?;
        let folder = Folder::of("kafka", port);
        let (data, own) = (folder.path().join("data"), folder.path().join("node.properties"));
        let config = Path::new(config);
        let text = std::fs::read_to_string(config).map_err(|error| unusable(config, &error))?;
        format_like(&text, &data)?;
        let own_ports = (port, controller, behind);
        let text = configured(&text, own_ports, voters, &ways, &data);
        std::fs::write(&own, text).map_err(|error| unusable(&own, &error))?;
        let addr = local(port);
        let spec = ServerSpec::new("/bin/sh", data, Ready::check(move || ready(addr)))
            .args(["-c", IN_FOLDER])
            .arg(&like.folder)
            .arg(&like.program)
            .args(java)
            .args([HEAP, main])
            .arg(&own);
        let server = Mutex::new(Server::start(spec).await?);
        Ok(Self { server, addr, ways, _folder: folder })
    }

    /// Where clients connect that nothing happens to.
    pub(crate) fn address(&self) -> String {
        self.addr.to_string()
    }

    /// The proxy of that way.
    pub(crate) fn way(&self, number: usize) -> Arc<Proxy> {
        Arc::clone(&self.ways[number % self.ways.len()])
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

const fn local(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

fn free_ports(count: usize) -> Result<Vec<u16>> {
    let mut ports = Vec::with_capacity(count);
    while ports.len() < count {
        let port = free_port()?;
        // They are not reserved, so that one may come twice.
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    Ok(ports)
}

/// A broker that listens but has not found itself yet is of no use.
async fn ready(addr: SocketAddr) -> Result<()> {
    let refused = |error| Error::new(ErrorKind::Connection, "nothing listens").with_source(error);
    drop(TcpStream::connect(addr).await.map_err(refused)?);
    kafka_foreign::answers(&addr.to_string()).await
}

/// Makes a data folder out of that of the recorded broker, because the program for it takes as
/// long as a start.
fn format_like(config: &str, data: &Path) -> Result<()> {
    let from = config.lines().find_map(|line| line.strip_prefix("log.dirs="));
    let from = from.ok_or_else(|| Error::invalid("the recorded configuration has no log.dirs"))?;
    std::fs::create_dir_all(data).map_err(|error| unusable(data, &error))?;
    for name in FORMATTED {
        let file = Path::new(from).join(name);
        std::fs::copy(&file, data.join(name)).map_err(|error| unusable(&file, &error))?;
    }
    Ok(())
}

/// The configuration of the recorded broker with addresses and data of its own.
fn configured(
    like: &str,
    (port, controller, behind): (u16, u16, &[u16]),
    voters: &str,
    ways: &[Arc<Proxy>],
    data: &Path,
) -> String {
    let mut listeners = format!("CLIENTS://127.0.0.1:{port}");
    let mut advertised = listeners.clone();
    let mut protocols = "CONTROLLER:PLAINTEXT,CLIENTS:PLAINTEXT".to_owned();
    let mut threads = String::new();
    for (number, (port, proxy)) in behind.iter().zip(ways).enumerate() {
        // Writing to a string does not fail.
        let _written = write!(listeners, ",WAY{number}://127.0.0.1:{port}");
        let _written = write!(advertised, ",WAY{number}://{}", proxy.addr());
        let _written = write!(protocols, ",WAY{number}:PLAINTEXT");
        let _written = writeln!(threads, "listener.name.way{number}.num.network.threads=1");
    }
    let own = [
        ("controller.quorum.voters=", voters.to_owned()),
        ("listeners=", format!("{listeners},CONTROLLER://127.0.0.1:{controller}")),
        ("advertised.listeners=", advertised),
        ("listener.security.protocol.map=", protocols),
        ("log.dirs=", data.display().to_string()),
    ];
    // What belongs to listeners that it does not have would be an error, or noise.
    let kept = like.lines().filter(|line| {
        let ours = own.iter().any(|(name, _)| line.starts_with(name));
        !(ours || line.starts_with("listener.name.") || line.starts_with("sasl."))
    });
    let mut text: String = kept.flat_map(|line| [line, "\n"]).collect();
    for (name, value) in own {
        let _written = writeln!(text, "{name}{value}");
    }
    text + &threads + WATCHFUL
}

#[cold]
fn unusable(path: &Path, error: &std::io::Error) -> Error {
    Error::invalid(format!("{} cannot be used: {error}", path.display()))
}
