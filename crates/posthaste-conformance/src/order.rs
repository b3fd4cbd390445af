//! Members that handle messages of many keys at once, and a book that notices when the order of a
//! key is broken.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use fastrand::Rng;
use posthaste_core::{Delivery, Envelope, Nack, Publisher, Receipt, Stopper, Subscription};
use tokio::task::JoinSet;

use crate::failure::{Failed, Outcome, ensure};
use crate::receive::done_or_lost;
use crate::send::{keyed, number, until};

/// What was handled, by key, over all members.
#[derive(Debug, Default)]
pub(crate) struct Book(Mutex<Pages>);

#[derive(Debug, Default)]
struct Pages {
    /// What is being handled now.
    running: BTreeMap<String, (usize, Weak<Delivery>)>,
    /// How many of each key are done: the number of the next one.
    next: BTreeMap<String, usize>,
    repeated: usize,
    wrong: Vec<String>,
}

impl Book {
    /// A handler begins. Whatever is out of order is noted. A handler whose delivery was taken
    /// away is not counted, also when it had no time yet to notice, or to begin.
    fn begin(&self, key: &str, number: usize, delivery: &Arc<Delivery>) {
        let mut pages = self.lock();
        if delivery.is_lost() {
            return;
        }
        let ours = (number, Arc::downgrade(delivery));
        if let Some((other, theirs)) = pages.running.insert(key.to_owned(), ours)
            && theirs.upgrade().is_some_and(|theirs| !theirs.is_lost())
        {
            pages.wrong.push(format!("{key}: {number} began while {other} was being handled"));
        }
        let next = pages.next.get(key).copied().unwrap_or(0);
        if number > next {
            pages.wrong.push(format!("{key}: {number} began before {next} was done"));
        }
        pages.repeated += usize::from(number < next);
    }

    /// It ends; with success the next one of the key may begin.
    fn end(&self, key: &str, number: usize, delivery: &Arc<Delivery>, done: bool) {
        let mut pages = self.lock();
        let ours = |(_, running): &(usize, Weak<Delivery>)| {
            std::ptr::eq(running.as_ptr(), Arc::as_ptr(delivery))
        };
        if pages.running.get(key).is_some_and(ours) {
            pages.running.remove(key);
        }
        if done {
            let next = pages.next.entry(key.to_owned()).or_default();
            *next = (*next).max(number + 1);
        }
    }

    /// How many messages of all keys are done.
    pub(crate) fn done(&self) -> usize {
        self.lock().next.values().sum()
    }

    /// How many were handled again after they were done.
    pub(crate) fn repeated(&self) -> usize {
        self.lock().repeated
    }

    /// Waits until so many are done.
    pub(crate) async fn reaches(&self, count: usize, within: Duration) -> Outcome {
        until("messages of all keys are handled", within, || async {
            match self.done() {
                done if done >= count => Ok(()),
                done => Err(format!("{done} of {count}, {:?}", self.lock().next)),
            }
        })
        .await
    }

