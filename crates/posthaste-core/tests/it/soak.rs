//! Publishers and members that do everything at random, on a broker that fails at random: what is
//! confirmed is handled, each key in order, and the end comes in time.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use posthaste_core::*;
use posthaste_memory::{Faults, MemoryBroker};
use tokio::task::LocalSet;
use tokio::time::{Instant, timeout};

const SECOND: Duration = Duration::from_secs(1);
const KEYS: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Default)]
struct Log {
    /// Confirmed to a publisher.
    confirmed: BTreeSet<String>,
    /// Numbers of each key in the order in which they were first handled.
    handled: BTreeMap<String, Vec<u32>>,
    dead: BTreeSet<String>,
}

impl Log {
    fn handle(&mut self, id: &str) {
        let (key, number) = id.split_once('-').unwrap();
        let (numbers, number) = (self.handled.entry(key.to_owned()).or_default(), number.parse());
        let number = number.unwrap();
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }

    fn is_handled(&self, id: &str) -> bool {
        let (key, number) = id.split_once('-').unwrap();
        let number: u32 = number.parse().unwrap();
        self.handled.get(key).is_some_and(|numbers| numbers.contains(&number))
    }

    fn missing(&self) -> Vec<&String> {
        let done = |id: &&String| self.is_handled(id) || self.dead.contains(*id);
        self.confirmed.iter().filter(|id| !done(id)).collect()
    }
}

type Shared = Rc<std::cell::RefCell<Log>>;

/// One publisher for each key, so that it is known in which order its messages were given.
async fn publish(publisher: Publisher, key: &'static str, mut rng: Rng, log: Shared) {
    let mut receipts = Vec::new();
    for number in 0..60_u32 {
        let id = format!("{key}-{number}");
        let envelope = Envelope::builder("t").source("/t").id(id.clone()).key(key).build().unwrap();
        let confirm = |outcome: Result<Confirmed>| {
            let confirmed = outcome.unwrap();
            log.borrow_mut().confirmed.insert(confirmed.id().to_owned());
        };
        match rng.u32(..10) {
            0..4 => confirm(publisher.publish_envelope(envelope).await),
            4..7 => receipts.push(publisher.enqueue_envelope(envelope).await.unwrap()),
            7 => drop(publisher.enqueue_envelope(envelope).await.unwrap()),
            8 => {
                // Dropped half way, it may be stored or not; in order all the same.
                let patience = Duration::from_micros(rng.u64(..20_000));
                if let Ok(outcome) = timeout(patience, publisher.publish_envelope(envelope)).await {
                    confirm(outcome);
                }
            }
            _ => {
                let report = publisher.publish_all_envelopes(vec![envelope]).await;
                report.into_outcomes().into_iter().for_each(&confirm);
            }
        }
        if rng.u32(..8) == 0 {
            tokio::time::sleep(Duration::from_micros(rng.u64(..30_000))).await;
        }
    }
    for receipt in receipts {
        let confirmed = receipt.await.unwrap();
        log.borrow_mut().confirmed.insert(confirmed.id().to_owned());
    }
}

async fn settle(delivery: Delivery, rng: &mut Rng, log: &Shared, calm: bool) {
    let id = delivery.id().to_owned();
    let choice = if calm { 0 } else { rng.u32(..20) };
    let ack = |log: &Shared| log.borrow_mut().handle(&id);
    match choice {
        0..10 => {
            ack(log);
            let _ = delivery.ack().await;
        }
        10 | 11 => {
            ack(log);
            let _ = delivery.ack_confirmed().await;
        }
        12 => {
            ack(log);
            let mut call = Box::pin(delivery.ack_confirmed());
            let _ = futures_util::FutureExt::now_or_never(&mut call);
        }
        13 => drop(delivery),
        14 => drop(delivery.release().await),
        15 => drop(delivery.nack(Nack::requeue()).await),
        16 => drop(delivery.nack(Nack::after(Duration::from_millis(rng.u64(..300)))).await),
        17 => drop(delivery.nack(Nack::requeue())),
        18 => {
            let _ = delivery.extend().await;
            drop(delivery);
        }
        _ => drop(delivery.split().1),
    }
}

