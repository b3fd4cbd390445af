//! The producer: hands batches to the client, which sends them and tells what became of each.
//!
//! Nothing here waits for the network. The client copies each message to its queue; when that is
//! full, the sender waits for the room that the next answers make.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use posthaste_core::{Error, ErrorKind, Result};
use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseRecord, Producer as _, PurgeConfig, ThreadedProducer};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::completion::{Fate, Ticket};
use crate::connect::Owned;
use crate::context::{PublishContext, Signs};
use crate::error::{self, BROKER};

/// How often who waits for room looks for it by himself.
const LOOK: Duration = Duration::from_millis(10);

/// The client, with the thread that gives the answers back.
pub(crate) type Threaded = ThreadedProducer<PublishContext>;

/// The producer of a connection.
#[derive(Debug)]
pub(crate) struct Producer {
    client: Arc<Owned<Threaded>>,
    room: Arc<Room>,
    is_given_up: AtomicBool,
}

/// A message as the client takes it.
pub(crate) struct Record<'a> {
    pub(crate) topic: &'a str,
    /// Where the layout says so; else the client chooses by the key.
    pub(crate) partition: Option<i32>,
    pub(crate) key: Option<&'a [u8]>,
    /// `None` is a tombstone, which an empty payload is not.
    pub(crate) payload: Option<&'a [u8]>,
    pub(crate) headers: OwnedHeaders,
}

/// Counts what the client has, and tells senders when its queue has room again.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// Messages whose fate is not told yet. The client's own count has its events in it.
    taken: AtomicUsize,
    waiting: AtomicUsize,
    made: Notify,
}

impl Producer {
    /// Makes the client. It connects by itself, and later.
    ///
    /// # Errors
    /// `Invalid` for what the client does not take.
    pub(crate) fn create(config: &ClientConfig, signs: &Arc<Signs>) -> Result<Self> {
        let room = Arc::new(Room::default());
        let context = PublishContext { signs: Arc::clone(signs), room: Arc::clone(&room) };
        let client = Threaded::from_config_and_context(config, context);
        let client = Owned::new(client.map_err(|native| error::of(&native))?)?;
        Ok(Self { client: Arc::new(client), room, is_given_up: AtomicBool::new(false) })
    }

    /// The client itself, for what is not sending.
    pub(crate) const fn client(&self) -> &Arc<Owned<Threaded>> {
        &self.client
    }

    /// Hands a message over; its ticket tells the rest. Waits only while the client's queue is
    /// full: `false` if that was so until the deadline.
    ///
    /// # Cancel safety
    /// When dropped, the message was not handed over.
    pub(crate) async fn send(&self, record: Record<'_>, ticket: Ticket, until: Instant) -> bool {
        let record = BaseRecord {
            topic: record.topic,
            partition: record.partition,
            payload: record.payload,
            key: record.key,
            timestamp: None,
            headers: Some(record.headers),
            delivery_opaque: Box::new(ticket),
        };
        let Err(mut record) = self.hand_over(record) else { return true };
        let _waits = self.room.wait();
        loop {
            let made = self.room.made.notified();
            tokio::pin!(made);
            // What is made from here on is not missed; what was made before, the next try finds.
            made.as_mut().enable();
            record = match self.hand_over(record) {
                Ok(()) => return true,
                Err(record) => record,
            };
            // The client frees the room of messages a moment after it has told their fates, and says
            // nothing then: who is woken by the last of them may find the queue still full.
            let look = until.min(Instant::now() + LOOK);
            if tokio::time::timeout_at(look, made).await.is_err() && Instant::now() >= until {
                record.delivery_opaque.tell(not_sent(RDKafkaErrorCode::QueueFull));
                return false;
            }
        }
    }

    /// Gives the message back if the queue is full.
    fn hand_over<'a>(&self, record: Message<'a>) -> Result<(), Message<'a>> {
        // Before it is handed over, because its fate may be told at once.
        self.room.taken.fetch_add(1, Ordering::Relaxed);
        let Err((native, record)) = self.client.send(record) else { return Ok(()) };
        self.room.taken.fetch_sub(1, Ordering::Relaxed);
        match native.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => Err(record),
            code => {
                let code = code.unwrap_or(RDKafkaErrorCode::InvalidArgument);
                record.delivery_opaque.tell(not_sent(code));
                Ok(())
            }
        }
    }

    /// Whether the client has failed for good: then it takes nothing any more. Its events do not
    /// tell it from other failures.
    pub(crate) fn fatal(&self) -> Option<Error> {
        let (code, reason) = self.client.client().fatal_error()?;
        Some(
            Error::new(ErrorKind::Fatal, "the client has failed for good")
                .with_context("code", format_args!("{code:?}"))
                .with_context("client", reason.escape_debug())
                .with_broker(BROKER),
        )
    }

    /// Has the fate of everything told that the client still has, which is done once. One that has
    /// failed for good tells some only when their time is over: those that it had put back to send
    /// them again, just when it failed.
    #[cold]
    pub(crate) fn give_up(&self) {
        if !self.is_given_up.swap(true, Ordering::Relaxed) {
            self.client.purge(PurgeConfig::default().queue().inflight().non_blocking());
        }
    }

    /// How many messages have no fate yet.
    pub(crate) fn unconfirmed(&self) -> usize {
        self.room.taken.load(Ordering::Relaxed)
    }

    /// Lets everything go out until then and gives up the rest, whose number it returns. Blocks.
    pub(crate) fn finish(&self, until: Instant) -> usize {
        let left = until.saturating_duration_since(Instant::now());
        // How many are left says more than the error.
        let _ = self.client.flush(left);
        let unconfirmed = self.unconfirmed();
        if unconfirmed > 0 {
            self.client.purge(PurgeConfig::default().queue().inflight());
            // Whoever waits for one of them is told.
            let _ = self.client.flush(TELLING);
        }
        unconfirmed
    }
}

