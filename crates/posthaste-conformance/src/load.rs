//! Publishers and members that run while something breaks, and what they saw.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use posthaste_core::{Delivery, Error, PublishOptions, Publisher, Subscription};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::failure::{Failed, Outcome};
use crate::send::{number, numbered, until};

/// How many messages are on their way at once.
const TASKS: usize = 8;
/// The pace of each task: together 2,000 messages a second at most, so that the machine is left
/// for the broker.
const BEAT: Duration = Duration::from_millis(4);

/// Tasks that publish numbered messages, from a number on, until they are told to stop.
#[derive(Debug)]
pub(crate) struct Load {
    tasks: JoinSet<()>,
    shared: Arc<Published>,
}

/// What became of the messages of a [`Load`].
#[derive(Debug, Default)]
pub(crate) struct Published {
    next: AtomicUsize,
    stop: AtomicBool,
    outcomes: Mutex<Outcomes>,
}

#[derive(Debug, Default)]
struct Outcomes {
    confirmed: BTreeSet<usize>,
    failed: BTreeMap<usize, Error>,
}

impl Load {
    /// Begins at once. Each publish ends by the deadline.
    pub(crate) fn start(publisher: &Publisher, first: usize, deadline: Duration) -> Self {
        let shared = Arc::new(Published { next: AtomicUsize::new(first), ..Published::default() });
        let mut tasks = JoinSet::new();
        for _ in 0..TASKS {
            tasks.spawn(publish(publisher.clone(), Arc::clone(&shared), deadline));
        }
        Self { tasks, shared }
    }

    /// How many are confirmed so far.
    pub(crate) fn confirmed(&self) -> usize {
        lock(&self.shared.outcomes).confirmed.len()
    }

    /// Waits until so many more are confirmed: the broker takes messages.
    pub(crate) async fn goes_on(&self, more: usize, within: Duration) -> Outcome {
        let wanted = self.confirmed() + more;
        until("messages are confirmed", within, || async {
            match self.confirmed() {
                count if count >= wanted => Ok(()),
                count => Err(format!("{count} of {wanted}")),
            }
        })
        .await
    }

    /// Begins nothing new, and waits for what is on its way. Returns the numbers that are
    /// confirmed, and the failures.
    pub(crate) async fn stop(
        mut self,
        within: Duration,
    ) -> Outcome<(BTreeSet<usize>, BTreeMap<usize, Error>)> {
        self.shared.stop.store(true, Ordering::Release);
        let joined = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(within, joined).await.is_err() {
            return Err(Failed::new(format!("publishes did not end within {within:?}")));
        }
        let Outcomes { confirmed, failed } = std::mem::take(&mut *lock(&self.shared.outcomes));
        Ok((confirmed, failed))
    }
}

async fn publish(publisher: Publisher, shared: Arc<Published>, deadline: Duration) {
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !shared.stop.load(Ordering::Acquire) {
        beat.tick().await;
        let number = shared.next.fetch_add(1, Ordering::AcqRel);
        let options = PublishOptions::new().deadline(deadline);
        let outcome = publisher.publish_envelope_with(numbered(number), options).await;
        let mut outcomes = lock(&shared.outcomes);
        match outcome {
            Ok(_) => {
                outcomes.confirmed.insert(number);
            }
            Err(error) => {
                outcomes.failed.insert(number, error);
            }
        }
    }
}

/// When each number was handled.
type Handled = Arc<Mutex<BTreeMap<usize, Vec<Instant>>>>;

/// How many deliveries a [`Handler`] has in hand while messages come.
const IN_HAND: usize = 16;
/// How long it waits for a further one before it finishes what it has.
const IDLE: Duration = Duration::from_millis(20);

/// A task that takes what a subscription brings, keeps a few in hand, so that something is in
/// flight whenever it breaks, and acknowledges. It counts by number what it has *finished*: a
/// delivery that is taken away before has to come again.
#[derive(Debug)]
pub(crate) struct Handler {
    task: JoinSet<Outcome>,
    handled: Handled,
    stopper: posthaste_core::Stopper,
}

