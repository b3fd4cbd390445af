//! A broker that is down, silent, restarted or unreliable: P2, P17, P26, P30, P31.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use posthaste_core::broker::{
    Admin, Broker, Confirmation, Destination, DriverEvent, Publish, RangeQuery, SendOptions,
    Settlement, Start, Verdict,
};
use posthaste_core::{ErrorKind, Health, Retry, TopicConfig};
use posthaste_memory::{Faults, MemoryBroker, MemoryConfig};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::support::*;

async fn stored(broker: &MemoryBroker) -> Vec<String> {
    let all = broker.range(&topic_name(), &RangeQuery::new(Start::Earliest, 9_999)).await.unwrap();
    all.iter().map(|one| one.envelope.id().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_down_fails_every_call_and_both_sides_resume() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    put(&broker, &to, [0]).await;
    let mut sub = Sub::group(&broker).await;
    let held = sub.take(1).await;
    broker.down();

    let error = send(&broker, &to, [message(1)]).await.remove(0).unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Connection, Retry::Transient));
    assert!(!error.may_be_stored(), "it was never sent");
    assert!(matches!(broker.health().await.unwrap(), Health::Down(_)));
    let ack = [Settlement::new(held[0].token.clone(), Verdict::Ack)];
    let settled = sub.settler.settle(&ack, Confirmation::Sent).await;
    assert_eq!(settled.unwrap_err().kind(), ErrorKind::Connection);
    let extended = sub.settler.extend(std::slice::from_ref(&held[0].token)).await;
    assert_eq!(extended.unwrap_err().kind(), ErrorKind::Connection);
    let subscribed = broker.subscribe(request(Some(GROUP))).await;
    assert_eq!(subscribed.unwrap_err().kind(), ErrorKind::Connection);
    let described = broker.describe(&topic_name()).await;
    assert_eq!(described.unwrap_err().kind(), ErrorKind::Connection);
    assert!(matches!(sub.event().await, DriverEvent::Disconnected { .. }));
    assert!(timeout(secs(5), sub.next(1)).await.is_err(), "told once, then silence");

    let waiting = async { sub.take(1).await };
    let healing = async {
        tokio::task::yield_now().await;
        broker.up();
        put(&broker, &to, [2]).await;
    };
    let (received, ()) = tokio::join!(waiting, healing);
    assert_eq!(ids(&received), ["2"]);
    assert!(matches!(sub.events[..], [DriverEvent::Reconnected]));
    assert_eq!(broker.health().await.unwrap(), Health::Live);
    // The lease ran on, and still holds.
    sub.ack_all(&held).await;
}

#[tokio::test]
async fn who_waits_hears_at_once_that_the_link_changed() {
    let broker = MemoryBroker::new();
    plain(&broker).await;
    let clone = broker.clone();
    let mut sub = Sub::group(&clone).await;
    let waiting = sub.wait();
    broker.down();
    assert!(waiting.rang());
    assert!(matches!(sub.event().await, DriverEvent::Disconnected { .. }));
    let waiting = sub.wait();
    broker.up();
    assert!(waiting.rang());
    assert!(matches!(sub.event().await, DriverEvent::Reconnected));
    let waiting = sub.wait();
    clone.close(Instant::now()).await.unwrap();
    assert!(waiting.rang());
    assert_eq!(sub.next(1).await.unwrap_err().kind(), ErrorKind::Closed);
    let info = broker.groups(&topic_name()).await.unwrap().remove(0);
    assert_eq!(info.members, Some(0), "and is no member any more");
}

#[tokio::test(start_paused = true)]
async fn a_silent_broker_answers_when_it_is_back() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    let mut sub = Sub::group(&broker).await;
    broker.black_hole();
    let mut batch = [message(1)];
    let options = SendOptions::default();
    let mut publishing = broker.publish(&to, &mut batch, &options);
    let waited = timeout(secs(60), &mut publishing).await;
    assert!(waited.is_err(), "nothing is answered");
    assert!(timeout(secs(60), sub.next(1)).await.is_err());
    assert!(matches!(broker.health().await.unwrap(), Health::Down(_)), "but health does not hang");
    broker.up();
    assert!(publishing.await.unwrap().into_iter().all(|outcome| outcome.is_ok()));
    assert_eq!(ids(&sub.take(1).await), ["1"]);
    assert!(sub.events.is_empty(), "nobody noticed");
}

