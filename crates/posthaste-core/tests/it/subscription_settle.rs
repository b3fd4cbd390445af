//! Settling: what is flushed when, what is told of what failed, and what room it takes.

use std::time::Duration;

use futures_util::future::FutureExt;
use posthaste_core::*;
use posthaste_memory::MemoryBroker;
use tokio::time::{Instant, timeout};

use crate::feed::{Feed, Said, Step};
use crate::subscription::{next, nothing_for};

const SECOND: Duration = Duration::from_secs(1);

async fn failed(events: &mut Events) -> Vec<String> {
    loop {
        let event = timeout(100 * SECOND, events.next()).await.expect("not told").unwrap();
        if let SubscriptionEvent::SettleFailed { ids, .. } = event {
            return ids;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_settled_is_told_with_its_ids_and_gives_its_room_back() {
    let all = ["a", "b", "c"].map(str::to_owned).to_vec();
    let some = ["b"].map(str::to_owned).to_vec();
    let cases = [
        (Step::Fail(ErrorKind::Connection), &all),
        (Step::Panic, &all),
        (Step::Hang, &all),
        (Step::FailSome(vec![1]), &some),
    ];
    for (step, told) in cases {
        let feed = Feed::new(Layout::Plain);
        let bus = feed.bus();
        let mut inbox = bus.subscribe("orders").group("billing").prefetch(8).start().await.unwrap();
        let mut events = inbox.events();
        feed.send(["a", "b", "c"]);
        let batch = inbox.next_batch(3).await.unwrap().unwrap();
        feed.settles.lock().unwrap().push_back(step.clone());
        for (at, delivery) in batch.into_iter().enumerate() {
            match at {
                0 => delivery.ack().await.unwrap(),
                1 => delivery.nack(Nack::requeue()).await.unwrap(),
                _ => delivery.ack().await.unwrap(),
            }
        }
        assert_eq!(failed(&mut events).await, *told, "{step:?}");
        assert_eq!(inbox.stats().settle_failures, told.len() as u64);
        feed.send(["d"]);
        next(&mut inbox).await.ack().await.unwrap();
        nothing_for(&mut inbox, SECOND).await;
        assert_eq!(feed.credits().last().unwrap().messages, 8, "{step:?}: room was lost");
        assert_eq!(feed.said_of("d"), [Said::Ack], "{step:?}: nothing is settled any more");
    }
}

#[tokio::test(start_paused = true)]
async fn a_confirmed_acknowledgement_ends_in_time_and_frees_its_slot() {
    let cases = [
        (Step::Hang, Some(ErrorKind::Timeout)),
        (Step::Fail(ErrorKind::Connection), Some(ErrorKind::Connection)),
        (Step::FailSome(vec![0]), Some(ErrorKind::Connection)),
        (Step::Lost(vec![0]), Some(ErrorKind::LeaseLost)),
        (Step::Panic, Some(ErrorKind::Fatal)),
        (Step::Take(SECOND), None),
    ];
    for (step, kind) in cases {
        let feed = Feed::new(Layout::Ordered(1));
        let mut inbox = feed.ordered().await;
        feed.send(["a1", "a2"]);
        let delivery = next(&mut inbox).await;
        feed.settles.lock().unwrap().push_back(step.clone());
        let answered = timeout(100 * SECOND, delivery.ack_confirmed()).await.expect("hangs");
        assert_eq!(answered.err().map(|error| error.kind()), kind, "{step:?}");
        // It was handled, so the next of its key may be.
        next(&mut inbox).await.ack().await.unwrap();
        nothing_for(&mut inbox, SECOND).await;
        assert_eq!(feed.credits().last().unwrap().messages, 256, "{step:?}: room was lost");
    }
}

#[tokio::test(start_paused = true)]
async fn a_confirmed_acknowledgement_that_is_dropped_is_an_acknowledgement() {
    let feed = Feed::new(Layout::Ordered(1));
    let mut inbox = feed.ordered().await;
    feed.send(["a1", "a2"]);
    let mut call = Box::pin(next(&mut inbox).await.ack_confirmed());
    feed.settles.lock().unwrap().push_back(Step::Hang);
    assert!((&mut call).now_or_never().is_none());
    drop(call);
    assert_eq!(next(&mut inbox).await.id(), "a2");
    nothing_for(&mut inbox, SECOND / 20).await;
    assert_eq!(feed.said_of("a1"), [Said::Ack, Said::Ack], "without an answer it is said again");
    assert_eq!(feed.credits().last().unwrap().messages, 255, "its slot is stuck");
}

#[tokio::test(start_paused = true)]
async fn settlements_go_at_once_while_the_reader_waits_and_else_after_five_milliseconds() {
    let feed = Feed::new(Layout::Plain);
    let mut inbox = feed.inbox().await;
    feed.send(["a", "b", "c"]);
    let mut held = inbox.next_batch(3).await.unwrap().unwrap();
    let started = Instant::now();
    held.pop().unwrap().ack().await.unwrap();
    feed.until_said(1).await;
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(5) && took < Duration::from_millis(8), "{took:?}");
    let waiting = tokio::spawn(async move { inbox.next().await.is_some() });
    tokio::task::yield_now().await;
    let started = Instant::now();
    held.pop().unwrap().ack().await.unwrap();
    feed.until_said(2).await;
    assert_eq!(started.elapsed(), Duration::ZERO);
    // A batch stays a batch: 128 are half of the credit.
    feed.send(["d"]);
    assert!(waiting.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn half_of_the_credit_goes_as_one_batch() {
    let feed = Feed::new(Layout::Plain);
    let mut inbox = feed.inbox().await;
    feed.send(vec!["x"; 256]);
    let started = Instant::now();
    for _ in 0..256 {
        next(&mut inbox).await.ack().await.unwrap();
    }
    feed.until_said(256).await;
    assert!(started.elapsed() < Duration::from_millis(5));
    let calls = feed.settled.lock().unwrap().len();
    assert!(calls <= 3, "{calls} calls for 256 settlements");
}

#[tokio::test(start_paused = true)]
async fn a_reader_without_credit_is_woken_by_whatever_settles_elsewhere() {
    for settle in 0..4 {
        let feed = Feed::new(Layout::Plain);
        let bus = feed.bus();
        let mut inbox = bus.subscribe("orders").group("billing").prefetch(2).start().await.unwrap();
        feed.send(["a", "b", "c"]);
        let mut batch = inbox.next_batch(2).await.unwrap().unwrap();
        let waiting = tokio::spawn(async move { next(&mut inbox).await.id().to_owned() });
        tokio::time::sleep(SECOND).await;
        let polls = feed.polls();
        tokio::time::sleep(30 * SECOND).await;
        assert_eq!(feed.polls(), polls, "polled without credit");
        let delivery = batch.pop().unwrap();
        match settle {
            0 => delivery.ack().await.unwrap(),
            1 => delivery.nack(Nack::requeue()).await.unwrap(),
            2 => delivery.ack_confirmed().await.unwrap(),
            _ => drop(delivery),
        }
        let woken = timeout(SECOND, waiting).await.expect("not woken").unwrap();
        assert_eq!(woken, "c");
    }
}

#[tokio::test(start_paused = true)]
async fn credit_never_exceeds_the_prefetch_by_count_or_by_bytes() {
    let feed = Feed::new(Layout::Plain);
    let bus = feed.bus();
    let limited = bus.subscribe("orders").group("billing").prefetch(7).prefetch_bytes(2_000);
    let mut inbox = limited.start().await.unwrap();
    feed.send(vec!["x"; 200]);
    let (mut held, mut unsettled) = (Vec::new(), 0_usize);
    for round in 0..200 {
        let delivery = next(&mut inbox).await;
        unsettled += delivery.envelope().size();
        held.push(delivery);
        let credit = feed.credits().last().copied().unwrap();
        assert!(credit.messages >= 1 && credit.bytes >= 1, "polled without credit");
        if held.len() == 5 || round % 3 == 0 {
            for delivery in held.drain(..) {
                unsettled -= delivery.envelope().size();
                delivery.ack().await.unwrap();
            }
        }
        assert!(held.len() <= 7 && unsettled <= 4_000);
    }
    held.clear();
    nothing_for(&mut inbox, SECOND).await;
    let last = *feed.credits().last().unwrap();
    assert_eq!((last.messages, last.bytes), (7, 2_000), "everything was given back");
}

#[tokio::test(start_paused = true)]
async fn what_the_start_found_is_told_to_the_first_who_listens() {
    let feed = Feed::new(Layout::Plain);
    feed.differences.lock().unwrap().push(Difference::new("lease", 30, 60));
    let inbox = feed.inbox().await;
    let told = inbox.events().next().now_or_never().expect("nobody is told").unwrap();
    match told {
        SubscriptionEvent::Differs(difference) => assert_eq!(difference.setting, "lease"),
        other => panic!("{other:?}"),
    }
    assert!(inbox.events().next().now_or_never().is_none(), "told twice");
}

#[tokio::test(start_paused = true)]
async fn under_at_most_once_the_expired_are_skipped_and_what_is_not_seen_is_told() {
    let feed = Feed::new(Layout::Plain);
    let bus = feed.bus();
    let once = bus.subscribe("orders").group("billing").at_most_once();
    let mut inbox = once.start().await.unwrap();
    let mut events = inbox.events();
    let lane = feed.send_as("orders", ["old"], |received| {
        let expired = received.envelope.to_builder().expires_at(Timestamp::now());
        received.envelope = expired.build().unwrap();
    });
    tokio::time::sleep(SECOND).await;
    feed.send_in(&lane, ["a", "b", "c"], |_| {});
    let first = next(&mut inbox).await;
    assert_eq!(first.id(), "a");
    first.ack().await.unwrap();
    drop(next(&mut inbox).await);
    assert_eq!((inbox.stats().expired, inbox.stats().received), (1, 2));
    inbox.stop(SECOND).await.unwrap();
    let (mut expired, mut lost) = (Vec::new(), 0);
    while let Some(event) = events.next().await {
        match event {
            SubscriptionEvent::Expired { id } => expired.push(id),
            SubscriptionEvent::Lost { count, .. } => lost += count.unwrap(),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((expired, lost), (vec!["old".to_owned()], 1));
    assert_eq!(feed.said(), [], "the adapter has settled them before");
}

#[tokio::test]
async fn a_reader_that_always_has_something_lets_other_tasks_run() {
    for once in [false, true] {
        let bus = Bus::builder(MemoryBroker::new()).source("/shop").build().unwrap();
        bus.ensure(TopicConfig::new("orders").group("billing")).await.unwrap();
        let publisher = bus.publisher("orders").unwrap();
        let many = vec![Envelope::builder("t").source("/t").build().unwrap(); 5_000];
        assert!(publisher.publish_all_envelopes(many).await.is_ok());
        let inbox = bus.subscribe("orders").group("billing").prefetch(5_000);
        let inbox = if once { inbox.at_most_once() } else { inbox };
        let mut inbox = inbox.start().await.unwrap();
        let turns = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = std::sync::Arc::clone(&turns);
        let other = tokio::spawn(async move {
            loop {
                counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        for _ in 0..5_000 {
            next(&mut inbox).await.ack().await.unwrap();
        }
        other.abort();
        let turns = turns.load(std::sync::atomic::Ordering::Relaxed);
        assert!(turns >= 20, "{turns} turns while 5,000 messages were handled");
    }
}
