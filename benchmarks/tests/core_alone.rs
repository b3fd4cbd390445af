//! What the core costs for a message, each way: no copy of the payload, and few allocations.
//!
//! What is measured is printed. The bounds may be lowered; raising one needs a reason.

#![allow(clippy::print_stdout, reason = "a test that shows what it measures")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Mutex, MutexGuard, PoisonError};

use benchmarks::allocations;
use benchmarks::null::NullBroker;
use posthaste::{Bus, Bytes, Envelope, Publisher, Result, Timestamp};

/// Messages that are counted.
const MESSAGES: usize = 20_000;
/// Messages before that, so that queues have grown to their size.
const WARM: usize = 4_000;
/// Allocations a message on its way out: the envelope, and what a batch needs, shared by its 250
/// entries. The aim is 2.
const OUT: f64 = 1.1;
/// The same where each message is awaited: the envelope, the flight and its sharing, and the boxed
/// call of the adapter. There is no batch to share them.
const ALONE_OUT: f64 = 5.1;
/// Allocations a message on its way back: only batches need any. The aim is 2.
const BACK: f64 = 0.1;

/// The counter is that of the process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test)
}

fn bus(broker: &NullBroker) -> Bus {
    Bus::builder(broker.clone()).source("/test").build().unwrap()
}

fn message(publisher: &Publisher, payload: &Bytes) -> Result<Envelope> {
    publisher.envelope(Envelope::builder("bench.sent").payload(payload.clone()))
}

/// Fails if that many messages took more allocations than they may.
#[track_caller]
fn within(what: &str, allocations: u64, most: f64) {
    let each = allocations as f64 / MESSAGES as f64;
    println!("{what}: {each:.3} allocations a message");
    assert!(each <= most, "{what}: {each:.3} allocations a message, at most {most}");
}

async fn counted(work: impl Future<Output = ()>) -> u64 {
    let before = allocations::so_far();
    allocations::count(true);
    work.await;
    allocations::count(false);
    allocations::so_far() - before
}

async fn enqueue(publisher: &Publisher, messages: usize, payload: &Bytes) {
    let mut receipts = std::collections::VecDeque::with_capacity(1_000);
    for _ in 0..messages {
        if receipts.len() == 1_000 {
            let oldest: posthaste::Receipt = receipts.pop_front().unwrap();
            oldest.await.unwrap();
        }
        let message = message(publisher, payload).unwrap();
        receipts.push_back(publisher.enqueue_envelope(message).await.unwrap());
    }
    for receipt in receipts {
        receipt.await.unwrap();
    }
}

async fn publish_all(publisher: &Publisher, messages: usize, payload: &Bytes) {
    for _ in 0..messages / 1_000 {
        let batch = (0..1_000).map(|_| message(publisher, payload)).collect::<Result<_>>();
        publisher.publish_all_envelopes(batch.unwrap()).await.into_result().unwrap();
    }
}

#[test]
fn counting_sees_what_is_allocated_and_only_while_it_is_on() {
    let _alone = alone();
    run(async {
        let seen = counted(async {
            for at in 0..1_000_u64 {
                std::hint::black_box(Box::new(at));
            }
        });
        assert!(seen.await >= 1_000);
        let before = allocations::so_far();
        std::hint::black_box(vec![0_u8; 100]);
        assert_eq!(allocations::so_far(), before);
    });
}

#[test]
fn a_message_that_is_enqueued() {
    let _alone = alone();
    run(async {
        let broker = NullBroker::default();
        let publisher = bus(&broker).publisher("orders").unwrap();
        let payload = Bytes::from(vec![1; 1_024]);
        enqueue(&publisher, WARM, &payload).await;
        let allocations = counted(enqueue(&publisher, MESSAGES, &payload)).await;
        assert_eq!(broker.published(), (WARM + MESSAGES) as u64);
        assert_eq!(broker.last_payload(), payload.as_ptr().addr(), "the payload was copied");
        within("enqueue", allocations, OUT);
    });
}

