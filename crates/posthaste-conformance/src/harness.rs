//! What an adapter gives to the suite: connections, and the means to break what is behind them.
//!
//! A harness knows its broker's native protocol; the cases do not.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use posthaste_core::{Broker, Bytes, Error, ErrorKind, Result, TopicName};

use crate::fault::{Direction, Proxy};

/// Something a case needs beyond a connection. What a harness does not offer is not asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Need {
    /// An orderly stop and start of the server: [`Instance::stop`], [`Instance::start`].
    Restart,
    /// SIGKILL of the server, or what comes nearest: [`Instance::kill`], [`Instance::start`].
    Kill,
    /// A server that stands still with its sockets open: [`Instance::pause`].
    Pause,
    /// A connection that is cut, and refused for a while: [`Link::cut`], [`Link::refuse`].
    Cut,
    /// A network that loses every packet: [`Link::black_hole`].
    BlackHole,
    /// A network that loses one direction: [`Link::half_open`].
    HalfOpen,
    /// A process of its own that can reach the broker: [`Instance::child_env`].
    Child,
    /// Messages that this library did not write: [`Instance::make_foreign`].
    Foreign,
    /// A native client behind [`Broker::native`].
    Native,
    /// Things with other names than the default ones: [`Instance::bind`].
    Bind,
    /// Connections that must fail: [`Instance::mistakes`].
    Mistakes,
}

impl Need {
    /// Whether it disturbs whoever else uses the instance.
    #[must_use]
    pub const fn disturbs(self) -> bool {
        matches!(
            self,
            Self::Restart | Self::Kill | Self::Pause | Self::Cut | Self::BlackHole | Self::HalfOpen
        )
    }
}

/// An adapter with its broker, as the suite sees it.
#[async_trait]
pub trait Harness: Instance {
    /// The broker, with its version if several are tested: `memory`, `nats@2.15.2`.
    fn name(&self) -> &str;

    /// The version that the broker has to report in its capabilities.
    fn expected_version(&self) -> Option<&str> {
        None
    }

    /// What can be had besides connections.
    fn offers(&self) -> &[Need] {
        &[]
    }

    /// An instance of its own for one case, which may break it. Ordinary cases use the harness
    /// itself, which is shared by many at once.
    ///
    /// # Errors
    /// When none can be started.
    async fn private(&self) -> Result<Arc<dyn Instance>> {
        Err(missing("a private instance"))
    }
}

