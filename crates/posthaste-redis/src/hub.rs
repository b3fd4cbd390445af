//! What everything on one bus shares.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use posthaste_core::{Capabilities, Error, ErrorKind, Layout, Result, TopicName, TopicSpec};
use redis::{Cmd, Value};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::binding::Binding;
use crate::config::{Durable, RedisConfig};
use crate::connect::{Connected, Connector};
use crate::error::{self, BROKER};
use crate::link::Link;
use crate::names::TopicKeys;
use crate::script::{Script, Scripts};
use crate::value;

/// The connections and what is known behind them.
pub(crate) struct Hub {
    /// For messages that leave.
    pub(crate) publish: Arc<Link>,
    /// For everything else but reading.
    pub(crate) commands: Arc<Link>,
    pub(crate) scripts: Scripts,
    pub(crate) settings: Settings,
    /// Tasks of connections; joined by `close`.
    pub(crate) tasks: TaskTracker,
    /// Tasks of subscriptions, which end before the connections do.
    pub(crate) lines: TaskTracker,
    connector: Arc<Connector>,
    bindings: HashMap<TopicName, Binding>,
    server: RwLock<Server>,
    topics: Mutex<Topics>,
    /// Nothing new is taken.
    closed: CancellationToken,
    /// Connections end.
    closing: CancellationToken,
}

/// What of the configuration is asked for later.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) request_timeout: Duration,
    pub(crate) durability: Durable,
    pub(crate) keep: Duration,
    pub(crate) max_message_bytes: usize,
    pub(crate) deduplication_window: Duration,
}

/// What the server says of itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Server {
    pub(crate) version: String,
    pub(crate) append_only: bool,
    /// How long after a write the file is synced; `None` where it is not known.
    pub(crate) synced_within: Option<Duration>,
    pub(crate) policy: String,
    pub(crate) role: String,
    pub(crate) loading: bool,
    /// Whether the last write to the append-only file failed.
    pub(crate) write_failed: bool,
}

#[derive(Default)]
struct Topics {
    known: HashMap<TopicName, Arc<Known>>,
    /// What the application asked for, to create it again.
    specs: HashMap<TopicName, Arc<TopicSpec>>,
    capabilities: HashMap<Option<TopicName>, Arc<Capabilities>>,
}

/// What was found of a topic, or said of it.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) layout: Layout,
    pub(crate) queue: bool,
    pub(crate) max_age: Option<Duration>,
    pub(crate) max_messages: Option<u64>,
    pub(crate) deduplication_window: Option<Duration>,
    pub(crate) keys: TopicKeys,
    /// The streams: one, or one for each partition and then that of what others write.
    pub(crate) streams: Vec<String>,
}

impl Hub {
    /// # Errors
    /// Those of connecting; `Unsupported` where the server is too old, or set to lose what it has
    /// confirmed.
    pub(crate) async fn connect(
        config: &RedisConfig,
        bindings: HashMap<TopicName, Binding>,
    ) -> Result<Self> {
        let connector = Arc::new(Connector::new(config).await?);
        let (tasks, closing) = (TaskTracker::new(), CancellationToken::new());
        let hub = Self {
            publish: Arc::new(Link::new("publish")),
            commands: Arc::new(Link::new("commands")),
            scripts: Scripts::default(),
            settings: Settings {
                request_timeout: config.request_timeout,
                durability: config.durability,
                keep: config.keep,
                max_message_bytes: config.max_message_bytes,
                deduplication_window: config.deduplication_window,
            },
            tasks,
            lines: TaskTracker::new(),
            connector,
            bindings,
            server: RwLock::default(),
            topics: Mutex::default(),
            closed: CancellationToken::new(),
            closing,
        };
        let until = Instant::now() + config.connect_timeout;
        for link in [&hub.commands, &hub.publish] {
            link.open(&hub.connector, &hub.tasks, &hub.closing).await?;
        }
        let server = hub.look(until).await?;
        check(&server, hub.settings.durability)?;
        hub.learn_server(server);
        hub.scripts.load(&hub.commands, until).await?;
        for link in [&hub.commands, &hub.publish] {
            let (tasks, closing) = (hub.tasks.clone(), hub.closing.clone());
            hub.tasks.spawn(Arc::clone(link).keep(Arc::clone(&hub.connector), tasks, closing));
        }
        Ok(hub)
    }

