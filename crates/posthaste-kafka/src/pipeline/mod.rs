//! Exactly once from one topic to others: read, transform, publish, in transactions of Kafka.
//!
//! What a handler publishes and the offsets of what it read are committed together or not at all.
//! That holds within one cluster of Kafka only: what a handler does elsewhere is done again when a
//! transaction is taken back.

mod begin;
mod builder;
mod context;
mod desk;
mod engine;
mod input;
mod ladder;
mod transaction;
mod work;

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use posthaste_core::{Error, ErrorKind, Result};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::KafkaConfig;
use crate::error::BROKER;
use crate::hub::Hub;

pub use builder::PipelineBuilder;
pub use input::Input;
pub use transaction::Transaction;

use desk::{Desk, Offer, Verdict};

/// How often is looked whether the client came back from its calls.
const LOOK: Duration = Duration::from_secs(5);
/// How long the client may take for the end of a transaction. It has limits of its own, which are
/// shorter, and of which some do not hold.
const STUCK: Duration = Duration::from_secs(150);
/// How long the end of the clients is waited for.
const ENDING: Duration = Duration::from_secs(15);

/// What a handler returns: a future, which may borrow what it was given.
///
/// An error takes back the transaction, and the inputs come again.
pub type Handling<'a> =
    Pin<Box<dyn Future<Output = Result<(), Box<dyn StdError + Send + Sync>>> + Send + 'a>>;

/// Reads a topic and publishes to others, each input exactly once: what is published and what was
/// read are committed in one transaction.
///
/// ```no_run
/// use std::time::Duration;
/// use posthaste_core::{Cause, Envelope};
/// use posthaste_kafka::{KafkaConfig, KafkaPipeline};
///
/// # fn invoice_for(order: &Envelope) -> Result<Envelope, std::io::Error> { Ok(order.clone()) }
/// # async fn run() -> posthaste_core::Result<()> {
/// let config = KafkaConfig::from_url("kafka://localhost:9092")?;
/// let pipeline = KafkaPipeline::builder(config, "orders")
///     .group("billing")
///     .transactional_id("billing-0") // one for each process that runs at a time
///     .window(500, Duration::from_millis(100))
///     .start()
///     .await?;
/// let stopper = pipeline.stopper(); // for who waits for a signal
/// pipeline
///     .run(|transaction, batch| {
///         Box::pin(async move {
///             for input in batch {
///                 match invoice_for(input.envelope()) {
///                     Ok(invoice) => transaction.publish("invoices", invoice).await?,
///                     // It fails each time: the others are not to wait for it.
///                     Err(error) if input.attempt() >= 5 => {
///                         transaction.dead_letter(input, Cause::from(error)).await?;
///                     }
///                     Err(error) => return Err(error.into()),
///                 }
///             }
///             Ok(())
///         })
///     })
///     .await?;
/// # drop(stopper);
/// # Ok(())
/// # }
/// ```
#[must_use = "a pipeline that is dropped leaves its group"]
pub struct KafkaPipeline {
    hub: Arc<Hub>,
    desk: Arc<Desk>,
    /// Windows for the handler. It ends with the thread.
    offered: mpsc::Receiver<Offer>,
    give_back: SyncSender<Verdict>,
    transaction: Transaction,
    ended: CancellationToken,
}

/// Stops a pipeline from elsewhere, for example on a signal.
#[derive(Clone)]
pub struct PipelineStopper {
    desk: Arc<Desk>,
}

impl PipelineStopper {
    /// Lets the handler finish the window that it has, and commits that. Nothing else is begun:
    /// [`KafkaPipeline::run`] ends.
    pub fn stop(&self) {
        self.desk.stop();
    }
}

impl KafkaPipeline {
    /// A pipeline that reads a topic, by the name that the application uses.
    pub fn builder(config: KafkaConfig, topic: impl Into<String>) -> PipelineBuilder {
        PipelineBuilder::new(config, topic.into())
    }

