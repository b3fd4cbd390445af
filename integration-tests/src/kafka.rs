//! Kafka: the broker that is up for everybody, and private ones to break.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use posthaste_conformance::{Foreign, Harness, Instance, Link, Mistake, Need};
use posthaste_core::{Broker, Error, Result, TopicName};
use posthaste_kafka::{Binding, KafkaBroker, KafkaConfig};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::brokers::{url_variable, variable};
use crate::kafka_cluster::Cluster;
use crate::record::Record;
use crate::{kafka_foreign, kafka_mistakes, record};

/// Where a child process finds the broker.
pub(crate) const CHILD_URL: &str = "POSTHASTE_CHILD_KAFKA_URL";
/// How many private brokers there are at once: each is a Java program.
const AT_ONCE: usize = 2;
/// How long a connection may take to end.
const CLOSE: Duration = Duration::from_secs(10);

/// The broker of that id: by its variable, else by its record.
pub(crate) fn harness(id: &str) -> std::result::Result<Arc<dyn Harness>, String> {
    let given = variable(&url_variable(id));
    let (url, record) = match (given, record::read(id)) {
        (Some(url), record) => (url, record.ok()),
        (None, record) => {
            let record = record?;
            (record.url.clone(), Some(record))
        }
    };
    let name = match &record {
        Some(record) => format!("{id}@{}", record.version),
        None => id.to_owned(),
    };
    let address = url.strip_prefix("kafka://").ok_or_else(|| format!("{url} is not kafka://"))?;
    let address = address.trim_end_matches('/').to_owned();
    // What is recorded of another broker opens no door of this one.
    let login = match record.as_ref().filter(|record| record.url == url) {
        Some(record) => Login::of(record)?,
        None => None,
    };
    let mut offers = vec![Need::Child, Need::Foreign, Need::Native, Need::Bind, Need::Mistakes];
    if record.is_some() {
        // Clients of Kafka go where the broker says it is. So the network can be broken only of a
        // broker that says it is behind a proxy.
        offers.extend([Need::Cut, Need::BlackHole, Need::HalfOpen]);
        offers.extend([Need::Restart, Need::Kill, Need::Pause]);
    }
    let broker = Remote { address, login, private: None };
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    Ok(Arc::new(Kafka { name, record, offers, broker, permits }))
}

/// A login by user and password, and the address where one is needed.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) address: String,
    pub(crate) user: String,
    pub(crate) password: String,
}

impl Login {
    /// The one that is recorded: the broker's third port is that of clients with a login.
    fn of(record: &Record) -> std::result::Result<Option<Self>, String> {
        let (Some(user), Some(file), [_, _, port, ..]) =
            (&record.user, record.files.get("password"), &*record.ports)
        else {
            return Ok(None);
        };
        let password = std::fs::read_to_string(file);
        let password = password.map_err(|error| format!("{}: {error}", file.display()))?;
        let (user, password) = (user.clone(), password.trim().to_owned());
        Ok(Some(Self { address: format!("127.0.0.1:{port}"), user, password }))
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// A connection as an application makes it that cannot wait long for a process that was killed: the
/// broker keeps its partitions for it that long, 45 s unless set. It takes no less than 6 s.
pub(crate) async fn connect(url: &str) -> Result<Arc<dyn Broker>> {
    Ok(Arc::new(KafkaBroker::connect(config(url)?).await?))
}

fn config(url: &str) -> Result<KafkaConfig> {
    let config = KafkaConfig::from_url(url)?;
    Ok(config.property("session.timeout.ms", "9000").property("heartbeat.interval.ms", "1500"))
}

#[derive(Debug)]
struct Kafka {
    name: String,
    /// Says how private brokers are started.
    record: Option<Record>,
    offers: Vec<Need>,
    broker: Remote,
    /// One for each private broker.
    permits: Arc<Semaphore>,
}

#[async_trait]
impl Harness for Kafka {
    fn name(&self) -> &str {
        &self.name
    }

    // No expected version: the protocol does not tell it, so the adapter cannot report it.

    fn offers(&self) -> &[Need] {
        &self.offers
    }

    async fn private(&self) -> Result<Arc<dyn Instance>> {
        let Some(record) = &self.record else {
            return Err(Error::unsupported("it is not recorded how this broker is started"));
        };
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| Error::closed("nobody closes the permits"))?;
        let own = Cluster::start(record, permit).await?;
        Ok(Arc::new(Remote { address: own.address(), login: None, private: Some(own) }))
    }
}

/// A broker: somebody else's, or one of our own.
#[derive(Debug)]
struct Remote {
    /// Where clients without a login connect.
    address: String,
    /// Connections use it where there is one, so that there is something to keep secret.
    login: Option<Login>,
    private: Option<Cluster>,
}

impl Remote {
    fn url(&self) -> String {
        match &self.login {
            Some(Login { address, user, password }) => {
                format!("kafka://{user}:{password}@{address}")
            }
            None => format!("kafka://{}", self.address),
        }
    }

    fn ours(&self) -> Result<&Cluster> {
        self.private.as_ref().ok_or_else(|| Error::unsupported("this broker is not ours to break"))
    }
}

#[async_trait]
impl Instance for Remote {
    async fn connect(&self) -> Result<Arc<dyn Broker>> {
        connect(&self.url()).await
    }

    async fn connect_through(&self) -> Result<(Arc<dyn Broker>, Arc<dyn Link>)> {
        let way = self.ours()?.way();
        let broker = connect(&format!("kafka://{}", way.address())).await?;
        Ok((broker, Arc::new(way)))
    }

    async fn make_foreign(&self, topic: &TopicName, message: &Foreign) -> Result<()> {
        let broker = self.connect().await?;
        let native = broker.admin().describe(topic).await?.native;
        broker.close(Instant::now() + CLOSE).await?;
        kafka_foreign::produce(&self.address, &native, message).await
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

    fn hit(&self) -> String {
        self.private.as_ref().map_or_else(|| "the server".to_owned(), Cluster::hit)
    }

    fn child_env(&self) -> Vec<(&'static str, String)> {
        vec![(CHILD_URL, self.url())]
    }

    async fn bind(&self, topic: &TopicName) -> Result<(Arc<dyn Broker>, String)> {
        let native = format!("Legacy.{:08X}", fastrand::u32(..));
        kafka_foreign::create(&self.address, &native).await?;
        let config = config(&self.url())?.bind(topic.as_str(), Binding::topic(&native));
        Ok((Arc::new(KafkaBroker::connect(config).await?), native))
    }

    fn mistakes(&self) -> Vec<Mistake> {
        kafka_mistakes::all(&self.address, self.login.as_ref())
    }

    fn secrets(&self) -> Vec<String> {
        self.login.iter().map(|login| login.password.clone()).collect()
    }
}

/// The shared instance.
#[async_trait]
impl Instance for Kafka {
    async fn connect(&self) -> Result<Arc<dyn Broker>> {
        self.broker.connect().await
    }

    async fn make_foreign(&self, topic: &TopicName, message: &Foreign) -> Result<()> {
        self.broker.make_foreign(topic, message).await
    }

    fn child_env(&self) -> Vec<(&'static str, String)> {
        self.broker.child_env()
    }

    async fn bind(&self, topic: &TopicName) -> Result<(Arc<dyn Broker>, String)> {
        self.broker.bind(topic).await
    }

    fn mistakes(&self) -> Vec<Mistake> {
        self.broker.mistakes()
    }

    fn secrets(&self) -> Vec<String> {
        self.broker.secrets()
    }
}
