//! NATS with JetStream: the server that is up for everybody, and private ones to break.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_trait::async_trait;
use posthaste_conformance::fault::{Ready, Server, ServerSpec, free_port};
use posthaste_conformance::{Foreign, Harness, Instance, Link, Mistake, Need, proxy_to};
use posthaste_core::{Broker, Error, ErrorKind, Layout, Result, TopicName};
use posthaste_nats::{Binding, NatsBroker, NatsConfig};
use tokio::sync::Mutex;

use crate::brokers::{url_variable, variable};
use crate::folder::Folder;
use crate::{nats_mistakes, record};

/// Where a child process finds the server.
pub(crate) const CHILD_URL: &str = "POSTHASTE_CHILD_NATS_URL";
/// A server without logins takes any; this one must not show in any error.
const USER: &str = "conformance";
pub(crate) const PASSWORD: &str = "pa55-\u{fc}-of-the-suite";
/// How long an orderly stop of a server may take.
const STOP: Duration = Duration::from_secs(15);

/// The server of that id: by its variable, else by its record.
pub(crate) fn harness(id: &str) -> std::result::Result<Arc<dyn Harness>, String> {
    let given = variable(&url_variable(id));
    let record = record::read(id);
    let (url, version, program) = match (given, record) {
        (Some(url), Ok(record)) => (url, Some(record.version), Some(record.server.program)),
        (Some(url), Err(_)) => (url, None, None),
        (None, record) => {
            let record = record?;
            (record.url, Some(record.version), Some(record.server.program))
        }
    };
    let name = match &version {
        Some(version) => format!("nats@{version}"),
        None => id.to_owned(),
    };
    let addr = address(&url).ok_or_else(|| format!("{url} has no address"))?;
    let server = Remote { url, addr, private: None };
    let mut offers = vec![
        Need::Cut,
        Need::BlackHole,
        Need::HalfOpen,
        Need::Child,
        Need::Foreign,
        Need::Native,
        Need::Bind,
    ];
    if program.is_some() {
        offers.extend([Need::Restart, Need::Kill, Need::Pause, Need::Mistakes]);
    }
    Ok(Arc::new(Nats { name, version, program, offers, server }))
}

fn address(url: &str) -> Option<SocketAddr> {
    use std::net::ToSocketAddrs;
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['/', ',']).next()?;
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    host.to_socket_addrs().ok()?.next()
}

/// A connection as an application makes it.
pub(crate) async fn connect(url: &str) -> Result<Arc<dyn Broker>> {
    Ok(Arc::new(NatsBroker::connect(config(url)?).await?))
}

fn config(url: &str) -> Result<NatsConfig> {
    let config = NatsConfig::from_url(url)?;
    // A URL with a login of its own keeps it.
    Ok(if url.contains('@') { config } else { config.login(USER, PASSWORD) })
}

#[derive(Debug)]
struct Nats {
    name: String,
    version: Option<String>,
    /// Starts private servers.
    program: Option<PathBuf>,
    offers: Vec<Need>,
    server: Remote,
}

#[async_trait]
impl Harness for Nats {
    fn name(&self) -> &str {
        &self.name
    }

    fn expected_version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    fn offers(&self) -> &[Need] {
        &self.offers
    }

    async fn private(&self) -> Result<Arc<dyn Instance>> {
        let Some(program) = &self.program else {
            // Its network can be broken without disturbing others: by a proxy for each case.
            let (url, addr) = (self.server.url.clone(), self.server.addr);
            return Ok(Arc::new(Remote { url, addr, private: None }));
        };
        Ok(Arc::new(Remote::start(program, &[]).await?))
    }
}

/// A server: somebody else's, or one of our own.
#[derive(Debug)]
pub(crate) struct Remote {
    url: String,
    addr: SocketAddr,
    private: Option<Private>,
}

/// The server goes before its folder does.
#[derive(Debug)]
struct Private {
    server: Mutex<Server>,
    _folder: Folder,
}

impl Remote {
    /// A server of our own, with further arguments.
    pub(crate) async fn start(program: &Path, further: &[&str]) -> Result<Self> {
        let port = free_port()?;
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        let folder = Folder::of("nats", port);
        let data = folder.path().join("data");
        let spec = ServerSpec::new(program, &data, Ready::Line("Server is ready".to_owned()))
            .args(["-js", "-a", "127.0.0.1", "-p"])
            .arg(port.to_string())
            .arg("-sd")
            .arg(&data)
            .args(further.iter().copied());
        let server = Mutex::new(Server::start(spec).await?);
        let private = Some(Private { server, _folder: folder });
        Ok(Self { url: format!("nats://127.0.0.1:{port}"), addr, private })
    }

