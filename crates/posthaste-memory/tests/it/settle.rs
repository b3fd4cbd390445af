//! Leases, late verdicts, attempts, delays and dead letters: P8 to P14.

use posthaste_core::broker::{Admin, DeadLetterQuery, Settlement, Token, Verdict};
use posthaste_core::{ErrorKind, LetterId, TopicConfig};
use posthaste_memory::MemoryBroker;
use tokio::time::{Instant, advance};

use crate::support::*;

/// A subscription that holds one message.
async fn holding(broker: &MemoryBroker) -> (Sub, posthaste_core::broker::Received) {
    let to = plain(broker).await;
    put(broker, &to, [1]).await;
    let mut sub = Sub::member(broker, "holder").await;
    let received = sub.take(1).await.remove(0);
    (sub, received)
}

#[tokio::test(start_paused = true)]
async fn an_unsettled_delivery_comes_again_when_its_lease_ends() {
    let broker = MemoryBroker::new();
    let (_holder, first) = holding(&broker).await;
    let mut other = Sub::member(&broker, "other").await;
    let begin = Instant::now();
    // The holder is not polled: the other's own timer notices.
    let second = other.take(1).await.remove(0);
    assert!(begin.elapsed() >= secs(30), "not before the lease ends");
    assert!(begin.elapsed() < secs(31), "and soon after it");
    assert_eq!(second.attempt.count, 2);
    assert!(second.attempt.exact);
    assert_eq!(second.position, first.position);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_waits_already_hears_of_a_lease_that_began_later() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    let mut holder = Sub::member(&broker, "holder").await;
    let mut waiter = Sub::member(&broker, "waiter").await;
    let waiting = async { waiter.take(1).await.remove(0) };
    let publishing = async {
        tokio::task::yield_now().await;
        send(&broker, &to, [message(1)]).await.remove(0).unwrap();
        // Before the waiter is polled again.
        assert_eq!(holder.ready(1).len(), 1);
    };
    let (again, ()) = tokio::join!(waiting, publishing);
    assert_eq!(again.attempt.count, 2);
}

