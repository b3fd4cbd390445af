//! Confirm channels. Whoever sends a batch has one for himself until all of it is answered, so
//! that exactly one task publishes on a channel at a time.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::Channel;
use lapin::options::ConfirmSelectOptions;
use posthaste_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::confirm::{self, Sent};
use crate::link::Link;
use crate::outgoing::Outgoing;

/// How many channels wait for the next batch. Core has fewer batches of one topic on their way.
const IDLE: usize = 32;

/// How long after a reconnect confirmations are awaited for less time. A queue that finds its leader
/// only then does not confirm what was sent to it before; the broker sends it on after 10 s, and a
/// second try is confirmed at once.
const BACK: Duration = Duration::from_secs(15);
const IMPATIENCE: Duration = Duration::from_secs(4);

/// The channels of the publishing connection.
pub(crate) struct Pool {
    link: Arc<Link>,
    idle: Mutex<Vec<(Channel, u32)>>,
    timeout: Duration,
}

impl Pool {
    pub(crate) const fn new(link: Arc<Link>, timeout: Duration) -> Self {
        Self { link, idle: Mutex::new(Vec::new()), timeout }
    }

    /// Sends a batch in order, and says what became of each message.
    ///
    /// # Cancel safety
    /// When dropped, each message may or may not be stored.
    pub(crate) async fn send(&self, batch: Vec<Outgoing>) -> Sent {
        let until = Instant::now() + self.timeout;
        let size = batch.len();
        let (channel, generation) = match self.take(until).await {
            Ok(taken) => taken,
            // Nothing was sent, so that nothing is stored.
            Err(error) => return (0..size).map(|_| Err(error.duplicate())).collect(),
        };
        let until = match self.link.is_back(BACK) {
            true => until.min(Instant::now() + IMPATIENCE),
            false => until,
        };
        let (sent, reusable) = confirm::send(&channel, batch, until).await;
        if reusable {
            self.put(channel, generation);
        } else if sent.iter().any(is_unanswered) {
            self.link.suspect();
        }
        sent
    }

    async fn take(&self, until: Instant) -> Result<(Channel, u32)> {
        let (connection, generation) = self.link.open_for_messages(until).await?;
        while let Some((channel, of)) = self.idle().pop() {
            if of == generation && channel.status().connected() {
                return Ok((channel, generation));
            }
        }
        let opening = async {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok(channel)
        };
        let channel = self.link.answer(until, "a channel", opening).await?;
        Ok((channel, generation))
    }

    fn put(&self, channel: Channel, generation: u32) {
        let mut idle = self.idle();
        if idle.len() < IDLE {
            idle.push((channel, generation));
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<(Channel, u32)>> {
        // Nothing panics while it is held but an allocation that failed.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_unanswered(outcome: &Result<()>) -> bool {
    outcome.as_ref().is_err_and(|error: &Error| error.kind() == ErrorKind::Timeout)
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("idle", &self.idle().len()).finish_non_exhaustive()
    }
}
