//! The books are told of everything that can go wrong, and have to notice each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::super::message::{KEYS, Tag};
use super::books::{Books, Letter, Shape};
use super::deliveries::{Arrival, Ending};
use super::findings::Wrong;
use super::keys::Right;
use super::publications::Published;

const CONFIRMED: Published = Published::Confirmed { duplicate: false };
/// The groups: two on a plain topic, one on an ordered one.
const A: usize = 0;
const B: usize = 1;
const KEYED: usize = 2;
/// The publishers: one that does not ask for deduplication, one that does, one with keys.
const PLAIN: usize = 0;
const ONCE: usize = 1;
const ORDERED: usize = 2;

#[derive(Debug, Default)]
struct Lease(AtomicBool);

impl Right for Lease {
    fn is_lost(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

fn books() -> Books {
    let group = |name: &str, topic, ordered| (name.to_owned(), topic, ordered);
    Books::new(Shape {
        publishers: vec![(0, false), (0, true), (1, false)],
        groups: vec![group("a", 0, false), group("b", 0, false), group("keyed", 1, true)],
        replay_window: Duration::from_secs(2),
        share_lanes: false,
    })
}

/// A delivery that is being handled.
struct Handling {
    group: usize,
    tag: Tag,
    right: Arc<dyn Right>,
}

impl Handling {
    fn end(self, books: &mut Books, ending: Ending, at: u32) {
        books.ended(self.group, self.tag, &self.right, ending, at);
    }
}

fn arrival(tag: Tag, attempt: u32) -> Arrival {
    Arrival {
        tag,
        member: 0,
        attempt,
        exact: true,
        offset: Some(u64::from(tag.number)),
        stored: None,
    }
}

fn begin(books: &mut Books, group: usize, arrival: Arrival, at: u32) -> Handling {
    let right: Arc<dyn Right> = Arc::new(Lease::default());
    books.arrived(group, &arrival, &right, at);
    Handling { group, tag: arrival.tag, right }
}

fn handle(books: &mut Books, group: usize, tag: Tag, attempt: u32, at: u32) {
    begin(books, group, arrival(tag, attempt), at).end(books, Ending::Acknowledged, at);
}

fn publish(books: &mut Books, publisher: usize) -> Tag {
    let tag = books.attempt(publisher);
    books.published(tag, CONFIRMED);
    tag
}

/// The messages of the first key of the ordered publisher, in their order.
fn publish_turns(books: &mut Books, count: u32) -> Vec<Tag> {
    let all: Vec<Tag> = (0..count * KEYS).map(|_| publish(books, ORDERED)).collect();
    for group in [A, B] {
        assert_eq!(books.groups[group].pending, 0, "another topic is not theirs");
    }
    // The other keys are handled in order.
    for tag in all.iter().filter(|tag| tag.key() != 0) {
        handle(books, KEYED, *tag, 1, 0);
    }
    all.into_iter().filter(|tag| tag.key() == 0).collect()
}

/// What is found in the end, and nothing else.
fn found(mut books: Books) -> Vec<(Wrong, u64)> {
    books.close(true);
    books.findings.iter().map(|(wrong, count, _)| (wrong, count)).collect()
}

#[test]
fn a_run_without_a_fault_has_no_findings() {
    let mut books = books();
    let mut tags = Vec::new();
    for publisher in [PLAIN, ONCE] {
        tags.extend((0..50).map(|_| publish(&mut books, publisher)));
    }
    assert_eq!((books.groups[A].pending, books.groups[B].pending), (100, 100));
    for tag in &tags {
        handle(&mut books, A, *tag, 1, 10);
        handle(&mut books, B, *tag, 1, 20);
    }
    for tag in publish_turns(&mut books, 3) {
        // Once it fails, and comes again.
        begin(&mut books, KEYED, arrival(tag, 1), 30).end(&mut books, Ending::Undone, 31);
        handle(&mut books, KEYED, tag, 2, 40);
    }
    let groups = [A, B, KEYED].map(|group| books.groups[group].pending);
    assert_eq!(groups, [0, 0, 0]);
    assert_eq!(books.groups[KEYED].redelivered, 3);
    assert_eq!(found(books), []);
}

#[test]
fn what_a_group_does_not_get_is_lost() {
    let mut books = books();
    let tag = publish(&mut books, PLAIN);
    handle(&mut books, A, tag, 1, 10);
    begin(&mut books, B, arrival(tag, 1), 10).end(&mut books, Ending::Undone, 20);
    assert_eq!(books.groups[B].pending, 1);
    assert_eq!(found(books), [(Wrong::Lost, 1)]);
}

#[test]
fn what_was_interrupted_is_not_lost() {
    let mut books = books();
    publish(&mut books, PLAIN);
    books.close(false);
    assert!(books.findings.is_empty());
}

#[test]
fn what_was_refused_as_a_dead_letter_has_to_come_again() {
    let mut books = books();
    let tag = publish(&mut books, PLAIN);
    handle(&mut books, A, tag, 1, 10);
    begin(&mut books, B, arrival(tag, 1), 10).end(&mut books, Ending::DeadLettered, 10);
    books.refused(B, tag, Ending::DeadLettered);
    assert_eq!((books.groups[A].pending, books.groups[B].pending), (0, 1));
    assert_eq!((books.groups[B].dead_lettered, books.groups[B].handled), (0, 0));
    assert_eq!(found(books), [(Wrong::Lost, 1)]);
}

#[test]
fn what_was_acknowledged_too_late_may_come_again() {
    let mut books = books();
    let tag = publish(&mut books, PLAIN);
    for group in [A, B] {
        handle(&mut books, group, tag, 1, 10);
        books.refused(group, tag, Ending::Acknowledged);
    }
    handle(&mut books, A, tag, 2, 9_000);
    assert_eq!((books.groups[A].redelivered, books.groups[A].again), (1, 0));
    // Once it was taken it has to stay away.
    handle(&mut books, A, tag, 3, 18_000);
    assert_eq!(found(books), [(Wrong::Repeated, 1)]);
}

#[test]
fn what_is_certainly_not_stored_must_not_come() {
    let mut books = books();
    let tag = books.attempt(PLAIN);
    handle(&mut books, A, tag, 1, 10);
    books.published(tag, Published::NotStored);
    assert_eq!(found(books), [(Wrong::NotStoredButDelivered, 1)]);
}

#[test]
fn what_may_be_stored_may_come_or_not() {
    let mut books = books();
    for _ in 0..2 {
        let tag = books.attempt(PLAIN);
        books.published(tag, Published::Unknown);
    }
    handle(&mut books, A, Tag::new(PLAIN, 0), 1, 10);
    assert_eq!(found(books), []);
}

#[test]
fn what_nobody_published_is_noticed() {
    let mut books = books();
    let of_another_topic = publish(&mut books, ORDERED);
    let right: Arc<dyn Right> = Arc::new(Lease::default());
    for tag in [Tag::new(PLAIN, 7), Tag::new(99, 0), of_another_topic] {
        assert_eq!(books.arrived(A, &arrival(tag, 1), &right, 10), None);
    }
    books.foreign(A, "somebody's");
    assert_eq!(books.findings.count(Wrong::Foreign), 4);
}

#[test]
fn two_copies_are_wrong_where_deduplication_was_asked_for_or_nothing_was_broken() {
    for (publisher, outage, wrong) in [(PLAIN, true, 0), (PLAIN, false, 1), (ONCE, true, 1)] {
        let mut books = books();
        let tag = publish(&mut books, publisher);
        handle(&mut books, A, tag, 1, 1_000);
        handle(&mut books, B, tag, 1, 1_000);
        if outage {
            books.outages.begin(5_000);
            books.outages.end(7_000);
        }
        let other = Arrival { offset: Some(999), ..arrival(tag, 1) };
        begin(&mut books, A, other, 9_000).end(&mut books, Ending::Acknowledged, 9_000);
        assert_eq!(books.copies, 1);
        assert_eq!(books.findings.count(Wrong::Repeated), 0, "another copy is no redelivery");
        assert_eq!(found(books), [(Wrong::StoredTwice, wrong)][..usize::from(wrong > 0)]);
    }
}

/// Both copies waited in the topic while something else was broken, or for their turn.
#[test]
fn a_copy_that_was_stored_in_an_outage_may_be_read_long_after_it() {
    for (stored, wrong) in [(Some(6_000), 0), (Some(8_500), 1), (None, 1)] {
        let mut books = books();
        let tag = publish(&mut books, PLAIN);
        books.outages.begin(5_000);
        books.outages.end(7_000);
        handle(&mut books, A, tag, 1, 20_000);
        handle(&mut books, B, tag, 1, 20_000);
        let other = Arrival { offset: Some(999), stored, ..arrival(tag, 1) };
        begin(&mut books, A, other, 20_001).end(&mut books, Ending::Acknowledged, 20_001);
        assert_eq!(found(books), [(Wrong::StoredTwice, wrong)][..usize::from(wrong > 0)]);
    }
}

#[test]
fn a_reader_of_the_topic_notices_what_is_missing_and_what_must_not_be_there() {
    let mut books = books();
    for publisher in [PLAIN, ONCE] {
        for _ in 0..5 {
            publish(&mut books, publisher);
        }
    }
    let tag = books.attempt(PLAIN);
    books.published(tag, Published::NotStored);
    books.stored(&[vec![1, 1, 2, 1, 1], vec![1; 5]]);
    assert!(books.findings.is_empty(), "without deduplication there may be copies");
    books.stored(&[vec![1, 1, 0, 1, 1, 1], vec![2, 1, 1, 1]]);
    let all = [(Wrong::Lost, 2), (Wrong::NotStoredButDelivered, 1), (Wrong::StoredTwice, 1)];
    for (wrong, count) in all {
        assert_eq!(books.findings.count(wrong), count, "{wrong}");
    }
}

#[test]
fn a_reader_of_a_topic_that_was_trimmed_misses_its_beginning() {
    let mut books = books();
    for _ in 0..5_000 {
        publish(&mut books, PLAIN);
    }
    let mut copies = vec![1; 5_000];
    copies[..1_500].fill(0);
    books.stored(&[copies.clone()]);
    assert!(books.findings.is_empty());
    copies[4_000] = 0;
    books.stored(&[copies]);
    assert_eq!(books.findings.count(Wrong::Lost), 1);
}

#[test]
fn what_was_settled_must_not_come_again_but_near_an_outage() {
    for (settled, wrong) in [(1_000, 1), (9_000, 0), (10_500, 0), (15_000, 1)] {
        let mut books = books();
        let tag = publish(&mut books, PLAIN);
        handle(&mut books, A, tag, 1, settled);
        handle(&mut books, B, tag, 1, settled);
        books.outages.begin(10_000);
        books.outages.end(12_000);
        handle(&mut books, A, tag, 2, 20_000);
        assert_eq!((books.groups[A].again, books.groups[A].handled), (1, 1));
        assert_eq!(books.findings.count(Wrong::Repeated), wrong, "settled at {settled}");
    }
}

#[test]
fn what_a_member_settled_just_before_it_was_dropped_may_come_again() {
    for (dropped, at, wrong) in [(true, 5_500, 0), (false, 5_500, 1), (true, 9_000, 1)] {
        let mut books = books();
        let member = books.members.join(A, "m".to_owned(), 0);
        let tag = publish(&mut books, PLAIN);
        handle(&mut books, A, tag, 1, 5_000);
        books.members.leave(member, dropped, at);
        handle(&mut books, A, tag, 2, 20_000);
        assert_eq!(books.findings.count(Wrong::Repeated), wrong, "{dropped} at {at}");
    }
}

#[test]
fn attempts_grow_but_over_an_outage() {
    for (outage, exact, wrong) in [(false, true, 1), (true, true, 0), (false, false, 0)] {
        let mut books = books();
        let tag = publish(&mut books, PLAIN);
        begin(&mut books, A, arrival(tag, 3), 1_000).end(&mut books, Ending::Undone, 1_000);
        if outage {
            books.outages.begin(8_000);
            books.outages.end(8_500);
        }
        let again = Arrival { exact, ..arrival(tag, 3) };
        begin(&mut books, A, again, 9_900).end(&mut books, Ending::Acknowledged, 9_900);
        assert_eq!(books.findings.count(Wrong::AttemptsWentBack), wrong);
    }
}

#[test]
fn an_unflagged_second_delivery_is_noticed() {
    let mut books = books();
    let tag = publish(&mut books, PLAIN);
    begin(&mut books, A, arrival(tag, 1), 1_000).end(&mut books, Ending::Undone, 1_000);
    handle(&mut books, A, tag, 1, 9_000);
    assert_eq!(books.findings.count(Wrong::AttemptsWentBack), 1);
}

#[test]
fn a_later_one_of_a_key_must_not_be_first() {
    let mut books = books();
    let turns = publish_turns(&mut books, 3);
    handle(&mut books, KEYED, turns[0], 1, 10);
    handle(&mut books, KEYED, turns[2], 1, 20);
    handle(&mut books, KEYED, turns[1], 1, 30);
    assert_eq!(found(books), [(Wrong::Overtaken, 1)]);
}

#[test]
fn what_follows_a_failed_one_waits_for_it() {
    let mut books = books();
    let turns = publish_turns(&mut books, 2);
    begin(&mut books, KEYED, arrival(turns[0], 1), 10).end(&mut books, Ending::Undone, 11);
    handle(&mut books, KEYED, turns[1], 1, 20);
    handle(&mut books, KEYED, turns[0], 2, 30);
    assert_eq!(found(books), [(Wrong::Overtaken, 1)]);
}

#[test]
fn two_of_a_key_must_not_be_handled_at_once() {
    let mut books = books();
    let turns = publish_turns(&mut books, 2);
    let first = begin(&mut books, KEYED, arrival(turns[0], 1), 10);
    let again = begin(&mut books, KEYED, arrival(turns[0], 2), 20);
    first.end(&mut books, Ending::Acknowledged, 30);
    again.end(&mut books, Ending::Acknowledged, 30);
    handle(&mut books, KEYED, turns[1], 1, 40);
    assert_eq!(books.findings.count(Wrong::Overtaken), 1);
}

#[test]
fn who_has_lost_its_lease_holds_nothing() {
    let mut books = books();
    let turns = publish_turns(&mut books, 2);
    let lease = Arc::new(Lease::default());
    let right = Arc::clone(&lease) as Arc<dyn Right>;
    books.arrived(KEYED, &arrival(turns[0], 1), &right, 10);
    lease.0.store(true, Ordering::Relaxed);
    let second = begin(&mut books, KEYED, arrival(turns[0], 2), 20);
    // The first one notices late. The second one still holds it.
    books.ended(KEYED, turns[0], &right, Ending::Undone, 30);
    begin(&mut books, KEYED, arrival(turns[1], 1), 35).end(&mut books, Ending::Undone, 36);
    assert_eq!(books.findings.count(Wrong::Overtaken), 1, "it is held by the second one");
    second.end(&mut books, Ending::Acknowledged, 40);
}

#[test]
fn what_failed_or_follows_a_dead_letter_may_be_passed() {
    let mut books = books();
    let turns = publish_turns(&mut books, 3);
    begin(&mut books, KEYED, arrival(turns[0], 1), 10).end(&mut books, Ending::DeadLettered, 10);
    handle(&mut books, KEYED, turns[2], 1, 20);
    assert_eq!(books.groups[KEYED].pending, 0, "whether it was right shows in the end");
    let letters =
        [Letter { tag: turns[0], follows: false }, Letter { tag: turns[1], follows: true }];
    books.followed(KEYED, &letters);
    books.compare_letters(KEYED, &letters);
    assert_eq!(found(books), []);

    let mut books = self::books();
    let first = books.attempt(ORDERED);
    books.published(first, Published::NotStored);
    let turns = publish_turns(&mut books, 1);
    let second = turns.into_iter().find(|tag| tag.key() == first.key()).unwrap();
    handle(&mut books, KEYED, second, 1, 10);
    assert_eq!(found(books), []);
}

#[test]
fn what_is_passed_and_follows_no_letter_is_overtaken() {
    let mut books = books();
    let turns = publish_turns(&mut books, 3);
    begin(&mut books, KEYED, arrival(turns[0], 1), 10).end(&mut books, Ending::DeadLettered, 10);
    handle(&mut books, KEYED, turns[2], 1, 20);
    books.compare_letters(KEYED, &[Letter { tag: turns[0], follows: false }]);
    assert_eq!(found(books), [(Wrong::Lost, 1), (Wrong::Overtaken, 1)]);
}

#[test]
fn dead_letters_are_those_that_were_given_to_them() {
    let mut books = books();
    let tags: Vec<Tag> = (0..3).map(|_| publish(&mut books, PLAIN)).collect();
    for tag in &tags[..2] {
        begin(&mut books, A, arrival(*tag, 1), 10).end(&mut books, Ending::DeadLettered, 10);
    }
    let letter = |at: usize| Letter { tag: tags[at], follows: false };
    // The second one is missing, the third one does not belong there, the first is there twice.
    books.compare_letters(A, &[letter(0), letter(0), letter(2)]);
    assert_eq!(books.findings.count(Wrong::LetterMissing), 1);
    assert_eq!(books.findings.count(Wrong::LetterUnexpected), 1);
    assert_eq!(books.findings.count(Wrong::LetterTwice), 1);
    assert_eq!(books.groups[A].dead_lettered, 2);
}

#[test]
fn a_letter_may_be_there_twice_near_an_outage() {
    let mut books = books();
    let tag = publish(&mut books, PLAIN);
    begin(&mut books, A, arrival(tag, 1), 9_000).end(&mut books, Ending::DeadLettered, 9_500);
    books.outages.begin(10_000);
    books.compare_letters(A, &[Letter { tag, follows: false }; 2]);
    assert!(books.findings.is_empty());
}

#[test]
fn a_member_that_gets_nothing_while_its_group_has_work_is_idle() {
    let mut books = books();
    let tags: Vec<Tag> = (0..3).map(|_| publish(&mut books, PLAIN)).collect();
    let [busy, _, gone] =
        ["busy", "idle", "gone"].map(|name| books.members.join(A, name.to_owned(), 0));
    let in_order = books.members.join(KEYED, "in order".to_owned(), 0);
    let keyed = publish(&mut books, ORDERED);
    books.members.leave(gone, false, 100);
    let by_the_busy_one = Arrival { member: busy, ..arrival(tags[0], 1) };
    begin(&mut books, A, by_the_busy_one, 29_000).end(&mut books, Ending::Acknowledged, 29_000);
    assert_eq!(books.idle_members(30_000, 30_000), [""; 0]);
    assert_eq!(books.idle_members(30_001, 30_000), ["idle of a, with 0 lanes,"]);
    books.members.lane(in_order, Some(3), true, 0);
    let both = ["idle of a, with 0 lanes,", "in order of keyed, with 1 lanes,"];
    assert_eq!(books.idle_members(30_001, 30_000), both);
    for tag in &tags[1..] {
        handle(&mut books, A, *tag, 1, 30_000);
    }
    handle(&mut books, KEYED, keyed, 1, 30_000);
    assert_eq!(books.idle_members(90_000, 30_000), [""; 0], "there is nothing to do");
}
