//! The connection's state, as the client's events tell it.
//!
//! The client reconnects by itself, for ever. What waits for an answer of the server learns here
//! that the answer will not come any more: nothing that was under way survives a disconnect.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{ClientError, Event, ServerError};
use posthaste_core::{Error, ErrorKind, Result};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error;

/// How long an answer is awaited after a reconnect, before it counts as lost. The server may have
/// taken the request a moment before the connection went.
const GRACE: Duration = Duration::from_secs(1);
/// How many refusals of the server are remembered.
const REFUSALS: usize = 64;

/// What is known of the connection now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkState {
    /// How often the connection was lost.
    pub(crate) losses: u64,
    pub(crate) connected: bool,
    pub(crate) closed: bool,
    /// What the last attempt to connect failed with.
    pub(crate) trouble: Option<Arc<str>>,
}

/// Written by the client's events, read by everything that waits.
#[derive(Debug, Clone)]
pub(crate) struct Link(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: watch::Sender<LinkState>,
    refusals: Mutex<VecDeque<(Instant, String)>>,
}

impl Link {
    pub(crate) fn new() -> Self {
        let state = LinkState { losses: 0, connected: true, closed: false, trouble: None };
        Self(Arc::new(Inner { state: watch::Sender::new(state), refusals: Mutex::default() }))
    }

    /// Takes one event of the client. Never blocks.
    pub(crate) fn take(&self, event: Event) {
        match event {
            Event::Connected => self.change(|state| {
                state.connected = true;
                state.trouble = None;
            }),
            Event::Disconnected => self.change(|state| {
                state.connected = false;
                state.losses += 1;
            }),
            Event::Closed => self.close(),
            Event::ClientError(ClientError::Other(text)) => {
                self.change(|state| state.trouble = Some(text.as_str().into()));
            }
            Event::ServerError(ServerError::AuthorizationViolation) => {
                self.change(|state| state.trouble = Some("authorization violation".into()));
            }
            Event::ServerError(ServerError::Other(text)) => self.refused(text),
            Event::SlowConsumer(subscription) => {
                tracing::warn!(subscription, "messages of a subscription were dropped");
            }
            Event::LameDuckMode => tracing::info!("the server is about to shut down"),
            _ => {}
        }
    }

    /// Nothing will come any more.
    pub(crate) fn close(&self) {
        self.change(|state| {
            state.connected = false;
            state.closed = true;
        });
    }

    fn change(&self, change: impl FnOnce(&mut LinkState)) {
        self.0.state.send_modify(change);
    }

    fn refused(&self, text: String) {
        tracing::warn!(server = %text.escape_debug(), "the server refused something");
        let mut refusals = self.refusals();
        if refusals.len() == REFUSALS {
            refusals.pop_front();
        }
        refusals.push_back((Instant::now(), text));
    }

    fn refusals(&self) -> std::sync::MutexGuard<'_, VecDeque<(Instant, String)>> {
        // Nothing panics while it is held but an allocation that failed.
        self.0.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The refusal of a subject since then. The server answers nothing else to what is forbidden.
    pub(crate) fn refusal_of(&self, subject: &str, since: Instant) -> Option<Error> {
        let refusals = self.refusals();
        let found = refusals.iter().rev().take_while(|(at, _)| *at >= since);
        let quoted = format!("\"{subject}\"");
        let mut found = found.filter(|(_, text)| text.contains(&quoted));
        found.next().map(|(_, text)| error::forbidden(text))
    }

    pub(crate) fn watch(&self) -> watch::Receiver<LinkState> {
        self.0.state.subscribe()
    }

    /// How often the connection was lost, and whether there is one.
    pub(crate) fn state(&self) -> (u64, bool) {
        let state = self.0.state.borrow();
        (state.losses, state.connected)
    }

    pub(crate) fn losses(&self) -> u64 {
        self.0.state.borrow().losses
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.state.borrow().closed
    }

