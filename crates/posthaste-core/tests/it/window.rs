//! The window under troubles: retries, deadlines, keys, topics that change, callers that go away.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::FutureExt;
use posthaste_core::*;
use tokio::time::{Instant, timeout};

use crate::script::{Script, Step, Stored};
use crate::stub::Find;

const SECOND: Duration = Duration::from_secs(1);

/// `a1` has the key `a`; an id without a digit has none.
pub(crate) fn envelope(id: &str) -> Envelope {
    let mut builder = Envelope::builder("test.sent").source("/test").id(id.to_owned()).payload("x");
    if id.bytes().any(|byte| byte.is_ascii_digit()) {
        builder = builder.key(id[..1].to_owned());
    }
    builder.build().unwrap()
}

/// A publisher whose topic is known already.
pub(crate) async fn warm(bus: &Bus, script: &Script) -> Publisher {
    let publisher = bus.publisher("orders").unwrap();
    publisher.publish_envelope(envelope("warm")).await.unwrap();
    script.calls.lock().unwrap().clear();
    script.destinations.lock().unwrap().clear();
    publisher
}

/// Queues a message that has to find room at once.
pub(crate) async fn enqueue(publisher: &Publisher, id: &str) -> Receipt {
    timeout(SECOND, publisher.enqueue_envelope(envelope(id))).await.expect("no room").unwrap()
}

/// Publishes in a task of its own; what came out, and after which time.
fn publish(
    publisher: &Publisher,
    id: &str,
    options: PublishOptions,
) -> tokio::task::JoinHandle<(Result<Confirmed>, Duration)> {
    let (publisher, envelope, started) = (publisher.clone(), envelope(id), Instant::now());
    tokio::spawn(async move {
        let outcome = publisher.publish_envelope_with(envelope, options).await;
        (outcome, started.elapsed())
    })
}

async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_is_tried_again_holds_up_no_other_key_and_no_room() {
    let script = Script::new(Layout::Ordered(4));
    let bus = script.builder().window(4, 1 << 20).build().unwrap();
    let publisher = warm(&bus, &script).await;
    // Both flights are busy, so that what comes next leaves together.
    script.then([Step::Wait, Step::Wait]);
    let (_x, _y) = (enqueue(&publisher, "x1").await, enqueue(&publisher, "y1").await);
    settle().await;
    let (a, b) = (enqueue(&publisher, "a1").await, enqueue(&publisher, "b1").await);
    script.then(vec![Step::FailIds(&["a1"], ErrorKind::Backpressure); 1_000]);
    script.gate.add_permits(2);
    assert_eq!(timeout(SECOND, b).await.expect("held up").unwrap().id(), "b1");
    assert!(script.calls().contains(&vec!["a1".to_owned(), "b1".to_owned()]));
    // Its key is free and its slot was given back, while `a1` is still being tried.
    for id in ["b2", "c1", "d1", "b3"] {
        let receipt = enqueue(&publisher, id).await;
        assert_eq!(timeout(SECOND, receipt).await.expect("held up").unwrap().id(), id);
    }
    let error = a.await.unwrap_err();
    assert_eq!((error.kind(), error.may_be_stored()), (ErrorKind::Timeout, false));
}