async fn consume(
    start: impl Fn() -> SubscribeBuilder,
    mut rng: Rng,
    log: Shared,
    calm_from: Instant,
    until: Instant,
) {
    while Instant::now() < until {
        let mut inbox = start().start().await.unwrap();
        let life = Instant::now() + Duration::from_millis(rng.u64(50..4_000));
        let mut held: Vec<Delivery> = Vec::new();
        while Instant::now() < until.min(life) {
            let calm = Instant::now() >= calm_from;
            let batch = if rng.bool() {
                let wait = Duration::from_millis(rng.u64(1..50));
                timeout(wait, inbox.next_batch(rng.usize(1..4))).await.ok()
            } else {
                futures_util::FutureExt::now_or_never(inbox.next_batch(2))
            };
            match batch {
                Some(Some(batch)) => held.extend(batch.unwrap()),
                Some(None) => break,
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
            while !held.is_empty() && (calm || rng.u32(..3) > 0) {
                let delivery = held.swap_remove(rng.usize(..held.len()));
                settle(delivery, &mut rng, &log, calm).await;
            }
            if rng.u32(..40) == 0 {
                // A handler that takes longer than the lease.
                tokio::time::sleep(Duration::from_millis(rng.u64(..2_500))).await;
            }
        }
        let calm = Instant::now() >= calm_from;
        match rng.u32(..3) {
            0 => drop(inbox),
            1 => {
                let stopped = timeout(4 * SECOND, inbox.stop(SECOND)).await;
                let _ = stopped.expect("stop hangs");
            }
            _ => {
                inbox.stopper().stop();
                while let Some(delivery) = inbox.next().await {
                    settle(delivery.unwrap(), &mut rng, &log, calm).await;
                }
            }
        }
        for delivery in held {
            settle(delivery, &mut rng, &log, calm).await;
        }
    }
}

async fn run(seed: u64, ordered: bool) {
    // The jitter of retries is drawn from the thread's own generator.
    fastrand::seed(seed);
    let mut rng = Rng::with_seed(seed);
    let broker = MemoryBroker::new();
    let builder = Bus::builder(broker.clone()).source("/t").window(rng.usize(1..40), 1 << 20);
    let bus = builder.publish_deadline(1_000 * SECOND).drain(SECOND).build().unwrap();
    let topic = TopicConfig::new("orders").group("billing");
    let topic = if ordered { topic.ordered(rng.u16(1..4)) } else { topic };
    bus.ensure(topic).await.unwrap();
    broker.inject(
        Faults::seeded(seed)
            .fail_publish(0.1)
            .lose_reply(0.1)
            .delay(0.2, Duration::from_millis(30))
            .duplicate(0.05)
            .disconnect(0.02, Duration::from_millis(30)),
    );
    let log = Shared::default();
    let started = Instant::now();
    let (calm_from, until) = (started + 30 * SECOND, started + 100 * SECOND);
    let publishing = KEYS.map(|key| {
        let publisher = bus.publisher("orders").unwrap();
        tokio::task::spawn_local(publish(publisher, key, rng.fork(), Rc::clone(&log)))
    });
    let consuming = [0, 1].map(|_| {
        let (bus, prefetch) = (bus.clone(), rng.usize(1..12));
        let start = move || {
            let billing = bus.subscribe("orders").group("billing").prefetch(prefetch);
            let billing = billing.lease(SECOND).max_handling(5 * SECOND).max_attempts(1_000);
            if ordered { billing.order(Order::PerKey) } else { billing }
        };
        let (rng, log) = (rng.fork(), Rc::clone(&log));
        tokio::task::spawn_local(consume(start, rng, log, calm_from, until))
    });
    for publisher in publishing {
        timeout(60 * SECOND, publisher).await.expect("a publisher is stuck").unwrap();
    }
    tokio::time::sleep_until(calm_from).await;
    broker.heal();
    for consumer in consuming {
        timeout(120 * SECOND, consumer).await.expect("a member is stuck").unwrap();
    }
    let letters = bus.admin().dead_letters("orders", "billing", 1_000).await.unwrap();
    let ids = letters.letters.iter().map(|stored| stored.letter.envelope.id().to_owned());
    log.borrow_mut().dead.extend(ids);
    let lag = bus.admin().lag("orders", "billing").await.unwrap();
    assert_eq!((lag.total(), lag.in_flight), (0, Some(0)), "seed {seed}: {lag:?}");
    timeout(8 * SECOND, bus.close(2 * SECOND)).await.expect("close hangs").unwrap();
    let log = log.borrow();
    assert!(log.missing().is_empty(), "seed {seed}: never handled: {:?}", log.missing());
    assert!(log.dead.is_empty(), "seed {seed}: nobody gave up: {:?}", log.dead);
    if ordered {
        for (key, numbers) in &log.handled {
            assert!(numbers.is_sorted(), "seed {seed}: {key} out of order: {numbers:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_order() {
    for seed in 0..16 {
        LocalSet::new().run_until(run(seed, false)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn with_order_per_key() {
    for seed in 0..16 {
        LocalSet::new().run_until(run(seed, true)).await;
    }
}