/// A broker that runs.
#[async_trait]
pub trait Instance: fmt::Debug + Send + Sync + 'static {
    /// A fresh connection, of a client of its own.
    ///
    /// # Errors
    /// Those of the adapter.
    async fn connect(&self) -> Result<Arc<dyn Broker>>;

    /// A fresh connection that can be broken.
    ///
    /// # Errors
    /// Those of the adapter; `Unsupported` where [`Need::Cut`] is not offered.
    async fn connect_through(&self) -> Result<(Arc<dyn Broker>, Arc<dyn Link>)> {
        Err(missing("a link that can be broken"))
    }

    /// Stores a message in the topic as another program would, by the native client or protocol.
    /// The topic exists.
    ///
    /// # Errors
    /// When it was not stored.
    async fn make_foreign(&self, topic: &TopicName, message: &Foreign) -> Result<()> {
        let _ = (topic, message);
        Err(missing("foreign messages"))
    }

    /// Stops the server in good order, and waits until it is gone.
    ///
    /// # Errors
    /// When it did not stop.
    async fn stop(&self) -> Result<()> {
        Err(missing("a stop"))
    }

    /// SIGKILL of the server: no goodbye, no flush.
    ///
    /// # Errors
    /// When it did not end.
    async fn kill(&self) -> Result<()> {
        Err(missing("a kill"))
    }

    /// Starts it again on its data, and waits until it is ready.
    ///
    /// # Errors
    /// When it did not start.
    async fn start(&self) -> Result<()> {
        Err(missing("a start"))
    }

    /// Lets the server stand still, with its sockets open.
    ///
    /// # Errors
    /// When it did not.
    async fn pause(&self) -> Result<()> {
        Err(missing("a pause"))
    }

    /// Ends [`pause`](Self::pause).
    ///
    /// # Errors
    /// When it did not go on.
    async fn resume(&self) -> Result<()> {
        Err(missing("a pause"))
    }

    /// What the last stop, kill or pause hit, for reports: of a cluster, which of its servers.
    fn hit(&self) -> String {
        "the server".to_owned()
    }

    /// What a child process needs in its environment to reach this instance.
    fn child_env(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Makes what a topic is at this broker, under a name that is not portable, and connects with
    /// the topic bound to it. Also returns the name.
    ///
    /// # Errors
    /// Those of the adapter.
    async fn bind(&self, topic: &TopicName) -> Result<(Arc<dyn Broker>, String)> {
        let _ = topic;
        Err(missing("bound names"))
    }

    /// Connections that must fail.
    fn mistakes(&self) -> Vec<Mistake> {
        Vec::new()
    }

    /// What no error may show: passwords, tokens and keys that were given to connections.
    fn secrets(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A network between client and broker that breaks on request.
#[async_trait]
pub trait Link: fmt::Debug + Send + Sync + 'static {
    /// Closes every connection; new ones are accepted.
    async fn cut(&self);

    /// Closes every connection and refuses new ones until [`heal`](Self::heal).
    async fn refuse(&self);

    /// Loses every byte, until [`heal`](Self::heal).
    async fn black_hole(&self);

    /// Loses every byte of one direction, until [`heal`](Self::heal).
    async fn half_open(&self, lost: Direction) {
        let _ = lost;
    }

    /// Makes it whole again. Connections that lost bytes are gone.
    ///
    /// # Errors
    /// When it cannot.
    async fn heal(&self) -> Result<()>;
}

#[async_trait]
impl Link for Proxy {
    async fn cut(&self) {
        Self::cut(self).await;
    }

    async fn refuse(&self) {
        Self::refuse(self).await;
        Self::cut(self).await;
    }

    async fn black_hole(&self) {
        Self::black_hole(self);
    }

    async fn half_open(&self, lost: Direction) {
        Self::half_open(self, lost);
    }

    async fn heal(&self) -> Result<()> {
        Self::heal(self)
    }
}

/// Starts a [`Proxy`] in front of a server, for harnesses of network brokers: connect to its
/// [`addr`](Proxy::addr), and return it as the [`Link`].
///
/// # Errors
/// When it cannot listen.
pub fn proxy_to(server: SocketAddr) -> Result<Arc<Proxy>> {
    Proxy::start(server).map(Arc::new)
}

/// A message that another program wrote.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Foreign {
    /// The payload, any bytes.
    pub payload: Bytes,
    /// Headers by the broker's own means; names in lower case and values of printable ASCII,
    /// so that every protocol can carry them.
    pub headers: Vec<(String, String)>,
    /// The key, where the broker's own means have one.
    pub key: Option<String>,
}

impl Foreign {
    /// A message without headers.
    #[must_use]
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self { payload: payload.into(), headers: Vec::new(), key: None }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A connection that must fail: a wrong login, URL, host or certificate.
pub struct Mistake {
    /// What is wrong with it, for the report.
    pub what: &'static str,
    /// What kinds its error may have.
    pub kinds: &'static [ErrorKind],
    /// By when it has to fail.
    pub within: Duration,
    /// What no error may show, besides [`Instance::secrets`].
    pub secrets: Vec<String>,
    /// Tries to connect.
    pub connect: Connect,
}

/// Tries to connect.
pub type Connect =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<Arc<dyn Broker>>> + Send>> + Send + Sync>;

impl fmt::Debug for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mistake").field("what", &self.what).finish_non_exhaustive()
    }
}

#[cold]
fn missing(what: &str) -> Error {
    Error::unsupported(format!("this harness does not offer {what}"))
}
