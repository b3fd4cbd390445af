//! Handlers that panic, hang, or outlive their lease: defined, and nobody else's trouble.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use posthaste_core::{Lease, Reason};
use posthaste_memory::MemoryBroker;
use posthaste_runtime::*;

use crate::shop::*;

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failure_of_its_message_alone() {
    async fn odd(order: Payload<Placed>, State(log): State<Log>) {
        assert!(order.number != 3, "three is odd");
        if order.number == 4 {
            tokio::task::yield_now().await;
            panic!("four waits first");
        }
        log.note(order.0.id);
    }
    let (shop, log) = (Shop::plain().await, Log::default());
    let consumer =
        shop.billing().state(log.clone()).retry(RetryPolicy::fixed(SECOND).max_attempts(2));
    let running = consumer.on("orders", odd).start().await.unwrap();
    for number in 0..10 {
        shop.place(&format!("A-{number}"), number).await;
    }
    shop.settled().await;
    assert_eq!(log.len(), 8);
    let letters = shop.letters().await;
    assert_eq!(letters.len(), 2);
    for letter in &letters {
        is_letter(letter, &Reason::AttemptsExhausted, 2, "the handler panicked");
    }
    let report = stop(running).await;
    assert_eq!((report.panicked, report.failed, report.handled), (4, 4, 8));
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_arguments_are_made_is_contained_too() {
    struct Bad;
    impl<S> FromDelivery<S> for Bad {
        fn from_delivery(_: &Incoming<'_>, _: &S) -> posthaste_core::Result<Self> {
            panic!("cannot even be made")
        }
    }
    async fn bad(_: Bad) {}
    let shop = Shop::plain().await;
    let consumer = shop.billing().retry(RetryPolicy::none());
    let running = consumer.on("orders", bad).start().await.unwrap();
    shop.place("A-1", 1).await;
    shop.settled().await;
    is_letter(&shop.letter().await, &Reason::AttemptsExhausted, 1, "cannot even be made");
    assert_eq!(stop(running).await.panicked, 1);
}

struct Guard(Arc<AtomicBool>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_hangs_is_dropped_at_its_limit_and_has_failed() {
    async fn hang(State(dropped): State<Arc<AtomicBool>>) {
        let _guard = Guard(dropped);
        std::future::pending::<()>().await;
    }
    let shop = Shop::plain().await;
    let dropped = Arc::new(AtomicBool::new(false));
    let consumer = shop.billing().state(Arc::clone(&dropped)).time_limit(5 * SECOND);
    let policy = RetryPolicy::fixed(SECOND).max_attempts(2);
    let running = consumer.retry(policy).on("orders", hang).start().await.unwrap();
    shop.place("A-1", 1).await;
    shop.settled().await;
    assert!(dropped.load(Ordering::SeqCst));
    is_letter(&shop.letter().await, &Reason::AttemptsExhausted, 2, "longer than 5s");
    let report = stop(running).await;
    assert_eq!((report.timed_out, report.failed), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_waits_beyond_its_lease_is_dropped_before_anybody_else_gets_the_message() {
    async fn slow(State(log): State<Log>, attempt: Attempt, lease: Lease) {
        log.note(format!("start {}", attempt.number()));
        if attempt.number() == 1 {
            lease.lost().await; // the runtime is told at the same time, and drops this
            tokio::time::sleep(3_600 * SECOND).await;
            log.note("never");
        }
        log.note(format!("end {}", attempt.number()));
    }
    let (shop, log) = (Shop::plain().await, Log::default());
    let consumer = shop.billing().state(log.clone());
    let consumer = consumer.lease(10 * SECOND).max_handling(15 * SECOND);
    let running = consumer.on("orders", slow).start().await.unwrap();
    shop.place("A-1", 1).await;
    shop.settled().await;
    assert_eq!(log.lines(), ["start 1", "start 2", "end 2"]);
    let report = stop(running).await;
    assert_eq!((report.handled, report.leases_lost, report.dead_lettered), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_kept_while_a_handler_runs() {
    async fn slow(State(log): State<Log>, lease: Lease) {
        tokio::time::sleep(300 * SECOND).await;
        assert!(!lease.is_over());
        log.note("done");
    }
    let (shop, log) = (Shop::plain().await, Log::default());
    let consumer = shop.billing().state(log.clone()).lease(10 * SECOND);
    let running = consumer.on("orders", slow).start().await.unwrap();
    shop.place("A-1", 1).await;
    shop.settled().await;
    assert_eq!(log.lines(), ["done"]);
    assert_eq!(stop(running).await.leases_lost, 0);
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_comes_after_the_lease_was_lost_changes_nothing() {
    async fn late(State(log): State<Log>, attempt: Attempt) -> Result<(), HandlerError> {
        log.note(format!("{}+{}", attempt.number(), attempt.immediate()));
        if attempt.number() == 1 {
            // Does not wait, so it cannot be dropped: others take the message meanwhile.
            poll_once(tokio::time::advance(60 * SECOND));
            return Err(HandlerError::new("too late"));
        }
        Ok(())
    }
    let (shop, log) = (Shop::plain().await, Log::default());
    let consumer = shop.billing().state(log.clone()).lease(10 * SECOND).max_handling(SECOND);
    let running =
        consumer.retry(RetryPolicy::fixed(SECOND)).on("orders", late).start().await.unwrap();
    shop.place("A-1", 1).await;
    shop.settled().await;
    let lines = log.lines();
    assert_eq!(lines.last().map(String::as_str), Some("2+0"), "{lines:?}");
    assert!(shop.letters().await.is_empty());
    stop(running).await;
}

/// Moves virtual time without waiting.
fn poll_once(advance: impl Future<Output = ()>) {
    let mut advance = std::pin::pin!(advance);
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let _ = advance.as_mut().poll(&mut cx);
}

#[tokio::test(start_paused = true)]
async fn at_most_once_is_settled_before_the_handler_and_never_comes_again() {
    async fn fail(State(log): State<Log>, order: Payload<Placed>) -> Result<(), HandlerError> {
        log.note(order.0.id);
        panic!("after it was settled");
    }
    let (shop, log) = (Shop::plain().await, Log::default());
    let consumer = shop.billing().state(log.clone()).at_most_once();
    let running = consumer.on("orders", fail).start().await.unwrap();
    shop.place("A-1", 1).await;
    shop.place("A-2", 2).await;
    log.has(2).await;
    shop.settled().await;
    let report = stop(running).await;
    assert_eq!((log.len(), report.panicked, report.retried), (2, 2, 0));
    assert!(shop.letters().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_consumer_resumes_after_an_outage() {
    async fn note(State(log): State<Log>, order: Payload<Placed>) {
        log.note(order.0.id);
    }
    let broker = MemoryBroker::new();
    let topic = posthaste_core::TopicConfig::new("orders").group("billing");
    let (shop, log) = (Shop::over(broker.clone(), topic).await, Log::default());
    let running = shop.billing().state(log.clone()).on("orders", note).start().await.unwrap();
    assert!(running.control().is_ready());
    broker.down();
    until(async || !running.control().is_ready()).await;
    assert!(running.control().is_live());
    tokio::time::sleep(60 * SECOND).await;
    broker.up();
    until(async || running.control().is_ready()).await;
    shop.place("A-1", 1).await;
    shop.settled().await;
    assert_eq!(log.lines(), ["A-1"]);
    stop(running).await;
}
