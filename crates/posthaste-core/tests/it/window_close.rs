//! The window at its end: closed, aborted, dropped, or without its runtime.

use std::time::Duration;

use futures_util::future::FutureExt;
use posthaste_core::*;
use tokio::time::{Instant, timeout};

use crate::script::{Script, Step, Stored};
use crate::window::{enqueue, envelope, warm};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn closing_ends_what_is_at_every_stage() {
    let script = Script::new(Layout::Plain);
    script.limit(|can| can.max_flights = 2);
    let bus = script.builder().window(4, 1 << 20).build().unwrap();
    let publisher = warm(&bus, &script).await;
    // One is out and hangs, one rests between two attempts, two are queued, one waits for room.
    script.then([Step::Hang, Step::Fail(ErrorKind::Backpressure, Stored::No)]);
    script.then(vec![Step::Fail(ErrorKind::Backpressure, Stored::No); 100]);
    let mut out = Box::pin(publisher.publish_envelope(envelope("out")));
    let mut resting = Box::pin(publisher.publish_envelope(envelope("resting")));
    assert!((&mut out).now_or_never().is_none());
    assert!((&mut resting).now_or_never().is_none());
    let queued = [enqueue(&publisher, "queued").await, enqueue(&publisher, "queued").await];
    let mut waiting = Box::pin(publisher.publish_envelope(envelope("waiting")));
    assert!((&mut waiting).now_or_never().is_none());
    let started = Instant::now();
    let error = bus.close(2 * SECOND).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(started.elapsed() < 3 * SECOND, "{:?}", started.elapsed());
    // The callers were not polled meanwhile.
    let said = |error: Error| (error.kind(), error.may_be_stored());
    assert_eq!(said(out.await.unwrap_err()), (ErrorKind::Closed, true));
    assert_eq!(said(resting.await.unwrap_err()), (ErrorKind::Closed, false));
    assert_eq!(said(waiting.await.unwrap_err()), (ErrorKind::Closed, false));
    for receipt in queued {
        assert_eq!(said(receipt.await.unwrap_err()), (ErrorKind::Closed, false));
    }
    assert_eq!(script.out.load(std::sync::atomic::Ordering::SeqCst), 0, "a flight goes on");
}

#[tokio::test(start_paused = true)]
async fn one_topic_that_hangs_does_not_keep_another_from_being_sent_at_close() {
    let script = Script::new(Layout::Plain);
    script.limit(|can| can.max_flights = 1);
    let bus = script.bus();
    let names: Vec<_> = (0..8).map(|n| format!("topic-{n}")).collect();
    let publishers: Vec<_> = names.iter().map(|name| bus.publisher(name).unwrap()).collect();
    for publisher in &publishers {
        publisher.publish_envelope(envelope("warm")).await.unwrap();
    }
    script.then([Step::Hang]);
    let mut stuck = Box::pin(publishers[0].publish_envelope(envelope("stuck")));
    assert!((&mut stuck).now_or_never().is_none());
    // To be sent again, and polled by nobody but its caller, who does not poll.
    script.then(vec![Step::Fail(ErrorKind::Backpressure, Stored::No); 7]);
    let mut calls: Vec<_> = publishers[1..]
        .iter()
        .map(|publisher| Box::pin(publisher.publish_envelope(envelope("sent"))))
        .collect();
    for call in &mut calls {
        assert!(call.now_or_never().is_none());
    }
    assert_eq!(bus.close(2 * SECOND).await.unwrap_err().kind(), ErrorKind::Timeout);
    for call in calls {
        call.await.expect("given up because another topic hangs");
    }
}

