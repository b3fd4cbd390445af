//! The end of a subscription: stopped, closed, dropped, whatever the adapter does meanwhile.

use std::time::Duration;

use futures_util::future::FutureExt;
use posthaste_core::*;
use tokio::time::{Instant, timeout};

use crate::feed::{Feed, Said, Step};
use crate::subscription::next;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_delivery_that_fails_while_stopping_is_given_back_at_once() {
    for nack in [Nack::requeue(), Nack::after(100 * SECOND)] {
        let feed = Feed::new(Layout::Ordered(1));
        let mut inbox = feed.ordered().await;
        feed.send(["a1", "a2", "b1"]);
        let (a, b) = (next(&mut inbox).await, next(&mut inbox).await);
        let stopping = tokio::spawn(inbox.stop(30 * SECOND));
        tokio::time::sleep(SECOND).await;
        assert_eq!(feed.said(), [], "`a2` is not given away while `a1` is being handled");
        let started = Instant::now();
        a.nack(nack).await.unwrap();
        drop(b);
        stopping.await.unwrap().unwrap();
        assert!(started.elapsed() < SECOND, "{:?}", started.elapsed());
        let said: Vec<_> = feed.said().into_iter().filter(|(id, _)| id != "b1").collect();
        assert_eq!(said, [("a1".to_owned(), Said::Release), ("a2".to_owned(), Said::Release)]);
        assert_eq!(feed.said_of("b1"), [Said::Release]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_back_at_the_deadline_goes_in_order() {
    let feed = Feed::new(Layout::Ordered(1));
    let mut inbox = feed.ordered().await;
    feed.send(["a1", "a2", "b1", "a3", "b2"]);
    let held = [next(&mut inbox).await, next(&mut inbox).await];
    let error = inbox.stop(2 * SECOND).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let said = feed.said();
    assert!(said.iter().all(|(_, said)| *said == Said::Release));
    for key in ["a", "b"] {
        let of_key: Vec<_> = said.iter().filter(|(id, _)| id.starts_with(key)).collect();
        assert!(of_key.is_sorted_by_key(|(id, _)| id) && of_key.len() >= 2, "{said:?}");
    }
    for delivery in held {
        assert!(delivery.is_lost());
        delivery.lost().now_or_never().expect("it is told");
        assert_eq!(delivery.extend().await.unwrap_err().kind(), ErrorKind::LeaseLost);
    }
}

#[tokio::test(start_paused = true)]
async fn every_verdict_after_the_drain_is_refused() {
    let feed = Feed::new(Layout::Plain);
    let mut inbox = feed.inbox().await;
    feed.send(["a", "b", "c", "d", "e"]);
    let mut held = inbox.next_batch(5).await.unwrap().unwrap();
    inbox.stop(SECOND).await.unwrap_err();
    let said = feed.said().len();
    let refused = [
        held.pop().unwrap().ack().await,
        held.pop().unwrap().ack_confirmed().await,
        held.pop().unwrap().nack(Nack::requeue()).await,
        held.pop().unwrap().release().await,
    ];
    for outcome in refused {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::LeaseLost);
    }
    drop(held);
    assert_eq!(feed.said().len(), said);
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_after_the_deadline_still_reaches_the_broker_before_the_end() {
    let feed = Feed::new(Layout::Plain);
    feed.linger();
    let mut inbox = feed.inbox().await;
    feed.send(["x"]);
    let held = next(&mut inbox).await;
    let stopping = tokio::spawn(inbox.stop(2 * SECOND));
    tokio::time::sleep(2 * SECOND + SECOND / 2).await;
    assert!(held.is_lost());
    held.ack().await.unwrap();
    stopping.await.unwrap().unwrap_err();
    assert_eq!(feed.said_of("x"), [Said::Release, Said::Ack], "it was handled");
}

/// A request that is still open at the broker would get again what is given back.
#[tokio::test(start_paused = true)]
async fn nothing_is_given_back_while_it_could_come_back_to_us() {
    let feed = Feed::new(Layout::Plain);
    feed.linger();
    let mut inbox = feed.inbox().await;
    feed.send(["a", "b", "c", "d"]);
    let mut held = inbox.next_batch(3).await.unwrap().unwrap();
    let stopping = tokio::spawn(inbox.stop(SECOND));
    tokio::task::yield_now().await;
    held.pop().unwrap().ack().await.unwrap();
    held.pop().unwrap().release().await.unwrap();
    tokio::time::sleep(SECOND / 2).await;
    assert_eq!(feed.said(), [("c".to_owned(), Said::Ack)], "an acknowledgement does not wait");
    feed.send(["e"]);
    tokio::time::sleep(SECOND).await;
    assert!(held[0].is_lost(), "taken back at the deadline");
    assert_eq!(feed.said().len(), 1);
    feed.quiet();
    let said = feed.until_said(5).await;
    for id in ["a", "b", "d", "e"] {
        assert_eq!(feed.said_of(id), [Said::Release], "{said:?}");
    }
    assert!(!stopping.is_finished(), "the driver has not ended");
    stopping.await.unwrap().unwrap_err();
    assert_eq!(feed.said().len(), 5);
}

/// A driver that never comes to rest delays what is given back, but keeps nothing.
#[tokio::test(start_paused = true)]
async fn a_driver_that_goes_on_fetching_is_dropped_before_anything_is_given_back() {
    let feed = Feed::new(Layout::Plain);
    feed.linger();
    let mut inbox = feed.inbox().await;
    feed.send(["a", "b"]);
    let held = next(&mut inbox).await;
    feed.settles.lock().unwrap().push_back(Step::Take(SECOND / 3));
    let (started, mut events) = (Instant::now(), inbox.events());
    inbox.stop(SECOND).await.unwrap_err();
    assert!(started.elapsed() < 2 * SECOND, "within the deadline and the last call");
    while let Some(event) = events.next().await {
        assert!(!matches!(event, SubscriptionEvent::SettleFailed { .. }), "{event:?}");
    }
    drop(held);
    for id in ["a", "b"] {
        assert_eq!(feed.said_of(id), [Said::Release]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_confirmed_acknowledgement_is_waited_for() {
    let feed = Feed::new(Layout::Plain);
    let mut inbox = feed.inbox().await;
    feed.send(["a"]);
    let delivery = next(&mut inbox).await;
    feed.settles.lock().unwrap().push_back(Step::Take(5 * SECOND));
    let confirming = tokio::spawn(delivery.ack_confirmed());
    tokio::task::yield_now().await;
    let started = Instant::now();
    inbox.stop(20 * SECOND).await.unwrap();
    assert!(started.elapsed() >= 5 * SECOND, "stopped before the broker had answered");
    confirming.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_soon_after_its_deadline_whatever_hangs() {
    // What hangs: settling, prolonging, the driver's end, each call of all.
    for hangs in 0..4 {
        let feed = Feed::with_lease(Layout::Plain, 3 * SECOND);
        let mut inbox = feed.inbox().await;
        feed.send(["a", "b", "c"]);
        let held = next(&mut inbox).await;
        let steps = || vec![Step::Hang; 100];
        if matches!(hangs, 0 | 3) {
            feed.settles.lock().unwrap().extend(steps());
        }
        if matches!(hangs, 1 | 3) {
            feed.extends.lock().unwrap().extend(steps());
        }
        if matches!(hangs, 2 | 3) {
            feed.linger();
        }
        next(&mut inbox).await.ack().await.unwrap();
        tokio::time::sleep(SECOND).await;
        let started = Instant::now();
        let error = inbox.stop(5 * SECOND).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        let took = started.elapsed();
        assert!(took >= 5 * SECOND && took < 7 * SECOND, "{hangs}: {took:?}");
        drop(held);
    }
}

#[tokio::test(start_paused = true)]
async fn closing_the_bus_ends_soon_after_its_deadline_whatever_hangs() {
    let feed = Feed::with_lease(Layout::Plain, 3000 * SECOND);
    *feed.close_hangs.lock().unwrap() = true;
    feed.linger();
    let bus = feed.bus();
    let mut inbox = bus.subscribe("orders").group("billing").start().await.unwrap();
    feed.send(["a", "b", "c"]);
    feed.settles.lock().unwrap().extend(vec![Step::Hang; 100]);
    feed.extends.lock().unwrap().extend(vec![Step::Hang; 100]);
    next(&mut inbox).await.ack().await.unwrap();
    let _held = next(&mut inbox).await;
    // Time for a lease to be prolonged, which hangs.
    tokio::time::sleep(2000 * SECOND).await;
    assert!(!feed.extended.lock().unwrap().is_empty());
    let waiting = tokio::spawn(async move { while inbox.next().await.is_some() {} });
    let started = Instant::now();
    assert_eq!(bus.close(2 * SECOND).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert!(started.elapsed() < 6 * SECOND, "{:?}", started.elapsed());
    timeout(SECOND, waiting).await.expect("`next` goes on").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_panics_ends_the_drain_and_nothing_else() {
    let feed = Feed::new(Layout::Plain);
    let mut inbox = feed.inbox().await;
    feed.send(["a"]);
    let held = next(&mut inbox).await;
    feed.panic();
    let stopping = tokio::spawn(inbox.stop(20 * SECOND));
    tokio::time::sleep(SECOND).await;
    held.ack().await.unwrap();
    timeout(SECOND, stopping).await.expect("stuck").unwrap().unwrap();
    assert_eq!(feed.said(), [("a".to_owned(), Said::Ack)]);
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_panics_ends_the_stream_with_an_error() {
    let feed = Feed::new(Layout::Plain);
    let mut inbox = feed.inbox().await;
    feed.panic();
    let error = inbox.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fatal);
    assert!(inbox.next().await.is_none());
    inbox.stop(SECOND).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_driver_is_the_last_item_and_what_was_handed_out_can_be_settled() {
    let feed = Feed::new(Layout::Plain);
    let mut inbox = feed.inbox().await;
    feed.send(["a", "b"]);
    let held = next(&mut inbox).await;
    assert_eq!(next(&mut inbox).await.id(), "b");
    feed.fail(Error::new(ErrorKind::NotFound, "the group was deleted"));
    assert_eq!(inbox.next().await.unwrap().unwrap_err().kind(), ErrorKind::NotFound);
    assert!(inbox.next().await.is_none());
    assert!(inbox.next_batch(3).await.is_none());
    held.ack().await.unwrap();
    inbox.stop(SECOND).await.unwrap();
    assert_eq!(feed.said_of("a"), [Said::Ack]);
}

#[tokio::test(start_paused = true)]
async fn the_events_end_with_the_subscription_whoever_still_holds_a_handle() {
    let feed = Feed::new(Layout::Plain);
    let mut inbox = feed.inbox().await;
    let mut events = inbox.events();
    feed.send(["a"]);
    let held = next(&mut inbox).await;
    let stopper = inbox.stopper();
    stopper.stop();
    assert!(inbox.next().await.is_none());
    drop(held);
    assert_eq!(stopper.stopped().await, 0);
    let ended = timeout(SECOND, async { while events.next().await.is_some() {} });
    ended.await.expect("waits for a subscription that has ended");
    stopper.stop();
    assert_eq!(stopper.stopped().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_is_dropped_while_it_is_polled_gives_everything_back() {
    let feed = Feed::new(Layout::Plain);
    let mut inbox = feed.bus().subscribe("orders").group("billing").start().await.unwrap();
    let stopper = inbox.stopper();
    assert!(inbox.next().now_or_never().is_none());
    feed.send(["a", "b"]);
    drop(inbox);
    assert_eq!(timeout(SECOND, stopper.stopped()).await.expect("stuck"), 0);
    let said = feed.said();
    assert_eq!(said, [("a".to_owned(), Said::Release), ("b".to_owned(), Said::Release)]);
}

#[test]
fn nothing_panics_when_the_runtime_is_gone() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let feed = Feed::new(Layout::Ordered(1));
    let (bus, inbox, held) = runtime.block_on(async {
        let bus = feed.bus();
        let ordered = bus.subscribe("orders").group("billing").order(Order::PerKey);
        let mut inbox = ordered.start().await.unwrap();
        feed.send(["a1", "b1", "c1", "d1", "x", "y"]);
        let held = inbox.next_batch(100).await.unwrap().unwrap();
        (bus, inbox, held)
    });
    drop(runtime);
    assert_eq!(held.len(), 6);
    for (at, delivery) in held.into_iter().enumerate() {
        match at {
            0 => delivery.ack().now_or_never().expect("waits").unwrap(),
            1 => delivery.nack(Nack::after(SECOND)).now_or_never().expect("waits").unwrap(),
            2 => delivery.release().now_or_never().expect("waits").unwrap(),
            _ => drop(delivery),
        }
    }
    drop(inbox);
    drop(bus);
}

/// Races `next` against `stop` on two threads, many times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_that_meets_a_poll_is_not_missed() {
    for round in 0..300 {
        let feed = Feed::new(Layout::Plain);
        let mut inbox = feed.inbox().await;
        let stopper = inbox.stopper();
        let sender = std::sync::Arc::clone(&feed);
        let racing = tokio::spawn(async move {
            sender.send(["a", "b"]);
            stopper.stop();
            stopper
        });
        let reader = tokio::spawn(async move {
            while let Some(delivery) = inbox.next().await {
                delivery.unwrap().ack().await.unwrap();
            }
            inbox
        });
        let stopper = racing.await.unwrap();
        let stopped = timeout(5 * SECOND, stopper.stopped()).await;
        assert_eq!(stopped.unwrap_or_else(|_| panic!("stuck in round {round}")), 0);
        reader.await.unwrap();
        assert_eq!(feed.said().len(), 2, "something was not given back: {:?}", feed.said());
    }
}
