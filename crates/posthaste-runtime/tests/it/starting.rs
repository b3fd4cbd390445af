//! What a consumer refuses, before the first message, and by name.

use std::time::Duration;

use posthaste_core::{Error, ErrorKind, Order, Result};
use posthaste_runtime::*;

use crate::shop::*;

async fn nothing() {}
async fn one(_: Payload<Placed>) {}
async fn two(_: Payload<Placed>) {}
async fn many(_: Vec<Payload<Placed>>) {}

fn said<'a>(error: &'a Error, name: &str) -> Option<&'a str> {
    error.context().find_map(|(found, value)| (found == name).then_some(value))
}

#[tokio::test]
async fn a_wrong_setting_is_refused_by_name() {
    let shop = Shop::plain().await;
    let on = || shop.billing().on("orders", one);
    let policy = RetryPolicy::exponential;
    let wrong = [
        (on().concurrency(0), "concurrency"),
        (on().concurrency(100_000), "concurrency"),
        (on().concurrency(8).prefetch(7), "prefetch"),
        (on().time_limit(Duration::ZERO), "time_limit"),
        (on().time_limit(2 * SECOND).max_handling(SECOND), "time_limit"),
        (on().retry(policy().max_attempts(0)), "max_attempts"),
        (on().retry(policy().factor(0.5)), "factor"),
        (on().retry(policy().factor(f64::NAN)), "factor"),
        (on().retry(policy().max_delay(MILLISECOND)), "max_delay"),
        (on().retry(policy().max_age(Duration::ZERO)), "max_age"),
        (on().lease(Duration::ZERO), "lease"),
        (on().queue(), "queue"),
        (on().strict().at_most_once(), "strict"),
        (Consumer::new(&shop.bus).strict().on("orders", one), "strict"),
    ];
    for (consumer, setting) in wrong {
        let control = consumer.control();
        let error = consumer.start().await.unwrap_err();
        assert_eq!((error.kind(), said(&error, "setting")), (ErrorKind::Invalid, Some(setting)));
        assert_eq!(control.phase(), Phase::Stopped);
    }
}

#[tokio::test]
async fn handlers_that_cannot_be_told_apart_are_refused_and_so_are_none() {
    let shop = Shop::plain().await;
    let refused = async |consumer: Consumer| -> Error {
        let error = consumer.start().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        error
    };
    refused(shop.billing()).await;
    let error = refused(shop.billing().on("orders", one).on("orders", two)).await;
    assert_eq!(said(&error, "event"), Some("order.placed version 1"));
    assert!(said(&error, "first").unwrap().ends_with("one"));
    assert!(said(&error, "second").unwrap().ends_with("two"));
    refused(shop.billing().on("orders", nothing).on("orders", nothing)).await;
    refused(shop.billing().on("orders", one).on_batch("orders", 4, many)).await;
    refused(shop.billing().on("no topic", one)).await;
    refused(shop.billing().on_batch("orders", 0, many)).await;
    let error = refused(shop.billing().prefetch(16).on_batch("orders", 17, many)).await;
    assert_eq!(said(&error, "batch"), Some("17"));
    let error = refused(Consumer::new(&shop.bus).group("no group!").on("orders", one)).await;
    assert!(said(&error, "name").unwrap().contains("no group!"));
}

#[tokio::test]
async fn order_on_a_topic_without_is_refused() {
    let shop = Shop::plain().await;
    for order in [Order::PerKey, Order::Partition] {
        let consumer = shop.billing().order(order).on("orders", one);
        let error = consumer.start().await.unwrap_err();
        assert_eq!((error.kind(), error.topic()), (ErrorKind::Unsupported, Some("orders")));
    }
}

#[tokio::test]
async fn one_that_stands_on_both_ends_starts() -> Result<()> {
    let shop = Shop::plain().await;
    let consumer = shop.billing().strict().concurrency(1).prefetch(1).on("orders", nothing);
    assert_eq!(consumer.start().await?.stop().await?.handled, 0);
    shop.bus.close(SECOND).await
}
