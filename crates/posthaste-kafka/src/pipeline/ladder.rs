//! The calls that end a transaction, and what is done when one fails.
//!
//! The client says of each failure what it asks for: the same call again, that the transaction is
//! taken back, or the end. What it does not say anything about is the end too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use posthaste_core::{Error, ErrorKind, Result};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::Producer as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::Instant;

use super::desk::Desk;
use crate::error::{self, BROKER};
use crate::producer::Producer;

/// How long a transaction may be open, which the broker keeps an eye on.
pub(super) const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an end of a transaction is tried: longer than that, it has ended at the broker.
const PATIENCE: Duration = TRANSACTION_TIMEOUT;
/// How long one call may take.
const CALL: Duration = Duration::from_secs(10);
/// The pause before a call is made again.
const PAUSE: Duration = Duration::from_millis(50);

/// What a failure asks for.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The transaction is to be taken back. Nothing of it is visible then.
    TakeBack(Error),
    /// The client is of no use any more.
    End(Error),
}

/// The rungs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rung {
    Again,
    TakeBack,
    End,
}

impl Rung {
    const fn of(is_fatal: bool, requires_abort: bool, is_retriable: bool) -> Self {
        match (is_fatal, requires_abort, is_retriable) {
            (true, _, _) | (false, false, false) => Self::End,
            (false, true, _) => Self::TakeBack,
            (false, false, true) => Self::Again,
        }
    }
}

/// The producer's transactions. Every call blocks.
#[derive(Debug)]
pub(super) struct Transactions {
    producer: Arc<Producer>,
    desk: Arc<Desk>,
    /// The transactional id.
    id: String,
}

impl Transactions {
    pub(super) const fn new(producer: Arc<Producer>, desk: Arc<Desk>, id: String) -> Self {
        Self { producer, desk, id }
    }

    /// Ends what another process with this id has left open, and keeps it from going on.
    ///
    /// # Errors
    /// What keeps the broker from it by the deadline.
    pub(super) fn begin_all(&self, until: Instant) -> Result<()> {
        self.climb(until, |limit| self.producer.client().init_transactions(limit))
            .map_err(|trouble| self.over(trouble))
    }

    pub(super) fn begin(&self) -> Result<()> {
        // It only changes a state of the client.
        let begun = self.producer.client().begin_transaction();
        begun.map_err(|native| self.over(self.trouble(&native).1))
    }

    /// Commits what was sent, and the offsets of the group: both, or none.
    pub(super) fn commit<C: ConsumerContext>(
        &self,
        consumer: &BaseConsumer<C>,
        topic: &str,
        ends: &BTreeMap<i32, i64>,
    ) -> Result<(), Trouble> {
        let _busy = self.desk.busy();
        let until = Instant::now() + PATIENCE;
        let client = self.producer.client();
        // The generation may be another one at each call.
        let offsets = self.climb(until, |limit| {
            let Some(group) = consumer.group_metadata() else {
                return Err(KafkaError::Global(RDKafkaErrorCode::UnknownMemberId));
            };
            client.send_offsets_to_transaction(&list(topic, ends)?, &group, limit)
        });
        match offsets {
            // The commit itself was not begun.
            Err((Rung::Again, trouble)) => return Err(Trouble::TakeBack(trouble.into_error())),
            other => other.map_err(|(_, trouble)| trouble)?,
        }
        self.climb(until, |limit| client.commit_transaction(limit)).map_err(|(rung, trouble)| {
            match rung {
                // Whether it is committed, the next process with this id finds out.
                Rung::Again => Trouble::End(self.unknown(trouble.into_error())),
                Rung::TakeBack | Rung::End => trouble,
            }
        })
    }

    /// Takes back what was sent.
    ///
    /// # Errors
    /// The pipeline cannot go on.
    pub(super) fn take_back(&self) -> Result<()> {
        let _busy = self.desk.busy();
        // Else the client may end a transaction of which the broker has not heard yet, while it is
        // not done with the one before: it takes the broker's answer for the end of everything.
        // What cannot be sent in time is given up with the transaction.
        let _ = self.producer.client().flush(CALL);
        let until = Instant::now() + PATIENCE;
        self.climb(until, |limit| self.producer.client().abort_transaction(limit))
            .map_err(|trouble| self.over(trouble))
    }

