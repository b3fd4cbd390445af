//! The consumer of one topic, on a thread of its own.
//!
//! The client has to be polled, also while nothing may be read: rebalances happen in its poll. It
//! calls back on the thread that polls, and there it may block: to wait for handlers, and for
//! brokers. So nobody else touches it. The thread sleeps until the client has something, the
//! driver has credit, or something is due.

mod arrived;
mod assignment;
mod bell;
mod books;
mod commit;
mod context;
mod counted;
mod gate;
mod held;
mod idle;
mod place;
mod shared;
mod start;
mod topics;
mod trouble;
mod verdict;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use posthaste_core::broker::Start;
use posthaste_core::{Error, ErrorKind, GroupName, Result, Topology};
use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::concerns::{Concern, Concerns};
use crate::context::Signs;
use crate::tracker::{Cap, Tracker};
use crate::{error, worker};

use arrived::{Arrived, Payloads};
pub(crate) use assignment::{Hop, Keeping, UNSETTLED_BYTES};
use context::{ReadContext, Reader};
use idle::Idle;
pub(crate) use place::MOST_TOPICS;
use shared::Ends;
pub(crate) use shared::{Shared, Wish};
use start::Beginning;
pub(crate) use start::patiently;
pub(crate) use topics::{Private, Topics};
pub(crate) use verdict::Answer;

/// How long the thread sleeps at most.
const NAP: Duration = Duration::from_millis(100);
/// How long nothing may be read before the client is told to stop reading. Telling it throws away
/// what it has read ahead.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often what was settled is committed.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// What was settled so long before an end without a word does not come again: it is committed, or
/// the next commit is, with the time for its answer.
pub(crate) const REPLAY_WINDOW: Duration = Duration::from_secs(2);
/// How long an answer is awaited that only tells whether the broker is there.
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);
/// The bytes that are read at once.
const BATCH_BYTES: usize = 1 << 20;

/// What a consumer is started with.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) client: ClientConfig,
    pub(crate) signs: Arc<Signs>,
    pub(crate) concerns: Arc<Concerns>,
    pub(crate) shared: Arc<Shared>,
    /// Which topic of the subscription it is.
    pub(crate) source: usize,
    pub(crate) topics: Topics,
    /// How many partitions the topic has that was asked for.
    pub(crate) partitions: i32,
    /// Without one, all partitions are read and nothing is committed.
    pub(crate) group: Option<GroupName>,
    pub(crate) start: Start,
    pub(crate) topology: Topology,
    /// How long partitions that go are waited for.
    pub(crate) drain: Duration,
    /// By when it has to be started.
    pub(crate) until: Instant,
}

/// Starts the thread of a consumer. `tell` says when the group has its start, `ended` when the
/// thread is gone.
///
/// # Errors
/// `Fatal` if the system gives no thread.
pub(crate) fn spawn(
    job: Job,
    tell: oneshot::Sender<Result<()>>,
    ended: CancellationToken,
) -> Result<()> {
    let thread = thread::Builder::new().name("posthaste-kafka-read".to_owned());
    let run = move || {
        let _ended = ended.drop_guard();
        let _ends = Ends { shared: Arc::clone(&job.shared), source: job.source };
        match Consumer::start(job) {
            Ok(mut consumer) => {
                // Nobody may wait any more: then the driver is gone too.
                let _ = tell.send(Ok(()));
                consumer.run();
            }
            Err(error) => drop(tell.send(Err(error))),
        }
    };
    thread.spawn(run).map(drop).map_err(worker::no_thread)
}

/// The thread's own.
struct Consumer {
    client: Reader,
    shared: Arc<Shared>,
    source: usize,
    commits: bool,
    /// The group as it is called at the broker.
    group: String,
    /// How many partitions the topic had in the beginning.
    partitions: usize,
    topology: Topology,
    concerns: Arc<Concerns>,
    idle: Idle,
    /// How many partitions are at their cap, which is told.
    full: (usize, Option<Concern>),
    payloads: Payloads,
    /// Messages that came while nothing may be read.
    parked: Vec<Arrived>,
    blocked_since: Option<Instant>,
    is_paused: bool,
    is_suspect: bool,
    is_cut_off: bool,
    next_commit: Instant,
    /// After a commit that failed and that somebody waits for.
    next_try: Instant,
    next_tick: Instant,
    next_look: Instant,
}