    /// What stops it.
    #[must_use]
    pub fn stopper(&self) -> PipelineStopper {
        PipelineStopper { desk: Arc::clone(&self.desk) }
    }

    /// Runs until it is stopped, or cannot go on. The handler gets one window after the other, in
    /// the order of each partition. If it fails or panics, takes more than 40 seconds, or its
    /// partitions go to another member before it is done, the transaction is taken back: nothing
    /// of it is ever visible. A handler that is still at it is dropped then. The inputs that this
    /// member still has come again, after a pause that grows from 100 ms to 10 s.
    ///
    /// # Errors
    /// `Fatal` naming the transactional id if another pipeline with the same id has started, or
    /// this process stood still for so long that the broker has ended its transaction; and where
    /// the outcome of a commit could not be found out. Start the pipeline anew then, if it is not
    /// the other one that is meant to run: what was committed is not handled again. `Auth`;
    /// `NotFound` if the topic that is read was deleted.
    ///
    /// # Cancel safety
    /// When dropped, the open transaction is taken back and the pipeline leaves its group.
    pub async fn run<F>(mut self, mut handler: F) -> Result<()>
    where
        F: for<'a> FnMut(&'a Transaction, &'a [Input]) -> Handling<'a>,
    {
        let done = self.serve(&mut handler).await;
        let named = |error: Error| {
            error
                .with_topic(&self.transaction.topic)
                .with_group(&self.transaction.group)
                .with_operation("run a pipeline")
        };
        let done = done.map_err(named);
        self.end().await;
        done
    }

    async fn serve<F>(&mut self, handler: &mut F) -> Result<()>
    where
        F: for<'a> FnMut(&'a Transaction, &'a [Input]) -> Handling<'a>,
    {
        while let Some(Offer { inputs, taken_back }) = self.next().await? {
            let done = if taken_back.is_cancelled() {
                Ok(())
            } else {
                tokio::select! {
                    biased;
                    () = taken_back.cancelled() => Ok(()),
                    done = handler(&self.transaction, &inputs) => done,
                }
            };
            // There is one at a time, so there is room. Without the thread, the next one is the
            // last.
            let _ = self.give_back.try_send(Verdict { inputs, done });
            self.desk.ring();
        }
        self.desk.failure().map_or(Ok(()), Err)
    }

    /// The next window; `None` when there are no more.
    async fn next(&mut self) -> Result<Option<Offer>> {
        loop {
            match tokio::time::timeout(LOOK, self.offered.recv()).await {
                Ok(offer) => return Ok(offer),
                Err(_) if self.desk.is_stuck(STUCK) => return Err(stuck()),
                Err(_) => {}
            }
        }
    }

    /// Waits until nothing is left of it, but not for long.
    async fn end(self) {
        let until = Instant::now() + ENDING;
        let (hub, ended) = (Arc::clone(&self.hub), self.ended.clone());
        let producer = self.transaction.producer.client().ended();
        drop(self);
        let ending = async {
            ended.cancelled().await;
            producer.cancelled().await;
        };
        if tokio::time::timeout_at(until, ending).await.is_err() {
            tracing::warn!("the clients of a pipeline did not end in time");
        }
        if let Err(error) = hub.close(Instant::now() + ENDING / 3).await {
            tracing::warn!(%error, "the connection of a pipeline did not end in time");
        }
    }
}

impl Drop for KafkaPipeline {
    fn drop(&mut self) {
        // Also where nobody ran it: then nothing of it is open.
        self.desk.stop();
    }
}

#[cold]
fn stuck() -> Error {
    let why = "the client does not come back from the end of a transaction";
    Error::new(ErrorKind::Fatal, why).with_may_be_stored(true).with_broker(BROKER)
}

impl fmt::Debug for KafkaPipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaPipeline")
            .field("topic", &self.transaction.topic)
            .field("group", &self.transaction.group)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for PipelineStopper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipelineStopper").finish_non_exhaustive()
    }
}
