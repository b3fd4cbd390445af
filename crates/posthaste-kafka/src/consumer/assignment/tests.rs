//! A partition and its records, from coming to going.

use std::time::Duration;

use posthaste_core::TopicName;

use super::*;

fn partition() -> Partition {
    begins(Keeping { spills: true, ordered: false }, BTreeMap::new())
}

fn begins(keeping: Keeping, delivered: BTreeMap<i64, Again>) -> Partition {
    let lane = Arc::new(Lane::new(TopicName::new("orders").unwrap(), Some(3)));
    let partition = Partition::new(lane, 5, 3, 9, Tracker::begin(100));
    partition.keeping(keeping).with_delivered(delivered)
}

fn arrived(offset: i64) -> Arrived {
    let envelope = Envelope::builder("test").source("/it").build().unwrap();
    let (position, attempts) = (Position::offset(offset.unsigned_abs()), 0);
    Arrived { partition: 3, offset, envelope, position, attempts, due: None, released: None }
}

fn come(partition: &mut Partition, offset: i64) -> Token {
    let next = partition.add(arrived(offset), Instant::now());
    let Some(Next::HandOut(received)) = next else { unreachable!("{next:?}") };
    assert!(partition.hand_out(received.token.sequence, Instant::now()));
    received.token
}

#[test]
fn acknowledged_in_any_order_nothing_is_skipped() {
    let mut partition = partition();
    let tokens: Vec<_> = (100..103).map(|offset| come(&mut partition, offset)).collect();
    assert!(partition.settle(tokens[2].sequence) && partition.settle(tokens[1].sequence));
    assert!(!partition.settle(tokens[1].sequence));
    assert_eq!((partition.progress(false).watermark, partition.out), (100, 1));
    assert!(partition.settle(tokens[0].sequence));
    assert_eq!((partition.progress(true).watermark, partition.out), (103, 0));
}

#[test]
fn the_next_delivery_has_its_own_token_and_counts() {
    let mut partition = partition();
    let first = come(&mut partition, 100);
    let place = Place::of(&first);
    assert!(partition.holds(place, first.sequence));
    partition.take_back(first.sequence, Some(1), None, false);
    assert!(!partition.holds(place, first.sequence));
    let again = partition.again(first.sequence).unwrap();
    assert_eq!(again.attempt.count, 2);
    assert!(partition.hand_out(again.token.sequence, Instant::now()));
    // The verdict of the first one does not touch it.
    assert!(!partition.holds(place, first.sequence));
    assert!(partition.holds(Place::of(&again.token), first.sequence));
    // But a late acknowledgement completes the message.
    assert!(partition.settle(first.sequence));
    assert!(!partition.holds(Place::of(&again.token), first.sequence));
    assert_eq!(partition.out, 0);
}

#[test]
fn what_is_held_too_long_is_taken_back_unless_it_was_prolonged() {
    let mut partition = partition();
    let (first, second) = (come(&mut partition, 100), come(&mut partition, 101));
    let later = Instant::now() + Duration::from_secs(5);
    partition.extend(second.sequence, later);
    assert_eq!(partition.end_leases(Instant::now()), [first.sequence]);
    assert_eq!(partition.out, 1);
    assert_eq!(partition.end_leases(later), [second.sequence]);
    assert!(partition.end_leases(later).is_empty());
}

#[test]
fn who_gives_back_what_goes_does_not_get_it_again() {
    let mut partition = partition();
    let token = come(&mut partition, 100);
    partition.take_back(token.sequence, Some(1), None, true);
    assert!(partition.again(token.sequence).is_none());
    let progress = partition.progress(true);
    assert_eq!((progress.watermark, progress.clean), (100, true));
}

fn waits(partition: &mut Partition, offset: i64, left: Duration) -> Next {
    let mut copy = arrived(offset);
    (copy.attempts, copy.due) = (2, Some(Timestamp::now() + left));
    partition.add(copy, Instant::now()).unwrap()
}

#[test]
fn a_copy_is_handed_out_when_it_is_due_and_counts_what_was_before() {
    let mut partition = partition();
    let Next::HandOut(received) = waits(&mut partition, 100, Duration::ZERO) else {
        unreachable!("it is due")
    };
    assert_eq!(received.attempt.count, 3);
    let Next::Wait(until, sequence) = waits(&mut partition, 101, Duration::from_secs(20)) else {
        unreachable!("it is due soon")
    };
    assert!(until > Instant::now() && partition.away() == 0);
    assert_eq!(partition.again(sequence).unwrap().attempt.count, 3);
}