impl Consumer {
    fn start(job: Job) -> Result<Self> {
        let Job { mut client, shared, source, until, .. } = job;
        let commits = job.group.is_some();
        let group = client.get("group.id").unwrap_or_default().to_owned();
        if !commits {
            // Nobody else is in the group, and it is never joined.
            client.remove("group.instance.id");
        }
        let partitions: Vec<i32> = (0..job.partitions).collect();
        let context = ReadContext {
            signs: job.signs,
            shared: Arc::clone(&shared),
            source,
            topics: job.topics,
            starts: OnceLock::new(),
            drain: job.drain,
            has_served: AtomicBool::new(false),
            must_rejoin: AtomicBool::new(false),
        };
        let made = Reader::from_config_and_context(&client, context);
        let mut made = made.map_err(|native| error::of(&native))?;
        made.context().signs.let_in(made.client())?;
        let bell = Arc::clone(&shared);
        made.set_nonempty_callback(move || bell.ring(source));
        let starts = start::found(&made, &partitions, job.start, commits, until)?;
        // It is set once only.
        let _ = made.context().starts.set(starts);
        let now = Instant::now();
        let consumer = Self {
            client: made,
            shared,
            source,
            commits,
            group,
            partitions: partitions.len(),
            topology: job.topology,
            concerns: job.concerns,
            idle: Idle::default(),
            full: (0, None),
            payloads: Payloads::default(),
            parked: Vec::new(),
            blocked_since: None,
            is_paused: false,
            is_suspect: false,
            is_cut_off: false,
            next_commit: now + COMMIT_EVERY,
            next_try: now,
            next_tick: now,
            next_look: now,
        };
        consumer.join(&partitions)?;
        Ok(consumer)
    }

    /// Joins the group, or takes all partitions where there is none.
    fn join(&self, partitions: &[i32]) -> Result<()> {
        let context = self.client.context();
        if self.commits {
            let joined = self.client.subscribe(&[&context.topics.main]);
            return joined.map_err(|native| error::of(&native));
        }
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        let mut beginnings = Vec::with_capacity(partitions.len());
        for partition in partitions {
            let at = context.start_of(*partition).unwrap_or(0);
            let added =
                list.add_partition_offset(&context.topics.main, *partition, Offset::Offset(at));
            added.map_err(|native| error::of(&native))?;
            let tracker = Tracker::begin(at);
            beginnings.push(Beginning::new(*partition, tracker));
        }
        self.shared.assign(self.source, &context.topics.topic, beginnings);
        self.client.assign(&list).map_err(|native| error::of(&native))
    }

    fn run(&mut self) {
        loop {
            match self.shared.wished() {
                Wish::Run => {}
                Wish::Stop => return self.stop(),
                Wish::Drop => return self.leave(),
            }
            self.look_after();
            match self.read() {
                Ok(true) => {}
                Ok(false) => self.nap(),
                Err(error) => {
                    self.shared.fail(error);
                    return self.leave();
                }
            }
        }
    }

    fn nap(&self) {
        let now = Instant::now();
        let due = self.shared.next_due(self.source).map(|due| due.saturating_duration_since(now));
        // What is due already waits for credit, which wakes it.
        let due = due.filter(|left| !left.is_zero()).unwrap_or(NAP);
        let tick = self.next_tick.saturating_duration_since(now);
        let left = due.min(tick).clamp(Duration::from_millis(1), NAP);
        self.shared.wait(self.source, left);
    }

    /// Does what is due.
    fn look_after(&mut self) {
        let now = Instant::now();
        let asked = self.shared.has_asks(self.source);
        let uncommitted = self.shared.bring_due(self.source, now);
        if (asked || uncommitted) && now >= self.next_try && !self.commit_now() {
            self.next_try = now + NAP;
        }
        if self.commits && now >= self.next_commit {
            self.next_commit = now + COMMIT_EVERY;
            self.commit_some();
        }
        if now >= self.next_tick {
            self.next_tick = now + NAP.min(self.shared.lease / 10);
            self.shared.end_leases(self.source, now);
            self.adjust();
            self.look_for_work(now);
        }
        if self.is_suspect && now >= self.next_look {
            self.look_at_broker();
        }
        if self.client.context().must_rejoin.swap(false, Ordering::Relaxed) {
            let context = self.client.context();
            self.client.unsubscribe();
            context.say(self.client.subscribe(&[&context.topics.main]));
        }
    }

    /// Commits, and waits for the answer. What failed in passing is tried again.
    fn commit_now(&self) -> bool {
        if self.commits {
            return self.client.context().commit(&self.client, &[]).is_ok();
        }
        let mut due = self.shared.take_due(self.source, &[], true);
        due.entries.clear();
        self.shared.committed(self.source, due, &Ok(()));
        true
    }