    /// A connection for one reader.
    pub(crate) async fn reader(&self) -> Result<Connected> {
        self.open()?;
        self.connector.connect("reader", &self.tasks, &self.closing).await
    }

    /// Asks the server what it is. One round trip, and another one where it was not asked yet.
    pub(crate) async fn look(&self, until: Instant) -> Result<Server> {
        let mut command = redis::cmd("INFO");
        command.arg("server").arg("replication").arg("persistence").arg("memory");
        let answer = self.commands.ask(command, until).await?;
        let text = value::text(&answer).ok_or_else(|| error::unexpected("INFO"))?;
        let mut server = Server::of(text);
        server.synced_within = match self.server().synced_within {
            Some(known) => Some(known),
            None if server.append_only => self.synced_within(until).await,
            None => None,
        };
        Ok(server)
    }

    /// Not every user may ask that, and not every server lets itself be asked.
    async fn synced_within(&self, until: Instant) -> Option<Duration> {
        let mut command = redis::cmd("CONFIG");
        command.arg("GET").arg("appendfsync");
        let answer = value::array(self.commands.ask(command, until).await.ok()?).ok()?;
        match value::text(answer.get(1)?)? {
            "always" => Some(Duration::ZERO),
            "everysec" => Some(Duration::from_secs(2)),
            _ => None,
        }
    }

    pub(crate) fn learn_server(&self, server: Server) {
        *self.server.write().unwrap_or_else(PoisonError::into_inner) = server;
    }

    pub(crate) fn server(&self) -> Server {
        self.server.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn binding(&self, topic: &TopicName) -> Option<&Binding> {
        self.bindings.get(topic)
    }

    pub(crate) fn keys(&self, topic: &TopicName) -> TopicKeys {
        TopicKeys::new(topic, self.binding(topic))
    }

    /// When a question that is asked now has to be answered.
    pub(crate) fn until(&self) -> Instant {
        Instant::now() + self.settings.request_timeout
    }

    /// Calls a script, and awaits its answer.
    pub(crate) async fn call(
        &self,
        script: Script,
        keys: &[String],
        args: impl FnOnce(&mut Cmd),
    ) -> Result<Value> {
        let call = self.scripts.call(script, keys, args);
        self.scripts.ask(&self.commands, call, self.until()).await
    }

    pub(crate) fn known(&self, topic: &TopicName) -> Option<Arc<Known>> {
        self.topics().known.get(topic).cloned()
    }

    /// Remembers what was found.
    pub(crate) fn learn(&self, topic: &TopicName, known: Known) -> Arc<Known> {
        let mut topics = self.topics();
        topics.capabilities.remove(&Some(topic.clone()));
        let known = Arc::new(known);
        topics.known.insert(topic.clone(), Arc::clone(&known));
        known
    }

    /// Remembers what the application asked for.
    pub(crate) fn ask_for(&self, spec: &TopicSpec) {
        self.topics().specs.insert(spec.name.clone(), Arc::new(spec.clone()));
    }

    /// What the application asked for.
    pub(crate) fn asked_for(&self, topic: &TopicName) -> Option<Arc<TopicSpec>> {
        self.topics().specs.get(topic).cloned()
    }

    /// What was found does not hold any more.
    pub(crate) fn forget(&self, topic: &TopicName) {
        let mut topics = self.topics();
        topics.known.remove(topic);
        topics.capabilities.remove(&Some(topic.clone()));
    }

    /// The capabilities, found anew only after something changed: each publish asks for them.
    pub(crate) fn capabilities(
        &self,
        topic: Option<&TopicName>,
        find: impl FnOnce(Option<&Known>) -> Capabilities,
    ) -> Arc<Capabilities> {
        let mut topics = self.topics();
        let topic = topic.cloned();
        if let Some(found) = topics.capabilities.get(&topic) {
            return Arc::clone(found);
        }
        let known = topic.as_ref().and_then(|topic| topics.known.get(topic));
        let found = Arc::new(find(known.map(|known| &**known)));
        topics.capabilities.insert(topic, Arc::clone(&found));
        found
    }

    fn topics(&self) -> std::sync::MutexGuard<'_, Topics> {
        // Nothing panics while it is held but an allocation that failed.
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// `Closed` after [`shut`](Self::shut).
    pub(crate) fn open(&self) -> Result<()> {
        if self.closed.is_cancelled() { Err(error::closed()) } else { Ok(()) }
    }

    /// Takes nothing new, and tells the subscriptions to end.
    pub(crate) fn shut(&self) {
        self.closed.cancel();
    }

    /// Ends the connections.
    pub(crate) fn cut(&self) {
        self.closing.cancel();
    }

    /// Is cancelled when nothing new is taken.
    pub(crate) const fn closed(&self) -> &CancellationToken {
        &self.closed
    }
}

impl Server {
    fn of(info: &str) -> Self {
        let mut server = Self::default();
        let mut is_valkey = false;
        for line in info.lines() {
            let Some((name, value)) = line.split_once(':') else { continue };
            match name {
                "valkey_version" => {
                    is_valkey = true;
                    value.clone_into(&mut server.version);
                }
                "redis_version" if !is_valkey => value.clone_into(&mut server.version),
                "aof_enabled" => server.append_only = value == "1",
                "aof_last_write_status" => server.write_failed = value != "ok",
                "maxmemory_policy" => value.clone_into(&mut server.policy),
                "role" => value.clone_into(&mut server.role),
                "loading" => server.loading = value == "1",
                _ => {}
            }
        }
        server
    }

