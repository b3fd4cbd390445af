//! Confirm channels. Whoever sends a batch has one for himself until all of it is answered, so
//! that exactly one task publishes on a channel at a time.
//!
//! Who gives his batch up leaves the channel with its answers still to come, and it is used again
//! once they are there. Opening another one takes two round trips: publishers that are in a hurry
//! would give up the next batch for the time that these take, and so on for ever.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::options::ConfirmSelectOptions;
use posthaste_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use crate::confirm::{self, Sent, Unanswered, Way};
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
    idle: Mutex<Idle>,
    timeout: Duration,
}

#[derive(Default)]
struct Idle {
    /// Those that can be used, with the generation of their connection.
    ready: Vec<(Arc<Way>, u32)>,
    /// Those whose batch was given up.
    left: VecDeque<Left>,
}

/// A channel with answers that nobody waits for any more.
struct Left {
    way: Arc<Way>,
    generation: u32,
    unanswered: Unanswered,
    /// When they are not waited for any longer.
    until: Instant,
}

impl Pool {
    pub(crate) fn new(link: Arc<Link>, timeout: Duration) -> Self {
        Self { link, idle: Mutex::default(), timeout }
    }

    /// Sends a batch in order, and says what became of each message.
    ///
    /// # Cancel safety
    /// When dropped, each message may or may not be stored.
    pub(crate) async fn send(&self, batch: Vec<Outgoing>) -> Sent {
        let until = Instant::now() + self.timeout;
        let size = batch.len();
        let (way, generation) = match self.take(until).await {
            Ok(taken) => taken,
            // Nothing was sent, so that nothing is stored.
            Err(error) => return (0..size).map(|_| Err(error.duplicate())).collect(),
        };
        let until = match self.link.is_back(BACK) {
            true => until.min(Instant::now() + IMPATIENCE),
            false => until,
        };
        let given_up = |unanswered| {
            self.leave(Left { way: Arc::clone(&way), generation, unanswered, until });
        };
        let (sent, reusable) = confirm::send(&way, batch, until, given_up).await;
        if reusable {
            self.put(way, generation);
        } else if sent.iter().any(is_unanswered) {
            self.link.suspect();
        }
        sent
    }

    async fn take(&self, until: Instant) -> Result<(Arc<Way>, u32)> {
        let (connection, generation) = self.link.open_for_messages(until).await?;
        if let Some(way) = self.idle().take(generation) {
            return Ok((way, generation));
        }
        let opening = async {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok(channel)
        };
        let channel = self.link.answer(until, "a channel", opening).await?;
        Ok((Arc::new(Way::new(channel)), generation))
    }

    fn put(&self, way: Arc<Way>, generation: u32) {
        let mut idle = self.idle();
        if idle.ready.len() < IDLE {
            idle.ready.push((way, generation));
        }
    }

    fn leave(&self, left: Left) {
        let mut idle = self.idle();
        if idle.left.len() == IDLE {
            idle.left.pop_front();
        }
        idle.left.push_back(left);
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Idle> {
        // Nothing panics while it is held but an allocation that failed.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    /// One that can be used now.
    fn take(&mut self, generation: u32) -> Option<Arc<Way>> {
        let now = Instant::now();
        let mut waiting = VecDeque::with_capacity(self.left.len());
        for mut left in self.left.drain(..) {
            // Nobody needs to be woken: they are looked at when a channel is needed.
            let answered = loop {
                match left.unanswered.next().now_or_never() {
                    Some(Some(_)) => {}
                    Some(None) => break true,
                    None => break false,
                }
            };
            if answered {
                self.ready.push((left.way, left.generation));
            } else if left.generation == generation && left.until > now && left.way.is_open() {
                waiting.push_back(left);
            }
        }
        self.left = waiting;
        while let Some((way, of)) = self.ready.pop() {
            if of == generation && way.is_open() {
                return Some(way);
            }
        }
        None
    }
}

fn is_unanswered(outcome: &Result<()>) -> bool {
    outcome.as_ref().is_err_and(|error: &Error| error.kind() == ErrorKind::Timeout)
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ready, left) = {
            let idle = self.idle();
            (idle.ready.len(), idle.left.len())
        };
        f.debug_struct("Pool").field("ready", &ready).field("left", &left).finish_non_exhaustive()
    }
}
