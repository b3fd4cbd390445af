//! The thread of a pipeline: it reads, and ends transactions.
//!
//! The client's calls for transactions block, and its rebalances happen in the poll of the
//! consumer. So one thread of its own does both. The handler runs elsewhere; it gets one window at
//! a time, and no transaction begins before the last window is back, so that what it sends is
//! never in another transaction than its inputs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use posthaste_core::{ErrorKind, Result};
use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{Consumer as _, RebalanceProtocol};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::begin;
use super::context::{Books, ReadContext, Reader};
use super::desk::{Desk, Offer, Verdict};
use super::input::Input;
use super::ladder::Transactions;
use super::work::{Limits, Work};
use crate::consumer::patiently;
use crate::context::Signs;
use crate::{error, worker};

/// How long the thread sleeps at most.
const NAP: Duration = Duration::from_millis(100);
/// How long nothing may be read before the client is told to stop reading. Telling it throws away
/// what it has read ahead.
const PATIENCE: Duration = Duration::from_secs(1);
/// How much is read before something else is looked at.
const AT_ONCE: usize = 1_000;
/// How long is looked for messages that were removed.
const LOSS: Duration = Duration::from_secs(5);

/// What a pipeline is started with.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) client: ClientConfig,
    pub(super) signs: Arc<Signs>,
    pub(super) desk: Arc<Desk>,
    pub(super) transactions: Transactions,
    /// What the topic is called at the broker.
    pub(super) topic: String,
    pub(super) limits: Limits,
    /// How long partitions that go are waited for.
    pub(super) drain: Duration,
    pub(super) offers: mpsc::Sender<Offer>,
    pub(super) verdicts: Receiver<Verdict>,
}

/// Starts the thread. `tell` says when it has joined the group, `ended` when it is gone.
///
/// # Errors
/// `Fatal` if the system gives no thread.
pub(super) fn spawn(
    job: Job,
    tell: oneshot::Sender<Result<()>>,
    ended: CancellationToken,
) -> Result<()> {
    let thread = thread::Builder::new().name("posthaste-kafka-pipeline".to_owned());
    let run = move || {
        let _ended = ended.drop_guard();
        let desk = Arc::clone(&job.desk);
        desk.sit_down();
        match Engine::start(job) {
            // Nobody may wait any more.
            Ok(mut engine) => {
                if tell.send(Ok(())).is_ok()
                    && let Err(error) = engine.run()
                {
                    desk.fail(error);
                }
                engine.leave();
            }
            Err(error) => drop(tell.send(Err(error))),
        }
    };
    thread.spawn(run).map(drop).map_err(worker::no_thread)
}

struct Engine {
    client: Reader,
    desk: Arc<Desk>,
    offers: mpsc::Sender<Offer>,
    blocked_since: Option<Instant>,
    is_paused: bool,
}

impl Engine {
    fn start(job: Job) -> Result<Self> {
        let desk = Arc::clone(&job.desk);
        let books = Books {
            work: Work::new(job.limits),
            transactions: job.transactions,
            verdicts: job.verdicts,
            positions: BTreeMap::new(),
            failure: None,
            is_left: false,
        };
        let context = ReadContext {
            signs: job.signs,
            desk: Arc::clone(&desk),
            topic: job.topic,
            drain: job.drain,
            has_served: AtomicBool::new(false),
            must_rejoin: AtomicBool::new(false),
            books: Mutex::new(books),
        };
        let made = Reader::from_config_and_context(&job.client, context);
        let mut client = made.map_err(|native| error::of(&native))?;
        client.context().signs.let_in(client.client())?;
        let bell = Arc::clone(&desk);
        client.set_nonempty_callback(move || bell.ring());
        let joined = client.subscribe(&[&client.context().topic]);
        joined.map_err(|native| error::of(&native))?;
        Ok(Self { client, desk, offers: job.offers, blocked_since: None, is_paused: false })
    }

    /// Until it is stopped, or cannot go on.
    fn run(&mut self) -> Result<()> {
        loop {
            let context = self.client.context();
            context.look_for_verdict(&self.client)?;
            let now = Instant::now();
            let mut books = context.books();
            books.look_at_time(&context.topic, now)?;
            if books.is_left || (self.desk.is_stopped() && !is_open(&books)) {
                return Ok(());
            }
            if books.work.is_due(now) && !self.desk.is_stopped() {
                books.transactions.begin()?;
                let offer = books.work.hand_out(now);
                // There is one at a time, so there is room; without a receiver, the next look for
                // a verdict finds that.
                let _ = self.offers.try_send(offer);
            }
            drop(books);
            if context.must_rejoin.swap(false, Ordering::Relaxed) {
                self.client.unsubscribe();
                context.say(self.client.subscribe(&[&context.topic]));
            }
            if !self.read()? {
                self.nap();
            }
        }
    }

