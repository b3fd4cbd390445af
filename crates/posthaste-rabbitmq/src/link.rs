//! One connection that is kept up: connected again without end, with what it is now for everybody
//! who waits.
//!
//! The recovery of the client is off: it ends after some minutes, declares again what was declared
//! without asking, and leaves streams pending for ever after an error of a channel.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::{Channel, Connection, Event};
use posthaste_core::{Error, ErrorKind, Result};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::connect::Connector;
use crate::error::{self, BROKER};

/// The first pause between two attempts to connect again, and the longest.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);
/// How often the state of the client is looked at besides its events.
const LOOK: Duration = Duration::from_millis(500);
/// How often the broker is asked whether it is there: the client misses it only after two
/// heartbeats.
const ASK: Duration = Duration::from_secs(4);
/// How long a connection that is suspected may take to show that it is alive.
const SIGN_OF_LIFE: Duration = Duration::from_secs(3);

/// What is known of the connection now.
#[derive(Clone, Default)]
pub(crate) struct LinkState {
    /// Which connection this is, from 1; counts up with each.
    pub(crate) generation: u32,
    pub(crate) connection: Option<Arc<Connection>>,
    /// When it was there again after it was lost.
    pub(crate) again: Option<Instant>,
    /// Why the broker takes nothing on it.
    pub(crate) blocked: Option<Arc<str>>,
    pub(crate) closed: bool,
}

/// A connection, or the attempt to have one.
pub(crate) struct Link {
    role: &'static str,
    state: watch::Sender<LinkState>,
    /// What the last attempt failed with.
    trouble: Mutex<Option<Error>>,
    wanted: Notify,
    suspected: Notify,
}

impl Link {
    pub(crate) fn new(role: &'static str) -> Self {
        Self {
            role,
            state: watch::Sender::new(LinkState::default()),
            trouble: Mutex::default(),
            wanted: Notify::new(),
            suspected: Notify::new(),
        }
    }

    /// Connects once, for who wants to know what is wrong.
    ///
    /// # Errors
    /// Those of [`Connector::connect`].
    pub(crate) async fn open(&self, connector: &Connector) -> Result<()> {
        let connection = connector.connect(self.role).await?;
        self.up(connection);
        Ok(())
    }

    pub(crate) fn state(&self) -> LinkState {
        self.state.borrow().clone()
    }

    pub(crate) fn generation(&self) -> u32 {
        self.state.borrow().generation
    }

    /// Whether it was lost a moment ago.
    pub(crate) fn is_back(&self, within: Duration) -> bool {
        self.state.borrow().again.is_some_and(|since| since.elapsed() < within)
    }

    fn up(&self, connection: Connection) {
        *self.trouble() = None;
        self.state.send_modify(|state| {
            state.again = (state.generation > 0).then(Instant::now);
            state.generation = state.generation.wrapping_add(1).max(1);
            state.connection = Some(Arc::new(connection));
            state.blocked = None;
        });
    }

