//! What a handler sends: it becomes visible with the offsets of its inputs, or never.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use posthaste_core::{
    Cause, DeadLetter, Envelope, Error, ErrorKind, GroupName, Layout, Reason, Result, TopicName,
};
use rdkafka::error::RDKafkaErrorCode;
use uuid::Uuid;

use super::desk::Desk;
use super::input::Input;
use crate::completion::{Fate, Waiting};
use crate::error::{self, BROKER};
use crate::hub::Hub;
use crate::letters::PARTITION;
use crate::producer::{Producer, Record};
use crate::{convert, names, topology};

/// What is kept of a cause that is too long for its message.
const SHORT_CAUSE: usize = 100;

/// The open transaction, for as long as a handler has its window.
pub struct Transaction {
    pub(super) hub: Arc<Hub>,
    pub(super) desk: Arc<Desk>,
    pub(super) producer: Arc<Producer>,
    /// The largest batch of the producer.
    pub(super) batch_bytes: usize,
    pub(super) topic: TopicName,
    pub(super) group: GroupName,
    /// What is known of topics that are written to.
    pub(super) targets: Mutex<HashMap<TopicName, Arc<Target>>>,
}

/// A topic that is written to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    native: String,
    layout: Layout,
}

impl Transaction {
    /// Publishes within the transaction: consumers see the message when the transaction is
    /// committed, with all others of it, and never if it is taken back. It is placed by its key as
    /// by every publisher. The topic has to exist.
    ///
    /// The message is handed to the client here, and awaited by the commit. If the broker refuses
    /// it then, everything is taken back and the inputs come again.
    ///
    /// # Errors
    /// The message is not part of the transaction then, and the handler may go on with others:
    /// `Invalid` for the name, `NotFound` for a topic that does not exist, `TooLarge`,
    /// `Backpressure` if the client's queue stays full, `Connection` and `Timeout` where the topic
    /// had to be asked for. `LeaseLost` if the transaction has failed already.
    ///
    /// # Cancel safety
    /// When dropped, the message is not part of the transaction.
    pub async fn publish(&self, topic: impl AsRef<str>, envelope: Envelope) -> Result<()> {
        let topic = TopicName::new(topic)?;
        let named = |error: Error| error.with_topic(&topic).with_operation("publish");
        let target = self.target(&topic).await.map_err(named)?;
        convert::check_size(&envelope, self.hub.config.max_message_bytes()).map_err(named)?;
        let record = Record {
            topic: &target.native,
            partition: target.layout.partition(&envelope).map(i32::from),
            key: envelope.key(),
            // Not to be left out when it is empty: without it, the message would be a tombstone.
            payload: Some(envelope.payload()),
            headers: convert::headers(&envelope),
        };
        self.send(record).await.map_err(named)
    }

    /// Gives up an input within the transaction: it becomes a dead letter of the group, once, and
    /// is settled as the other inputs are.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    ///
    /// # Cancel safety
    /// When dropped, the letter is not part of the transaction.
    pub async fn dead_letter(&self, input: &Input, cause: impl Into<Cause>) -> Result<()> {
        let envelope = input.envelope().clone();
        let (topic, group) = (self.topic.clone(), self.group.clone());
        let mut letter = DeadLetter::new(envelope, Reason::Rejected, topic, group);
        letter.attempts = input.attempt();
        let cause = cause.into();
        let short = cause.chain().first().map_or("", String::as_str);
        let short: String = short.chars().take(SHORT_CAUSE).collect();
        let name = names::dead_letter_topic(&self.topic, &self.group);
        let named = |error: Error| error.with_topic(&self.topic).with_operation("dead letter");
        // Every publish keeps room for a short cause free. If the whole one does not fit, the
        // client says so at once.
        for cause in [cause, Cause::new(short)] {
            letter.cause = Some(cause);
            match self.send_letter(&name, &letter).await {
                Err(error) if error.kind() == ErrorKind::TooLarge => {}
                sent => return sent.map_err(named),
            }
        }
        Err(named(Error::new(ErrorKind::TooLarge, "the letter is larger than the client sends")))
    }

    async fn send_letter(&self, name: &str, letter: &DeadLetter) -> Result<()> {
        // A name for each: it stays until it is replayed or discarded.
        let key = Uuid::now_v7().to_string();
        let headers = convert::letter_headers(letter);
        let (partition, key) = (Some(PARTITION), Some(key.as_bytes()));
        let payload: Option<&[u8]> = Some(letter.envelope.payload());
        self.send(Record { topic: name, partition, key, payload, headers }).await
    }

    /// Hands a record to the client.
    async fn send(&self, record: Record<'_>) -> Result<()> {
        let waiting = Waiting::for_batch(1);
        let taken = self.producer.send(record, waiting.ticket(0), self.hub.deadline()).await;
        if !taken {
            let why = "too many messages wait to be sent";
            return Err(Error::new(ErrorKind::Backpressure, why).with_broker(BROKER));
        }
        match waiting.fate(0) {
            // Whether the broker takes it, the commit tells.
            None | Some(Fate::Stored { .. }) => Ok(()),
            Some(Fate::Failed { code: RDKafkaErrorCode::State, .. }) => {
                let why = "the transaction has failed already, and is taken back";
                Err(Error::new(ErrorKind::LeaseLost, why).with_broker(BROKER))
            }
            Some(Fate::Failed { code, .. }) => Err(error::publish(code, false)),
        }
    }

    /// What is known of a topic, which is asked for the first time.
    async fn target(&self, topic: &TopicName) -> Result<Arc<Target>> {
        if self.desk.has_to_forget() {
            for (_, target) in self.targets().drain() {
                self.hub.forget(&target.native);
            }
        }
        if let Some(target) = self.targets().get(topic) {
            return Ok(Arc::clone(target));
        }
        let until = self.hub.deadline();
        let found = topology::find(&self.hub, topic, until).await?;
        let known = self.hub.find(&found.native, until).await?;
        if let Some(takes) = known.max_batch_bytes.filter(|takes| *takes < self.batch_bytes) {
            // The broker would refuse batches as a whole, and each time anew.
            let why = "the topic takes only smaller batches than this pipeline sends: set the \
                       property batch.size";
            return Err(Error::new(ErrorKind::Conflict, why)
                .with_context("max.message.bytes", takes)
                .with_context("batch.size", self.batch_bytes)
                .with_broker(BROKER));
        }
        let target = Arc::new(Target { native: found.native, layout: found.layout });
        self.targets().insert(topic.clone(), Arc::clone(&target));
        Ok(target)
    }

    fn targets(&self) -> MutexGuard<'_, HashMap<TopicName, Arc<Target>>> {
        // Nothing panics while it is held but an allocation that failed.
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("topic", &self.topic)
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}