#[tokio::test(start_paused = true)]
async fn what_was_under_way_at_a_restart_is_unknown() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    broker.inject(Faults::seeded(1).delay(1.0, secs(10)));
    let mut batch = [message(1)];
    let options = SendOptions::default();
    let mut publishing = broker.publish(&to, &mut batch, &options);
    assert!(poll_once(publishing.as_mut()).is_pending());
    broker.restart();
    let error = publishing.await.unwrap().into_iter().next().unwrap().unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Connection, Retry::Transient));
    assert!(error.may_be_stored());
}

#[tokio::test]
async fn a_restart_keeps_what_was_confirmed_and_ends_all_leases() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    put(&broker, &to, 0..4).await;
    let mut one = Sub::member(&broker, "one").await;
    let mut two = Sub::member(&broker, "two").await;
    let (ours, theirs) = (one.ready(2), two.ready(1));
    one.ack(&ours[0]).await;
    broker.restart();
    assert!(is_lost(&two.settle(requeue(&theirs[0])).await));
    let again = one.ready(9);
    assert!(matches!(one.events[..], [DriverEvent::Disconnected { .. }, DriverEvent::Reconnected]));
    assert_eq!(ids(&again), ["1", "2", "3"]);
    assert_eq!(stored(&broker).await.len(), 4);
    assert!(two.ready(9).is_empty());
    assert_eq!(two.events.len(), 2);
    // What was handled before the restart may be said late.
    two.ack_all(&theirs).await;
    assert_eq!(broker.lag(&topic_name(), &group_name(GROUP)).await.unwrap().in_flight, Some(2));
}

#[tokio::test]
async fn an_ephemeral_subscription_goes_on_after_a_restart() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    let mut sub = Sub::start(&broker, request(None)).await;
    broker.restart();
    put(&broker, &to, [1]).await;
    assert_eq!(ids(&sub.take(1).await), ["1"], "what came meanwhile is not missed");
}

#[tokio::test]
async fn rejected_is_not_stored_and_a_lost_reply_is() {
    let broker = MemoryBroker::with_config(
        MemoryConfig::new().faults(Faults::seeded(3).fail_publish(0.3).lose_reply(0.3)),
    )
    .unwrap();
    let to = plain(&broker).await;
    let outcomes = send(&broker, &to, (0..300).map(message)).await;
    broker.heal();
    let stored = stored(&broker).await;
    let (mut confirmed, mut rejected, mut unknown) = (0, 0, 0);
    for (id, outcome) in outcomes.iter().enumerate() {
        let is_stored = stored.contains(&id.to_string());
        match outcome {
            Ok(_) => {
                confirmed += 1;
                assert!(is_stored);
            }
            Err(error) => {
                assert_eq!(
                    (error.kind(), error.retry()),
                    (ErrorKind::Connection, Retry::Transient)
                );
                assert_eq!(is_stored, error.may_be_stored());
                *(if is_stored { &mut unknown } else { &mut rejected }) += 1;
            }
        }
    }
    assert!(confirmed > 90 && rejected > 50 && unknown > 40, "{confirmed} {rejected} {unknown}");
    // Healed: nothing goes wrong any more.
    put(&broker, &to, 0..100).await;
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_faults() {
    let run = async |seed| {
        let broker = MemoryBroker::new();
        let to = plain(&broker).await;
        let faults = Faults::seeded(seed).fail_publish(0.2).lose_reply(0.2).duplicate(0.2);
        broker.inject(faults.delay(0.5, secs(3)));
        let begin = Instant::now();
        let mut seen = Vec::new();
        for id in 0..50 {
            let outcome = send(&broker, &to, [message(id)]).await.remove(0);
            seen.push(outcome.map_err(|error| error.may_be_stored()).is_ok().to_string());
        }
        let mut sub = Sub::group(&broker).await;
        seen.extend(ids(&sub.ready(999)).into_iter().map(str::to_owned));
        (seen, begin.elapsed())
    };
    let first = run(11).await;
    assert_eq!(first, run(11).await);
    assert_ne!(first, run(12).await);
    assert!(first.1 > secs(1), "some were delayed");
}

#[tokio::test]
async fn a_duplicate_comes_twice_and_faults_can_be_limited() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    put(&broker, &to, 0..3).await;
    broker.inject(Faults::seeded(1).duplicate(1.0).limit(2));
    let mut sub = Sub::group(&broker).await;
    let received = sub.ready(9);
    assert_eq!(ids(&received), ["0", "0", "1", "1", "2"]);
    assert_ne!(received[0].token, received[1].token);
    assert_eq!(received[1].attempt.count, 2);
    sub.ack_all(&received).await;
    let lag = broker.lag(&topic_name(), &group_name(GROUP)).await.unwrap();
    assert_eq!(lag.total(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_cut_connection_comes_back_and_its_leases_end() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    put(&broker, &to, 0..2).await;
    broker.inject(Faults::seeded(1).disconnect(1.0, Duration::from_secs(10)).limit(1));
    let mut sub = Sub::group(&broker).await;
    let first = sub.next(1).await.unwrap();
    let begin = Instant::now();
    let mut other = Sub::member(&broker, "other").await;
    assert_eq!(ids(&other.ready(1)), ["0"], "at once to others");
    let next = sub.next(9).await.unwrap();
    assert_eq!(ids(&next), ["1"]);
    assert!(begin.elapsed() >= secs(10) && begin.elapsed() < secs(11), "{:?}", begin.elapsed());
    let [DriverEvent::Disconnected { reason }, DriverEvent::Reconnected] = &sub.events[..] else {
        panic!("{:?}", sub.events)
    };
    assert!(reason.contains("injected"), "{reason}");
    assert!(is_lost(&sub.settle(requeue(&first[0])).await));
}

/// P31: one that does nothing does not hold up the other.
#[tokio::test]
async fn a_stuck_subscription_stalls_nobody() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    let mut stuck = Sub::start(&broker, start_at(Some("stuck"), Start::Earliest)).await;
    put(&broker, &to, 0..100).await;
    let _held = stuck.take(10).await;
    let mut sub = Sub::group(&broker).await;
    let received = sub.take(100).await;
    sub.ack_all(&received).await;
}

/// Publishers and members on several threads, restarts in between: every confirmed message is
/// handled, and no waiting driver sleeps through it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_and_nobody_sleeps_under_load() {
    for ordered in [false, true] {
        let broker = MemoryBroker::new();
        let config = TopicConfig::new(TOPIC).group(GROUP);
        let config = if ordered { config.ordered(5) } else { config };
        let to = ensure(&broker, config).await;
        let seen = Arc::new(Mutex::new(HashSet::new()));
        let (done, _) = watch::channel(false);
        let done = Arc::new(done);
        let mut tasks = JoinSet::new();
        for member in 0..3 {
            let sub = Sub::member(&broker, &member.to_string()).await;
            tasks.spawn(consume(sub, Arc::clone(&seen), Arc::clone(&done)));
        }
        for part in 0..PUBLISHERS {
            tasks.spawn(produce(broker.clone(), to.clone(), part));
        }
        let all = async {
            while let Some(task) = tasks.join_next().await {
                task.unwrap()
            }
        };
        let finished = timeout(secs(60), all).await;
        let count = seen.lock().unwrap().len();
        assert!(finished.is_ok(), "somebody sleeps: {count} of {MESSAGES}, ordered: {ordered}");
        assert_eq!(count, MESSAGES);
    }
}

