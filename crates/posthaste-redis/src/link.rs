//! One connection that is kept up: connected again without end, with what it is now for everybody
//! who waits.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use posthaste_core::{Error, ErrorKind, Result};
use redis::{Cmd, Pipeline, Value};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connect::{Connected, Connector};
use crate::error::{self, BROKER};

/// The first pause between two attempts to connect again, and the longest.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often the server is asked whether it is there.
const ASK: Duration = Duration::from_secs(3);
/// How long it may take to show that it is.
const SIGN_OF_LIFE: Duration = Duration::from_secs(4);

/// What is known of the connection now.
#[derive(Clone, Default)]
struct LinkState {
    /// Which connection this is, from 1; counts up with each.
    generation: u32,
    connected: Option<Connected>,
    closed: bool,
}

/// A connection, or the attempt to have one.
pub(crate) struct Link {
    role: &'static str,
    state: watch::Sender<LinkState>,
    /// What the last attempt failed with.
    trouble: Mutex<Option<Error>>,
    suspected: Notify,
}

impl Link {
    pub(crate) fn new(role: &'static str) -> Self {
        Self {
            role,
            state: watch::Sender::new(LinkState::default()),
            trouble: Mutex::default(),
            suspected: Notify::new(),
        }
    }

    /// Connects once, for who wants to know what is wrong.
    ///
    /// # Errors
    /// Those of [`Connector::connect`].
    pub(crate) async fn open(
        &self,
        connector: &Connector,
        tasks: &TaskTracker,
        closing: &CancellationToken,
    ) -> Result<()> {
        let connected = connector.connect(self.role, tasks, closing).await?;
        self.up(connected);
        Ok(())
    }

    pub(crate) fn is_up(&self) -> bool {
        self.state.borrow().connected.is_some()
    }

    fn up(&self, connected: Connected) {
        *self.trouble() = None;
        self.state.send_modify(|state| {
            state.generation = state.generation.wrapping_add(1).max(1);
            state.connected = Some(connected);
        });
    }

