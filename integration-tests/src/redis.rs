//! Redis and Valkey: the server that is up for everybody, and private ones to break.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use async_trait::async_trait;
use posthaste_conformance::{Foreign, Harness, Instance, Link, Mistake, Need, proxy_to};
use posthaste_core::{Broker, Error, Result, TopicName};
use posthaste_redis::{Binding, RedisBroker, RedisConfig};
use tokio::time::{Duration, Instant};

use crate::brokers::{url_variable, variable};
use crate::record::Record;
use crate::redis_node::Node;
use crate::{record, redis_foreign, redis_mistakes};

/// Where a child process finds the server.
pub(crate) const CHILD_URL: &str = "POSTHASTE_CHILD_REDIS_URL";
/// Who the suite is at the shared server. The password must not show in any error.
const USER: &str = "conformance";
const PASSWORD: &str = "pa55-\u{fc}-of-the-suite";
/// One who may log in, and nothing else.
pub(crate) const STRANGER: &str = "stranger";
/// How long a connection may take to end.
const CLOSE: Duration = Duration::from_secs(10);

/// The server of that id: by its variable, else by its record.
pub(crate) fn harness(id: &str) -> std::result::Result<Arc<dyn Harness>, String> {
    let given = variable(&url_variable(id));
    let (url, record) = match (given, record::read(id)) {
        (Some(url), record) => (url, record.ok()),
        (None, record) => {
            let record = record?;
            (record.url.clone(), Some(record))
        }
    };
    let kind = id.split('@').next().unwrap_or(id);
    let name = match &record {
        Some(record) => format!("{kind}@{}", record.version),
        None => id.to_owned(),
    };
    let addr = address(&url).ok_or_else(|| format!("{url} has no address"))?;
    let login = match url.contains('@') {
        // It has a login of its own.
        true => None,
        false => Some(Login::make(&url)?),
    };
    let mut offers = vec![Need::Cut, Need::BlackHole, Need::HalfOpen, Need::Child, Need::Foreign];
    offers.extend([Need::Native, Need::Bind, Need::Mistakes]);
    if record.is_some() {
        offers.extend([Need::Restart, Need::Kill, Need::Pause]);
    }
    let url = login.as_ref().map_or(url, |login| login.url(addr));
    let server = Remote { url, addr, login, private: None };
    Ok(Arc::new(Redis { name, record, offers, server }))
}

fn address(url: &str) -> Option<SocketAddr> {
    let rest = url.strip_prefix("redis://")?;
    let rest = rest.split(['/', ',', '?']).next()?;
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    host.to_socket_addrs().ok()?.next()
}

/// A login by user and password, so that there is something to keep secret.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) user: String,
    password: String,
}

impl Login {
    /// Makes the users of the suite at the server.
    fn make(url: &str) -> std::result::Result<Self, String> {
        redis_foreign::user(url, USER, PASSWORD, &["~*", "&*", "+@all"])?;
        redis_foreign::user(url, STRANGER, PASSWORD, &["-@all"])?;
        Ok(Self { user: USER.to_owned(), password: PASSWORD.to_owned() })
    }

    fn url(&self, addr: SocketAddr) -> String {
        format!("redis://{}:{}@{addr}/0", self.user, self.escaped())
    }

    /// The password as it stands in a URL.
    pub(crate) fn escaped(&self) -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let one = |byte| match plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        };
        self.password.bytes().map(one).collect()
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// A connection as an application makes it.
pub(crate) async fn connect(url: &str) -> Result<Arc<dyn Broker>> {
    Ok(Arc::new(RedisBroker::connect(RedisConfig::from_url(url)?).await?))
}

#[derive(Debug)]
struct Redis {
    name: String,
    /// Says how private servers are started.
    record: Option<Record>,
    offers: Vec<Need>,
    server: Remote,
}

#[async_trait]
impl Harness for Redis {
    fn name(&self) -> &str {
        &self.name
    }

    fn expected_version(&self) -> Option<&str> {
        self.record.as_ref().map(|record| record.version.as_str())
    }

    fn offers(&self) -> &[Need] {
        &self.offers
    }

    async fn private(&self) -> Result<Arc<dyn Instance>> {
        let Some(record) = &self.record else {
            // Its network can be broken without disturbing others: by a proxy for each case.
            let Remote { url, addr, login, .. } = &self.server;
            let (url, addr, login) = (url.clone(), *addr, login.clone());
            return Ok(Arc::new(Remote { url, addr, login, private: None }));
        };
        let node = Node::start(record).await?;
        let addr = node.addr();
        let url = format!("redis://{addr}/0");
        Ok(Arc::new(Remote { url, addr, login: None, private: Some(node) }))
    }
}

/// A server: somebody else's, or one of our own.
struct Remote {
    /// With the login.
    url: String,
    addr: SocketAddr,
    /// Of the users that were made for the suite.
    login: Option<Login>,
    private: Option<Node>,
}

impl Remote {
    fn ours(&self) -> Result<&Node> {
        self.private.as_ref().ok_or_else(|| Error::unsupported("this server is not ours to break"))
    }

    /// The URL with another address.
    fn url_at(&self, addr: SocketAddr) -> String {
        self.url.replacen(&self.addr.to_string(), &addr.to_string(), 1)
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("addr", &self.addr)
            .field("login", &self.login)
            .field("private", &self.private)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Instance for Remote {
    async fn connect(&self) -> Result<Arc<dyn Broker>> {
        connect(&self.url).await
    }

    async fn connect_through(&self) -> Result<(Arc<dyn Broker>, Arc<dyn Link>)> {
        let proxy = proxy_to(self.addr)?;
        let broker = connect(&self.url_at(proxy.addr())).await?;
        Ok((broker, proxy))
    }

    async fn make_foreign(&self, topic: &TopicName, message: &Foreign) -> Result<()> {
        let broker = self.connect().await?;
        let stream = broker.admin().describe(topic).await?.native;
        broker.close(Instant::now() + CLOSE).await?;
        redis_foreign::publish(&self.url, &stream, message).await
    }

    async fn stop(&self) -> Result<()> {
        self.ours()?.stop().await
    }

    async fn kill(&self) -> Result<()> {
        self.ours()?.kill().await
    }

    async fn start(&self) -> Result<()> {
        self.ours()?.start_again().await
    }

    async fn pause(&self) -> Result<()> {
        self.ours()?.pause().await
    }

    async fn resume(&self) -> Result<()> {
        self.ours()?.resume().await
    }

    fn child_env(&self) -> Vec<(&'static str, String)> {
        vec![(CHILD_URL, self.url.clone())]
    }

    async fn bind(&self, topic: &TopicName) -> Result<(Arc<dyn Broker>, String)> {
        let native = format!("Legacy Orders:{:08X}", fastrand::u32(..));
        redis_foreign::create(&self.url, &native).await?;
        let config = RedisConfig::from_url(&self.url)?;
        let config = config.bind(topic.as_str(), Binding::stream(&native));
        Ok((Arc::new(RedisBroker::connect(config).await?), native))
    }

    fn mistakes(&self) -> Vec<Mistake> {
        redis_mistakes::all(self.addr, self.login.as_ref())
    }

    fn secrets(&self) -> Vec<String> {
        self.login.iter().flat_map(|login| [login.password.clone(), login.escaped()]).collect()
    }
}

/// The shared instance.
#[async_trait]
impl Instance for Redis {
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
        self.server.mistakes()
    }

    fn secrets(&self) -> Vec<String> {
        self.server.secrets()
    }
}
