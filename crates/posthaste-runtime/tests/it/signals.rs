//! Signals of the system: the first one drains, the second one ends at once.
#![cfg(unix)]

use std::time::Duration;

use posthaste_runtime::*;
use rustix::process::{Signal, getpid, kill_process};

use crate::shop::*;

/// One test, because a signal is for the whole process.
#[tokio::test]
async fn the_first_signal_drains_and_the_second_ends_at_once() {
    async fn hang(State(log): State<Log>, order: Payload<Placed>) {
        log.note(order.0.id);
        std::future::pending::<()>().await;
    }
    async fn quick(State(log): State<Log>, order: Payload<Placed>) {
        tokio::time::sleep(100 * MILLISECOND).await;
        log.note(order.0.id);
    }
    let (shop, log) = (Shop::plain().await, Log::default());
    shop.place("A-1", 1).await;
    let consumer = shop.billing().state(log.clone()).on("orders", quick);
    let (running, begun) = (consumer.control(), consumer.control());
    let (report, ()) = tokio::join!(consumer.run(), async {
        running.reached(Phase::Running).await;
        until(async || shop.in_flight().await == 1).await;
        kill_process(getpid(), Signal::TERM).unwrap();
    });
    let report = report.unwrap();
    assert_eq!((report.handled, begun.phase(), log.len()), (1, Phase::Stopped, 1));

    shop.place("A-2", 2).await;
    let long = Duration::from_secs(3_600);
    let consumer = shop.billing().state(log.clone()).drain(long).on("orders", hang);
    let control = consumer.control();
    let (report, ()) = tokio::join!(consumer.run(), async {
        log.has(2).await;
        kill_process(getpid(), Signal::INT).unwrap();
        control.reached(Phase::Stopping).await;
        kill_process(getpid(), Signal::INT).unwrap();
    });
    let report = report.unwrap();
    assert_eq!((report.handled, shop.left().await), (0, 1), "it was given back");
}
