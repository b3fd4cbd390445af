//! Consumers of an application under test: given, when, then.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use posthaste_core::codec::{Decode, Encode};
use posthaste_core::{Bus, Confirmed, DeadLetter, Envelope, Event, Result, Start, TopicName};

use crate::{Consumer, Report, Running};

/// How many handled messages are remembered.
const REMEMBERED: usize = 100_000;
/// How many messages or letters are read of a topic.
const READ: usize = 100_000;
/// How long nobody looks at most whether everything is settled.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long everything may take to be settled.
const PATIENCE: Duration = Duration::from_secs(24 * 3_600);

/// Runs an application's own consumers in a test, on the in-process broker and in virtual time:
/// with `#[tokio::test(start_paused = true)]`, an hour of delays takes a moment.
///
/// ```
/// # use posthaste_core::{Bus, Result, TopicConfig};
/// # use posthaste_derive::Event;
/// # use posthaste_memory::MemoryBroker;
/// # use posthaste_runtime::{Consumer, HandlerError, Payload, TestBus};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Debug, PartialEq, Serialize, Deserialize, Event)]
/// # #[event(type = "order.placed", key = id, crate = posthaste_core)]
/// # struct OrderPlaced { id: String, total: f64 }
/// # async fn charge(order: Payload<OrderPlaced>) -> Result<(), HandlerError> {
/// #     if order.total < 0.0 { Err(HandlerError::new("negative")) } else { Ok(()) }
/// # }
/// # fn billing(bus: &Bus) -> Consumer { Consumer::new(bus).group("billing").on("orders", charge) }
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<()> {
/// # let bus = Bus::new(MemoryBroker::new()); // posthaste::connect("memory://")
/// let mut test = TestBus::over(&bus);
/// test.run(billing(&bus)).await?; // the application's own consumer
/// test.publish("orders", &OrderPlaced { id: "A-1".to_owned(), total: 12.5 }).await?;
/// test.publish("orders", &OrderPlaced { id: "A-2".to_owned(), total: -1.0 }).await?;
/// test.assert_settled().await;
/// assert_eq!(test.handled::<OrderPlaced>().len(), 1);
/// assert_eq!(test.dead_letters().await?[0].attempts, 5);
/// # test.stop().await?;
/// # Ok(())
/// # }
/// ```
pub struct TestBus {
    bus: Bus,
    journal: Arc<Journal>,
    running: Vec<Running>,
    /// What the consumers read, with their groups.
    read: Vec<(TopicName, String)>,
}

impl TestBus {
    /// Over a bus, usually that of a new in-process broker. Others work, in real time.
    #[must_use]
    pub fn over(bus: &Bus) -> Self {
        let (journal, running, read) = (Arc::default(), Vec::new(), Vec::new());
        Self { bus: bus.clone(), journal, running, read }
    }

    /// Starts a consumer, and remembers what it handles.
    ///
    /// # Errors
    /// As [`Consumer::start`].
    ///
    /// # Cancel safety
    /// As [`Consumer::start`].
    pub async fn run<S>(&mut self, mut consumer: Consumer<S>) -> Result<()> {
        consumer.journal = Some(Arc::clone(&self.journal));
        let group = consumer.settings.group_name();
        let topics: Vec<_> =
            consumer.routes.iter().filter_map(|route| TopicName::new(&route.topic).ok()).collect();
        self.running.push(consumer.start().await?);
        if let Some(group) = group {
            for topic in topics {
                let read = (topic, group.clone());
                if !self.read.contains(&read) {
                    self.read.push(read);
                }
            }
        }
        Ok(())
    }

    /// Publishes an event.
    ///
    /// # Errors
    /// As [`posthaste_core::Publisher::publish`].
    ///
    /// # Cancel safety
    /// When dropped, the message may or may not be stored.
    pub async fn publish<E>(&self, topic: &str, event: &E) -> Result<Confirmed>
    where
        E: Event + ?Sized,
        E::Codec: Encode<E>,
    {
        self.bus.publisher(topic)?.publish(event).await
    }

    /// Lets that much time pass. In virtual time everything that is due meanwhile happens.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn advance(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// The events of that type and version that were handled and acknowledged, in that order; the
    /// first 100,000 messages are remembered.
    #[must_use]
    pub fn handled<E>(&self) -> Vec<E>
    where
        E: Event,
        E::Codec: Decode<E>,
    {
        let handled = self.journal.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_type = |envelope: &&Envelope| {
            envelope.event_type() == E::TYPE
                && envelope.schema_version().is_none_or(|version| version == E::VERSION)
        };
        let decode = |envelope: &Envelope| E::Codec::decode(envelope.payload()).ok();
        handled.iter().filter(of_type).filter_map(decode).collect()
    }

    /// What was published on a topic, oldest first.
    ///
    /// # Errors
    /// `NotFound`, `Unsupported` where the broker cannot be read again.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn published(&self, topic: &str) -> Result<Vec<Envelope>> {
        let retained = self.bus.admin().range(topic, Start::Earliest, READ).await?;
        Ok(retained.into_iter().map(|retained| retained.envelope).collect())
    }

    /// The dead letters of the consumers that were run.
    ///
    /// # Errors
    /// `Unsupported` where the broker keeps none.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn dead_letters(&self) -> Result<Vec<DeadLetter>> {
        let mut letters = Vec::new();
        for (topic, group) in &self.read {
            let page = self.bus.admin().dead_letters(topic.as_str(), group, READ).await?;
            letters.extend(page.letters.into_iter().map(|stored| stored.letter));
        }
        Ok(letters)
    }

    /// Waits until every message is handled or given up, with all retries.
    ///
    /// # Panics
    /// If something is left after a day, which is a moment of virtual time.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn assert_settled(&self) {
        let settled = tokio::time::timeout(PATIENCE, async {
            let mut pause = Duration::from_millis(10);
            while !self.unsettled().await.is_empty() {
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(LONGEST_PAUSE);
            }
        });
        if settled.await.is_err() {
            let left = self.unsettled().await;
            #[expect(clippy::panic, reason = "an assertion of a test")]
            {
                panic!("not settled after a day: {}", left.join(", "))
            }
        }
    }

    /// Stops the consumers, in the order in which they were started, and says what each has done.
    ///
    /// # Errors
    /// The first of what ended a consumer before.
    ///
    /// # Cancel safety
    /// When dropped, handlers are dropped where they wait.
    pub async fn stop(self) -> Result<Vec<Report>> {
        let mut reports = Vec::with_capacity(self.running.len());
        for running in self.running {
            reports.push(running.stop().await?);
        }
        Ok(reports)
    }

    /// What is left, in words.
    async fn unsettled(&self) -> Vec<String> {
        let mut left = Vec::new();
        for (topic, group) in &self.read {
            match self.bus.admin().lag(topic.as_str(), group).await {
                Ok(lag) if lag.total() == 0 => {}
                Ok(lag) => left.push(format!("{} of {topic} for {group}", lag.total())),
                Err(error) => left.push(error.to_string()),
            }
        }
        left
    }
}

impl fmt::Debug for TestBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestBus").field("running", &self.running).finish_non_exhaustive()
    }
}

/// What was handled, in order.
#[derive(Debug, Default)]
pub(crate) struct Journal(Mutex<Vec<Envelope>>);

impl Journal {
    pub(crate) fn note(&self, envelope: &Envelope) {
        let mut handled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if handled.len() < REMEMBERED {
            handled.push(envelope.clone());
        }
    }
}
