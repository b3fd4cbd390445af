//! What is tried again, when, how often, and what is given up.

use std::io;
use std::time::Duration;

use posthaste_core::{Cause, Nack, Reason};
use posthaste_runtime::*;
use tokio::time::Instant;

use crate::shop::*;

fn doubling() -> RetryPolicy {
    RetryPolicy::exponential().without_jitter()
}

async fn always(State(log): State<Log>, attempt: Attempt) -> io::Result<()> {
    log.note(format!("{}+{}", attempt.number(), attempt.immediate()));
    Err(io::Error::other("the card service is down"))
}

#[tokio::test(start_paused = true)]
async fn what_fails_comes_again_with_growing_delays_and_is_then_a_dead_letter() {
    let (shop, log) = (Shop::plain().await, Log::default());
    let consumer = shop.billing().state(log.clone()).retry(doubling());
    let running = consumer.on("orders", always).start().await.unwrap();
    let start = Instant::now();
    shop.place("A-1", 1).await;
    shop.settled().await;
    assert_eq!(log.lines(), ["1+0", "2+0", "3+0", "4+0", "5+0"]);
    let took = start.elapsed();
    assert!(took >= 15 * SECOND && took < 20 * SECOND, "1 + 2 + 4 + 8 s, not {took:?}");
    let letter = shop.letter().await;
    is_letter(&letter, &Reason::AttemptsExhausted, 5, "the card service is down");
    let cause = letter.cause.unwrap();
    assert!(cause.handler_name().unwrap().ends_with("always"));
    assert!(letter.first_failed_at.unwrap() <= letter.failed_at);
    let report = stop(running).await;
    assert_eq!((report.failed, report.retried, report.dead_lettered), (5, 4, 1));
}

#[tokio::test(start_paused = true)]
async fn immediate_tries_are_made_in_place_within_each_delivery() {
    let (shop, log) = (Shop::plain().await, Log::default());
    let policy = doubling().immediate(2).max_attempts(2);
    let consumer = shop.billing().state(log.clone()).retry(policy);
    let running = consumer.on("orders", always).start().await.unwrap();
    shop.place("A-1", 1).await;
    shop.settled().await;
    assert_eq!(log.lines(), ["1+0", "1+1", "1+2", "2+0", "2+1", "2+2"]);
    assert_eq!(shop.letter().await.attempts, 2);
    assert_eq!(stop(running).await.failed, 6);
}

#[tokio::test(start_paused = true)]
async fn a_permanent_error_is_a_dead_letter_at_once() {
    async fn never() -> Result<(), HandlerError> {
        Err(Permanent(io::Error::new(io::ErrorKind::NotFound, "no such account")))?;
        Ok(())
    }
    let shop = Shop::plain().await;
    let running = shop.billing().on("orders", never).start().await.unwrap();
    shop.place("A-1", 1).await;
    shop.settled().await;
    is_letter(&shop.letter().await, &Reason::Rejected, 1, "no such account");
    assert_eq!(stop(running).await.retried, 0);
}

#[tokio::test(start_paused = true)]
async fn outcomes_say_what_becomes_of_a_message() {
    async fn by_number(
        order: Payload<Placed>,
        attempt: Attempt,
        State(log): State<Log>,
    ) -> Outcome {
        log.note(format!("{} at {}", order.id, attempt.number()));
        match (order.number, attempt.number()) {
            (1, 1) => Outcome::Retry,
            (2, 1) => Outcome::RetryAfter(30 * SECOND),
            (3, _) => Outcome::DeadLetter(Cause::new("of no shop")),
            (4, _) => Outcome::Discard,
            _ => Outcome::Ack,
        }
    }
    let (shop, log) = (Shop::plain().await, Log::default());
    let consumer = shop.billing().state(log.clone()).retry(RetryPolicy::fixed(SECOND));
    let running = consumer.on("orders", by_number).start().await.unwrap();
    let start = Instant::now();
    for number in 1..=5 {
        shop.place(&format!("A-{number}"), number).await;
    }
    until(async || log.lines().contains(&"A-1 at 2".to_owned())).await;
    assert!(start.elapsed() >= SECOND && start.elapsed() < 3 * SECOND);
    shop.settled().await;
    assert!(start.elapsed() >= 30 * SECOND && start.elapsed() < 33 * SECOND);
    is_letter(&shop.letter().await, &Reason::Rejected, 1, "of no shop");
    let report = stop(running).await;
    assert_eq!((report.handled, report.discarded, report.retried), (3, 1, 2));
}

