//! Order and concurrency: how many run at once, and who waits for whom.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use posthaste_core::{ErrorKind, KeyFailure, Order, Reason};
use posthaste_runtime::*;

use crate::shop::*;

/// Watches how many handlers run at once, in all and by key, and in which order keys are handled.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watch(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    running: AtomicUsize,
    most: AtomicUsize,
    done: AtomicUsize,
    keys: Mutex<HashMap<String, Vec<u32>>>,
    in_hand: Mutex<HashMap<String, u32>>,
}

impl Watch {
    /// Enters; fails if another of the key is in hand.
    pub(crate) fn enter(&self, key: &str) {
        let running = self.0.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most.fetch_max(running, Ordering::SeqCst);
        let mut in_hand = self.0.in_hand.lock().unwrap();
        let count = in_hand.entry(key.to_owned()).or_default();
        *count += 1;
        assert_eq!(*count, 1, "two of {key} at once");
    }

    pub(crate) fn leave(&self, key: &str, done: Option<u32>) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
        *self.0.in_hand.lock().unwrap().get_mut(key).unwrap() -= 1;
        if let Some(number) = done {
            self.0.keys.lock().unwrap().entry(key.to_owned()).or_default().push(number);
            self.0.done.fetch_add(1, Ordering::SeqCst);
        }
    }

    pub(crate) fn most(&self) -> usize {
        self.0.most.load(Ordering::SeqCst)
    }

    pub(crate) fn done(&self) -> usize {
        self.0.done.load(Ordering::SeqCst)
    }

    /// Every key's numbers, which must be those from 0 in order.
    pub(crate) fn assert_in_order(&self, keys: usize, each: u32) {
        let seen = self.0.keys.lock().unwrap();
        assert_eq!(seen.len(), keys);
        for (key, numbers) in &*seen {
            assert_eq!(*numbers, (0..each).collect::<Vec<_>>(), "{key}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_handlers_run_at_once_than_were_asked_for() {
    async fn slow(State(watch): State<Watch>, order: Payload<Placed>) {
        watch.enter(&order.id);
        tokio::time::sleep(SECOND).await;
        watch.leave(&order.id, Some(0));
    }
    let (shop, watch) = (Shop::plain().await, Watch::default());
    for number in 0..64 {
        shop.place(&format!("A-{number}"), number).await;
    }
    let consumer = shop.billing().state(watch.clone()).concurrency(8);
    let start = tokio::time::Instant::now();
    let running = consumer.on("orders", slow).start().await.unwrap();
    shop.settled().await;
    assert_eq!(watch.most(), 8);
    assert!(start.elapsed() < 9 * SECOND, "{:?}: no worker is idle", start.elapsed());
    stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn messages_of_a_key_are_in_order_while_some_fail_and_keys_are_parallel() {
    async fn random(
        order: Payload<Placed>,
        State(watch): State<Watch>,
    ) -> Result<(), HandlerError> {
        watch.enter(&order.id);
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..50))).await;
        let fails = fastrand::u8(..) < 25;
        watch.leave(&order.id, (!fails).then_some(order.number));
        if fails { Err(HandlerError::new("by chance")) } else { Ok(()) }
    }
    let (shop, watch) = (Shop::ordered(4).await, Watch::default());
    for number in 0..10 {
        for key in 0..50 {
            shop.place(&format!("key-{key}"), number).await;
        }
    }
    let policy = RetryPolicy::exponential().initial(100 * MILLISECOND).max_attempts(100);
    let consumer = shop.billing().state(watch.clone()).order(Order::PerKey).concurrency(16);
    let running = consumer.retry(policy).on("orders", random).start().await.unwrap();
    shop.settled().await;
    watch.assert_in_order(50, 10);
    assert!(watch.most() > 8, "{}", watch.most());
    assert!(shop.letters().await.is_empty());
    stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn a_key_that_fails_for_good_waits_alone_and_is_then_given_up_whole() {
    async fn poison(order: Payload<Placed>, State(log): State<Log>) -> Result<(), HandlerError> {
        log.note(format!("{} {}", order.id, order.number));
        if order.id == "bad" { Err(HandlerError::new("always")) } else { Ok(()) }
    }
    let (shop, log) = (Shop::ordered(1).await, Log::default());
    for number in 0..3 {
        shop.place("bad", number).await;
        shop.place("good", number).await;
    }
    let policy = RetryPolicy::fixed(10 * SECOND).max_attempts(3);
    let consumer = shop.billing().state(log.clone()).order(Order::PerKey).retry(policy);
    let start = tokio::time::Instant::now();
    let running = consumer.on("orders", poison).start().await.unwrap();
    until(async || log.lines().iter().filter(|line| line.starts_with("good")).count() == 3).await;
    assert!(start.elapsed() < SECOND, "the other key did not wait");
    shop.settled().await;
    let bad = log.lines().into_iter().filter(|line| line.starts_with("bad")).count();
    assert_eq!(bad, 3, "only the first one was tried");
    let letters = shop.letters().await;
    let reasons: Vec<_> = letters.iter().map(|letter| &letter.reason).collect();
    assert_eq!(reasons, [&Reason::AttemptsExhausted, &Reason::FollowsKey, &Reason::FollowsKey]);
    assert_eq!(letters[0].attempts, 3);
    stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn a_key_that_fails_for_good_stops_the_consumer_if_that_is_wanted() {
    async fn fail() -> Result<(), HandlerError> {
        Err(HandlerError::new("always"))
    }
    let shop = Shop::ordered(1).await;
    shop.place("bad", 0).await;
    let policy = RetryPolicy::fixed(SECOND).max_attempts(2);
    let consumer = shop.billing().order(Order::PerKey).key_failure(KeyFailure::StopLane);
    let running = consumer.retry(policy).on("orders", fail).start().await.unwrap();
    let control = running.control();
    control.reached(Phase::Stopping).await;
    let error = running.stop().await.unwrap_err();
    assert_eq!((error.kind(), error.topic()), (ErrorKind::Fatal, Some("orders")));
    assert_eq!((shop.left().await, shop.letters().await.len()), (1, 0));
    assert_eq!(control.phase(), Phase::Stopped);
}

#[tokio::test(start_paused = true)]
async fn under_partition_order_a_partition_is_one_at_a_time() {
    async fn slow(State(watch): State<Watch>, meta: Metadata, order: Payload<Placed>) {
        let partition = format!("{:?}", meta.partition());
        watch.enter(&partition);
        tokio::time::sleep(10 * MILLISECOND).await;
        watch.leave(&partition, Some(order.number));
    }
    let (shop, watch) = (Shop::ordered(2).await, Watch::default());
    for number in 0..40 {
        shop.place(&format!("key-{number}"), number).await;
    }
    let consumer = shop.billing().state(watch.clone()).order(Order::Partition).concurrency(8);
    let running = consumer.on("orders", slow).start().await.unwrap();
    shop.settled().await;
    assert_eq!((watch.most(), watch.done()), (2, 40));
    let keys = watch.0.keys.lock().unwrap().clone();
    assert!(keys.values().all(|numbers| numbers.is_sorted()), "{keys:?}");
    stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn a_partition_waits_for_the_one_that_fails() {
    async fn first(order: Payload<Placed>, attempt: Attempt, State(log): State<Log>) -> Outcome {
        log.note(format!("{} at {}", order.number, attempt.number()));
        if order.number == 0 { Outcome::Retry } else { Outcome::Ack }
    }
    let (shop, log) = (Shop::ordered(1).await, Log::default());
    for number in 0..3 {
        shop.place(&format!("key-{number}"), number).await;
    }
    let policy = RetryPolicy::fixed(SECOND).max_attempts(2);
    let consumer = shop.billing().state(log.clone()).order(Order::Partition).retry(policy);
    let running = consumer.on("orders", first).start().await.unwrap();
    shop.settled().await;
    assert_eq!(log.lines(), ["0 at 1", "0 at 2", "1 at 1", "2 at 1"]);
    assert_eq!(shop.letters().await.len(), 1, "those behind it are of other keys");
    stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn keys_keep_their_order_while_members_come_and_go() {
    async fn slow(order: Payload<Placed>, State(watch): State<Watch>) {
        watch.enter(&order.id);
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..30))).await;
        watch.leave(&order.id, Some(order.number));
    }
    let (shop, watch) = (Shop::ordered(8).await, Watch::default());
    for number in 0..20 {
        for key in 0..40 {
            shop.place(&format!("key-{key}"), number).await;
        }
    }
    let member = async || {
        let consumer = shop.billing().state(watch.clone()).order(Order::PerKey).concurrency(8);
        consumer.on("orders", slow).start().await.unwrap()
    };
    let mut members = vec![member().await];
    let mut moved = 0;
    while shop.left().await > 0 {
        tokio::time::sleep(100 * MILLISECOND).await;
        if members.len() < 3 {
            members.push(member().await);
        } else {
            let report = members.remove(0).stop().await.unwrap();
            assert_eq!(report.unfinished, 0);
            moved += 1;
        }
    }
    assert!(moved > 2, "{moved}");
    watch.assert_in_order(40, 20);
    for member in members {
        stop(member).await;
    }
}