#[tokio::test(start_paused = true)]
async fn closing_does_not_wait_for_an_adapter_that_never_closes() {
    let feed = crate::feed::Feed::new(Layout::Plain);
    *feed.close_hangs.lock().unwrap() = true;
    let bus = feed.bus();
    let closed = timeout(20 * SECOND, bus.close(2 * SECOND)).await.expect("close hangs");
    assert_eq!(closed.unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_dropped_half_way_is_sent_as_far_as_it_had_room() {
    let script = Script::new(Layout::Plain);
    script.limit(|can| can.max_flights = 1);
    let bus = script.builder().window(3, 1 << 20).build().unwrap();
    let publisher = warm(&bus, &script).await;
    script.then([Step::Wait]);
    let batch = ["a", "b", "c", "d", "e"].map(envelope).to_vec();
    let mut all = Box::pin(publisher.publish_all_envelopes(batch));
    assert!((&mut all).now_or_never().is_none());
    drop(all);
    script.gate.add_permits(1);
    timeout(SECOND, publisher.flush()).await.expect("stuck");
    assert_eq!(script.calls().concat(), ["a", "b", "c"]);
    // No room was lost.
    let report = timeout(SECOND, publisher.publish_all_envelopes(vec![envelope("f"); 9])).await;
    assert!(report.expect("leaked").is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_nobody_polls_is_sent_when_the_bus_is_dropped() {
    let script = Script::new(Layout::Plain);
    let bus = script.bus();
    let publisher = warm(&bus, &script).await;
    script.then([Step::Wait]);
    let kept = enqueue(&publisher, "kept").await;
    drop(enqueue(&publisher, "forgotten").await);
    drop((publisher, bus));
    script.gate.add_permits(1);
    timeout(SECOND, kept).await.expect("stuck").unwrap();
    let sent = async {
        while script.calls().concat().len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    timeout(SECOND, sent).await.expect("the forgotten one is not sent");
}

#[test]
fn nothing_panics_when_the_runtime_is_gone() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let script = Script::new(Layout::Plain);
    let (bus, publisher, receipt) = runtime.block_on(async {
        let bus = script.bus();
        let publisher = warm(&bus, &script).await;
        script.then([Step::Hang, Step::Hang]);
        let receipt = enqueue(&publisher, "out").await;
        tokio::task::yield_now().await;
        (bus, publisher, receipt)
    });
    let mut out = Box::pin(publisher.publish_envelope(envelope("straight")));
    {
        let _entered = runtime.enter();
        assert!((&mut out).now_or_never().is_none());
    }
    drop(runtime);
    drop(out);
    // In another runtime, it is said that the outcome is not known.
    let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = other.block_on(receipt).unwrap_err();
    assert_eq!((error.kind(), error.may_be_stored()), (ErrorKind::Closed, true));
    drop((publisher, bus));
}

/// What is on its way and what waits behind it, and what is published afterwards.
#[test]
fn nobody_waits_for_a_runtime_that_is_gone() {
    let build = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (runtime, other) = (build(), build());
    let script = Script::new(Layout::Plain);
    script.limit(|can| can.max_flights = 1);
    let (bus, publisher, out, waiting) = runtime.block_on(async {
        let bus = script.bus();
        let publisher = warm(&bus, &script).await;
        script.then([Step::Hang]);
        let out = enqueue(&publisher, "out").await;
        tokio::task::yield_now().await;
        let waiting = enqueue(&publisher, "waiting").await;
        tokio::task::yield_now().await;
        (bus, publisher, out, waiting)
    });
    let parked = other.spawn(waiting);
    other.block_on(tokio::task::yield_now());
    drop(runtime);
    let said = |outcome: Result<Confirmed>| {
        let error = outcome.unwrap_err();
        (error.kind(), error.may_be_stored())
    };
    other.block_on(async {
        let soon = |receipt| timeout(SECOND, receipt);
        assert_eq!(said(soon(out).await.expect("hangs")), (ErrorKind::Closed, true));
        let parked = timeout(SECOND, parked).await.expect("is not woken").unwrap();
        assert_eq!(said(parked), (ErrorKind::Closed, false));
        let late = enqueue(&publisher, "late").await;
        assert_eq!(said(soon(late).await.expect("hangs")), (ErrorKind::Closed, false));
    });
    drop(bus);
}
