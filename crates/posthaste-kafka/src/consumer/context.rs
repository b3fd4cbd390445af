//! What the client calls on the thread that polls it: partitions that come and go.
//!
//! A partition goes only after what core has of it is settled or given back, as far as there is
//! time for it. Settling needs no thread, so the one that waits here keeps nobody from it.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use posthaste_core::ErrorKind;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{
    BaseConsumer, CommitMode, Consumer as _, ConsumerContext, RebalanceProtocol,
};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};
use rdkafka::types::RDKafkaRespErr;
use tokio::time::Instant;

use super::shared::{Shared, Wish};
use super::topics::Topics;
use super::{commit, start};
use crate::context::Signs;
use crate::error;

/// How long the beginnings of partitions are asked for, which must be known.
const BEGINNING: Duration = Duration::from_secs(60);

/// The context of a consumer.
pub(super) struct ReadContext {
    pub(super) signs: Arc<Signs>,
    pub(super) shared: Arc<Shared>,
    pub(super) source: usize,
    pub(super) topics: Topics,
    /// Where partitions start that have no commit.
    pub(super) starts: OnceLock<HashMap<i32, i64>>,
    /// How long partitions that go are waited for.
    pub(super) drain: Duration,
    /// A poll that brings nothing has done something nevertheless.
    pub(super) has_served: AtomicBool,
    /// Partitions could not be begun: the member has to join anew.
    pub(super) must_rejoin: AtomicBool,
}

pub(super) type Reader = BaseConsumer<ReadContext>;

impl ReadContext {
    /// Commits what is settled, and answers who waits for it. `ending` are partitions of which
    /// nothing is handed out any more.
    pub(super) fn commit(&self, consumer: &Reader, ending: &[i32]) -> Result<(), KafkaError> {
        let due = self.shared.take_due(self.source, ending, true);
        let result = commit::commit(consumer, &self.topics, &due.entries, CommitMode::Sync);
        if let Err(native) = &result {
            tracing::debug!(topic = self.topics.main, %native, "a commit failed");
        }
        let told = match &result {
            Ok(()) => Ok(()),
            Err(native) if is_between(consumer, native) => Err(error::between_generations()),
            Err(native) => Err(error::of(native)),
        };
        self.shared.committed(self.source, due, &told);
        result
    }

    /// Where the partition starts if it has no commit; `None` if it is new in the topic.
    pub(super) fn start_of(&self, partition: i32) -> Option<i64> {
        self.starts.get()?.get(&partition).copied()
    }

    /// Waits for what is out of partitions that go, and commits their last progress.
    pub(super) fn end(&self, consumer: &Reader, partitions: &[i32]) {
        /// One answer that fails in passing is not the end.
        const TRIES: usize = 3;
        let until = Instant::now() + self.drain;
        self.shared.drain(self.source, partitions, until);
        self.wait_for_return(consumer, partitions, until);
        let mut tries = 0;
        while let Err(native) = self.commit(consumer, partitions) {
            // The next generation is on its way, so that costs no try.
            let between = is_between(consumer, &native);
            tries += usize::from(!between);
            let is_lost = !between && error::of(&native).kind() == ErrorKind::LeaseLost;
            // By then the client has waited for the broker long enough.
            if is_lost || tries == TRIES || Instant::now() > until + self.drain {
                break;
            }
            self.shared.wait(self.source, Duration::from_millis(100));
        }
    }

    /// Waits until core has nothing of the partitions any more, or so long. Who waits for a commit
    /// meanwhile gets it: it may be what keeps the next one from being settled.
    fn wait_for_return(&self, consumer: &Reader, partitions: &[i32], until: Instant) {
        const LOOK: Duration = Duration::from_millis(100);
        while self.shared.wished() != Wish::Drop && self.shared.away(self.source, partitions) > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            if self.shared.has_asks(self.source) && self.commit(consumer, &[]).is_ok() {
                continue;
            }
            self.shared.wait(self.source, left.min(LOOK));
        }
    }

    fn assign(&self, consumer: &Reader, partitions: &[i32]) {
        let until = Instant::now() + BEGINNING;
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        if self.shared.wished() == Wish::Run && !partitions.is_empty() {
            let start_of = |partition| self.start_of(partition);
            let recall = |partition| self.shared.recall(self.source, partition);
            match start::begin(consumer, &self.topics, partitions, (start_of, recall), until) {
                Ok(beginnings) => {
                    for beginning in &beginnings {
                        let at = Offset::Offset(beginning.tracker.position());
                        let (topic, partition) = self.topics.place(beginning.partition);
                        let added = list.add_partition_offset(topic, partition, at);
                        self.say(added);
                    }
                    let entries = self.shared.assign(self.source, &self.topics.topic, beginnings);
                    // From now on an end without a word shows. Should it fail, it is tried again
                    // with the next one.
                    let mode = CommitMode::Sync;
                    if let Err(native) = commit::commit(consumer, &self.topics, &entries, mode) {
                        tracing::debug!(topic = self.topics.main, %native, "a first commit failed");
                        self.shared.commit_again(self.source, partitions);
                    }
                }
                Err(native) => {
                    tracing::warn!(topic = self.topics.main, %native, "partitions could not be begun");
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
        if !consumer.assignment_lost() {
            self.end(consumer, partitions);
        }
        // The client keeps the pause over the assignment.
        let paused = self.shared.paused(self.source, partitions);
        if !paused.is_empty() {
            self.say(consumer.resume(&self.list(&paused)));
        }
        self.shared.lose(self.source, partitions);
        self.say(match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(&self.list(partitions)),
            RebalanceProtocol::None | RebalanceProtocol::Eager => consumer.unassign(),
        });
    }

    /// The partitions as the client takes them. Not to be kept: see [`commit`].
    pub(super) fn list(&self, partitions: &[i32]) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            let (topic, partition) = self.topics.place(*partition);
            list.add_partition(topic, partition);
        }
        list
    }

    fn numbers(&self, list: &TopicPartitionList) -> Vec<i32> {
        list.elements().iter().map(|element| self.number(element)).collect()
    }

    fn number(&self, element: &TopicPartitionListElem<'_>) -> i32 {
        self.topics.number(element.topic(), element.partition())
    }

    pub(super) fn say(&self, done: KafkaResult<()>) {
        if let Err(native) = done {
            tracing::warn!(topic = self.topics.main, %native, "the consumer refused a call");
        }
    }
}

/// Whether a commit was refused only because the group has gone on to its next generation, of which
/// the client, whose partitions are still its own, has not heard yet. That is usual: the broker
/// reads nothing more from a connection on which somebody joins until everybody has, so a commit
/// that follows there comes with the last generation, and late.
fn is_between(consumer: &Reader, native: &KafkaError) -> bool {
    use RDKafkaErrorCode as C;
    let code = native.rdkafka_error_code();
    matches!(code, Some(C::IllegalGeneration | C::StaleMemberEpoch | C::RebalanceInProgress))
        && !consumer.assignment_lost()
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
        let partitions = self.topics.with_private(self.numbers(list));
        tracing::debug!(topic = self.topics.main, ?what, ?partitions, "partitions move");
        match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                self.assign(consumer, &partitions);
            }
            _ => self.revoke(consumer, &partitions),
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, list: &TopicPartitionList) {
        self.has_served.store(true, Ordering::Relaxed);
        let failed = list.elements();
        let failed = failed.iter().filter(|element| result.is_err() || element.error().is_err());
        let failed: Vec<_> = failed.map(|element| self.number(element)).collect();
        if !failed.is_empty() {
            self.shared.commit_again(self.source, &failed);
        }
    }
}