    /// Whether what it has confirmed is there after a restart, and nothing is removed to make room.
    pub(crate) fn keeps(&self) -> bool {
        self.append_only && self.evicts_nothing()
    }

    pub(crate) fn evicts_nothing(&self) -> bool {
        self.policy.is_empty() || self.policy == "noeviction"
    }
}

/// # Errors
/// `Unsupported` with what the server would have to be.
fn check(server: &Server, durability: Durable) -> Result<()> {
    let major = server.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_some_and(|major| major < 7) {
        return Err(Error::unsupported("the server is too old: it has to be Redis 7 or Valkey")
            .with_context("version", &server.version)
            .with_broker(BROKER));
    }
    if durability == Durable::AppendOnly && !server.keeps() {
        let (setting, wanted, found) = match server.append_only {
            false => ("appendonly", "yes", "no".to_owned()),
            true => ("maxmemory-policy", "noeviction", server.policy.clone()),
        };
        return Err(Error::new(
            ErrorKind::Unsupported,
            "the server is set to lose what it has confirmed; durability=server takes that",
        )
        .with_context("setting", setting)
        .with_context("wanted", wanted)
        .with_context("found", found)
        .with_broker(BROKER));
    }
    Ok(())
}

impl Drop for Hub {
    fn drop(&mut self) {
        // What its tasks hold would keep the connections open.
        self.closed.cancel();
        self.closing.cancel();
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("publish", &self.publish)
            .field("commands", &self.commands)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_read() {
        let server = Server::of(
            "# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.1\r\n\
             role:master\r\naof_enabled:1\r\nmaxmemory_policy:allkeys-lru\r\nloading:0\r\n",
        );
        assert_eq!(server.version, "8.1.1");
        assert!(server.append_only && !server.keeps() && !server.loading);
        let refused = check(&server, Durable::AppendOnly).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unsupported);
        assert!(refused.context().any(|fact| fact == ("found", "allkeys-lru")), "{refused}");
        check(&server, Durable::Server).unwrap();
        let old = Server { version: "6.2.7".to_owned(), ..server };
        assert_eq!(check(&old, Durable::Server).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