    fn nap(&self) {
        let due = self.client.context().books().work.due();
        let left = due.map_or(NAP, |due| due.saturating_duration_since(Instant::now()));
        thread::park_timeout(left.min(NAP));
    }

    /// Reads what there is room for; `false` if there was nothing. Rebalances happen in here.
    fn read(&mut self) -> Result<bool> {
        let context = self.client.context();
        if !context.books().work.is_full() {
            self.blocked_since = None;
            if std::mem::take(&mut self.is_paused) {
                context.say(self.client.resume(&context.list(&self.assigned())));
            }
        } else {
            let since = *self.blocked_since.get_or_insert_with(Instant::now);
            if since.elapsed() < PATIENCE {
                return Ok(false);
            }
            if !std::mem::replace(&mut self.is_paused, true) {
                context.say(self.client.pause(&context.list(&self.assigned())));
            }
        }
        for at in 0..AT_ONCE {
            let polled = self.client.poll(Duration::ZERO);
            let served = context.has_served.swap(false, Ordering::Relaxed);
            if served && self.is_paused {
                // Partitions may have come.
                context.say(self.client.pause(&context.list(&self.assigned())));
            }
            if let Some(error) = context.books().failure.take() {
                return Err(error);
            }
            match polled {
                None if served => {}
                None => return Ok(at > 0),
                Some(Ok(message)) => {
                    let input = Input::take(&message);
                    let mut books = context.books();
                    books.positions.insert(input.partition, input.offset + 1);
                    books.work.add(input, Instant::now());
                    if books.work.is_full() && !self.is_paused {
                        return Ok(true);
                    }
                }
                Some(Err(native)) => self.look_at(&native)?,
            }
        }
        Ok(true)
    }

    fn assigned(&self) -> Vec<i32> {
        self.client.context().books().positions.keys().copied().collect()
    }

    /// A poll failed. What passes is left to the client.
    fn look_at(&self, native: &KafkaError) -> Result<()> {
        use RDKafkaErrorCode as C;
        let error = error::of(native);
        match native.rdkafka_error_code() {
            _ if matches!(native, KafkaError::MessageConsumptionFatal(_)) => Err(error),
            Some(C::AutoOffsetReset | C::OffsetOutOfRange) => {
                self.look_for_loss();
                Ok(())
            }
            Some(C::UnknownTopic | C::UnknownTopicOrPartition) => Err(error),
            _ if error.kind() == ErrorKind::Auth => Err(error),
            _ => {
                tracing::debug!(topic = self.client.context().topic, %native, "a poll failed");
                Ok(())
            }
        }
    }

    /// The client says that an offset is gone, but not of which partition.
    fn look_for_loss(&self) {
        let context = self.client.context();
        let until = Instant::now() + LOSS;
        let positions = context.books().positions.clone();
        for (partition, at) in positions {
            let ask = |limit| self.client.fetch_watermarks(&context.topic, partition, limit);
            let Ok(ends) = patiently(until, ask) else { continue };
            let first = begin::place(&context.topic, partition, Some(at), ends);
            if first == at {
                continue;
            }
            context.books().positions.insert(partition, first);
            let mut list = TopicPartitionList::with_capacity(1);
            let first = Offset::Offset(first);
            context.say(list.add_partition_offset(&context.topic, partition, first));
            // The client has stopped reading it, and does not seek where it does not read.
            if matches!(self.client.rebalance_protocol(), RebalanceProtocol::Cooperative) {
                context.say(self.client.incremental_unassign(&context.list(&[partition])));
                context.say(self.client.incremental_assign(&list));
            }
        }
    }

    /// Takes back what is open. The client leaves the group when it is dropped, on this thread.
    fn leave(&self) {
        let mut books = self.client.context().books();
        if let Err(error) = books.take_back() {
            tracing::debug!(%error, "a transaction is left to the broker");
        }
    }
}

fn is_open(books: &Books) -> bool {
    books.work.out().is_some_and(|out| out.is_open)
}