#[test]
fn a_message_of_a_batch() {
    let _alone = alone();
    run(async {
        let broker = NullBroker::default();
        let publisher = bus(&broker).publisher("orders").unwrap();
        let payload = Bytes::from(vec![1; 1_024]);
        publish_all(&publisher, WARM, &payload).await;
        let allocations = counted(publish_all(&publisher, MESSAGES, &payload)).await;
        assert_eq!(broker.published(), (WARM + MESSAGES) as u64);
        assert_eq!(broker.last_payload(), payload.as_ptr().addr(), "the payload was copied");
        within("publish_all", allocations, OUT);
    });
}

#[test]
fn a_message_that_is_awaited() {
    let _alone = alone();
    run(async {
        let broker = NullBroker::default();
        let publisher = bus(&broker).publisher("orders").unwrap();
        let payload = Bytes::from(vec![1; 1_024]);
        let one_by_one = async |messages: usize| {
            for _ in 0..messages {
                let message = message(&publisher, &payload).unwrap();
                publisher.publish_envelope(message).await.unwrap();
            }
        };
        one_by_one(WARM).await;
        let allocations = counted(one_by_one(MESSAGES)).await;
        assert_eq!(broker.last_payload(), payload.as_ptr().addr(), "the payload was copied");
        within("publish", allocations, ALONE_OUT);
    });
}

#[test]
fn a_time_that_is_written() {
    use std::fmt::Write;
    let _alone = alone();
    run(async {
        let (mut text, now) = (String::with_capacity(64), Timestamp::now());
        let writing = async {
            for _ in 0..MESSAGES {
                text.clear();
                write!(text, "{now}").unwrap();
            }
        };
        // Not none: what the test harness does meanwhile is counted too.
        within("a timestamp", counted(writing).await, 0.01);
    });
}

#[test]
fn a_delivery_that_is_acknowledged() {
    let _alone = alone();
    run(async {
        let broker = NullBroker::default();
        let bus = bus(&broker);
        let payload = Bytes::from(vec![1; 1_024]);
        let message = message(&bus.publisher("orders").unwrap(), &payload).unwrap();
        let mut inbox = bus.subscribe("orders").group("billing").start().await.unwrap();
        let mut read = async |count: usize| {
            broker.stock(message.clone(), count);
            for _ in 0..count {
                let delivery = inbox.next().await.unwrap().unwrap();
                let copied = !std::ptr::eq(delivery.payload().as_ptr(), payload.as_ptr());
                assert!(!copied, "the payload was copied");
                delivery.ack().await.unwrap();
            }
        };
        read(WARM).await;
        let allocations = counted(read(MESSAGES)).await;
        inbox.stop(std::time::Duration::from_secs(10)).await.unwrap();
        assert_eq!(broker.settled(), (WARM + MESSAGES) as u64);
        within("next and ack", allocations, BACK);
    });
}

#[test]
fn a_message_that_a_handler_gets() {
    let _alone = alone();
    run(async {
        let broker = NullBroker::default();
        let bus = bus(&broker);
        let payload = Bytes::from(vec![1; 1_024]);
        let message = message(&bus.publisher("orders").unwrap(), &payload).unwrap();
        // One handler is done at once; the other one waits, so that workers take turns.
        for waits in [false, true] {
            let handler = move |_: Envelope, _: posthaste::Metadata| async move {
                if waits {
                    tokio::task::yield_now().await;
                }
            };
            let consumer = posthaste::Consumer::new(&bus).group("billing").concurrency(64);
            let running = consumer.on("orders", handler).start().await.unwrap();
            let handled = async |count: usize| {
                let wanted = running.report().handled + count as u64;
                broker.stock(message.clone(), count);
                while running.report().handled < wanted {
                    tokio::task::yield_now().await;
                }
            };
            handled(WARM).await;
            let allocations = counted(handled(MESSAGES)).await;
            running.stop().await.unwrap();
            within("a handler", allocations, BACK);
        }
        assert_eq!(broker.settled(), 2 * (WARM + MESSAGES) as u64);
    });
}