    /// Fails if the order of a key was broken.
    pub(crate) fn check(&self) -> Outcome {
        let pages = self.lock();
        let some: Vec<_> = pages.wrong.iter().take(5).collect();
        ensure!(some.is_empty(), "{} breaches of order, first {some:?}", pages.wrong.len());
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the handlers of a member behave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Habits {
    /// Of how many deliveries one fails; 0 is none.
    pub(crate) fails_one_of: u32,
    /// The longest time that one takes.
    pub(crate) takes: Duration,
}

impl Habits {
    /// Quick and without a fault.
    pub(crate) const GOOD: Self = Self { fails_one_of: 0, takes: Duration::from_millis(4) };
    /// Quick, and one of six fails.
    pub(crate) const CLUMSY: Self = Self { fails_one_of: 6, takes: Duration::from_millis(4) };
}

/// A member that handles whatever it gets at once, each delivery in a task of its own.
pub(crate) struct Worker {
    stopper: Stopper,
    task: JoinSet<Outcome>,
}

impl Worker {
    /// Begins at once.
    pub(crate) fn start(inbox: Subscription, book: &Arc<Book>, habits: Habits, seed: u64) -> Self {
        let stopper = inbox.stopper();
        let mut task = JoinSet::new();
        task.spawn(work(inbox, Arc::clone(book), habits, Rng::with_seed(seed)));
        Self { stopper, task }
    }

    /// Stops the subscription and waits for the handlers.
    pub(crate) async fn stop(mut self, within: Duration) -> Outcome {
        self.stopper.stop();
        match tokio::time::timeout(within, self.task.join_next()).await {
            Ok(Some(Ok(ended))) => ended?,
            Ok(Some(Err(error))) => return Err(Failed::new(format!("a worker: {error}"))),
            Ok(None) => {}
            Err(_) => return Err(Failed::new(format!("no end of a worker within {within:?}"))),
        }
        // Its deliveries are settled; now they reach the broker.
        self.stopper.stopped().await;
        Ok(())
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}

async fn work(
    mut inbox: Subscription,
    book: Arc<Book>,
    habits: Habits,
    mut chance: Rng,
) -> Outcome {
    let mut handlers = JoinSet::new();
    loop {
        tokio::select! {
            delivery = inbox.next() => match delivery {
                Some(delivery) => {
                    let delivery = delivery?;
                    let fails = habits.fails_one_of > 0 && chance.u32(..habits.fails_one_of) == 0;
                    let takes = habits.takes.mul_f64(chance.f64());
                    handlers.spawn(handle(delivery, Arc::clone(&book), takes, fails));
                }
                None => break,
            },
            Some(ended) = handlers.join_next() => {
                ended.map_err(|error| Failed::new(format!("a handler: {error}")))??;
            }
        }
    }
    while let Some(ended) = handlers.join_next().await {
        ended.map_err(|error| Failed::new(format!("a handler: {error}")))??;
    }
    Ok(())
}

async fn handle(delivery: Delivery, book: Arc<Book>, takes: Duration, fails: bool) -> Outcome {
    let key = String::from_utf8_lossy(delivery.key().unwrap_or_default()).into_owned();
    let number = number(delivery.envelope())?;
    let delivery = Arc::new(delivery);
    book.begin(&key, number, &delivery);
    // The work: it takes some time, and stops when the delivery is taken away.
    let lost = tokio::select! {
        biased;
        () = delivery.lost() => true,
        () = tokio::time::sleep(takes) => false,
    };
    book.end(&key, number, &delivery, !lost && !fails);
    // The book looks at a delivery only while it is locked and before its end.
    let Some(delivery) = Arc::into_inner(delivery).filter(|_| !lost) else { return Ok(()) };
    if fails {
        done_or_lost(delivery.nack(Nack::requeue()).await)
    } else {
        done_or_lost(delivery.ack().await)
    }
}

/// The names of so many keys.
pub(crate) fn keys(count: usize) -> Vec<String> {
    (0..count).map(|key| format!("key-{key}")).collect()
}

/// So many messages of each key, keys by turns.
pub(crate) fn interleaved(keys: &[String], numbers: std::ops::Range<usize>) -> Vec<Envelope> {
    numbers.flat_map(|number| keys.iter().map(move |key| keyed(key, number))).collect()
}

/// So many messages over as many keys, so that every lane gets some.
pub(crate) fn spread(numbers: std::ops::Range<usize>) -> Vec<Envelope> {
    numbers.map(|number| keyed(&format!("key-{number}"), number)).collect()
}

/// Enqueues in order, without waiting for one before the next; all must be confirmed.
pub(crate) async fn enqueue(publisher: &Publisher, envelopes: Vec<Envelope>) -> Outcome {
    let mut receipts: Vec<Receipt> = Vec::with_capacity(envelopes.len());
    for envelope in envelopes {
        receipts.push(publisher.enqueue_envelope(envelope).await?);
    }
    for receipt in receipts {
        receipt.await?;
    }
    Ok(())
}

/// Fails unless the messages of each key come in order, each first time; copies of earlier ones
/// may come in between.
pub(crate) fn first_times_in_order(envelopes: &[Envelope]) -> Outcome {
    let mut seen: BTreeSet<(Vec<u8>, usize)> = BTreeSet::new();
    let mut last: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for envelope in envelopes {
        let key = envelope.key().unwrap_or_default().to_vec();
        let number = number(envelope)?;
        if !seen.insert((key.clone(), number)) {
            continue;
        }
        let before = last.insert(key, number);
        ensure!(before.is_none_or(|before| before < number), "{} is stored late", envelope.id());
    }
    Ok(())
}
