//! Handlers of several messages at once.

use posthaste_core::{Cause, Reason};
use posthaste_runtime::*;

use crate::shop::*;

#[tokio::test(start_paused = true)]
async fn a_batch_is_what_is_there_up_to_its_size() {
    async fn many(orders: Vec<Payload<Placed>>, State(log): State<Log>) {
        let numbers: Vec<_> = orders.iter().map(|order| order.number.to_string()).collect();
        log.note(numbers.join(" "));
    }
    let (shop, log) = (Shop::plain().await, Log::default());
    for number in 0..10 {
        shop.place("A", number).await;
    }
    let consumer = shop.billing().state(log.clone()).concurrency(1);
    let running = consumer.on_batch("orders", 4, many).start().await.unwrap();
    shop.settled().await;
    assert_eq!(log.lines(), ["0 1 2 3", "4 5 6 7", "8 9"]);
    assert_eq!(stop(running).await.handled, 10);
}

#[tokio::test(start_paused = true)]
async fn each_message_of_a_batch_has_its_own_outcome() {
    async fn each(orders: Vec<(Payload<Placed>, Attempt)>, State(log): State<Log>) -> Vec<Outcome> {
        let one = |(order, attempt): &(Payload<Placed>, Attempt)| {
            log.note(format!("{} at {}", order.number, attempt.number()));
            match order.number {
                1 => Outcome::Retry,
                2 => Outcome::DeadLetter(Cause::new("two")),
                _ => Outcome::Ack,
            }
        };
        orders.iter().map(one).collect()
    }
    let (shop, log) = (Shop::plain().await, Log::default());
    for number in 0..4 {
        shop.place("A", number).await;
    }
    let policy = RetryPolicy::fixed(SECOND).max_attempts(2);
    let consumer = shop.billing().state(log.clone()).retry(policy);
    let running = consumer.on_batch("orders", 10, each).start().await.unwrap();
    shop.settled().await;
    assert_eq!(log.lines(), ["0 at 1", "1 at 1", "2 at 1", "3 at 1", "1 at 2"]);
    let letters = shop.letters().await;
    is_letter(&letters[0], &Reason::Rejected, 1, "two");
    is_letter(&letters[1], &Reason::AttemptsExhausted, 2, "try again");
    assert_eq!(stop(running).await.handled, 2);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_decoded_does_not_cost_the_batch() {
    async fn many(
        orders: Vec<Payload<Placed>>,
        State(log): State<Log>,
    ) -> Result<(), HandlerError> {
        log.note(orders.len().to_string());
        Ok(())
    }
    let (shop, log) = (Shop::plain().await, Log::default());
    shop.raw("order.placed", "no JSON").await;
    shop.place("A", 1).await;
    shop.raw("order.placed", "[]").await;
    shop.place("A", 2).await;
    let consumer = shop.billing().state(log.clone());
    let running = consumer.on_batch("orders", 10, many).start().await.unwrap();
    shop.settled().await;
    assert_eq!(log.lines(), ["2"]);
    let letters = shop.letters().await;
    assert_eq!(letters.len(), 2);
    assert!(letters.iter().all(|letter| letter.reason == Reason::Undecodable));
    stop(running).await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_or_a_wrong_count_is_one_of_all() {
    async fn short(orders: Vec<Payload<Placed>>) -> Vec<Outcome> {
        orders.iter().skip(1).map(|_| Outcome::Ack).collect()
    }
    let shop = Shop::plain().await;
    for number in 0..3 {
        shop.place("A", number).await;
    }
    let consumer = shop.billing().retry(RetryPolicy::none());
    let running = consumer.on_batch("orders", 3, short).start().await.unwrap();
    shop.settled().await;
    let letters = shop.letters().await;
    assert_eq!(letters.len(), 3);
    is_letter(&letters[0], &Reason::AttemptsExhausted, 1, "2 outcomes for 3");
    assert_eq!(stop(running).await.failed, 3);
}

#[tokio::test(start_paused = true)]
async fn batches_and_single_messages_share_a_consumer() {
    async fn many(orders: Vec<Payload<Placed>>, State(log): State<Log>) {
        log.note(format!("{} orders", orders.len()));
    }
    async fn one(order: Payload<Cancelled>, State(log): State<Log>) {
        log.note(format!("cancelled {}", order.id));
    }
    let (shop, log) = (Shop::plain().await, Log::default());
    shop.place("A", 1).await;
    shop.place("A", 2).await;
    shop.orders.publish(&Cancelled { id: "A".to_owned() }).await.unwrap();
    shop.place("A", 3).await;
    let consumer = shop.billing().state(log.clone()).concurrency(1);
    let running = consumer.on_batch("orders", 9, many).on("orders", one).start().await.unwrap();
    shop.settled().await;
    assert_eq!(log.lines(), ["2 orders", "cancelled A", "1 orders"]);
    assert_eq!(stop(running).await.handled, 4);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_panics_has_failed_and_comes_again() {
    async fn bad(orders: Vec<(Payload<Placed>, Attempt)>) {
        assert!(orders.iter().all(|(_, attempt)| attempt.number() > 1), "the first time");
    }
    let shop = Shop::plain().await;
    shop.place("A", 1).await;
    shop.place("A", 2).await;
    let consumer = shop.billing().retry(RetryPolicy::fixed(SECOND));
    let running = consumer.on_batch("orders", 9, bad).start().await.unwrap();
    shop.settled().await;
    let report = stop(running).await;
    assert_eq!((report.handled, report.failed, report.panicked), (2, 2, 1));
}
