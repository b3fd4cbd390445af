//! What the thread of a pipeline has, and what the client calls on it: partitions that come and go.
//!
//! Everything is the thread's own. It is behind a lock only because the client calls back in the
//! middle of a poll, and knows nothing but its context then.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use posthaste_core::{Error, Result};
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use tokio::time::Instant;

use super::begin;
use super::desk::{Desk, Failure, Verdict};
use super::ladder::{Transactions, Trouble};
use super::work::{Out, Work};
use crate::context::Signs;

/// How long the beginnings of partitions are asked for, which must be known. A transaction that is
/// open keeps the broker from answering until it is over.
const BEGINNING: Duration = Duration::from_secs(90);

pub(super) type Reader = BaseConsumer<ReadContext>;

/// The context of the consumer.
pub(super) struct ReadContext {
    pub(super) signs: Arc<Signs>,
    pub(super) desk: Arc<Desk>,
    /// What the topic is called at the broker.
    pub(super) topic: String,
    /// How long partitions that go are waited for.
    pub(super) drain: Duration,
    /// A poll that brings nothing has done something nevertheless.
    pub(super) has_served: AtomicBool,
    /// Partitions could not be begun: the member has to join anew.
    pub(super) must_rejoin: AtomicBool,
    pub(super) books: Mutex<Books>,
}

/// The thread's own.
pub(super) struct Books {
    pub(super) work: Work,
    pub(super) transactions: Transactions,
    pub(super) verdicts: Receiver<Verdict>,
    /// The partitions that this member has, and what is read of each next.
    pub(super) positions: BTreeMap<i32, i64>,
    /// What went wrong in a callback, which is the end.
    pub(super) failure: Option<Error>,
    /// Whoever ran the pipeline is gone.
    pub(super) is_left: bool,
}

impl ReadContext {
    /// Not to be held while the client may call back.
    pub(super) fn books(&self) -> MutexGuard<'_, Books> {
        // Nothing panics while it is held but an allocation that failed.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The partitions as the client takes them. Not to be kept.
    pub(super) fn list(&self, partitions: &[i32]) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            list.add_partition(&self.topic, *partition);
        }
        list
    }

    pub(super) fn say(&self, done: KafkaResult<()>) {
        if let Err(native) = done {
            tracing::warn!(topic = self.topic, %native, "the consumer refused a call");
        }
    }

    /// Takes what came back, if something did, and ends its transaction.
    ///
    /// # Errors
    /// The pipeline cannot go on.
    pub(super) fn look_for_verdict(&self, consumer: &Reader) -> Result<()> {
        let mut books = self.books();
        match books.verdicts.try_recv() {
            Ok(verdict) => books.settle(self, consumer, verdict),
            Err(TryRecvError::Empty) => Ok(()),
            Err(TryRecvError::Disconnected) => books.leave(),
        }
    }

    fn assign(&self, consumer: &Reader, partitions: &[i32]) {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        if !self.desk.is_stopped() && !partitions.is_empty() {
            match begin::begin(consumer, &self.topic, partitions, Instant::now() + BEGINNING) {
                Ok(beginnings) => {
                    for (partition, at) in &beginnings {
                        let at = Offset::Offset(*at);
                        self.say(list.add_partition_offset(&self.topic, *partition, at));
                    }
                    self.books().positions.extend(beginnings);
                }
                Err(native) => {
                    tracing::warn!(topic = self.topic, %native, "partitions could not be begun");
                    self.must_rejoin.store(true, Ordering::Relaxed);
                }
            }
        }
        self.say(match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(&list),
            RebalanceProtocol::None | RebalanceProtocol::Eager => consumer.assign(&list),
        });
    }

    fn revoke(&self, consumer: &Reader, partitions: &[i32]) {
        let is_lost = consumer.assignment_lost();
        let mut books = self.books();
        if let Err(error) = books.let_go(self, consumer, partitions, is_lost) {
            books.failure.get_or_insert(error);
        }
        drop(books);
        // The client keeps a pause over the assignment.
        self.say(consumer.resume(&self.list(partitions)));
        self.say(match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(&self.list(partitions)),
            RebalanceProtocol::None | RebalanceProtocol::Eager => consumer.unassign(),
        });
    }
}