#[tokio::test(start_paused = true)]
async fn extending_keeps_a_lease_and_only_then() {
    let broker = MemoryBroker::new();
    let (holder, first) = holding(&broker).await;
    let mut other = Sub::member(&broker, "other").await;
    for _ in 0..5 {
        advance(secs(20)).await;
        let extended = holder.settler.extend(std::slice::from_ref(&first.token)).await.unwrap();
        assert!(extended.lost.is_empty());
        assert!(other.ready(1).is_empty());
    }
    advance(secs(31)).await;
    let extended = holder.settler.extend(std::slice::from_ref(&first.token)).await.unwrap();
    assert_eq!(extended.lost, [0]);
    assert_eq!(other.ready(1).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn late_verdicts_are_refused_and_a_late_ack_completes() {
    let broker = MemoryBroker::new();
    let (holder, first) = holding(&broker).await;
    advance(secs(31)).await;
    // Nobody has looked since: late is late all the same.
    assert!(is_lost(&holder.settle(requeue(&first)).await));
    let mut other = Sub::member(&broker, "other").await;
    let second = other.take(1).await.remove(0);
    for verdict in [requeue(&first), release(&first), after(&first, secs(1)), dead_letter(&first)] {
        assert!(is_lost(&holder.settle(verdict).await));
    }
    let extended = holder.settler.extend(std::slice::from_ref(&first.token)).await.unwrap();
    assert_eq!(extended.lost, [0]);
    let lag = broker.lag(&topic_name(), &group_name(GROUP)).await.unwrap();
    assert_eq!(lag.in_flight, Some(1), "the other's delivery was not touched");

    holder.ack(&first).await;
    let lag = broker.lag(&topic_name(), &group_name(GROUP)).await.unwrap();
    assert_eq!(lag.total(), 0, "it was handled");
    assert!(is_lost(&other.settle(requeue(&second)).await), "there is nothing to give back");
    other.ack(&second).await;
    advance(secs(100)).await;
    assert!(other.ready(9).is_empty());
}

#[tokio::test]
async fn tokens_of_nobody_break_nothing() {
    let broker = MemoryBroker::new();
    let (holder, first) = holding(&broker).await;
    let odd = [
        Token::sequence(7, 1, 0),
        Token::sequence(0, 1, u64::MAX),
        Token::sequence(0, 999, first.token.sequence),
        Token::sequence(u32::MAX, u32::MAX, 5),
    ];
    for token in &odd {
        let mut verdict = requeue(&first);
        verdict.token = token.clone();
        assert!(is_lost(&holder.settle(verdict).await), "{token:?}");
        let extended = holder.settler.extend(std::slice::from_ref(token)).await.unwrap();
        assert_eq!(extended.lost, [0], "{token:?}");
        let ack = Settlement::new(token.clone(), Verdict::Ack);
        if token.lane == 0 {
            assert!(holder.settle(ack).await.is_none(), "nothing left to do");
        }
    }
    let lag = broker.lag(&topic_name(), &group_name(GROUP)).await.unwrap();
    assert_eq!(lag.in_flight, Some(1), "the real one is untouched");
    holder.ack(&first).await;
}

#[tokio::test]
async fn acknowledging_out_of_order_skips_nothing() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    put(&broker, &to, 0..6).await;
    let mut sub = Sub::group(&broker).await;
    let received = sub.take(6).await;
    for index in [5, 1, 3] {
        sub.ack(&received[index]).await;
    }
    broker.restart();
    let mut again = Sub::member(&broker, "again").await;
    let received = again.ready(9);
    assert_eq!(ids(&received), ["0", "2", "4"]);
    assert!(received.iter().all(|received| received.attempt.count == 2));
}

#[tokio::test]
async fn one_batch_settles_with_one_outcome_each() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    put(&broker, &to, 0..4).await;
    let mut sub = Sub::group(&broker).await;
    let received = sub.take(4).await;
    sub.ack(&received[1]).await;
    let batch = [
        Settlement::new(received[0].token.clone(), Verdict::Ack),
        requeue(&received[1]),
        requeue(&received[2]),
        dead_letter(&received[3]),
    ];
    let report = sub.settler.settle(&batch, Default::default()).await.unwrap();
    let exceptions: Vec<_> = report.into_exceptions().into_iter().map(|(at, _)| at).collect();
    assert_eq!(exceptions, [1], "it is settled already");
    assert_eq!(ids(&sub.ready(9)), ["2"]);
}

