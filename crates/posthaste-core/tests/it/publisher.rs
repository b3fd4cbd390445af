//! The window: straight through when idle, batches under load, nothing lost when callers go away.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::{FutureExt, join_all};
use posthaste_core::*;

use crate::script::{Script, Step, Stored};

fn envelope(id: &str) -> Envelope {
    keyed(id, None)
}

fn keyed(id: &str, key: Option<&str>) -> Envelope {
    let mut builder = Envelope::builder("test.sent").source("/test").id(id.to_owned()).payload("x");
    if let Some(key) = key {
        builder = builder.key(key.to_owned());
    }
    builder.build().unwrap()
}

/// Lets every other task run until nothing moves any more. Time is paused in these tests.
async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_publisher_sends_without_another_task() {
    let script = Script::new(Layout::Plain);
    let publisher = script.bus().publisher("orders").unwrap();
    publisher.publish_envelope(envelope("warm-up")).await.unwrap();
    // Polled once, by hand, with no other task running in between: it is done.
    let confirmed = publisher.publish_envelope(envelope("a")).now_or_never();
    assert_eq!(confirmed.expect("needed another poll").unwrap().id(), "a");
}

#[tokio::test(start_paused = true)]
async fn what_waits_leaves_together_when_a_flight_lands() {
    let script = Script::new(Layout::Plain).then([]);
    let bus = script.bus();
    let publisher = bus.publisher("orders").unwrap();
    publisher.publish_envelope(envelope("warm-up")).await.unwrap();
    script.then([Step::Wait, Step::Wait]);
    let sent = (0..10).map(|n| {
        let publisher = publisher.clone();
        async move { publisher.publish_envelope(envelope(&n.to_string())).await }
    });
    let all = tokio::spawn(join_all(sent));
    settle().await;
    assert_eq!(script.calls().len(), 3, "two flights of one message each are out");
    script.gate.add_permits(2);
    assert!(all.await.unwrap().into_iter().all(|outcome| outcome.is_ok()));
    let calls = script.calls();
    assert_eq!(calls[1..3], [vec!["0".to_owned()], vec!["1".to_owned()]]);
    let rest: Vec<_> = calls[3..].concat();
    assert_eq!(rest, (2..10).map(|n| n.to_string()).collect::<Vec<_>>(), "in order");
    assert!(calls.len() <= 5, "the rest left in one or two batches: {calls:?}");
    assert!(script.most_out.load(Ordering::SeqCst) <= 2);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_is_never_polled_again_holds_nobody_up() {
    let script = Script::new(Layout::Plain);
    let publisher = script.bus().publisher("orders").unwrap();
    publisher.publish_envelope(envelope("warm-up")).await.unwrap();
    script.then([Step::Wait, Step::Wait]);
    let mut first = Box::pin(publisher.publish_envelope(envelope("first")));
    let mut second = Box::pin(publisher.publish_envelope(envelope("second")));
    assert!((&mut first).now_or_never().is_none());
    assert!((&mut second).now_or_never().is_none());
    // Both flights are polled by callers that do not poll any more.
    let third = publisher.publish_envelope(envelope("third"));
    script.gate.add_permits(2);
    tokio::time::timeout(Duration::from_secs(1), third).await.expect("stuck").unwrap();
    assert_eq!(first.await.unwrap().id(), "first");
    assert_eq!(second.await.unwrap().id(), "second");
}

#[tokio::test(start_paused = true)]
async fn dropping_a_caller_at_any_await_point_cancels_nothing() {
    let script = Script::new(Layout::Plain);
    let publisher = script.bus().publisher("orders").unwrap();
    publisher.publish_envelope(envelope("warm-up")).await.unwrap();
    for polls in 1..4 {
        script.then([Step::Wait]);
        let id = format!("dropped-after-{polls}");
        let mut call = Box::pin(publisher.publish_envelope(envelope(&id)));
        for _ in 0..polls {
            assert!((&mut call).now_or_never().is_none());
        }
        drop(call);
        script.gate.add_permits(1);
        publisher.flush().await;
        assert_eq!(script.calls().last().unwrap(), &[id]);
        assert_eq!(script.out.load(Ordering::SeqCst), 0, "the flight was finished");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_sent_again_with_the_same_id() {
    let script = Script::new(Layout::Plain).then([
        Step::Fail(ErrorKind::Timeout, Stored::Maybe),
        Step::Fail(ErrorKind::Connection, Stored::No),
    ]);
    let publisher = script.bus().publisher("orders").unwrap();
    let confirmed = publisher.publish_envelope(envelope("a")).await.unwrap();
    assert_eq!(confirmed.id(), "a");
    assert_eq!(script.calls(), [["a"], ["a"], ["a"]]);
}

#[tokio::test(start_paused = true)]
async fn one_rejected_entry_does_not_touch_the_rest() {
    let script = Script::new(Layout::Plain);
    let publisher = script.bus().publisher("orders").unwrap();
    publisher.publish_envelope(envelope("warm-up")).await.unwrap();
    script.then([Step::FailOne(1, ErrorKind::TooLarge)]);
    let batch = ["a", "b", "c"].map(envelope).to_vec();
    let report = publisher.publish_all_envelopes(batch).await;
    assert_eq!(script.calls().last().unwrap(), &["a", "b", "c"]);
    let failures: Vec<_> = report.failures().map(|(at, error)| (at, error.kind())).collect();
    assert_eq!(failures, [(1, ErrorKind::TooLarge)]);
    let (_, error) = report.failures().next().unwrap();
    assert!(!error.may_be_stored());
    assert_eq!(error.topic(), Some("orders"));
    assert_eq!(report.outcomes()[2].as_ref().unwrap().id(), "c");
}

#[tokio::test(start_paused = true)]
async fn a_publish_ends_by_its_deadline_and_says_whether_it_may_be_stored() {
    let script = Script::new(Layout::Plain).then([Step::Hang]);
    let publisher = script.bus().publisher("orders").unwrap();
    let started = tokio::time::Instant::now();
    let error = publisher.publish_envelope(envelope("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(error.retry(), Retry::Exhausted);
    assert!(error.may_be_stored());
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(30) && took < Duration::from_secs(31), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn what_never_left_is_certainly_not_stored() {
    let script = Script::new(Layout::Plain);
    let publisher = script.bus().publisher("orders").unwrap();
    publisher.publish_envelope(envelope("warm-up")).await.unwrap();
    script.then([Step::Hang, Step::Hang]);
    let stuck = join_all(["a", "b"].map(|id| publisher.publish_envelope(envelope(id))));
    let options = PublishOptions::new().deadline(Duration::from_secs(2));
    let (_, waited) = tokio::join!(stuck, publisher.publish_envelope_with(envelope("c"), options));
    let error = waited.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(!error.may_be_stored());
    assert!(!script.calls().concat().contains(&"c".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_full_window_is_back_pressure_by_count_and_by_bytes() {
    for (messages, bytes) in [(2, 1 << 20), (1_000, 300)] {
        let script = Script::new(Layout::Plain);
        let builder = script.builder().window(messages, bytes);
        let bus = builder.publish_deadline(Duration::from_secs(3)).build().unwrap();
        let publisher = bus.publisher("orders").unwrap();
        publisher.publish_envelope(envelope("warm-up")).await.unwrap();
        script.then(vec![Step::Hang; 8]);
        let mut receipts = Vec::new();
        let error = loop {
            match publisher.enqueue_envelope(envelope(&receipts.len().to_string())).await {
                Ok(receipt) => receipts.push(receipt),
                Err(error) => break error,
            }
            assert!(receipts.len() < 8, "the window has no bound");
        };
        assert_eq!(error.kind(), ErrorKind::Backpressure);
        assert!(!error.may_be_stored());
        for receipt in receipts {
            assert_eq!(receipt.await.unwrap_err().kind(), ErrorKind::Timeout);
        }
        // Everything was given back: the window is free again.
        script.steps.lock().unwrap().clear();
        publisher.publish_envelope(envelope("after")).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn one_entry_of_a_key_is_out_at_a_time_on_an_ordered_topic() {
    let script = Script::new(Layout::Ordered(4));
    script.limit(|can| can.max_flights = 8);
    let bus = script.bus();
    let publisher = bus.publisher("orders").unwrap();
    // The very first publish does not know yet that the topic is ordered.
    script.then([
        Step::Fail(ErrorKind::Timeout, Stored::Maybe),
        Step::Wait,
        Step::Wait,
        Step::Wait,
    ]);
    let sent = ["a1", "a2", "b1", "a3", "b2", "c1"].map(|id| {
        let publisher = publisher.clone();
        async move { publisher.publish_envelope(keyed(id, Some(&id[..1]))).await }
    });
    let all = tokio::spawn(join_all(sent));
    tokio::time::sleep(Duration::from_secs(1)).await;
    settle().await;
    let out = script.calls().concat();
    assert!(!out.contains(&"a2".to_owned()), "a1 is not resolved yet: {out:?}");
    assert_eq!(out, ["a1", "b1", "c1", "a1"], "every key but one a time");
    script.gate.add_permits(3);
    assert!(all.await.unwrap().into_iter().all(|outcome| outcome.is_ok()));
    let mut sent = script.calls().concat();
    sent.dedup();
    for key in ["a", "b", "c"] {
        let of_key: Vec<_> = sent.iter().filter(|id| id.starts_with(key)).collect();
        assert!(of_key.is_sorted(), "{of_key:?}");
    }
    for call in script.calls() {
        let mut keys: Vec<_> = call.iter().map(|id| &id[..1]).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), call.len(), "two of a key in one batch: {call:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_topic_refuses_fails_before_anything_is_sent() {
    let script = Script::new(Layout::Plain);
    script.limit(|can| {
        can.deliver_at = Support::refused("no delays here");
        can.deduplication = Support::refused("no memory here");
        can.max_message_bytes = Some(500);
    });
    let publisher = script.bus().publisher("orders").unwrap();
    let at = PublishOptions::new().deliver_after(Duration::from_secs(5));
    let error = publisher.publish_envelope_with(envelope("a"), at).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let once = PublishOptions::new().deduplicate();
    let error = publisher.publish_envelope_with(envelope("a"), once).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let large = envelope("a").with_payload(Bytes::from(vec![0; 501]));
    let error = publisher.publish_envelope(large).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert_eq!(script.calls().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn close_sends_what_is_queued_and_refuses_what_comes_after() {
    let script = Script::new(Layout::Plain);
    let bus = script.bus();
    let publisher = bus.publisher("orders").unwrap();
    let mut receipts = Vec::new();
    for n in 0..20 {
        receipts.push(publisher.enqueue_envelope(envelope(&n.to_string())).await.unwrap());
    }
    bus.close(Duration::from_secs(5)).await.unwrap();
    for receipt in receipts {
        receipt.await.unwrap();
    }
    let error = publisher.publish_envelope(envelope("late")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert_eq!(bus.publisher("orders").unwrap_err().kind(), ErrorKind::Closed);
    bus.close(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn close_ends_by_its_deadline_on_a_broker_that_does_not_answer() {
    let script = Script::new(Layout::Plain).then(vec![Step::Hang; 4]);
    script.limit(|can| can.max_flights = 1);
    let bus = script.bus();
    let publisher = bus.publisher("orders").unwrap();
    let out = publisher.enqueue_envelope(envelope("out")).await.unwrap();
    settle().await;
    let queued = publisher.enqueue_envelope(envelope("queued")).await.unwrap();
    let started = tokio::time::Instant::now();
    let error = bus.close(Duration::from_secs(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(started.elapsed() < Duration::from_secs(6));
    let error = out.await.unwrap_err();
    assert_eq!((error.kind(), error.may_be_stored()), (ErrorKind::Closed, true));
    let error = queued.await.unwrap_err();
    assert_eq!((error.kind(), error.may_be_stored()), (ErrorKind::Closed, false));
}

/// Those whom a landing wakes travel together again, and no flight takes from the others what they
/// could carry. Once there is no crowd any more, a message leaves at once.
#[tokio::test(start_paused = true)]
async fn a_crowd_travels_in_equal_shares() {
    let script = Script::new(Layout::Plain);
    script.limit(|can| can.max_flights = 4);
    let publisher = script.bus().publisher("orders").unwrap();
    publisher.publish_envelope(envelope("warm")).await.unwrap();
    script.then(vec![Step::Wait; 1_000]);
    let tasks = (0..16).map(|task| {
        let publisher = publisher.clone();
        tokio::spawn(async move {
            for n in 0..20 {
                publisher.publish_envelope(envelope(&format!("{task}-{n}"))).await.unwrap();
            }
        })
    });
    let tasks = tokio::spawn(join_all(tasks));
    while !tasks.is_finished() {
        script.gate.add_permits(1);
        settle().await;
    }
    let sizes: Vec<_> = script.calls().iter().map(Vec::len).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 1 + 16 * 20);
    // The first ones find nobody else, the last ones not enough.
    let steady = &sizes[10..sizes.len() - 10];
    assert!(steady.len() > 50 && steady.iter().all(|size| *size == 4), "{sizes:?}");
    script.steps.lock().unwrap().clear();
    let alone = publisher.publish_envelope(envelope("alone")).now_or_never();
    assert_eq!(alone.expect("it waits for nobody").unwrap().id(), "alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_share_a_window_and_each_gets_its_own_outcome() {
    let script = Script::new(Layout::Plain);
    let bus = script.bus();
    let tasks = (0..64).map(|task| {
        let publisher = bus.publisher("orders").unwrap();
        tokio::spawn(async move {
            for n in 0..50 {
                let id = format!("{task}-{n}");
                let confirmed = publisher.publish_envelope(envelope(&id)).await.unwrap();
                assert_eq!(confirmed.id(), id);
            }
        })
    });
    for task in join_all(tasks).await {
        task.unwrap();
    }
    let mut ids = script.calls().concat();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 64 * 50, "each was sent");
    assert_eq!(script.calls().concat().len(), 64 * 50, "each was sent once");
    let _ = Arc::strong_count(&script);
}

/// A broker that answers at once, as one in the same process may.
#[tokio::test]
async fn a_loop_that_publishes_lets_others_have_their_turn() {
    let script = Script::new(Layout::Plain);
    let bus = script.bus();
    let publisher = bus.publisher("orders").unwrap();
    let turns = Arc::new(AtomicUsize::new(0));
    let mut other = tokio::task::JoinSet::new();
    other.spawn({
        let turns = Arc::clone(&turns);
        async move {
            loop {
                turns.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
        }
    });
    for _ in 0..10_000 {
        publisher.publish_envelope(envelope("x")).await.unwrap();
    }
    assert!(turns.load(Ordering::SeqCst) > 10);
}