const PUBLISHERS: usize = 2;
const MESSAGES: usize = 4_000;

async fn produce(broker: MemoryBroker, to: Destination, part: usize) {
    for chunk in (part..MESSAGES / 10).step_by(PUBLISHERS) {
        let mut batch: Vec<_> =
            (chunk * 10..chunk * 10 + 10).map(|id| keyed(id, &(id % 17).to_string())).collect();
        while !batch.is_empty() {
            // As core does: what is unknown is sent again with the same id.
            let outcomes = send(&broker, &to, batch.iter().cloned()).await;
            let mut failed = outcomes.iter().map(|outcome| {
                assert!(outcome.as_ref().err().is_none_or(|error| error.may_be_stored()));
                outcome.is_err()
            });
            batch.retain(|_| failed.next() == Some(true));
        }
        if chunk % 50 == 25 {
            broker.restart();
        }
        tokio::task::yield_now().await;
    }
}

async fn consume(mut sub: Sub, seen: Arc<Mutex<HashSet<String>>>, done: Arc<watch::Sender<bool>>) {
    let mut finished = done.subscribe();
    loop {
        let batch = tokio::select! {
            batch = sub.next(7) => batch.unwrap(),
            _ = finished.wait_for(|done| *done) => break,
        };
        sub.events.clear();
        let acks: Vec<_> =
            batch.iter().map(|one| Settlement::new(one.token.clone(), Verdict::Ack)).collect();
        tokio::task::yield_now().await;
        sub.settler.settle(&acks, Confirmation::Sent).await.unwrap();
        let mut seen = seen.lock().unwrap();
        seen.extend(batch.iter().map(|one| one.envelope.id().to_owned()));
        if seen.len() == MESSAGES {
            done.send_replace(true);
        }
    }
}