    /// Makes the call again for as long as the client asks for that. [`Rung::Again`] if it still
    /// does when the time is over.
    fn climb(
        &self,
        until: Instant,
        mut call: impl FnMut(Duration) -> Result<(), KafkaError>,
    ) -> Result<(), (Rung, Trouble)> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Err(native) = call(left.clamp(PAUSE, CALL)) else { return Ok(()) };
            tracing::debug!(id = self.id, %native, "a call of a transaction failed");
            let (rung, trouble) = self.trouble(&native);
            if rung != Rung::Again || Instant::now() + PAUSE >= until {
                return Err((rung, trouble));
            }
            thread::park_timeout(PAUSE);
        }
    }

    fn trouble(&self, native: &KafkaError) -> (Rung, Trouble) {
        let rung = match native {
            KafkaError::Transaction(native) => {
                Rung::of(native.is_fatal(), native.txn_requires_abort(), native.is_retriable())
            }
            // Before a commit, the client waits for the messages. Nothing is committed yet.
            KafkaError::Flush(_) => Rung::TakeBack,
            // The group has gone on without this member.
            KafkaError::Global(RDKafkaErrorCode::UnknownMemberId) => Rung::TakeBack,
            _ => Rung::End,
        };
        let trouble = match rung {
            Rung::Again | Rung::TakeBack => Trouble::TakeBack(error::of(native)),
            Rung::End => Trouble::End(self.ended(native)),
        };
        (rung, trouble)
    }

    fn over(&self, trouble: impl Into<Trouble>) -> Error {
        match trouble.into() {
            Trouble::TakeBack(error) => {
                error.with_context("transactional id", self.id.escape_debug())
            }
            Trouble::End(error) => error,
        }
    }

    /// Why the client is of no use any more.
    #[cold]
    fn ended(&self, native: &KafkaError) -> Error {
        use RDKafkaErrorCode as C;
        let fatal = self.producer.client().client().fatal_error().map(|(code, _)| code);
        let code = fatal.or_else(|| native.rdkafka_error_code());
        let made = match code {
            Some(C::Fenced | C::ProducerFenced | C::InvalidProducerEpoch) => {
                let why = "another pipeline with the same transactional id has started, or a \
                           transaction was open for too long";
                Error::new(ErrorKind::Fatal, why).with_source(native.clone())
            }
            _ => error::of(native),
        };
        made.with_context("transactional id", self.id.escape_debug()).with_broker(BROKER)
    }

    #[cold]
    fn unknown(&self, error: Error) -> Error {
        let why = "the broker did not end a transaction in time; whether it is committed, the next \
                   pipeline with this transactional id finds out";
        Error::new(ErrorKind::Fatal, why)
            .with_may_be_stored(true)
            .with_context("transactional id", self.id.escape_debug())
            .with_source(error)
            .with_broker(BROKER)
    }
}

impl Trouble {
    fn into_error(self) -> Error {
        match self {
            Self::TakeBack(error) | Self::End(error) => error,
        }
    }
}

impl From<(Rung, Self)> for Trouble {
    fn from((_, trouble): (Rung, Self)) -> Self {
        trouble
    }
}

/// The offsets as the client takes them. Not to be kept: see the consumer's commit.
fn list(topic: &str, ends: &BTreeMap<i32, i64>) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(ends.len());
    for (partition, end) in ends {
        list.add_partition_offset(topic, *partition, Offset::Offset(*end))?;
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_asks_for_is_done() {
        let rungs = [
            ((true, false, false), Rung::End),
            ((true, true, true), Rung::End),
            ((false, true, false), Rung::TakeBack),
            ((false, true, true), Rung::TakeBack),
            ((false, false, true), Rung::Again),
            // It says nothing.
            ((false, false, false), Rung::End),
        ];
        for ((fatal, abort, again), rung) in rungs {
            assert_eq!(Rung::of(fatal, abort, again), rung, "{fatal} {abort} {again}");
        }
    }
}