type Message<'a> = BaseRecord<'a, [u8], [u8], Box<Ticket>>;

/// How long the client may take to tell of messages that were given up.
const TELLING: Duration = Duration::from_millis(100);

const fn not_sent(code: RDKafkaErrorCode) -> Fate {
    Fate::Failed { code, maybe_written: false }
}

impl Room {
    /// A fate was told: there is room for one more. Called for each message, on the client's
    /// thread.
    pub(crate) fn made(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.made.notify_waiters();
        }
    }

    fn wait(&self) -> impl Drop {
        struct Waits<'a>(&'a AtomicUsize);
        impl Drop for Waits<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        Waits(&self.waiting)
    }
}

/// A client that connects to nobody.
#[cfg(test)]
pub(crate) fn offline() -> Arc<Owned<Threaded>> {
    Arc::clone(tests::producer(&[]).client())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::completion::Waiting;

    /// A producer without a broker, with those properties.
    pub(super) fn producer(properties: &[(&str, &str)]) -> Producer {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", "127.0.0.1:1");
        for (name, value) in properties {
            config.set(*name, *value);
        }
        Producer::create(&config, &Arc::default()).unwrap()
    }

    fn record(payload: &[u8]) -> Record<'_> {
        Record {
            topic: "nowhere",
            partition: None,
            key: None,
            payload: Some(payload),
            headers: OwnedHeaders::new(),
        }
    }

    fn soon(millis: u64) -> Instant {
        Instant::now() + Duration::from_millis(millis)
    }

    #[tokio::test]
    async fn a_full_queue_makes_senders_wait_until_there_is_room() {
        let limits = [("queue.buffering.max.messages", "3"), ("message.timeout.ms", "3000")];
        let producer = producer(&limits);
        let waiting = Waiting::for_batch(5);
        for at in 0..3 {
            assert!(producer.send(record(b"x"), waiting.ticket(at), soon(1)).await);
        }
        assert_eq!(producer.unconfirmed(), 3);
        let start = Instant::now();
        assert!(!producer.send(record(b"x"), waiting.ticket(3), soon(50)).await);
        assert!(start.elapsed() < Duration::from_millis(2_500), "{:?}", start.elapsed());
        assert_eq!(waiting.fate(3), Some(not_sent(RDKafkaErrorCode::QueueFull)));
        // The first ones time out, which makes room.
        assert!(producer.send(record(b"x"), waiting.ticket(4), soon(15_000)).await);
        waiting.complete().await;
        for at in [0, 1, 2, 4] {
            assert_eq!(waiting.fate(at), Some(not_sent(RDKafkaErrorCode::MessageTimedOut)), "{at}");
        }
        assert_eq!(producer.room.waiting.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn what_the_client_does_not_take_is_told_at_once() {
        let producer = producer(&[("message.max.bytes", "2000")]);
        let waiting = Waiting::for_batch(2);
        assert!(producer.send(record(&[0; 3_000]), waiting.ticket(0), soon(1)).await);
        let nul = Record { topic: "a\0b", ..record(b"x") };
        assert!(producer.send(nul, waiting.ticket(1), soon(1)).await);
        waiting.complete().await;
        assert_eq!(waiting.fate(0), Some(not_sent(RDKafkaErrorCode::MessageSizeTooLarge)));
        assert_eq!(waiting.fate(1), Some(not_sent(RDKafkaErrorCode::InvalidArgument)));
    }

    #[tokio::test]
    async fn a_sender_that_goes_away_leaves_no_trace() {
        let producer = producer(&[("queue.buffering.max.messages", "1")]);
        let waiting = Waiting::for_batch(2);
        assert!(producer.send(record(b"x"), waiting.ticket(0), soon(1)).await);
        let sending = producer.send(record(b"x"), waiting.ticket(1), soon(60_000));
        assert!(tokio::time::timeout(Duration::from_millis(50), sending).await.is_err());
        assert_eq!((producer.unconfirmed(), producer.room.waiting.load(Ordering::SeqCst)), (1, 0));
    }

    #[tokio::test]
    async fn what_cannot_go_out_is_given_up_and_told() {
        let producer = Arc::new(producer(&[]));
        let waiting = Waiting::for_batch(2);
        for at in 0..2 {
            assert!(producer.send(record(b"x"), waiting.ticket(at), soon(1)).await);
        }
        let finishing = Arc::clone(&producer);
        let start = Instant::now();
        let finished = tokio::task::spawn_blocking(move || finishing.finish(soon(200)));
        assert_eq!(finished.await.unwrap(), 2);
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        waiting.complete().await;
        assert_eq!(waiting.fate(0), Some(not_sent(RDKafkaErrorCode::PurgeQueue)));
    }

    #[tokio::test]
    async fn a_dropped_producer_tells_and_ends_elsewhere() {
        let producer = producer(&[]);
        let waiting = Waiting::for_batch(1);
        assert!(producer.send(record(b"x"), waiting.ticket(0), soon(1)).await);
        let ended = producer.client().ended();
        let start = Instant::now();
        drop(producer);
        assert!(start.elapsed() < Duration::from_millis(50), "{:?}", start.elapsed());
        tokio::time::timeout(Duration::from_secs(10), ended.cancelled()).await.unwrap();
        waiting.complete().await;
        assert_eq!(waiting.fate(0), Some(not_sent(RDKafkaErrorCode::PurgeQueue)));
    }
}