#[tokio::test(start_paused = true)]
async fn deadlines_in_the_middle_of_a_batch_cause_no_burst_of_attempts() {
    let script = Script::new(Layout::Plain);
    script.limit(|can| can.max_flights = 1);
    let bus = script.bus();
    let publisher = warm(&bus, &script).await;
    script.then([Step::Wait]);
    let first = publish(&publisher, "first", PublishOptions::new());
    settle().await;
    let batch: Vec<_> = (0..100)
        .map(|n| PublishOptions::new().deadline(3 * SECOND + n * Duration::from_millis(2)))
        .map(|options| publish(&publisher, "entry", options))
        .collect();
    settle().await;
    script.then(vec![Step::Fail(ErrorKind::Backpressure, Stored::No); 10_000]);
    script.gate.add_permits(1);
    first.await.unwrap().0.unwrap();
    for entry in batch {
        let (outcome, took) = entry.await.unwrap();
        let error = outcome.unwrap_err();
        assert_eq!((error.kind(), error.may_be_stored()), (ErrorKind::Timeout, false));
        assert!(took < 4 * SECOND, "{took:?}");
    }
    // From 20 ms doubling to 1 s, at least half of each: at most 11 within 3.2 s.
    let attempts = script.calls().len() - 1;
    assert!((2..=11).contains(&attempts), "{attempts} attempts");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_one_entry_of_a_batch_and_not_the_others() {
    let script = Script::new(Layout::Plain);
    script.limit(|can| can.max_flights = 1);
    let bus = script.bus();
    let publisher = warm(&bus, &script).await;
    script.then([Step::Wait, Step::Wait]);
    let first = publish(&publisher, "first", PublishOptions::new());
    settle().await;
    let brief = publish(&publisher, "brief", PublishOptions::new().deadline(2 * SECOND));
    let long = publish(&publisher, "long", PublishOptions::new());
    settle().await;
    script.gate.add_permits(1);
    first.await.unwrap().0.unwrap();
    let (outcome, took) = brief.await.unwrap();
    assert_eq!(script.calls().last().unwrap(), &["brief", "long"]);
    let error = outcome.unwrap_err();
    assert_eq!((error.kind(), error.may_be_stored()), (ErrorKind::Timeout, true));
    assert!(took < 2 * SECOND + Duration::from_millis(200), "{took:?}");
    script.gate.add_permits(1);
    long.await.unwrap().0.unwrap();
    assert_eq!(script.calls().len(), 2, "nothing was sent twice");
}

#[tokio::test(start_paused = true)]
async fn what_may_be_stored_is_said_for_each_way_to_fail() {
    use {ErrorKind as K, Stored as S};
    let deadline = || PublishOptions::new().deadline(SECOND);
    // The steps, and what the error says.
    let cases = [
        (vec![Step::Fail(K::Unroutable, S::No)], K::Unroutable, false),
        (
            vec![Step::Fail(K::Timeout, S::Maybe), Step::Fail(K::Unroutable, S::No)],
            K::Unroutable,
            true,
        ),
        (vec![Step::Fail(K::Timeout, S::Maybe), Step::Fail(K::Auth, S::No)], K::Auth, true),
        (vec![Step::Fail(K::Backpressure, S::No); 100], K::Timeout, false),
        (
            [
                vec![Step::Fail(K::Connection, S::Maybe)],
                vec![Step::Fail(K::Backpressure, S::No); 99],
            ]
            .concat(),
            K::Timeout,
            true,
        ),
        (vec![Step::Fail(K::Backpressure, S::No), Step::Hang], K::Timeout, true),
        (vec![Step::Panic], K::Fatal, true),
    ];
    for (steps, kind, stored) in cases {
        let script = Script::new(Layout::Plain);
        let bus = script.bus();
        let publisher = warm(&bus, &script).await;
        let shown = format!("{:?}", &steps[..steps.len().min(2)]);
        script.then(steps);
        let sent = publisher.publish_envelope_with(envelope("a"), deadline());
        let error = timeout(2 * SECOND, sent).await.expect("past its deadline").unwrap_err();
        assert_eq!((error.kind(), error.may_be_stored()), (kind, stored), "{shown}: {error:?}");
        // Everything was given back, and nothing is stuck.
        script.steps.lock().unwrap().clear();
        timeout(SECOND, publisher.flush()).await.expect("stuck");
        publisher.publish_envelope(envelope("after")).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_never_sent_because_the_topic_was_not_found_is_certainly_not_stored() {
    for step in [Find::Hang, Find::Fail(ErrorKind::Connection)] {
        let script = Script::new(Layout::Plain);
        script.admin.steps.lock().unwrap().extend(vec![step; 1_000]);
        let publisher = script.bus().publisher("orders").unwrap();
        let options = PublishOptions::new().deadline(SECOND);
        let error = publisher.publish_envelope_with(envelope("a"), options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(!error.may_be_stored(), "{step:?}");
        assert!(script.calls().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_an_adapter_fails_its_batch_and_nothing_else() {
    let script = Script::new(Layout::Plain);
    let bus = script.bus();
    let publisher = warm(&bus, &script).await;
    script.then([Step::Panic]);
    // Polled by the window's own task, which has to survive.
    let receipt = enqueue(&publisher, "a").await;
    let error = timeout(SECOND, receipt).await.expect("stuck").unwrap_err();
    assert_eq!((error.kind(), error.may_be_stored()), (ErrorKind::Fatal, true));
    for _ in 0..3 {
        let receipt = enqueue(&publisher, "b").await;
        timeout(SECOND, receipt).await.expect("stuck").unwrap();
    }
    bus.close(SECOND).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_was_created_anew_is_looked_up_once_more() {
    use Topology::{Assume, Create, Verify};
    for (topology, kind) in [(Create, ErrorKind::NotFound), (Verify, ErrorKind::Conflict)] {
        let script = Script::new(Layout::Ordered(8));
        let bus = script.builder().topology(topology).build().unwrap();
        let publisher = warm(&bus, &script).await;
        *script.admin.layout.lock().unwrap() = Layout::Ordered(4);
        script.then([Step::Fail(kind, Stored::No)]);
        publisher.publish_envelope(envelope("a1")).await.unwrap();
        let layouts: Vec<_> =
            script.destinations.lock().unwrap().iter().map(|to| to.layout).collect();
        assert_eq!(layouts, [Layout::Ordered(8), Layout::Ordered(4)], "{topology:?}");
    }
    // Where it stays wrong, it is an error after one more look, soon.
    for topology in [Create, Verify, Assume] {
        let script = Script::new(Layout::Ordered(8));
        let bus = script.builder().topology(topology).build().unwrap();
        let publisher = warm(&bus, &script).await;
        script.then(vec![Step::Fail(ErrorKind::Conflict, Stored::No); 100]);
        let sent = publisher.publish_envelope(envelope("a1"));
        let error = timeout(SECOND, sent).await.expect("tried on").unwrap_err();
        assert_eq!((error.kind(), error.may_be_stored()), (ErrorKind::Conflict, false));
        assert_eq!(script.calls().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_topic_is_looked_up_once_for_all_who_wait() {
    let script = Script::new(Layout::Plain);
    let bus = script.bus();
    let publisher = bus.publisher("orders").unwrap();
    script.admin.steps.lock().unwrap().push_back(Find::Slow);
    let sent: Vec<_> = (0..10).map(|_| publish(&publisher, "a", PublishOptions::new())).collect();
    for one in sent {
        one.await.unwrap().0.unwrap();
    }
    assert_eq!(script.admin.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_is_missing_is_said_to_be_each_time() {
    let script = Script::new(Layout::Plain);
    script.admin.steps.lock().unwrap().extend([Find::Fail(ErrorKind::NotFound); 3]);
    let bus = script.builder().topology(Topology::Verify).build().unwrap();
    let publisher = bus.publisher("orders").unwrap();
    for _ in 0..3 {
        let sent = timeout(SECOND, publisher.publish_envelope(envelope("a")));
        let error = sent.await.expect("nobody looks it up any more").unwrap_err();
        assert_eq!((error.kind(), error.may_be_stored()), (ErrorKind::NotFound, false));
    }
    publisher.publish_envelope(envelope("created meanwhile")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_becomes_ordered_keeps_the_order_of_what_waits() {
    let script = Script::new(Layout::Plain);
    let bus = script.bus();
    let publisher = warm(&bus, &script).await;
    script.then([Step::Wait, Step::Wait]);
    let (_x, _y) = (enqueue(&publisher, "x1").await, enqueue(&publisher, "y1").await);
    settle().await;
    let mut receipts = Vec::new();
    for id in ["a1", "a2", "b1", "a3"] {
        receipts.push(enqueue(&publisher, id).await);
    }
    *script.admin.layout.lock().unwrap() = Layout::Ordered(4);
    script.then([Step::Fail(ErrorKind::Conflict, Stored::No)]);
    script.gate.add_permits(2);
    for receipt in receipts {
        receipt.await.unwrap();
    }
    let calls = script.calls();
    assert_eq!(calls[2], ["a1", "a2", "b1", "a3"], "as long as it was plain");
    for call in &calls[3..] {
        let of_a = call.iter().filter(|id| id.starts_with('a')).count();
        assert!(of_a <= 1, "two of a key in one batch: {calls:?}");
    }
    let again = calls[3..].concat();
    assert_eq!(
        again.iter().filter(|id| id.starts_with('a')).collect::<Vec<_>>(),
        ["a1", "a2", "a3"]
    );
    assert_eq!(again.len(), 4, "each was sent once more: {calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_window_of_one_lets_one_after_the_other_pass() {
    let script = Script::new(Layout::Plain);
    let bus = script.builder().window(1, 1).build().unwrap();
    let publisher = warm(&bus, &script).await;
    let report = publisher.publish_all_envelopes(vec![envelope("a"); 5]).await;
    assert!(report.is_ok());
    script.then([Step::Wait]);
    let held = enqueue(&publisher, "held").await;
    // Dropped while it waits for room, never polled, and past its deadline: nothing is kept.
    let mut waiting = Box::pin(publisher.publish_envelope(envelope("dropped")));
    assert!((&mut waiting).now_or_never().is_none());
    drop(waiting);
    drop(publisher.publish_envelope(envelope("dropped")));
    let brief = publish(&publisher, "dropped", PublishOptions::new().deadline(SECOND));
    let error = brief.await.unwrap().0.unwrap_err();
    assert_eq!((error.kind(), error.may_be_stored()), (ErrorKind::Backpressure, false));
    script.gate.add_permits(1);
    held.await.unwrap();
    for _ in 0..3 {
        timeout(SECOND, publisher.publish_envelope(envelope("b"))).await.expect("leaked").unwrap();
    }
    assert!(!script.calls().concat().contains(&"dropped".to_owned()));
    assert_eq!(script.most_out.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_leaves_its_message_to_the_window() {
    let script = Script::new(Layout::Plain);
    let bus = script.bus();
    let publisher = warm(&bus, &script).await;
    script.then([Step::Wait]);
    let mut call = Box::pin(publisher.publish_envelope(envelope("left")));
    assert!((&mut call).now_or_never().is_none());
    drop(call);
    // Nothing else is done on this topic.
    script.gate.add_permits(1);
    settle().await;
    assert_eq!(script.out.load(Ordering::SeqCst), 0, "nobody moves the flight on");
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_back_at_its_deadline_gives_its_room_back() {
    let script = Script::new(Layout::Plain);
    script.limit(|can| can.max_flights = 1);
    let bus = script.builder().window(2, 1 << 20).build().unwrap();
    let publisher = warm(&bus, &script).await;
    script.then([Step::Hang]);
    let _out = enqueue(&publisher, "out").await;
    for _ in 0..3 {
        let brief = publish(&publisher, "brief", PublishOptions::new().deadline(SECOND));
        let error = brief.await.unwrap().0.unwrap_err();
        assert_eq!((error.kind(), error.may_be_stored()), (ErrorKind::Timeout, false));
    }
}

#[tokio::test(start_paused = true)]
async fn a_flush_waits_for_what_came_before_it_and_not_for_what_comes_after() {
    let script = Script::new(Layout::Plain);
    let bus = script.bus();
    let publisher = warm(&bus, &script).await;
    script.then([Step::Wait, Step::Hang]);
    let before = enqueue(&publisher, "before").await;
    let mut flush = Box::pin(publisher.flush());
    assert!((&mut flush).now_or_never().is_none());
    let _after = enqueue(&publisher, "after").await;
    settle().await;
    assert!((&mut flush).now_or_never().is_none(), "it did not wait");
    script.gate.add_permits(1);
    timeout(SECOND, flush).await.expect("it waits for what came after it");
    before.now_or_never().expect("resolved").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_handle_of_a_queue_and_one_of_a_topic_do_not_stand_in_for_each_other() {
    let script = Script::new(Layout::Plain);
    *script.admin.queue.lock().unwrap() = true;
    let bus = script.bus();
    let topic = bus.publisher("charge").unwrap();
    let queue = bus.queue("charge").unwrap();
    let error = topic.publish_envelope(envelope("a")).await.unwrap_err();
    assert_eq!((error.kind(), error.may_be_stored()), (ErrorKind::Conflict, false));
    queue.publish_envelope(envelope("a")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_longest_times_are_no_overflow() {
    let script = Script::new(Layout::Plain);
    let bus = script.builder().publish_deadline(Duration::MAX).drain(Duration::MAX);
    let bus = bus.build().unwrap();
    let publisher = bus.publisher("orders").unwrap();
    let options = PublishOptions::new().deadline(Duration::MAX);
    publisher.publish_envelope_with(envelope("a"), options).await.unwrap();
    publisher.publish_envelope(envelope("a")).await.unwrap();
    bus.close(Duration::MAX).await.unwrap();
}
