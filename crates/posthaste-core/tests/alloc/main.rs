//! What core allocates for a message, on top of what the application and the adapter do.
//!
//! The bounds are what was measured, so that a change which allocates more is noticed. They may be
//! lowered; raising one needs a reason.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(missing_docs, clippy::print_stdout, reason = "a test that shows what it measures")]

mod counter;
mod null;

use std::sync::Arc;

use posthaste_core::broker::*;
use posthaste_core::*;

use counter::allocations;
use null::Null;

const ROUNDS: usize = 100;
const BATCH: usize = 64;

/// Allocations per message, in hundredths.
fn per_message(allocations: usize, messages: usize) -> usize {
    allocations * 100 / messages
}

#[track_caller]
fn within(what: &str, measured: usize, bound: usize) {
    println!("{what}: {}.{:02} allocations a message", measured / 100, measured % 100);
    assert!(measured <= bound, "{what}: {measured} hundredths a message, at most {bound}");
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test)
}

fn envelope() -> Envelope {
    let builder = Envelope::builder("order.placed").source("/shop").key("order-7").payload("{}");
    builder.build().unwrap()
}

#[test]
fn an_awaited_publish() {
    run(async {
        let bus = Bus::builder(Null::default()).source("/test").build().unwrap();
        let publisher = bus.publisher("orders").unwrap();
        let ready = envelope();
        publisher.publish_envelope(ready.clone()).await.unwrap();
        let counted = allocations();
        for _ in 0..ROUNDS {
            publisher.publish_envelope(ready.clone()).await.unwrap();
        }
        // The flight and its sharing; the adapter's boxed call.
        within("publish_envelope", per_message(allocations() - counted, ROUNDS), 400);
    });
}

#[test]
fn a_batch() {
    run(async {
        let bus = Bus::builder(Null::default()).source("/test").build().unwrap();
        let publisher = bus.publisher("orders").unwrap();
        publisher.publish_envelope(envelope()).await.unwrap();
        let batch = || vec![envelope(); BATCH];
        drop(publisher.publish_all_envelopes(batch()).await);
        let batches: Vec<_> = (0..ROUNDS).map(|_| batch()).collect();
        let counted = allocations();
        for batch in batches {
            drop(publisher.publish_all_envelopes(batch).await);
        }
        // All of them are the batch's.
        within("publish_all", per_message(allocations() - counted, ROUNDS * BATCH), 20);
    });
}

#[test]
fn receiving_and_acknowledging() {
    run(async {
        let broker = Null::default();
        let ready = Arc::clone(&broker.ready);
        let bus = Bus::builder(broker).source("/test").build().unwrap();
        let mut inbox = bus.subscribe("orders").group("billing").start().await.unwrap();
        let lane = Arc::new(Lane::new(TopicName::new("orders").unwrap(), None));
        let batch = || {
            let one = |at| Received::new(envelope(), Token::sequence(0, 0, at), Arc::clone(&lane));
            (0..BATCH as u64).map(one).collect::<Vec<_>>()
        };
        let mut counts = Vec::new();
        for _ in 0..ROUNDS {
            ready.lock().unwrap().extend(batch());
            let counted = allocations();
            for _ in 0..BATCH {
                inbox.next().await.unwrap().unwrap().ack().await.unwrap();
            }
            // Until everything is flushed.
            tokio::task::yield_now().await;
            counts.push(allocations() - counted);
        }
        let steady = counts.split_off(ROUNDS / 2);
        let sum: usize = steady.iter().sum();
        // Only a batch of settlements costs anything.
        within("next and ack", per_message(sum, steady.len() * BATCH), 3);
    });
}

#[test]
fn a_time_is_written_without_one() {
    use std::fmt::Write;
    let mut text = String::with_capacity(64);
    let now = Timestamp::now();
    let counted = allocations();
    write!(text, "{now}").unwrap();
    within("a timestamp", (allocations() - counted) * 100, 0);
}
