//! Boards, turn by turn.

use std::time::Duration;

use tokio::time::Instant;

use crate::lanes::board::Board;
use crate::lanes::lease::Terms;
use crate::lanes::turn::{Entry, Taken, Tenure};

const TERMS: Terms = Terms::new(Duration::from_secs(12));

fn entry(member: &str, life: u64, tenure: Tenure) -> Entry {
    Entry { member: member.to_owned(), life, tenure }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn claims_nothing_before_it_has_seen_everything() {
    let now = Instant::now();
    let mut board = Board::new("me".to_owned(), 2, TERMS, 0, now);
    let turn = board.turn(now);
    assert!(turn.writes.is_empty() && turn.beat);
    board.lane_seen(1, 5, Some(entry("dead", 1, Tenure::Held)), now);
    board.current(true);
    let turn = board.turn(now);
    assert_eq!(turn.writes.iter().map(|w| (w.lane, w.revision)).collect::<Vec<_>>(), [(0, 0)]);
    assert!(!turn.beat);
    let turn = board.turn(now + TERMS.ttl());
    assert_eq!(turn.writes.iter().map(|w| (w.lane, w.revision)).collect::<Vec<_>>(), [(1, 5)]);
}

#[test]
fn says_what_the_one_before_left() {
    let now = Instant::now();
    for (tenure, expected) in [
        (Some(Tenure::Free { clean: true }), true),
        (Some(Tenure::Free { clean: false }), false),
        (None, false),
    ] {
        let mut board = Board::new("me".to_owned(), 1, TERMS, 0, now);
        if let Some(tenure) = tenure {
            board.lane_seen(0, 5, Some(entry("other", 1, tenure)), now);
        }
        board.current(true);
        let write = board.turn(now).writes.remove(0);
        assert_eq!(board.taken(write, 6, now), Taken::Claimed { clean: expected });
    }
}

#[test]
fn a_member_that_leaves_drains_and_frees() {
    let now = Instant::now();
    let mut board = Board::new("me".to_owned(), 1, TERMS, 0, now);
    board.current(true);
    let claim = board.turn(now).writes.remove(0);
    board.taken(claim, 1, now);
    board.leave();
    let turn = board.turn(now);
    assert_eq!(turn.drain, [0]);
    assert_eq!(turn.writes[0].entry.tenure, Tenure::Leaving);
    board.drained(0, true, now);
    assert!(board.turn(now).writes.is_empty(), "one write at a time");
    board.taken(turn.writes[0].clone(), 2, now);
    let free = board.turn(now).writes.remove(0);
    assert_eq!((free.revision, free.entry.tenure), (2, Tenure::Free { clean: true }));
    assert!(!board.has_left());
    board.taken(free, 3, now);
    assert!(board.has_left());
    assert!(!board.turn(now + secs(1)).beat);
}

#[test]
fn a_claim_whose_answer_is_late_is_not_held() {
    let now = Instant::now();
    let mut board = Board::new("me".to_owned(), 1, TERMS, 0, now);
    board.current(true);
    let claim = board.turn(now).writes.remove(0);
    assert_eq!(board.taken(claim, 1, now + TERMS.believed()), Taken::Known);
    assert!(!board.holds(0, now + TERMS.believed()));
    // Nobody else acts on it: it is claimed again.
    assert_eq!(board.turn(now + TERMS.believed()).writes[0].revision, 1);
}

#[test]
fn keys_of_the_long_dead_are_buried() {
    let now = Instant::now();
    let mut board = Board::new("me".to_owned(), 1, TERMS, 0, now);
    board.member_seen("dead", 3, now);
    board.current(true);
    assert!(board.turn(now + 20 * TERMS.ttl()).bury.is_empty());
    assert_eq!(board.turn(now + 21 * TERMS.ttl()).bury, [("dead".to_owned(), 3)]);
}

#[test]
fn a_lane_that_another_took_is_lost_at_once() {
    let now = Instant::now();
    let mut board = Board::new("me".to_owned(), 1, TERMS, 0, now);
    board.current(true);
    let claim = board.turn(now).writes.remove(0);
    board.taken(claim, 1, now);
    assert!(board.holds(0, now));
    board.lane_seen(0, 2, Some(entry("other", 1, Tenure::Held)), now);
    assert!(!board.holds(0, now));
    assert_eq!(board.turn(now).lost, [0]);

    let mut board = Board::new("me".to_owned(), 1, TERMS, 0, now);
    board.current(true);
    let claim = board.turn(now).writes.remove(0);
    board.taken(claim, 1, now);
    let later = now + TERMS.renewal();
    let renewal = board.turn(later).writes.remove(0);
    board.refused(&renewal, Some((2, Some(entry("other", 1, Tenure::Held)))), later);
    assert_eq!(board.turn(later).lost, [0]);
}