impl Books {
    /// A window came back: its transaction is committed or taken back, unless that has happened.
    fn settle(&mut self, context: &ReadContext, consumer: &Reader, verdict: Verdict) -> Result<()> {
        let Some(out) = self.work.come_back() else { return Ok(()) };
        let Verdict { inputs, done } = verdict;
        if out.is_open && self.end(context, consumer, &out, done)? {
            self.work.settled();
            return Ok(());
        }
        self.work.put_back(&out, inputs, Instant::now());
        Ok(())
    }

    /// Ends the open transaction; `true` if it is committed.
    fn end(
        &mut self,
        context: &ReadContext,
        consumer: &Reader,
        out: &Out,
        done: Result<(), Failure>,
    ) -> Result<bool> {
        let topic = &context.topic;
        match done {
            Ok(()) => match self.transactions.commit(consumer, topic, &out.ends) {
                Ok(()) => return Ok(true),
                Err(Trouble::End(error)) => return Err(error),
                Err(Trouble::TakeBack(error)) => {
                    tracing::warn!(topic, %error, "a transaction failed and is taken back");
                    // What was known of the topics may be the reason.
                    context.desk.forget();
                }
            },
            Err(error) => tracing::warn!(topic, %error, "a handler failed: all is taken back"),
        }
        self.transactions.take_back()?;
        self.work.pause(Instant::now());
        Ok(false)
    }

    /// The handler has taken too long.
    ///
    /// # Errors
    /// The pipeline cannot go on.
    pub(super) fn look_at_time(&mut self, topic: &str, now: Instant) -> Result<()> {
        if self.work.out().is_some_and(|out| out.is_open && out.until <= now) {
            tracing::warn!(topic, "a handler took too long: all is taken back");
            self.take_back()?;
            self.work.pause(now);
        }
        Ok(())
    }

    /// Takes back the open transaction, while the handler has its inputs.
    ///
    /// # Errors
    /// The pipeline cannot go on.
    pub(super) fn take_back(&mut self) -> Result<()> {
        if self.work.out().is_some_and(|out| out.is_open) {
            // First the handler: what it sent after the end would be in the next transaction.
            self.work.take_back();
            self.transactions.take_back()?;
        }
        Ok(())
    }

    /// Nobody will give back what is out.
    fn leave(&mut self) -> Result<()> {
        self.is_left = true;
        self.take_back()
    }

    /// Partitions go: what is open with their inputs is ended before that.
    fn let_go(
        &mut self,
        context: &ReadContext,
        consumer: &Reader,
        partitions: &[i32],
        is_lost: bool,
    ) -> Result<()> {
        let ended = if !self.work.touches(partitions) {
            Ok(())
        } else if is_lost {
            self.take_back()
        } else {
            match self.verdicts.recv_timeout(context.drain) {
                Ok(verdict) => self.settle(context, consumer, verdict),
                Err(RecvTimeoutError::Timeout) => self.take_back(),
                Err(RecvTimeoutError::Disconnected) => self.leave(),
            }
        };
        self.work.lose(partitions);
        self.positions.retain(|partition, _| !partitions.contains(partition));
        ended
    }
}

impl ClientContext for ReadContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn StdError>> {
        self.signs.token()
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.signs.log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.signs.error(&error, reason);
    }

    /// Not asked for. By default they would be parsed.
    fn stats_raw(&self, _: &[u8]) {}
}

impl ConsumerContext for ReadContext {
    fn rebalance(&self, consumer: &Reader, what: RDKafkaRespErr, list: &mut TopicPartitionList) {
        self.has_served.store(true, Ordering::Relaxed);
        let partitions: Vec<_> = list.elements().iter().map(|one| one.partition()).collect();
        tracing::debug!(topic = self.topic, ?what, ?partitions, "partitions move");
        match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                self.assign(consumer, &partitions);
            }
            _ => self.revoke(consumer, &partitions),
        }
    }
}