#[tokio::test(start_paused = true)]
async fn attempts_count_every_delivery() {
    let broker = MemoryBroker::new();
    let (mut sub, first) = holding(&broker).await;
    assert_eq!(first.attempt.count, 1);
    assert!(sub.settle(release(&first)).await.is_none());
    let again = sub.take(1).await.remove(0);
    assert_eq!(again.attempt.count, 2, "a release was a delivery too");
    assert!(sub.settle(requeue(&again)).await.is_none());
    let again = sub.take(1).await.remove(0);
    assert_eq!(again.attempt.count, 3);
    assert!(sub.settle(after(&again, secs(1))).await.is_none());
    let again = sub.take(1).await.remove(0);
    assert_eq!(again.attempt.count, 4);
    broker.restart();
    assert_eq!(sub.take(1).await[0].attempt.count, 5);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_nack_is_not_early_and_not_late() {
    let broker = MemoryBroker::new();
    let (mut sub, first) = holding(&broker).await;
    let begin = Instant::now();
    assert!(sub.settle(after(&first, secs(100))).await.is_none());
    let lag = broker.lag(&topic_name(), &group_name(GROUP)).await.unwrap();
    assert_eq!((lag.ready, lag.delayed), (Some(0), Some(1)));
    let mut other = Sub::member(&broker, "other").await;
    let again = other.take(1).await;
    assert!(begin.elapsed() >= secs(100) && begin.elapsed() < secs(101), "{:?}", begin.elapsed());
    assert_eq!(again[0].attempt.count, 2);
    assert!(sub.ready(9).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_shorter_delay_wakes_who_waits_for_a_longer_one() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    put(&broker, &to, ["long", "short"]).await;
    let mut sub = Sub::member(&broker, "holder").await;
    let received = sub.take(2).await;
    assert!(sub.settle(after(&received[0], secs(100))).await.is_none());
    let mut other = Sub::member(&broker, "other").await;
    let begin = Instant::now();
    let waiting = async { other.take(1).await };
    let settling = async {
        tokio::time::sleep(secs(1)).await;
        assert!(sub.settle(after(&received[1], secs(2))).await.is_none());
    };
    let (again, ()) = tokio::join!(waiting, settling);
    assert_eq!(ids(&again), ["short"]);
    assert!(begin.elapsed() >= secs(3) && begin.elapsed() < secs(4), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn endless_delays_and_leases_are_no_trouble() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    put(&broker, &to, [1]).await;
    let mut endless = request(Some(GROUP));
    endless.lease = std::time::Duration::MAX;
    let mut sub = Sub::start(&broker, endless).await;
    let received = sub.take(1).await.remove(0);
    assert!(sub.settle(after(&received, std::time::Duration::MAX)).await.is_none());
    assert!(sub.ready(9).is_empty());
}

#[tokio::test]
async fn a_nack_concerns_its_group_only() {
    let broker = MemoryBroker::new();
    let to = ensure(&broker, TopicConfig::new(TOPIC).group(GROUP).group("shipping")).await;
    put(&broker, &to, [1]).await;
    let mut sub = Sub::group(&broker).await;
    let mut other = Sub::start(&broker, request(Some("shipping"))).await;
    let theirs = other.take(1).await;
    other.ack_all(&theirs).await;
    let ours = sub.take(1).await;
    assert!(sub.settle(requeue(&ours[0])).await.is_none());
    let ours = sub.take(1).await;
    assert!(sub.settle(dead_letter(&ours[0])).await.is_none());
    let page = broker
        .dead_letters(&topic_name(), &group_name(GROUP), &DeadLetterQuery::first(9))
        .await
        .unwrap();
    let letters = [page.letters[0].id.clone()];
    let replayed = broker.replay(&topic_name(), &group_name(GROUP), &letters).await.unwrap();
    assert!(replayed[0].is_ok());
    assert!(other.ready(9).is_empty());
    assert_eq!(ids(&sub.ready(9)), ["1"]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_tells_everything_and_can_be_replayed_and_discarded() {
    let broker = MemoryBroker::new();
    let (topic, group) = (topic_name(), group_name(GROUP));
    let (mut sub, first) = holding(&broker).await;
    let to = plain(&broker).await;
    let failed_first = posthaste_core::Timestamp::now();
    assert!(sub.settle(requeue(&first)).await.is_none());
    advance(secs(5)).await;
    let again = sub.take(1).await.remove(0);
    assert!(sub.settle(dead_letter(&again)).await.is_none());
    put(&broker, &to, [2]).await;
    let second = sub.take(1).await.remove(0);
    assert!(sub.settle(dead_letter(&second)).await.is_none());
    assert!(sub.ready(9).is_empty());

    let list = async |query| broker.dead_letters(&topic, &group, &query).await.unwrap().letters;
    let letters = list(DeadLetterQuery::first(9)).await;
    assert_eq!(letters.len(), 2);
    let letter = &letters[0].letter;
    assert_eq!(letter.envelope.id(), "1");
    assert_eq!((&letter.topic, &letter.group), (&topic, &group));
    assert_eq!(letter.attempts, 2);
    assert_eq!(letter.cause.as_ref().unwrap().chain(), ["the test says so"]);
    let first_failed = letter.first_failed_at.expect("the broker saw the first failure");
    assert!(first_failed < letter.failed_at);
    assert!(first_failed.since(failed_first) < secs(1));
    assert!(letter.failed_at.since(first_failed) >= secs(4));

    assert_eq!(list(DeadLetterQuery::first(1)).await.len(), 1);
    let behind = list(DeadLetterQuery::first(9).after(letters[0].id.clone())).await;
    assert_eq!(behind.len(), 1);
    assert_eq!(behind[0].letter.envelope.id(), "2");

    let unknown = LetterId::new("nonsense");
    let asked = [letters[0].id.clone(), unknown.clone(), letters[0].id.clone()];
    let replayed = broker.replay(&topic, &group, &asked).await.unwrap();
    let kinds: Vec<_> =
        replayed.iter().map(|one| one.as_ref().err().map(posthaste_core::Error::kind)).collect();
    assert_eq!(kinds, [None, Some(ErrorKind::NotFound), Some(ErrorKind::NotFound)]);
    let received = sub.take(1).await.remove(0);
    assert_eq!(received.envelope.id(), "1");
    assert_eq!(received.attempt.count, 1, "a replay begins anew");
    assert_eq!(received.position, first.position);
    sub.ack(&received).await;

    let asked = [letters[1].id.clone(), unknown];
    let discarded = broker.discard(&topic, &group, &asked).await.unwrap();
    assert!(discarded[0].is_ok() && discarded[1].is_err());
    assert!(list(DeadLetterQuery::first(9)).await.is_empty());
}

#[tokio::test]
async fn dead_letters_outlive_their_group() {
    let broker = MemoryBroker::new();
    let (topic, group) = (topic_name(), group_name(GROUP));
    let (sub, first) = holding(&broker).await;
    assert!(sub.settle(dead_letter(&first)).await.is_none());
    drop(sub);
    broker.delete_group(&topic, &group).await.unwrap();
    let page = broker.dead_letters(&topic, &group, &DeadLetterQuery::first(9)).await.unwrap();
    assert_eq!(page.letters.len(), 1);
    let letters = [page.letters[0].id.clone()];
    let replayed = broker.replay(&topic, &group, &letters).await.unwrap().remove(0);
    assert_eq!(replayed.unwrap_err().kind(), ErrorKind::NotFound, "there is nobody to send it to");
    // And it was not lost by that.
    let mut sub = Sub::group(&broker).await;
    assert!(broker.replay(&topic, &group, &letters).await.unwrap()[0].is_ok());
    assert_eq!(ids(&sub.ready(9)), ["1"]);
    let unknown = group_name("unknown");
    let none = broker.dead_letters(&topic, &unknown, &DeadLetterQuery::first(9)).await;
    assert_eq!(none.unwrap_err().kind(), ErrorKind::NotFound);
}

/// A group that was deleted and made anew has nothing to do with tokens of the former one.
#[tokio::test]
async fn tokens_do_not_survive_their_group() {
    let broker = MemoryBroker::new();
    let (old, first) = holding(&broker).await;
    let settler = std::sync::Arc::clone(&old.settler);
    drop(old);
    broker.delete_group(&topic_name(), &group_name(GROUP)).await.unwrap();
    let to = plain(&broker).await;
    put(&broker, &to, [2]).await;
    let mut sub = Sub::group(&broker).await;
    let received = sub.take(1).await;
    assert_eq!(ids(&received), ["2"]);
    let ack = Settlement::new(first.token.clone(), Verdict::Ack);
    settler.settle(&[ack], Default::default()).await.unwrap();
    let lag = broker.lag(&topic_name(), &group_name(GROUP)).await.unwrap();
    assert_eq!(lag.in_flight, Some(1));
}