    fn down(&self, why: Error) {
        *self.trouble() = Some(why);
        self.state.send_modify(|state| {
            state.connection = None;
            state.blocked = None;
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
            None => Error::new(ErrorKind::Connection, "there is no connection to the broker")
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
    pub(crate) async fn ready(&self, until: Instant) -> Result<(Arc<Connection>, u32)> {
        self.wait(until, false).await
    }

    /// Waits for a connection on which the broker takes messages.
    ///
    /// # Errors
    /// As [`ready`](Self::ready), and `Backpressure` where the broker takes nothing.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn open_for_messages(&self, until: Instant) -> Result<(Arc<Connection>, u32)> {
        self.wait(until, true).await
    }

    async fn wait(&self, until: Instant, unblocked: bool) -> Result<(Arc<Connection>, u32)> {
        let usable = |state: &LinkState| {
            state.closed || state.connection.is_some() && !(unblocked && state.blocked.is_some())
        };
        let found = |state: &LinkState| match &state.connection {
            _ if state.closed => Err(error::closed()),
            Some(connection) => Ok((Arc::clone(connection), state.generation)),
            None => Err(self.absent()),
        };
        {
            let state = self.state.borrow();
            if usable(&state) {
                return found(&state);
            }
        }
        self.wanted.notify_one();
        let mut watch = self.state.subscribe();
        let waited = tokio::time::timeout_at(until, watch.wait_for(usable)).await;
        match waited {
            Ok(Ok(state)) => found(&state),
            Ok(Err(_)) => Err(error::closed()),
            Err(_) => match self.state().blocked {
                Some(reason) => Err(error::blocked(&reason)),
                None => Err(self.absent()),
            },
        }
    }

    /// Opens a channel.
    ///
    /// # Errors
    /// As [`ready`](Self::ready).
    ///
    /// # Cancel safety
    /// Cancel safe: the channel is closed by its drop.
    pub(crate) async fn channel(&self, until: Instant) -> Result<(Channel, u32)> {
        let (connection, generation) = self.ready(until).await?;
        let opened = self.answer(until, "a channel", connection.create_channel()).await?;
        Ok((opened, generation))
    }

    /// Awaits an answer of the broker. One that does not come raises suspicion.
    ///
    /// # Errors
    /// That of the client; `Timeout` at the deadline.
    pub(crate) async fn answer<T>(
        &self,
        until: Instant,
        what: &'static str,
        call: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T> {
        match tokio::time::timeout_at(until, call).await {
            Ok(answer) => answer.map_err(error::native),
            Err(_) => {
                self.suspect();
                Err(error::timed_out(what))
            }
        }
    }

    /// Something did not come that should have: the connection has to show that it is alive.
    pub(crate) fn suspect(&self) {
        self.suspected.notify_one();
    }

    /// Keeps it up until all is closed; then says goodbye.
    pub(crate) async fn keep(
        self: Arc<Self>,
        connector: Arc<Connector>,
        closing: CancellationToken,
    ) {
        let kept = async {
            loop {
                if self.state.borrow().connection.is_none() {
                    if self.state.borrow().generation == 0 {
                        self.wanted.notified().await;
                    }
                    self.reconnect(&connector).await;
                }
                let why = self.watch().await;
                tracing::warn!(role = self.role, %why, "a connection was lost");
                self.down(why);
            }
        };
        tokio::select! {
            biased;
            () = closing.cancelled() => {}
            () = kept => {}
        }
        let connection = self.state().connection;
        self.state.send_modify(|state| {
            state.closed = true;
            state.connection = None;
        });
        if let Some(connection) = connection {
            // A connection that is blocked takes no goodbye.
            let goodbye = connection.close(200, "closed".into());
            drop(tokio::time::timeout(GOODBYE, goodbye).await);
        }
    }

    async fn reconnect(&self, connector: &Connector) {
        let mut pause = PAUSE;
        loop {
            match connector.connect(self.role).await {
                Ok(connection) => {
                    tracing::info!(role = self.role, "a connection is there");
                    return self.up(connection);
                }
                Err(error) => {
                    tracing::debug!(role = self.role, %error, "connecting failed");
                    *self.trouble() = Some(error);
                }
            }
            // So that a broker that is back is not met by all at once.
            tokio::time::sleep(pause.mul_f64(fastrand::f64().mul_add(0.5, 0.5))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Follows the connection until it is lost, and says why it was.
    async fn watch(&self) -> Error {
        let Some(connection) = self.state().connection else { return self.absent() };
        let mut events = Box::pin(connection.events_listener());
        let mut last = None;
        let mut look = tokio::time::interval(LOOK);
        let mut ask = tokio::time::interval_at(Instant::now() + ASK, ASK);
        loop {
            let mut suspected = false;
            tokio::select! {
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(reason)) => {
                        tracing::warn!(role = self.role, reason, "the broker takes nothing");
                        self.block(Some(reason.into()));
                    }
                    Some(Event::ConnectionUnblocked) => self.block(None),
                    // Errors of single channels come here, too.
                    Some(Event::Error(error)) => last = Some(error),
                    Some(_) => {}
                    None => return self.lost(last),
                },
                _ = look.tick() => {}
                () = self.suspected.notified() => suspected = true,
                _ = ask.tick() => suspected = true,
            }
            if connection.status().connected() && suspected && !self.is_alive(&connection).await {
                return Error::new(ErrorKind::Connection, "the broker does not answer")
                    .with_broker(BROKER);
            }
            if !connection.status().connected() {
                return self.lost(last);
            }
            // What was said before anybody listened.
            let told = self.state.borrow().blocked.is_some();
            if connection.status().blocked() && !told {
                self.block(Some("the broker is short of memory or disk".into()));
            }
        }
    }

    async fn is_alive(&self, connection: &Connection) -> bool {
        if connection.status().blocked() {
            // Nothing leaves it, and heartbeats show whether it is there.
            return true;
        }
        let asked = async {
            let channel = connection.create_channel().await?;
            channel.close(200, "done".into()).await
        };
        let answered = tokio::time::timeout(SIGN_OF_LIFE, asked).await;
        matches!(answered, Ok(Ok(()))) || connection.status().blocked()
    }

    fn lost(&self, last: Option<lapin::Error>) -> Error {
        match last {
            Some(native) => error::native(native),
            None => {
                Error::new(ErrorKind::Connection, "the connection was lost").with_broker(BROKER)
            }
        }
    }

    fn block(&self, reason: Option<Arc<str>>) {
        self.state.send_modify(|state| state.blocked = reason);
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.borrow();
        f.debug_struct("Link")
            .field("role", &self.role)
            .field("generation", &state.generation)
            .field("connected", &state.connection.is_some())
            .field("blocked", &state.blocked)
            .finish_non_exhaustive()
    }
}
