//! What became of each message of a batch.
//!
//! A publish hands the client one ticket for each message, and waits once for the whole batch. The
//! client gives a ticket back on its own thread when the message was stored or failed. The client's
//! own way costs a channel, two allocations and a wake-up for each message.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::Notify;

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Stored {
        partition: i32,
        offset: i64,
    },
    Failed {
        code: RDKafkaErrorCode,
        /// Whether the broker may have it nevertheless.
        maybe_written: bool,
    },
}

/// The right of a publish to the fates of its batch. Dropping it changes nothing for the messages.
pub(crate) struct Waiting(Arc<Batch>);

/// The place of one message in its batch. It travels with the message through the client.
pub(crate) struct Ticket {
    batch: Arc<Batch>,
    at: u32,
}

struct Batch {
    fates: Box<[OnceLock<Fate>]>,
    missing: AtomicUsize,
    complete: Notify,
}

impl Waiting {
    /// Waits for the fates of that many messages.
    pub(crate) fn for_batch(entries: usize) -> Self {
        Self(Arc::new(Batch {
            fates: std::iter::repeat_with(OnceLock::new).take(entries).collect(),
            missing: AtomicUsize::new(entries),
            complete: Notify::new(),
        }))
    }

    /// The ticket of that entry.
    pub(crate) fn ticket(&self, at: usize) -> Ticket {
        // A batch is far smaller. A place that is not in it is never looked at.
        let at = u32::try_from(at).unwrap_or(u32::MAX);
        Ticket { batch: Arc::clone(&self.0), at }
    }

    /// No ticket was taken for that many entries: nothing is to be waited for.
    pub(crate) fn forgo(&self, entries: usize) {
        self.0.found(entries);
    }

    /// Waits until every ticket that was taken is back.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn complete(&self) {
        while self.0.missing.load(Ordering::Acquire) > 0 {
            self.0.complete.notified().await;
        }
    }

    /// What became of that entry; `None` if no ticket was taken for it.
    pub(crate) fn fate(&self, at: usize) -> Option<Fate> {
        self.0.fates.get(at)?.get().copied()
    }
}

impl Ticket {
    /// Tells what became of the message. The first word counts.
    pub(crate) fn tell(&self, fate: Fate) {
        let Some(slot) = self.batch.fates.get(self.at as usize) else { return };
        if slot.set(fate).is_ok() {
            self.batch.found(1);
        }
    }
}

impl Drop for Ticket {
    /// A ticket that is lost must not let its publish wait for ever.
    fn drop(&mut self) {
        self.tell(Fate::Failed { code: RDKafkaErrorCode::DestroyBroker, maybe_written: true });
    }
}

impl Batch {
    fn found(&self, entries: usize) {
        // Acquire and release: who sees nothing missing sees every fate.
        let before = self.missing.fetch_sub(entries, Ordering::AcqRel);
        if entries > 0 && before <= entries {
            self.complete.notify_one();
        }
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = self.0.missing.load(Ordering::Relaxed);
        f.debug_struct("Waiting")
            .field("entries", &self.0.fates.len())
            .field("missing", &missing)
            .finish()
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("at", &self.at).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use futures_util::future::join_all;

    use super::*;

    const LOST: Fate = Fate::Failed { code: RDKafkaErrorCode::DestroyBroker, maybe_written: true };

    fn stored(offset: i64) -> Fate {
        Fate::Stored { partition: 3, offset }
    }

    #[test]
    fn a_batch_is_complete_with_its_last_ticket() {
        let waiting = Waiting::for_batch(3);
        let tickets: Vec<_> = (0..3).map(|at| waiting.ticket(at)).collect();
        let mut complete = std::pin::pin!(waiting.complete());
        for (at, ticket) in tickets.iter().enumerate().rev() {
            assert!(complete.as_mut().now_or_never().is_none(), "{at}");
            ticket.tell(stored(i64::try_from(at).unwrap()));
        }
        assert!(complete.now_or_never().is_some());
        let fates: Vec<_> = (0..4).map(|at| waiting.fate(at)).collect();
        assert_eq!(fates, [Some(stored(0)), Some(stored(1)), Some(stored(2)), None]);
    }

    #[test]
    fn an_empty_batch_waits_for_nothing() {
        assert!(Waiting::for_batch(0).complete().now_or_never().is_some());
    }

    #[test]
    fn what_was_not_sent_is_not_waited_for() {
        let waiting = Waiting::for_batch(5);
        waiting.forgo(0);
        let ticket = waiting.ticket(0);
        waiting.forgo(4);
        assert!(waiting.complete().now_or_never().is_none());
        ticket.tell(stored(7));
        assert!(waiting.complete().now_or_never().is_some());
        assert_eq!((waiting.fate(0), waiting.fate(1)), (Some(stored(7)), None));
    }

    #[test]
    fn the_first_word_counts_and_a_lost_ticket_is_told() {
        let waiting = Waiting::for_batch(2);
        let ticket = waiting.ticket(0);
        ticket.tell(stored(1));
        ticket.tell(LOST);
        drop(ticket);
        assert!(waiting.complete().now_or_never().is_none());
        drop(waiting.ticket(1));
        assert!(waiting.complete().now_or_never().is_some());
        assert_eq!((waiting.fate(0), waiting.fate(1)), (Some(stored(1)), Some(LOST)));
    }

    #[test]
    fn tickets_outlive_who_waits() {
        let waiting = Waiting::for_batch(1);
        let ticket = waiting.ticket(0);
        drop(waiting);
        ticket.tell(stored(1));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_wake_up_is_never_missed() {
        for _ in 0..200 {
            let waiting = Waiting::for_batch(40);
            let tickets: Vec<_> = (0..40).map(|at| waiting.ticket(at)).collect();
            let telling = tokio::task::spawn_blocking(move || {
                for (ticket, offset) in tickets.into_iter().zip(0..) {
                    ticket.tell(stored(offset));
                }
            });
            join_all([waiting.complete()]).await;
            assert_eq!(waiting.fate(39), Some(stored(39)));
            telling.await.unwrap();
        }
    }
}
