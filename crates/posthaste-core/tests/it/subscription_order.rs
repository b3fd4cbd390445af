//! Order per key: whatever becomes of a delivery, no later one of its key is yielded before it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::FutureExt;
use posthaste_core::broker::{DriverEvent, Lane};
use posthaste_core::*;
use tokio::time::{Instant, timeout};

use crate::feed::{Feed, Said, Step};
use crate::subscription::{next, nothing_for};

const SECOND: Duration = Duration::from_secs(1);

fn feed() -> Arc<Feed> {
    Feed::new(Layout::Ordered(1))
}

async fn ids<const N: usize>(inbox: &mut Subscription) -> [String; N] {
    let mut ids = [const { String::new() }; N];
    for id in &mut ids {
        let delivery = next(inbox).await;
        delivery.id().clone_into(id);
        delivery.ack().await.unwrap();
    }
    ids
}

#[tokio::test(start_paused = true)]
async fn a_released_delivery_comes_again_before_those_of_its_key() {
    let feed = feed();
    let mut inbox = feed.ordered().await;
    feed.send(["a1", "a2", "b1"]);
    next(&mut inbox).await.release().await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let delivery = next(&mut inbox).await;
        seen.push(delivery.id().to_owned());
        let deliveries = if delivery.id() == "a1" { 2 } else { 1 };
        assert_eq!(delivery.attempt(), deliveries, "each is counted, whyever it comes");
        delivery.ack().await.unwrap();
    }
    let of_a: Vec<_> = seen.iter().filter(|id| id.starts_with('a')).collect();
    assert_eq!(of_a, ["a1", "a2"], "{seen:?}");
    assert_eq!(inbox.stats().released, 1);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_delivery_keeps_its_order_and_is_never_given_up() {
    for failure in [KeyFailure::DeadLetterKey, KeyFailure::StopLane] {
        let feed = feed();
        let bus = feed.bus();
        let ordered = bus.subscribe("orders").group("billing").order(Order::PerKey);
        let ordered = ordered.key_failure(failure).key_wait(SECOND).max_attempts(2);
        let mut inbox = ordered.start().await.unwrap();
        feed.send(["a1", "a2"]);
        let started = Instant::now();
        for attempt in 1..12 {
            let delivery = next(&mut inbox).await;
            assert_eq!((delivery.id(), delivery.attempt()), ("a1", attempt), "{failure:?}");
        }
        assert!(started.elapsed() > 60 * SECOND, "it comes later each time");
        assert_eq!(ids(&mut inbox).await, ["a1", "a2"]);
        let said = feed.until_said(2).await;
        assert_eq!(said, [("a1".to_owned(), Said::Ack), ("a2".to_owned(), Said::Ack)]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_key_in_another_topic_is_another_key() {
    let feed = feed();
    let bus = feed.bus();
    let both = bus.subscribe(["orders", "refunds"]).group("billing").order(Order::PerKey);
    let mut inbox = both.max_attempts(1).start().await.unwrap();
    feed.send_as("orders", ["a1", "a2"], |_| {});
    feed.send_as("refunds", ["a3"], |_| {});
    let failing = next(&mut inbox).await;
    assert_eq!(failing.id(), "a1");
    let other = next(&mut inbox).await;
    assert_eq!((other.id(), other.topic().as_str()), ("a3", "refunds"), "it waits for nobody");
    feed.send_as("refunds", ["a4"], |_| {});
    failing.nack(Nack::requeue()).await.unwrap();
    nothing_for(&mut inbox, SECOND).await;
    other.ack().await.unwrap();
    assert_eq!(ids(&mut inbox).await, ["a4"], "it follows no dead letter of another topic");
    assert_eq!(feed.said_of("a2"), [Said::DeadLetter(Reason::FollowsKey)]);
}

/// `a1` is handed out, `a2` and `a3` wait behind it, and these leases end. Returns `a1`.
async fn lose(feed: &Feed, inbox: &mut Subscription, lost: &[usize]) -> (Delivery, Arc<Lane>) {
    let lane = feed.send(["a1", "a2", "a3", "b1"]);
    let first = next(inbox).await;
    let other = next(inbox).await;
    assert_eq!((first.id(), other.id()), ("a1", "b1"));
    feed.extends.lock().unwrap().push_back(Step::Lost(lost.to_vec()));
    nothing_for(inbox, 3 * SECOND).await;
    assert!(!other.is_lost());
    other.ack().await.unwrap();
    (first, lane)
}

#[tokio::test(start_paused = true)]
async fn whatever_lease_ends_no_later_message_is_yielded_before_it_came_again() {
    // Which leases end, and in which order the broker delivers, whatever it has.
    let cases: [(&[usize], &[&str]); 7] = [
        (&[0], &["a1"]),
        (&[0], &["a4", "a1"]),
        (&[0, 1, 2], &["a1", "a2", "a3"]),
        (&[0, 1, 2], &["a4", "a3", "a2", "a1"]),
        (&[1], &["a4", "a2"]),
        (&[1, 2], &["a3", "a2", "a4"]),
        (&[2], &["a4", "a3"]),
    ];
    for (lost, again) in cases {
        let feed = Feed::with_lease(Layout::Ordered(1), 6 * SECOND);
        let mut inbox = feed.ordered().await;
        let (first, lane) = lose(&feed, &mut inbox, lost).await;
        let mut seen = Vec::new();
        if lost.contains(&0) {
            assert!(first.is_lost());
            assert_eq!(first.nack(Nack::requeue()).await.unwrap_err().kind(), ErrorKind::LeaseLost);
        } else {
            assert!(!first.is_lost());
            seen.push("a1".to_owned());
            first.ack().await.unwrap();
        }
        for id in again {
            feed.send_in(&lane, [*id], |_| {});
            while let Ok(delivery) = timeout(SECOND / 100, inbox.next()).await {
                let delivery = delivery.unwrap().unwrap();
                seen.push(delivery.id().to_owned());
                delivery.ack().await.unwrap();
            }
        }
        let wanted: Vec<_> = ["a1", "a2", "a3", "a4"]
            .iter()
            .filter(|id| **id != "a4" || again.contains(id))
            .collect();
        assert_eq!(seen.iter().collect::<Vec<_>>(), wanted, "lost {lost:?}, then {again:?}");
        nothing_for(&mut inbox, SECOND).await;
        assert_eq!(feed.credits().last().unwrap().messages, 256, "a slot is stuck");
    }
}

#[tokio::test(start_paused = true)]
async fn leases_that_end_one_after_the_other_leave_one_order() {
    let feed = Feed::with_lease(Layout::Ordered(1), 6 * SECOND);
    let mut inbox = feed.ordered().await;
    let (first, lane) = lose(&feed, &mut inbox, &[2]).await;
    feed.send_in(&lane, ["a4"], |_| {});
    feed.extends.lock().unwrap().push_back(Step::Lost(vec![0]));
    nothing_for(&mut inbox, 3 * SECOND).await;
    assert!(first.is_lost());
    drop(first);
    feed.send_in(&lane, ["a3", "a1"], |_| {});
    assert_eq!(ids(&mut inbox).await, ["a1", "a2", "a3", "a4"]);
}

#[tokio::test(start_paused = true)]
async fn a_failing_key_waits_up_to_its_bound_in_all() {
    let feed = feed();
    let bus = feed.bus();
    let ordered = bus.subscribe("orders").group("billing").order(Order::PerKey);
    let mut inbox = ordered.key_wait(5 * SECOND).max_attempts(100).start().await.unwrap();
    feed.send(["a1", "a2"]);
    for _ in 0..3 {
        assert_eq!(feed.said(), []);
        let delivery = next(&mut inbox).await;
        assert_eq!(delivery.id(), "a1");
        delivery.nack(Nack::after(2 * SECOND)).await.unwrap();
    }
    let said = feed.until_said(2).await;
    assert_eq!(said[0], ("a1".to_owned(), Said::DeadLetter(Reason::AttemptsExhausted)));
    assert_eq!(said[1], ("a2".to_owned(), Said::DeadLetter(Reason::FollowsKey)));
}

#[tokio::test(start_paused = true)]
async fn a_late_acknowledgement_lets_the_next_of_its_key_pass() {
    for confirmed in [false, true] {
        let feed = Feed::with_lease(Layout::Ordered(1), 6 * SECOND);
        let mut inbox = feed.ordered().await;
        let (first, _) = lose(&feed, &mut inbox, &[0]).await;
        assert!(first.is_lost());
        match confirmed {
            false => first.ack().await.unwrap(),
            true => first.ack_confirmed().await.unwrap(),
        }
        assert_eq!(ids(&mut inbox).await, ["a2", "a3"], "it was handled");
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_come_again_holds_its_key_up_for_a_while_only() {
    let feed = Feed::with_lease(Layout::Ordered(1), 6 * SECOND);
    let mut inbox = feed.ordered().await;
    let (first, lane) = lose(&feed, &mut inbox, &[0]).await;
    drop(first);
    feed.send_in(&lane, ["a4"], |_| {});
    nothing_for(&mut inbox, 10 * SECOND).await;
    // It was deleted, perhaps. The broker gets the others back, because it may still come.
    let given_back = ["a2", "a3", "a4"].map(|id| (id.to_owned(), Said::Release));
    assert_eq!(feed.until_said(4).await[1..], given_back);
    feed.send_in(&lane, ["a2", "a3", "a4"], |_| {});
    assert_eq!(ids(&mut inbox).await, ["a2", "a3", "a4"]);
}

#[tokio::test(start_paused = true)]
async fn another_life_of_the_lane_begins_without_gaps() {
    let feed = Feed::with_lease(Layout::Ordered(1), 6 * SECOND);
    let mut inbox = feed.ordered().await;
    let (first, lane) = lose(&feed, &mut inbox, &[0]).await;
    drop(first);
    lane.lose();
    feed.send(["a2", "a3"]);
    assert_eq!(ids(&mut inbox).await, ["a2", "a3"], "as the broker gives them");
    nothing_for(&mut inbox, 6 * SECOND).await;
    assert_eq!(feed.credits().last().unwrap().messages, 256, "a slot is stuck");
}

#[tokio::test(start_paused = true)]
async fn no_later_message_is_yielded_before_the_dead_letter_is_stored() {
    for (step, yielded) in [(Step::Take(2 * SECOND), true), (Step::Fail(ErrorKind::Timeout), false)]
    {
        let feed = feed();
        let mut inbox = feed.ordered().await;
        let lane = feed.send(["a1"]);
        feed.settles.lock().unwrap().push_back(step);
        next(&mut inbox).await.nack(Nack::dead_letter(Cause::new("no"))).await.unwrap();
        feed.send_in(&lane, ["a2"], |_| {});
        nothing_for(&mut inbox, SECOND).await;
        if yielded {
            assert_eq!(ids(&mut inbox).await, ["a2"]);
        } else {
            // `a1` comes again, and `a2` behind it.
            nothing_for(&mut inbox, 10 * SECOND).await;
            feed.send_in(&lane, ["a3", "a1"], |_| {});
            assert_eq!(ids(&mut inbox).await, ["a1", "a2", "a3"]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_goes_gives_back_what_is_not_handled_and_in_order() {
    let feed = feed();
    let mut inbox = feed.ordered().await;
    let going = feed.send(["a1", "a2", "b1", "b2", "c1", "n"]);
    let staying = feed.send(["d1"]);
    let (a, b) = (next(&mut inbox).await, next(&mut inbox).await);
    a.nack(Nack::after(100 * SECOND)).await.unwrap();
    going.drain(Instant::now() + 20 * SECOND);
    feed.event(DriverEvent::LaneRevoked(going));
    assert_eq!(next(&mut inbox).await.id(), "d1", "from the lane that stays");
    let said = feed.until_said(4).await;
    let mut released: Vec<_> = said.iter().map(|(id, _)| id.as_str()).collect();
    let at = |id| released.iter().position(|released| *released == id);
    assert!(at("a1") < at("a2"), "{released:?}");
    released.sort_unstable();
    assert_eq!(released, ["a1", "a2", "c1", "n"], "of those whose key nobody handles");
    assert!(said.iter().all(|(_, said)| *said == Said::Release));
    assert!(!b.is_lost());
    b.nack(Nack::after(100 * SECOND)).await.unwrap();
    let said = feed.until_said(6).await;
    assert_eq!(said[4..], [("b1".to_owned(), Said::Release), ("b2".to_owned(), Said::Release)]);
    drop(staying);
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_is_lost_is_forgotten() {
    let feed = feed();
    let mut inbox = feed.ordered().await;
    let lane = feed.send(["a1", "a2", "b1", "n"]);
    let (a, b) = (next(&mut inbox).await, next(&mut inbox).await);
    a.nack(Nack::after(100 * SECOND)).await.unwrap();
    let lost = b.lost();
    lane.lose();
    lost.now_or_never().expect("it is told");
    feed.event(DriverEvent::LaneRevoked(lane));
    nothing_for(&mut inbox, SECOND).await;
    assert_eq!(b.nack(Nack::requeue()).await.unwrap_err().kind(), ErrorKind::LeaseLost);
    nothing_for(&mut inbox, SECOND).await;
    assert_eq!(feed.said(), [], "it is somebody else's");
    // Only what rests is still here: should it come to us again, it has to wait for its time.
    assert_eq!(feed.credits().last().unwrap().messages, 255);
    feed.send(["a1", "a2"]);
    nothing_for(&mut inbox, 90 * SECOND).await;
    assert_eq!(ids(&mut inbox).await, ["a1", "a2"]);
    nothing_for(&mut inbox, SECOND).await;
    let credit = *feed.credits().last().unwrap();
    assert_eq!((credit.messages, credit.bytes), (256, 16 << 20));
}

#[tokio::test(start_paused = true)]
async fn stop_lane_does_not_put_off_a_stop_that_was_asked_for() {
    let feed = feed();
    let bus = feed.bus();
    let ordered = bus.subscribe("orders").group("billing").order(Order::PerKey).max_attempts(1);
    let mut inbox = ordered.key_failure(KeyFailure::StopLane).start().await.unwrap();
    feed.send(["a1", "b1"]);
    let (failing, _held) = (next(&mut inbox).await, next(&mut inbox).await);
    let closing = tokio::spawn(async move { bus.close(2 * SECOND).await });
    tokio::task::yield_now().await;
    failing.nack(Nack::requeue()).await.unwrap();
    let started = Instant::now();
    closing.await.unwrap().unwrap_err();
    assert!(started.elapsed() < 4 * SECOND, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn messages_without_a_key_wait_for_nobody() {
    let feed = feed();
    let mut inbox = feed.ordered().await;
    feed.send(["x", "y", "a1", "z"]);
    let first = next(&mut inbox).await;
    first.nack(Nack::after(9 * SECOND)).await.unwrap();
    assert_eq!(feed.until_said(1).await, [("x".to_owned(), Said::After(9 * SECOND))]);
    assert_eq!(ids(&mut inbox).await, ["y", "a1", "z"]);
}

#[tokio::test(start_paused = true)]
async fn an_expired_message_lets_the_next_of_its_key_pass() {
    let feed = feed();
    let mut inbox = feed.ordered().await;
    let soon = Timestamp::now() + SECOND;
    let lane = feed.send_as("orders", ["a1"], |received| {
        let expiring = received.envelope.to_builder().expires_at(soon);
        received.envelope = expiring.build().unwrap();
    });
    feed.send_in(&lane, ["a2"], |_| {});
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(ids(&mut inbox).await, ["a2"]);
    assert_eq!(feed.until_said(2).await[0].1, Said::DeadLetter(Reason::Expired));
}

#[tokio::test(start_paused = true)]
async fn the_longest_delay_is_no_overflow() {
    let feed = feed();
    let bus = feed.bus();
    let ordered = bus.subscribe("orders").group("billing").order(Order::PerKey);
    let mut inbox = ordered.key_wait(Duration::MAX).start().await.unwrap();
    feed.send(["a1", "x", "b1"]);
    for _ in 0..2 {
        next(&mut inbox).await.nack(Nack::after(Duration::MAX)).await.unwrap();
    }
    assert_eq!(ids(&mut inbox).await, ["b1"]);
    inbox.stop(Duration::MAX).await.unwrap();
}
