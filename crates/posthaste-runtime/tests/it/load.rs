//! Many messages, many keys, many workers, in real time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use posthaste_core::{Envelope, Order, Reason, TopicConfig};
use posthaste_runtime::*;

use crate::ordering::Watch;
use crate::shop::*;

async fn fill(shop: &Shop, keys: u32, each: u32) {
    for number in 0..each {
        let orders: Vec<_> = (0..keys).map(|key| placed(&format!("key-{key}"), number)).collect();
        shop.orders.publish_all(&orders).await.unwrap().into_result().unwrap();
    }
}

/// 16 workers × 1,000 keys × random latency and failures.
#[tokio::test(start_paused = true)]
async fn a_thousand_keys_are_each_in_order_and_ten_times_as_fast_as_one_after_the_other() {
    async fn random(order: Payload<Placed>, State((watch, slept)): State<Books>) -> Outcome {
        watch.enter(&order.id);
        let latency = Duration::from_millis(fastrand::u64(1..10));
        slept.fetch_add(u64::try_from(latency.as_millis()).unwrap(), Ordering::Relaxed);
        tokio::time::sleep(latency).await;
        let fails = fastrand::u8(..) < 12;
        watch.leave(&order.id, (!fails).then_some(order.number));
        if fails { Outcome::Retry } else { Outcome::Ack }
    }
    type Books = (Watch, Arc<AtomicU64>);
    let (shop, books) = (Shop::ordered(8).await, Books::default());
    fill(&shop, 1_000, 10).await;
    let policy = RetryPolicy::fixed(20 * MILLISECOND).max_attempts(1_000);
    let consumer = shop.billing().state(books.clone()).order(Order::PerKey).concurrency(16);
    let start = tokio::time::Instant::now();
    let running = consumer.retry(policy).on("orders", random).start().await.unwrap();
    shop.settled().await;
    let took = start.elapsed();
    books.0.assert_in_order(1_000, 10);
    let one_by_one = Duration::from_millis(books.1.load(Ordering::Relaxed));
    assert!(one_by_one >= 10 * took, "{one_by_one:?} one by one, {took:?} together");
    assert!(shop.letters().await.is_empty());
    stop(running).await;
}

/// One that always fails, among a thousand.
#[tokio::test(start_paused = true)]
async fn a_poison_does_not_hold_up_the_others_and_is_a_dead_letter_once() {
    async fn poison(order: Payload<Placed>, State(done): State<Arc<AtomicU64>>) -> Outcome {
        if order.number == 500 {
            return Outcome::Retry;
        }
        done.fetch_add(1, Ordering::Relaxed);
        Outcome::Ack
    }
    let (shop, done) = (Shop::plain().await, Arc::new(AtomicU64::new(0)));
    let orders: Vec<_> = (0..1_000).map(|number| placed(&format!("A-{number}"), number)).collect();
    shop.orders.publish_all(&orders).await.unwrap().into_result().unwrap();
    let consumer = shop.billing().state(Arc::clone(&done)).retry(RetryPolicy::fixed(60 * SECOND));
    let start = tokio::time::Instant::now();
    let running = consumer.on("orders", poison).start().await.unwrap();
    until(async || done.load(Ordering::Relaxed) == 999).await;
    assert!(start.elapsed() < 10 * SECOND, "{:?}", start.elapsed());
    shop.settled().await;
    is_letter(&shop.letter().await, &Reason::AttemptsExhausted, 5, "try again");
    assert_eq!(stop(running).await.handled, 999);
}

/// A fast publisher and a slow handler: what the consumer holds is bounded by prefetch.
#[tokio::test(start_paused = true)]
async fn a_slow_handler_holds_no_more_than_its_prefetch() {
    async fn slow() {
        tokio::time::sleep(SECOND).await;
    }
    let shop = Shop::plain().await;
    let consumer = shop.billing().concurrency(4).prefetch(32);
    let running = consumer.on("orders", slow).start().await.unwrap();
    for minute in 0..60 {
        fill(&shop, 100, 1).await;
        tokio::time::sleep(SECOND).await;
        let lag = shop.bus.admin().lag("orders", "billing").await.unwrap();
        assert!(lag.in_flight.unwrap() <= 32, "{minute}: {lag:?}");
    }
    let report = stop(running).await;
    assert!(report.handled >= 4 * 55 && report.handled <= 4 * 61, "{report:?}");
}

/// Handlers that compute do not wait for each other as long as there are processors.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn handlers_that_compute_run_side_by_side() {
    async fn compute(order: Payload<Placed>, State(watch): State<Watch>) {
        watch.enter(&order.id);
        let end = Instant::now() + 20 * MILLISECOND;
        while Instant::now() < end {
            std::thread::yield_now();
        }
        watch.leave(&order.id, Some(0));
    }
    let (shop, watch) = (Shop::plain().await, Watch::default());
    let consumer = shop.billing().state(watch.clone()).concurrency(4);
    let running = consumer.on("orders", compute).start().await.unwrap();
    fill(&shop, 50, 1).await;
    until(async || watch.done() == 50).await;
    // The first one is alone: that it computes is found out by it.
    assert!(watch.most() >= 2, "{} at once", watch.most());
    stop(running).await;
}

/// On several threads, without any failure: nothing is lost, nothing comes twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn handlers_on_several_threads_lose_nothing() {
    async fn count(envelope: Envelope, State(sum): State<Arc<AtomicU64>>) {
        if envelope.payload().len().is_multiple_of(7) {
            tokio::task::yield_now().await;
        }
        sum.fetch_add(1, Ordering::Relaxed);
    }
    let shop = Shop::open(TopicConfig::new("orders").ordered(4).group("billing")).await;
    let sum = Arc::new(AtomicU64::new(0));
    let consumer = shop.billing().state(Arc::clone(&sum)).order(Order::PerKey).concurrency(64);
    let running = consumer.on("orders", count).start().await.unwrap();
    fill(&shop, 1_000, 20).await;
    until(async || shop.left().await == 0).await;
    let report = stop(running).await;
    assert_eq!((sum.load(Ordering::Relaxed), report.handled, report.failed), (20_000, 20_000, 0));
}