    /// Commits what was settled. The answer comes by a poll.
    fn commit_some(&self) {
        let due = self.shared.take_due(self.source, &[], false);
        let topics = &self.client.context().topics;
        let result = commit::commit(&self.client, topics, &due.entries, CommitMode::Async);
        if let Err(native) = result {
            self.shared.committed(self.source, due, &Err(error::of(&native)));
        }
    }

    /// Has the client read what may be read, and nothing else.
    fn adjust(&mut self) {
        let changes = self.shared.changes(self.source, self.is_paused);
        if changes.full != self.full.0 {
            self.full = (changes.full, self.why_full(changes.full));
        }
        let context = self.client.context();
        if !changes.pause.is_empty() {
            context.say(self.client.pause(&context.list(&changes.pause)));
        }
        if !changes.resume.is_empty() {
            context.say(self.client.resume(&context.list(&changes.resume)));
        }
    }

    /// Partitions that are at their cap stand still, which has to be seen.
    fn why_full(&self, partitions: usize) -> Option<Concern> {
        let Cap { unsettled, behind } = Cap::USUAL;
        let (topic, minutes) = (&self.client.context().topics.topic, behind.as_secs() / 60);
        (partitions > 0).then(|| {
            self.concerns.raise(format!(
                "{partitions} partitions of {topic} are read no further in group {}, because \
                 {unsettled} messages or {} MiB are unsettled, or one for {minutes} minutes",
                self.group,
                UNSETTLED_BYTES >> 20,
            ))
        })
    }

    /// Reads as much as may be read and is there. Whether there may be more.
    fn read(&mut self) -> Result<bool> {
        let (room, most) = self.shared.reserve(self.source);
        if room == 0 {
            return self.read_nothing();
        }
        self.blocked_since = None;
        if std::mem::take(&mut self.is_paused) {
            self.adjust();
        }
        let parked = self.parked.len().min(room);
        let mut batch: Vec<_> = self.parked.drain(..parked).collect();
        let (mut bytes, mut more) = (0, true);
        let mut trouble = None;
        while batch.len() < room && bytes < most.min(BATCH_BYTES) {
            match self.poll() {
                Some(Ok(arrived)) => {
                    bytes += arrived.envelope.size();
                    batch.push(arrived);
                }
                Some(Err(native)) => {
                    trouble = Some(native);
                    break;
                }
                None => {
                    more = self.client.context().has_served.swap(false, Ordering::Relaxed);
                    break;
                }
            }
        }
        if !batch.is_empty() && self.is_cut_off {
            self.well();
        }
        if self.shared.deliver(self.source, room, batch) {
            self.adjust();
        }
        match trouble {
            Some(native) => self.look_at(&native).map(|()| true),
            None => Ok(more),
        }
    }

    /// Nothing may be read: the client is polled all the same, but not before it stopped reading.
    fn read_nothing(&mut self) -> Result<bool> {
        let since = *self.blocked_since.get_or_insert_with(Instant::now);
        if since.elapsed() < PATIENCE {
            return Ok(false);
        }
        if !std::mem::replace(&mut self.is_paused, true) {
            self.adjust();
        }
        loop {
            match self.poll() {
                // It was under way.
                Some(Ok(arrived)) => self.parked.push(arrived),
                Some(Err(native)) => self.look_at(&native)?,
                None if self.client.context().has_served.swap(false, Ordering::Relaxed) => {
                    // Partitions may have come that are to be paused, too.
                    self.adjust();
                }
                None => return Ok(false),
            }
        }
    }

    fn poll(&mut self) -> Option<Result<Arrived, KafkaError>> {
        let polled = self.client.poll(Duration::ZERO)?;
        let topics = &self.client.context().topics;
        Some(polled.map(|message| Arrived::take(&message, topics, &mut self.payloads)))
    }

    /// Waits until core has nothing any more, and leaves.
    fn stop(&mut self) {
        self.is_paused = true;
        while self.shared.wished() != Wish::Drop
            && self.shared.away(self.source, &self.shared.assigned(self.source)) > 0
        {
            self.look_after();
            self.adjust();
            // What comes is not handed out and not settled.
            while self.client.poll(Duration::ZERO).is_some() {}
            self.nap();
        }
        self.leave();
    }

    /// Commits for the last time. The client leaves the group when it is dropped, on this thread.
    fn leave(&self) {
        let assigned = self.shared.assigned(self.source);
        if self.commits && !assigned.is_empty() && !self.client.assignment_lost() {
            self.client.context().end(&self.client, &assigned);
        }
        self.shared.lose(self.source, &assigned);
    }
}

#[cold]
pub(crate) fn not_in_time() -> Error {
    Error::new(ErrorKind::Timeout, "the subscription did not start in time")
        .with_broker(error::BROKER)
}
