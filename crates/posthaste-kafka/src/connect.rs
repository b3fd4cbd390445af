//! From a configuration to clients that are connected, and their end.
//!
//! Making a client starts threads and reads files; ending one waits for them, and for brokers that
//! may not answer. Neither happens on a thread of the runtime.

use std::convert::Infallible;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use posthaste_core::{Error, Result};
use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{FromClientConfig as _, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::producer::Producer as _;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::KafkaConfig;
use crate::context::Signs;
use crate::error;
use crate::producer::Producer;
use crate::properties::Role;
use crate::worker::{self, Asked, Worker};

/// The client of the admin interface.
pub(crate) type Administrator = AdminClient<DefaultClientContext>;

/// An internal topic, which each cluster has or may have: to ask for one keeps the answer small,
/// and whether it is there does not matter.
const ANY_TOPIC: &str = "__consumer_offsets";
/// The pause after a question that failed.
const PAUSE: Duration = Duration::from_millis(50);
/// How long the first answer is awaited before the client's log is looked at; it doubles.
const FIRST_LOOK: Duration = Duration::from_millis(250);

/// What is made for a connection.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) producer: Producer,
    pub(crate) admin: Arc<Owned<Administrator>>,
    pub(crate) worker: Worker,
}

/// Makes the clients and waits for a broker's answer, by the deadline of the configuration.
///
/// # Errors
/// `Invalid` for the configuration, `Auth`, `Connection`, `Timeout`, with what the client said.
///
/// # Cancel safety
/// Cancel safe: what was made ends by itself.
pub(crate) async fn connect(config: &KafkaConfig, signs: &Arc<Signs>) -> Result<Clients> {
    let until = Instant::now() + config.connect_timeout;
    let (tell, told) = oneshot::channel();
    let (making, said) = (config.clone(), Arc::clone(signs));
    let thread = thread::Builder::new().name("posthaste-kafka-connect".to_owned());
    let make = move || {
        let made = make(&making, &said, until, || tell.is_closed());
        // Nobody may wait any more: then all ends here.
        let _ = tell.send(made);
    };
    // It is not joined: it ends with the deadline, or when nobody waits.
    thread.spawn(make).map_err(worker::no_thread)?;
    match tokio::time::timeout_at(until, told).await {
        Ok(Ok(made)) => made,
        Ok(Err(_)) | Err(_) => Err(failed(config, signs)),
    }
}

/// One small question that any broker answers.
///
/// # Errors
/// What the client says of it, which seldom names the cause: [`Signs::trouble`] does.
pub(crate) fn ping(client: &Asked, limit: Duration) -> Result<(), KafkaError> {
    client.fetch_metadata(Some(ANY_TOPIC), limit).map(|_| ())
}

fn make(
    config: &KafkaConfig,
    signs: &Arc<Signs>,
    until: Instant,
    is_unwanted: impl Fn() -> bool,
) -> Result<Clients> {
    let producer = Producer::create(&config.client(Role::Producer), signs)?;
    let client = Arc::clone(producer.client());
    let mut limit = FIRST_LOOK;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || is_unwanted() {
            return Err(failed(config, signs));
        }
        if ping(client.client(), limit.min(left)).is_ok() {
            break;
        }
        // With several servers, another one may still answer.
        if config.servers.len() == 1 && signs.trouble().is_some_and(|trouble| trouble.lasting) {
            return Err(failed(config, signs));
        }
        // What was hung up on at once is not to be tried without a pause.
        thread::park_timeout(PAUSE.min(left));
        limit = limit.saturating_mul(2).min(config.connect_timeout);
    }
    signs.well();
    let mut admin = config.client(Role::Admin);
    // Nobody takes from this client's log; and whatever is wrong, the producer says it too.
    admin.set_log_level(RDKafkaLogLevel::Emerg);
    let admin = Administrator::from_config(&admin).map_err(|native| error::of(&native))?;
    let admin = Arc::new(Owned::new(admin)?);
    if let Some(tokens) = &signs.tokens {
        tokens.look_after(&admin)?;
    }
    let worker = Worker::start(&client)?;
    Ok(Clients { producer, admin, worker })
}

#[cold]
fn failed(config: &KafkaConfig, signs: &Signs) -> Error {
    let trouble = signs.trouble();
    error::connect(trouble.as_ref().map(|trouble| trouble.text.as_str()), &config.servers)
}

/// A client of ours. When it is dropped, it ends on a thread of its own: a thread of the runtime
/// would stand still meanwhile, and the client may wait for what that thread is to do.
pub(crate) struct Owned<T: Send + Sync + 'static> {
    client: Arc<T>,
    ended: CancellationToken,
    /// Fields are dropped in their order. So the thread that waits for this holds the last
    /// reference to the client.
    _dropped: SyncSender<Infallible>,
}