    fn trouble(&self) -> std::sync::MutexGuard<'_, Option<Error>> {
        // Nothing panics while it is held but an allocation that failed.
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is no connection, and why.
    #[cold]
    pub(crate) fn absent(&self) -> Error {
        match &*self.trouble() {
            Some(trouble) => trouble.duplicate(),
            None => Error::new(ErrorKind::Connection, "there is no connection to the server")
                .with_broker(BROKER),
        }
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// `Closed`; at the deadline what connecting fails with.
    ///
    /// # Cancel safety
    /// Cancel safe.
    async fn ready(&self, until: Instant) -> Result<Connected> {
        let usable = |state: &LinkState| state.closed || state.connected.is_some();
        let found = |state: &LinkState| match &state.connected {
            _ if state.closed => Err(error::closed()),
            Some(connected) => Ok(connected.clone()),
            None => Err(self.absent()),
        };
        {
            let state = self.state.borrow();
            if usable(&state) {
                return found(&state);
            }
        }
        let mut watch = self.state.subscribe();
        let waited = tokio::time::timeout_at(until, watch.wait_for(usable)).await;
        match waited {
            Ok(Ok(state)) => found(&state),
            Ok(Err(_)) => Err(error::closed()),
            Err(_) => Err(self.absent()),
        }
    }

    /// Sends commands together, and awaits their answers by the deadline. What the server refuses
    /// is among the answers.
    ///
    /// # Errors
    /// As [`Unsent`] says: whether something was sent.
    ///
    /// # Cancel safety
    /// When dropped, each command may or may not be done.
    pub(crate) async fn send(
        &self,
        commands: &Pipeline,
        until: Instant,
    ) -> Result<Vec<Value>, Failure> {
        let mut connected = self.ready(until).await.map_err(Failure::unsent)?;
        let count = commands.len();
        let asked = connected.client.send_packed_commands(commands, 0, count);
        let answered = tokio::select! {
            answered = tokio::time::timeout_at(until, asked) => answered,
            // The task that would bring the answer is gone.
            () = connected.life.cancelled() => return Err(Failure::sent(self.lost())),
        };
        match answered {
            Ok(Ok(answers)) if answers.len() == count => {
                if answers.iter().any(is_of_a_replica) {
                    // Another server is the master now: it is looked up again by connecting.
                    connected.life.cancel();
                }
                Ok(answers)
            }
            Ok(Ok(_)) => Err(Failure::sent(error::unexpected("several commands"))),
            Ok(Err(native)) => {
                if native.is_unrecoverable_error() || native.is_io_error() {
                    connected.life.cancel();
                }
                Err(Failure::sent(error::native(native)))
            }
            Err(_) => {
                self.suspect();
                Err(Failure::sent(error::timed_out()))
            }
        }
    }

    /// Sends one command, and awaits its answer by the deadline.
    ///
    /// # Errors
    /// That of the client, or what the server refused.
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    pub(crate) async fn ask(&self, command: Cmd, until: Instant) -> Result<Value> {
        let mut commands = Pipeline::with_capacity(1);
        commands.add_command(command);
        let mut answers = self.send(&commands, until).await.map_err(|failure| failure.error)?;
        answers.pop().ok_or_else(|| error::unexpected("a command")).and_then(crate::value::ok)
    }

    /// Something did not come that should have: the connection has to show that it is alive.
    pub(crate) fn suspect(&self) {
        self.suspected.notify_one();
    }

    #[cold]
    fn lost(&self) -> Error {
        if self.state.borrow().closed {
            return error::closed();
        }
        Error::new(ErrorKind::Connection, "the connection was lost").with_broker(BROKER)
    }

    /// Keeps it up until all is closed.
    pub(crate) async fn keep(
        self: Arc<Self>,
        connector: Arc<Connector>,
        tasks: TaskTracker,
        closing: CancellationToken,
    ) {
        let kept = async {
            loop {
                if self.state.borrow().connected.is_none() {
                    self.reconnect(&connector, &tasks, &closing).await;
                }
                self.watch().await;
                tracing::warn!(role = self.role, "a connection was lost");
                *self.trouble() = Some(self.lost());
                self.state.send_modify(|state| state.connected = None);
            }
        };
        tokio::select! {
            biased;
            () = closing.cancelled() => {}
            () = kept => {}
        }
        self.state.send_modify(|state| {
            state.closed = true;
            state.connected = None;
        });
    }

    async fn reconnect(
        &self,
        connector: &Connector,
        tasks: &TaskTracker,
        closing: &CancellationToken,
    ) {
        let mut pause = PAUSE;
        loop {
            match connector.connect(self.role, tasks, closing).await {
                Ok(connected) => {
                    tracing::info!(role = self.role, "a connection is there");
                    return self.up(connected);
                }
                Err(error) => {
                    tracing::debug!(role = self.role, %error, "connecting failed");
                    *self.trouble() = Some(error);
                }
            }
            // So that a server that is back is not met by all at once.
            tokio::time::sleep(pause.mul_f64(fastrand::f64().mul_add(0.5, 0.5))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Follows the connection until it is gone.
    async fn watch(&self) {
        let Some(mut connected) = self.state.borrow().connected.clone() else { return };
        loop {
            tokio::select! {
                () = connected.life.cancelled() => return,
                () = self.suspected.notified() => {}
                () = tokio::time::sleep(ASK) => {}
            }
            let ping = redis::cmd("PING");
            let asked = connected.client.send_packed_command(&ping);
            let answered = tokio::select! {
                answered = tokio::time::timeout(SIGN_OF_LIFE, asked) => answered,
                () = connected.life.cancelled() => return,
            };
            if !matches!(answered, Ok(Ok(_))) {
                connected.life.cancel();
                return;
            }
        }
    }
}

/// A replica, or a server that is not ready: what it refuses another connection may take.
fn is_of_a_replica(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(refused) if refused.code() == "READONLY")
}

/// Commands were not answered.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// Whether the server may have got them.
    pub(crate) sent: bool,
}

impl Failure {
    #[cold]
    pub(crate) const fn unsent(error: Error) -> Self {
        Self { error, sent: false }
    }

    #[cold]
    pub(crate) const fn sent(error: Error) -> Self {
        Self { error, sent: true }
    }

    /// For who does not care whether they arrived. No `From`: an adapter must not widen what
    /// becomes an `Error` in the code of applications, whose types are inferred by that.
    #[cold]
    pub(crate) fn into_error(self) -> Error {
        self.error
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.borrow();
        f.debug_struct("Link")
            .field("role", &self.role)
            .field("generation", &state.generation)
            .field("connected", &state.connected.is_some())
            .finish_non_exhaustive()
    }
}
