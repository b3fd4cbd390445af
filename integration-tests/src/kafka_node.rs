//! A private broker: one node of the recorded version and configuration, with ways to it that can
//! be broken.
//!
//! A client of Kafka connects to the address that the broker itself gives, not to the one that it
//! asked first. So the broker has a listener for each way, and gives the address of the proxy in
//! front of it to whoever comes by that listener.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use posthaste_conformance::fault::{Direction, Proxy, Ready, Server, ServerSpec, free_port};
use posthaste_conformance::{Link, proxy_to};
use posthaste_core::{Error, ErrorKind, Result};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, OwnedSemaphorePermit};

use crate::folder::Folder;
use crate::kafka_foreign;
use crate::record::Record;

/// The class that is a broker, last but one of the recorded arguments; the last is its
/// configuration.
const MAIN: &str = "kafka.Kafka";
/// How many ways there are. More connections than these share them.
const WAYS: usize = 4;
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

/// The broker goes before its folder does, and the next one may start when both are gone.
#[derive(Debug)]
pub(crate) struct Node {
    server: Mutex<Server>,
    addr: SocketAddr,
    ways: Vec<Arc<Proxy>>,
    /// How many connections there were by any way.
    used: AtomicUsize,
    _folder: Folder,
    _permit: OwnedSemaphorePermit,
}

impl Node {
    /// Starts one like the recorded one, and waits until it answers.
    pub(crate) async fn start(like: &Record, permit: OwnedSemaphorePermit) -> Result<Self> {
        let [java @ .., main, config] = &*like.server.args else {
            return Err(Error::invalid("the record does not say how Kafka is started"));
        };
        if main != MAIN {
            return Err(Error::invalid("the record is of another program").with_context("it", main));
        }
        let ports = free_ports(2 + WAYS)?;
        let [port, controller, behind @ ..] = &*ports else {
            return Err(Error::invalid("a broker takes two ports"));
        };
        let ways: Result<Vec<_>> = behind.iter().map(|port| proxy_to(local(*port))).collect();
        let ways = ways?;
        let folder = Folder::of("kafka", *port);
        let (data, own) = (folder.path().join("data"), folder.path().join("node.properties"));
        let config = Path::new(config);
        let text = std::fs::read_to_string(config).map_err(|error| unusable(config, &error))?;
        format_like(&text, &data)?;
        let text = configured(&text, *port, *controller, behind, &ways, &data);
        std::fs::write(&own, text).map_err(|error| unusable(&own, &error))?;
        let addr = local(*port);
        let spec = ServerSpec::new("/bin/sh", data, Ready::check(move || ready(addr)))
            .args(["-c", IN_FOLDER])
            .arg(&like.server.folder)
            .arg(&like.server.program)
            .args(java)
            .args([HEAP, main])
            .arg(&own);
        let server = Mutex::new(Server::start(spec).await?);
        let used = AtomicUsize::new(0);
        Ok(Self { server, addr, ways, used, _folder: folder, _permit: permit })
    }

    /// Where clients connect that nothing happens to.
    pub(crate) fn address(&self) -> String {
        self.addr.to_string()
    }

    /// The next way, by turns.
    pub(crate) fn way(&self) -> Way {
        let turn = self.used.fetch_add(1, Ordering::Relaxed);
        Way(Arc::clone(&self.ways[turn % self.ways.len()]))
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

/// A way to a broker, for one connection. The proxy itself stays for those that come later.
#[derive(Debug)]
pub(crate) struct Way(Arc<Proxy>);

impl Way {
    /// Where clients connect that take this way.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.0.addr()
    }
}

#[async_trait]
impl Link for Way {
    async fn cut(&self) {
        Link::cut(&*self.0).await;
    }

    async fn refuse(&self) {
        Link::refuse(&*self.0).await;
    }

    async fn black_hole(&self) {
        Link::black_hole(&*self.0).await;
    }

    async fn half_open(&self, lost: Direction) {
        Link::half_open(&*self.0, lost).await;
    }

    async fn heal(&self) -> Result<()> {
        Link::heal(&*self.0).await
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
    port: u16,
    controller: u16,
    behind: &[u16],
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
        ("controller.quorum.voters=", format!("1@127.0.0.1:{controller}")),
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