impl<T: Send + Sync + 'static> Owned<T> {
    /// # Errors
    /// `Fatal` if the system gives no thread.
    pub(crate) fn new(client: T) -> Result<Self> {
        let client = Arc::new(client);
        let ended = CancellationToken::new();
        let (sender, dropped) = sync_channel(0);
        let (last, end) = (Arc::clone(&client), ended.clone());
        let thread = thread::Builder::new().name("posthaste-kafka-end".to_owned());
        let wait = move || {
            // Nothing is ever sent.
            let _ = dropped.recv();
            drop(last);
            end.cancel();
        };
        thread.spawn(wait).map_err(worker::no_thread)?;
        Ok(Self { client, ended, _dropped: sender })
    }

    /// Tells when the client has ended.
    pub(crate) fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }
}

impl<T: Send + Sync + 'static> Deref for Owned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.client
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Owned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owned").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::thread::ThreadId;

    use posthaste_core::{ErrorKind, Retry};

    use super::*;

    struct Tells(Arc<Mutex<Option<ThreadId>>>);

    impl Drop for Tells {
        fn drop(&mut self) {
            *self.0.lock().unwrap() = Some(thread::current().id());
        }
    }

    #[tokio::test]
    async fn a_client_ends_on_a_thread_of_its_own() {
        for _ in 0..100 {
            let dropped_on = Arc::default();
            let owned = Owned::new(Tells(Arc::clone(&dropped_on))).unwrap();
            let ended = owned.ended();
            assert!(dropped_on.lock().unwrap().is_none() && !ended.is_cancelled());
            drop(owned);
            ended.cancelled().await;
            let thread = dropped_on.lock().unwrap().unwrap();
            assert_ne!(thread, thread::current().id());
        }
    }

    async fn connect_to(config: KafkaConfig) -> (Error, Duration) {
        let start = Instant::now();
        let error = connect(&config, &Arc::default()).await.unwrap_err();
        (error, start.elapsed())
    }

    #[tokio::test]
    async fn who_does_not_answer_is_named_in_time() {
        let limit = Duration::from_millis(700);
        // It takes the connection and never says a word.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let server = silent.local_addr().unwrap().to_string();
        let (error, took) = connect_to(KafkaConfig::new(&server).connect_timeout(limit)).await;
        assert!(took < limit * 2, "{took:?}");
        assert!(error.to_string().contains(&server), "{error}");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    }

    #[tokio::test]
    async fn nobody_at_the_port_is_told() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = KafkaConfig::new(port.to_string()).login("u", "S3CRET");
        let (error, took) = connect_to(config.connect_timeout(Duration::from_secs(1))).await;
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert_eq!(error.kind(), ErrorKind::Connection, "{error:?}");
        assert!(!format!("{error:?}").contains("S3CRET"), "{error:?}");
    }

    #[tokio::test]
    async fn who_hangs_up_at_once_is_asked_with_pauses() {
        let rude = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let server = rude.local_addr().unwrap().to_string();
        // It ends with the test's process.
        thread::spawn(move || rude.incoming().for_each(drop));
        let limit = Duration::from_millis(700);
        let (error, took) = connect_to(KafkaConfig::new(&server).connect_timeout(limit)).await;
        assert!(took < limit * 2, "{took:?}");
        assert_eq!(error.kind(), ErrorKind::Connection, "{error:?}");
        assert!(error.to_string().contains(&server), "{error}");
    }

    #[tokio::test]
    async fn an_unknown_host_is_told() {
        let config = KafkaConfig::new("no-such-host.invalid");
        let (error, took) = connect_to(config.connect_timeout(Duration::from_secs(2))).await;
        assert!(took < Duration::from_secs(3), "{took:?}");
        assert_eq!(
            (error.kind(), error.retry()),
            (ErrorKind::Connection, Retry::Never),
            "{error:?}"
        );
        assert!(error.to_string().contains("no-such-host.invalid"), "{error}");
    }

    #[tokio::test]
    async fn a_connect_that_nobody_waits_for_ends() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let config = KafkaConfig::new(silent.local_addr().unwrap().to_string());
        let signs = Arc::new(Signs::default());
        let connecting = connect(&config, &signs);
        assert!(tokio::time::timeout(Duration::from_millis(50), connecting).await.is_err());
        // Its clients hold the signs until they have ended.
        let start = Instant::now();
        while Arc::strong_count(&signs) > 1 {
            assert!(start.elapsed() < Duration::from_secs(8), "a client is left");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