    /// Waits until there is a connection.
    ///
    /// # Errors
    /// `Closed`; `Auth` if the server refuses the login now, else `Connection`, at the deadline.
    pub(crate) async fn ready(&self, until: Instant) -> Result<()> {
        {
            let state = self.0.state.borrow();
            if state.connected {
                return Ok(());
            }
            if state.closed {
                return Err(error::closed());
            }
        }
        let mut watch = self.watch();
        let settled = watch.wait_for(|state| state.connected || state.closed);
        let state = match tokio::time::timeout_at(until, settled).await {
            Ok(Ok(state)) => state.clone(),
            Ok(Err(_)) => return Err(error::closed()),
            Err(_) => return Err(self.down()),
        };
        if state.closed { Err(error::closed()) } else { Ok(()) }
    }

    /// There is no connection, and why.
    #[cold]
    pub(crate) fn down(&self) -> Error {
        let state = self.0.state.borrow();
        let trouble = state.trouble.as_deref().unwrap_or("the connection was lost");
        let made = if trouble.contains("authorization") || trouble.contains("signing nonce") {
            Error::new(ErrorKind::Auth, "the server refuses the login since it is back")
        } else {
            Error::new(ErrorKind::Connection, "there is no connection to the server")
        };
        made.with_context("last", trouble.escape_debug()).with_broker(error::BROKER)
    }

    /// Resolves when an answer to what was sent before the connection was lost cannot be hoped
    /// for any more: some time after a reconnect, or at the deadline, or when all is closed.
    pub(crate) async fn lost_since(&self, losses: u64, until: Instant) {
        let mut watch = self.watch();
        let gone = async {
            let lost = |state: &LinkState| state.losses > losses || state.closed;
            if watch.wait_for(lost).await.is_err() {
                return;
            }
            let back = |state: &LinkState| state.connected || state.closed;
            let is_back = watch.wait_for(back).await.is_ok_and(|state| !state.closed);
            if is_back {
                tokio::time::sleep(GRACE).await;
            }
        };
        tokio::select! {
            () = gone => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_the_connection_to_come_back() {
        let link = Link::new();
        link.ready(soon()).await.unwrap();
        link.take(Event::Disconnected);
        assert_eq!(link.ready(soon()).await.unwrap_err().kind(), ErrorKind::Connection);
        let waiting = link.ready(soon());
        let back = async { link.take(Event::Connected) };
        tokio::join!(waiting, back).0.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_that_is_refused_after_a_reconnect_is_named() {
        let link = Link::new();
        link.take(Event::Disconnected);
        link.take(Event::ClientError(ClientError::Other("authorization violation".into())));
        assert_eq!(link.ready(soon()).await.unwrap_err().kind(), ErrorKind::Auth);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_given_up_shortly_after_a_reconnect() {
        let link = Link::new();
        let losses = link.losses();
        let start = Instant::now();
        let until = start + Duration::from_secs(60);
        let story = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            link.take(Event::Disconnected);
            tokio::time::sleep(Duration::from_secs(3)).await;
            link.take(Event::Connected);
        };
        tokio::join!(link.lost_since(losses, until), story);
        assert_eq!(start.elapsed(), Duration::from_secs(5) + GRACE);
        // What was sent after the loss is not concerned.
        let until = Instant::now() + Duration::from_secs(4);
        link.lost_since(link.losses(), until).await;
        assert_eq!(Instant::now(), until);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_found_by_its_subject_and_time() {
        let link = Link::new();
        let before = Instant::now();
        let text = "Permissions Violation for Publish to \"orders\"";
        link.take(Event::ServerError(ServerError::Other(text.into())));
        assert_eq!(link.refusal_of("orders", before).unwrap().kind(), ErrorKind::Auth);
        assert!(link.refusal_of("order", before).is_none());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(link.refusal_of("orders", Instant::now()).is_none());
    }

    #[tokio::test]
    async fn what_is_closed_stays_closed() {
        let link = Link::new();
        link.take(Event::Closed);
        assert_eq!(link.ready(soon()).await.unwrap_err().kind(), ErrorKind::Closed);
        link.lost_since(0, soon()).await;
    }
}