impl Handler {
    /// Begins at once.
    pub(crate) fn start(inbox: Subscription) -> Self {
        let handled = Arc::new(Mutex::default());
        let stopper = inbox.stopper();
        let mut task = JoinSet::new();
        task.spawn(run(inbox, Arc::clone(&handled)));
        Self { task, handled, stopper }
    }

    /// How many different messages were handled so far.
    pub(crate) fn count(&self) -> usize {
        lock(&self.handled).len()
    }

    /// Waits until so many more different messages were handled.
    pub(crate) async fn goes_on(&self, more: usize, within: Duration) -> Outcome {
        let wanted = self.count() + more;
        until("messages are handled", within, || async {
            match self.count() {
                count if count >= wanted => Ok(()),
                count => Err(format!("{count} of {wanted}")),
            }
        })
        .await
    }

    /// Waits until all of these were handled.
    pub(crate) async fn has(&self, wanted: &BTreeSet<usize>, within: Duration) -> Outcome {
        until("all messages are handled", within, || async {
            let handled = lock(&self.handled);
            let missing = wanted.iter().filter(|number| !handled.contains_key(number));
            let missing: Vec<_> = missing.take(10).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("missing, of them {missing:?}")) }
        })
        .await
    }

    /// Stops the subscription and returns when each number was handled.
    pub(crate) async fn stop(mut self, within: Duration) -> Outcome<BTreeMap<usize, Vec<Instant>>> {
        self.stopper.stop();
        match tokio::time::timeout(within, self.task.join_next()).await {
            Ok(Some(Ok(ended))) => ended?,
            Ok(Some(Err(error))) => return Err(Failed::new(format!("a handler: {error}"))),
            Ok(None) => {}
            Err(_) => return Err(Failed::new(format!("no end of a handler within {within:?}"))),
        }
        Ok(std::mem::take(&mut *lock(&self.handled)))
    }
}

async fn run(mut inbox: Subscription, handled: Handled) -> Outcome {
    let mut in_hand = VecDeque::with_capacity(IN_HAND);
    loop {
        match tokio::time::timeout(IDLE, inbox.next()).await {
            Ok(Some(delivery)) => in_hand.push_back(delivery?),
            Ok(None) => break,
            Err(_) => finish(&mut in_hand, 0, &handled).await?,
        }
        finish(&mut in_hand, IN_HAND - 1, &handled).await?;
    }
    finish(&mut in_hand, 0, &handled).await
}

/// Finishes the oldest until no more than so many are in hand.
async fn finish(in_hand: &mut VecDeque<Delivery>, leave: usize, handled: &Handled) -> Outcome {
    while in_hand.len() > leave {
        let Some(delivery) = in_hand.pop_front().filter(|delivery| !delivery.is_lost()) else {
            continue;
        };
        let number = number(delivery.envelope())?;
        lock(handled).entry(number).or_default().push(Instant::now());
        crate::receive::done_or_lost(delivery.ack().await)?;
    }
    Ok(())
}

/// How many messages were handled again although they had been settled longer than `window` before
/// whatever broke. Those that were settled within it may come again.
pub(crate) fn repeated(
    handled: &BTreeMap<usize, Vec<Instant>>,
    breaks: &[Instant],
    window: Duration,
) -> usize {
    // Settling takes a moment after handling has ended.
    let window = window.saturating_add(Duration::from_millis(500));
    let shortly_before = |time: Instant, at: Instant| {
        at.checked_duration_since(time).is_some_and(|before| before <= window)
    };
    let excused = |times: &[Instant]| {
        times.iter().any(|time| breaks.iter().any(|at| shortly_before(*time, *at)))
    };
    handled.values().filter(|times| times.len() > 1 && !excused(times)).count()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