#[test]
fn what_is_due_late_moves_on_and_is_settled_when_it_has() {
    let mut partition = partition();
    let Next::Move(hop) = waits(&mut partition, 100, Duration::from_secs(90)) else {
        unreachable!("it is due late")
    };
    assert_eq!((hop.attempts, partition.away(), partition.out), (2, 1, 0));
    assert_eq!(partition.progress(false).watermark, 100);
    assert!(partition.settle(hop.token.sequence));
    assert_eq!((partition.progress(false).watermark, partition.away()), (101, 0));
    assert!(!partition.stay(hop.token.sequence));
    // What cannot move waits here.
    let Next::Move(hop) = waits(&mut partition, 101, Duration::from_secs(90)) else {
        unreachable!("it is due late")
    };
    assert!(partition.stay(hop.token.sequence) && partition.away() == 0);
    assert_eq!(partition.again(hop.token.sequence).unwrap().attempt.count, 3);
}

#[test]
fn what_failed_and_waits_can_spill() {
    let mut partition = partition();
    let (held, out) = (come(&mut partition, 100), come(&mut partition, 101));
    partition.take_back(held.sequence, Some(1), None, false);
    let hop = partition.spill(held.sequence, Timestamp::now()).unwrap();
    assert_eq!((hop.attempts, partition.away()), (1, 2));
    assert!(partition.spill(out.sequence, Timestamp::now()).is_none());
}

fn keyed(offset: i64, key: &'static str) -> Arrived {
    let builder = Envelope::builder("test").source("/it").key(key);
    Arrived { envelope: builder.build().unwrap(), ..arrived(offset) }
}

#[test]
fn the_next_owner_knows_attempts_and_times_and_keeps_the_order_of_keys() {
    let ordered = Keeping { spills: false, ordered: true };
    let mut partition = begins(ordered, BTreeMap::new());
    let (failed, back) = (come(&mut partition, 100), come(&mut partition, 101));
    let unseen = come(&mut partition, 102);
    come(&mut partition, 103);
    let due = Timestamp::now() + Duration::from_secs(90);
    partition.take_back(failed.sequence, Some(1), Some(due), false);
    partition.take_back(back.sequence, Some(3), None, true);
    partition.take_back(unseen.sequence, Some(0), None, true);
    let again = partition.progress(false).again;
    let told: Vec<_> = again.iter().map(|one| (one.offset, one.attempt, one.due)).collect();
    assert_eq!(told, [(100, 2, Some(due)), (101, 4, None)]);
    assert_eq!(partition.delivered(true).len(), 3, "who comes back knows all");

    let delivered = again.into_iter().map(|one| (one.offset, one)).collect();
    let mut next = begins(ordered, delivered);
    assert_eq!(next.progress(false).again.len(), 2, "also who has nothing of it yet");
    let now = Instant::now();
    let Some(Next::Wait(until, first)) = next.add(keyed(100, "a"), now) else {
        unreachable!("it waits in memory, however long")
    };
    assert!(until > now + Duration::from_secs(80));
    let Some(Next::HandOut(other)) = next.add(keyed(101, "b"), now) else {
        unreachable!("another key waits for nothing")
    };
    assert_eq!(other.attempt.count, 4);
    let Some(Next::Wait(follows, second)) = next.add(keyed(103, "a"), now) else {
        unreachable!("it would overtake")
    };
    assert_eq!(follows, until);
    assert_eq!(next.again(first).unwrap().attempt.count, 2);
    let Some(Next::Wait(..)) = next.add(keyed(104, "a"), now) else {
        unreachable!("one before it still waits")
    };
    assert_eq!(next.again(second).unwrap().attempt.count, 1);
}

#[test]
fn bytes_are_bounded_too() {
    let (mut partition, now) = (partition(), Instant::now());
    let large = Envelope::builder("test").source("/it").payload(vec![0; UNSETTLED_BYTES / 2]);
    let large = large.build().unwrap();
    let one = |offset| Arrived { envelope: large.clone(), ..arrived(offset) };
    assert!(partition.add(one(100), now).is_some() && !partition.is_at_cap(now));
    let Some(Next::HandOut(second)) = partition.add(one(101), now) else {
        unreachable!("it waits for nothing")
    };
    assert!(partition.is_at_cap(now));
    assert!(partition.settle(second.token.sequence) && !partition.is_at_cap(now));
}

#[test]
fn an_end_is_not_clean_while_something_is_out() {
    let mut partition = partition();
    come(&mut partition, 100);
    assert!(!partition.progress(true).clean);
}
