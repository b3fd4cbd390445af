//! The connection's state as a subscription tells it to its application.

use std::collections::VecDeque;
use std::task::Context;

use posthaste_core::Result;
use posthaste_core::broker::DriverEvent;
use tokio::sync::watch;

use crate::error;
use crate::link::{Link, LinkState};
use crate::source::Boxed;

/// Polled by a driver; wakes it when the connection changes.
pub(crate) struct LinkWatch {
    state: watch::Receiver<LinkState>,
    changed: Boxed<()>,
    losses: u64,
    connected: bool,
}

impl LinkWatch {
    pub(crate) fn new(link: &Link) -> Self {
        let mut state = link.watch();
        let (losses, connected) = {
            let state = state.borrow_and_update();
            (state.losses, state.connected)
        };
        Self { changed: changed(state.clone()), state, losses, connected }
    }

    pub(crate) const fn is_connected(&self) -> bool {
        self.connected
    }

    /// Takes note of changes. Returns whether the connection was lost or came back since the
    /// last time.
    ///
    /// # Errors
    /// `Closed`.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        events: &mut VecDeque<DriverEvent>,
    ) -> Result<bool> {
        while self.changed.as_mut().poll(cx).is_ready() {
            self.changed = changed(self.state.clone());
        }
        let state = self.state.borrow_and_update();
        if state.closed {
            return Err(error::closed());
        }
        let lost = state.losses > self.losses;
        if lost {
            self.losses = state.losses;
            self.connected = false;
            let reason = state.trouble.as_deref().unwrap_or("the connection was lost").to_owned();
            events.push_back(DriverEvent::Disconnected { reason });
        }
        let back = state.connected && !self.connected;
        if back {
            self.connected = true;
            events.push_back(DriverEvent::Reconnected);
        }
        Ok(lost || back)
    }
}

fn changed(mut state: watch::Receiver<LinkState>) -> Boxed<()> {
    Box::pin(async move {
        if state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}