#[tokio::test(start_paused = true)]
async fn errors_are_classified_by_the_policy() {
    async fn fail(order: Payload<Placed>) -> io::Result<()> {
        Err(io::Error::from(if order.number == 1 {
            io::ErrorKind::PermissionDenied
        } else {
            io::ErrorKind::AlreadyExists
        }))
    }
    let shop = Shop::plain().await;
    let policy = RetryPolicy::exponential().classify(|error| {
        match error.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::PermissionDenied) => Class::Permanent,
            Some(io::ErrorKind::AlreadyExists) => Class::Discard,
            _ => Class::Retry,
        }
    });
    let running = shop.billing().retry(policy).on("orders", fail).start().await.unwrap();
    shop.place("A-1", 1).await;
    shop.place("A-2", 2).await;
    shop.settled().await;
    assert_eq!(shop.letter().await.envelope.key(), Some(&b"A-1"[..]));
    let report = stop(running).await;
    assert_eq!((report.dead_lettered, report.discarded), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_too_old_is_given_up_before_its_attempts_are_used_up() {
    let (shop, log) = (Shop::plain().await, Log::default());
    let policy = RetryPolicy::fixed(60 * SECOND).max_attempts(100).max_age(150 * SECOND);
    let consumer = shop.billing().state(log.clone()).retry(policy);
    let running = consumer.on("orders", always).start().await.unwrap();
    shop.place("A-1", 1).await;
    shop.settled().await;
    assert_eq!(log.len(), 3, "at 0, 60 and 120 s");
    is_letter(&shop.letter().await, &Reason::AttemptsExhausted, 3, "the card service is down");
    stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn attempts_survive_a_restart_of_the_consumer() {
    let (shop, log) = (Shop::plain().await, Log::default());
    let consumer = || {
        let policy = RetryPolicy::fixed(60 * SECOND).max_attempts(3);
        shop.billing().state(log.clone()).retry(policy).on("orders", always).start()
    };
    let running = consumer().await.unwrap();
    shop.place("A-1", 1).await;
    log.has(1).await;
    stop(running).await;
    let running = consumer().await.unwrap();
    log.has(2).await;
    stop(running).await;
    let running = consumer().await.unwrap();
    shop.settled().await;
    assert_eq!(log.lines(), ["1+0", "2+0", "3+0"]);
    assert_eq!(shop.letter().await.attempts, 3);
    stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn rolling_restarts_never_cost_a_healthy_message_its_life() {
    async fn slow(State(log): State<Log>, order: Payload<Placed>) {
        tokio::time::sleep(10 * SECOND).await;
        log.note(order.0.id);
    }
    let (shop, log) = (Shop::plain().await, Log::default());
    for number in 0..8 {
        shop.place(&format!("A-{number}"), number).await;
    }
    for _ in 0..50 {
        let consumer = shop.billing().state(log.clone()).concurrency(4).drain(Duration::ZERO);
        let running = consumer.on("orders", slow).start().await.unwrap();
        tokio::time::sleep(SECOND).await;
        stop(running).await;
    }
    assert_eq!((log.len(), shop.left().await), (0, 8), "each was cut short");
    let running = shop.billing().state(log.clone()).on("orders", slow).start().await.unwrap();
    shop.settled().await;
    let mut lines = log.lines();
    lines.sort();
    lines.dedup();
    assert_eq!((lines.len(), shop.letters().await.len()), (8, 0));
    stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn dead_letters_are_found_replayed_to_their_group_and_discarded() {
    let (shop, log) = (Shop::plain().await, Log::default());
    let mut inbox = shop.bus.subscribe("orders").group("billing").start().await.unwrap();
    for number in 0..120 {
        shop.place(&format!("A-{number}"), number).await;
        let delivery = inbox.next().await.unwrap().unwrap();
        delivery.nack(Nack::dead_letter(Cause::new("no"))).await.unwrap();
    }
    inbox.stop(SECOND).await.unwrap();
    let letters = DeadLetters::of(&shop.bus, "orders", "billing");
    let scan = letters.scan(110).await.unwrap();
    assert_eq!((scan.letters.len(), scan.exact, scan.more), (110, true, true));
    let last = scan.letters.last().unwrap();
    assert!(letters.find(&last.id, 110).await.unwrap().is_some());
    assert!(letters.find(&last.id, 109).await.unwrap().is_none());
    let even = |letter: &posthaste_core::DeadLetter| {
        letter.envelope.key().is_some_and(|key| key.last().is_some_and(|byte| byte % 2 == 0))
    };
    let replayed = letters.replay_all(1_000, even).await.unwrap();
    assert_eq!(replayed.iter().filter(|(_, outcome)| outcome.is_ok()).count(), 60);
    async fn note(State(log): State<Log>, order: Payload<Placed>) {
        log.note(order.0.id);
    }
    let running = shop.billing().state(log.clone()).on("orders", note).start().await.unwrap();
    shop.settled().await;
    assert_eq!(log.len(), 60);
    let left = letters.scan(1_000).await.unwrap();
    assert_eq!((left.letters.len(), left.more), (60, false));
    let ids: Vec<_> = left.letters.into_iter().map(|stored| stored.id).collect();
    assert!(letters.discard(&ids).await.unwrap().iter().all(Result::is_ok));
    assert!(letters.scan(10).await.unwrap().letters.is_empty());
    stop(running).await;
}