    pub(crate) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    fn ours(&self) -> Result<&Mutex<Server>> {
        let private = self.private.as_ref().map(|private| &private.server);
        private.ok_or_else(|| Error::unsupported("this server is not ours to stop"))
    }

    /// The native client, as another program has it.
    async fn foreign(&self) -> Result<jetstream::Context> {
        let options = async_nats::ConnectOptions::with_user_and_password(
            USER.to_owned(),
            PASSWORD.to_owned(),
        );
        let client = options.connect(self.addr.to_string()).await.map_err(failed)?;
        Ok(jetstream::new(client))
    }
}

#[cold]
fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Fatal, "the native client failed").with_source(error)
}

#[async_trait]
impl Instance for Remote {
    async fn connect(&self) -> Result<Arc<dyn Broker>> {
        connect(&self.url).await
    }

    async fn connect_through(&self) -> Result<(Arc<dyn Broker>, Arc<dyn Link>)> {
        let proxy = proxy_to(self.addr)?;
        let broker = connect(&format!("nats://{}", proxy.addr())).await?;
        Ok((broker, proxy))
    }

    async fn make_foreign(&self, topic: &TopicName, message: &Foreign) -> Result<()> {
        let broker = self.connect().await?;
        let found = broker.admin().describe(topic).await?;
        // Whoever knows the subjects of an ordered topic can write beside its partitions.
        let subject = match found.layout {
            Layout::Ordered(n) => format!("{topic}.__of{n}.elsewhere"),
            _ => topic.to_string(),
        };
        let mut headers = async_nats::HeaderMap::new();
        for (name, value) in &message.headers {
            headers.append(name.as_str(), value.as_str());
        }
        let jetstream = self.foreign().await?;
        let payload = message.payload.clone();
        // Without headers at all, as the simplest of clients writes.
        let sent = if message.headers.is_empty() {
            jetstream.publish(subject, payload).await
        } else {
            jetstream.publish_with_headers(subject, headers, payload).await
        };
        sent.map_err(failed)?.await.map_err(failed)?;
        Ok(())
    }

    async fn stop(&self) -> Result<()> {
        self.ours()?.lock().await.terminate(STOP).await.map(drop)
    }

    async fn kill(&self) -> Result<()> {
        self.ours()?.lock().await.kill().await.map(drop)
    }

    async fn start(&self) -> Result<()> {
        self.ours()?.lock().await.restart().await
    }

    async fn pause(&self) -> Result<()> {
        self.ours()?.lock().await.pause().await
    }

    async fn resume(&self) -> Result<()> {
        self.ours()?.lock().await.resume()
    }

    fn child_env(&self) -> Vec<(&'static str, String)> {
        vec![(CHILD_URL, self.url.clone())]
    }

    async fn bind(&self, topic: &TopicName) -> Result<(Arc<dyn Broker>, String)> {
        let stream = format!("LEGACY_{:08X}", fastrand::u32(..));
        let subject = format!("legacy.{}", stream.to_ascii_lowercase());
        let legacy = jetstream::stream::Config {
            name: stream.clone(),
            subjects: vec![subject.clone()],
            max_age: Duration::from_secs(600),
            ..Default::default()
        };
        self.foreign().await?.create_stream(legacy).await.map_err(failed)?;
        let binding = Binding::stream(&stream).subject(subject);
        let config = config(&self.url)?.bind(topic.as_str(), binding);
        Ok((Arc::new(NatsBroker::connect(config).await?), stream))
    }

    fn secrets(&self) -> Vec<String> {
        vec![PASSWORD.to_owned()]
    }
}

/// The shared instance.
#[async_trait]
impl Instance for Nats {
    async fn connect(&self) -> Result<Arc<dyn Broker>> {
        self.server.connect().await
    }

    async fn connect_through(&self) -> Result<(Arc<dyn Broker>, Arc<dyn Link>)> {
        self.server.connect_through().await
    }

    async fn make_foreign(&self, topic: &TopicName, message: &Foreign) -> Result<()> {
        self.server.make_foreign(topic, message).await
    }

    fn child_env(&self) -> Vec<(&'static str, String)> {
        self.server.child_env()
    }

    async fn bind(&self, topic: &TopicName) -> Result<(Arc<dyn Broker>, String)> {
        self.server.bind(topic).await
    }

    fn mistakes(&self) -> Vec<Mistake> {
        self.program.as_deref().map(nats_mistakes::all).unwrap_or_default()
    }

    fn secrets(&self) -> Vec<String> {
        self.server.secrets()
    }
}
