//! Edges of the account: holes, duplicates, what resumes from a commit, and crash loops.

use super::*;

/// A tracker in which these records came, and their sequences.
fn with(position: i64, offsets: &[i64]) -> (Tracker, Vec<u64>) {
    let mut tracker = Tracker::begin(position);
    let sequences = offsets.iter().map(|offset| add(&mut tracker, *offset).0).collect();
    (tracker, sequences)
}

/// Adds a record that is new: its sequence and attempt.
fn add(tracker: &mut Tracker, offset: i64) -> (u64, u32) {
    match tracker.add(offset, Instant::now()) {
        Known::New { sequence, attempt } => (sequence, attempt),
        known => panic!("{offset} is {known:?}"),
    }
}

fn settled(tracker: &Tracker) -> Vec<(i64, i64)> {
    tracker.settled().iter().map(|run| (run.start, run.end)).collect()
}

/// The next owner after one that left its metadata behind.
fn next(tracker: &mut Tracker, clean: bool, end: Option<i64>) -> Tracker {
    let progress = tracker.progress(clean);
    let metadata = progress.encode(Progress::LIMIT);
    let read = Progress::decode(&metadata, progress.watermark).unwrap();
    assert_eq!(read, progress);
    Tracker::resume(progress.watermark, &read, end)
}

#[test]
fn begins_where_the_partition_is_read_from() {
    let tracker = Tracker::begin(42);
    assert_eq!((tracker.watermark(), tracker.position(), tracker.outstanding()), (42, 42, 0));
    assert_eq!(tracker.oldest(), None);
    assert!(settled(&tracker).is_empty());
}

#[test]
fn the_watermark_stays_below_what_is_unsettled() {
    let (mut tracker, sequences) = with(10, &[10, 11, 12, 13]);
    assert!(tracker.settle(sequences[2]));
    assert!(tracker.settle(sequences[1]));
    assert_eq!(tracker.watermark(), 10);
    assert_eq!(settled(&tracker), [(11, 13)]);
    assert!(tracker.settle(sequences[0]));
    assert_eq!(tracker.watermark(), 13);
    assert!(tracker.settle(sequences[3]));
    assert_eq!((tracker.watermark(), tracker.outstanding()), (14, 0));
}

#[test]
fn what_is_settled_once_is_settled() {
    let (mut tracker, sequences) = with(0, &[0, 1]);
    assert!(tracker.settle(sequences[1]));
    assert!(!tracker.settle(sequences[1]));
    assert!(tracker.settle(sequences[0]));
    assert!(!tracker.settle(sequences[0]));
    assert!(!tracker.settle(u64::MAX));
    assert_eq!(tracker.watermark(), 2);
}

#[test]
fn the_watermark_is_behind_what_is_settled_not_behind_the_hole() {
    let (mut tracker, sequences) = with(5, &[8, 20, 30]);
    assert_eq!(tracker.watermark(), 5);
    assert!(tracker.settle(sequences[0]));
    assert_eq!(tracker.watermark(), 9);
    assert!(tracker.settle(sequences[2]));
    assert_eq!((tracker.watermark(), settled(&tracker)), (9, vec![(21, 31)]));
    assert!(tracker.settle(sequences[1]));
    assert_eq!(tracker.watermark(), 31);
}

#[test]
fn what_came_before_is_not_new() {
    let (mut tracker, _) = with(5, &[8]);
    for offset in [8, 7, 5, 4, 0, -1, i64::MIN] {
        assert_eq!(tracker.add(offset, Instant::now()), Known::Earlier);
    }
    assert_eq!(tracker.outstanding(), 1);
}

#[test]
fn memory_follows_what_is_unsettled() {
    let (mut tracker, _) = with(0, &[0]);
    for offset in 1..100_000 {
        let (sequence, _) = add(&mut tracker, offset);
        assert!(tracker.settle(sequence));
    }
    assert_eq!(tracker.watermark(), 0);
    assert_eq!(settled(&tracker), [(1, 100_000)]);
    assert!(tracker.progress(false).encode(Progress::LIMIT).len() < 32);
}

#[tokio::test(start_paused = true)]
async fn a_partition_is_full_by_count_or_by_age() {
    let cap = Cap { unsettled: 2, behind: Duration::from_secs(300) };
    let (mut tracker, _) = with(0, &[]);
    assert_eq!(tracker.full(&cap, Instant::now()), None);
    let (first, _) = add(&mut tracker, 0);
    let began = Instant::now();
    tokio::time::advance(Duration::from_secs(299)).await;
    assert_eq!(tracker.full(&cap, Instant::now()), None);
    let (second, _) = add(&mut tracker, 1);
    assert_eq!(tracker.full(&cap, Instant::now()), Some(Full::Unsettled));
    assert_eq!(tracker.oldest(), Some(began));
    assert!(tracker.settle(second));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(tracker.full(&cap, Instant::now()), Some(Full::Behind));
    assert!(tracker.settle(first));
    assert_eq!(tracker.full(&cap, Instant::now()), None);
}

#[test]
fn the_cap_is_what_is_promised() {
    assert_eq!(Cap::USUAL, Cap { unsettled: 10_000, behind: Duration::from_secs(300) });
}

#[test]
fn what_an_earlier_owner_settled_is_skipped_and_told_again() {
    let (mut tracker, sequences) = with(10, &[10, 11, 12, 13, 20, 21]);
    for at in [1, 2, 4] {
        assert!(tracker.settle(sequences[at]));
    }
    let mut tracker = next(&mut tracker, false, None);
    assert_eq!((tracker.watermark(), settled(&tracker)), (10, vec![(11, 13), (14, 21)]));
    let (first, _) = add(&mut tracker, 10);
    assert_eq!(tracker.add(11, Instant::now()), Known::Settled);
    assert_eq!(settled(&tracker), [(11, 13), (14, 21)]);
    assert!(tracker.settle(first));
    // Only what came moves it.
    assert_eq!(tracker.watermark(), 12);
    assert_eq!(tracker.add(12, Instant::now()), Known::Settled);
    assert_eq!(tracker.watermark(), 13);
    let mut tracker = next(&mut tracker, false, None);
    assert_eq!((tracker.watermark(), settled(&tracker)), (13, vec![(14, 21)]));
    // The record at 13 is gone meanwhile.
    assert_eq!(tracker.add(20, Instant::now()), Known::Settled);
    assert_eq!(tracker.watermark(), 21);
    add(&mut tracker, 21);
}

#[test]
fn who_begins_elsewhere_skips_only_what_lies_ahead() {
    let (mut tracker, sequences) = with(10, &[10, 11, 12, 13, 14]);
    assert!(tracker.settle(sequences[1]) && tracker.settle(sequences[3]));
    let left = tracker.progress(false);
    // Back: everything comes again, unflagged.
    let mut back = Tracker::resume(9, &left, None);
    assert_eq!((9..14).map(|offset| add(&mut back, offset).1).max(), Some(1));
    // Ahead, where retention removed the beginning.
    let mut ahead = Tracker::resume(12, &left, None);
    assert_eq!(ahead.watermark(), 12);
    add(&mut ahead, 12);
    assert_eq!(ahead.add(13, Instant::now()), Known::Settled);
}

#[test]
fn a_partition_that_lost_its_end_has_other_records_there() {
    let (mut tracker, sequences) = with(10, &[10, 11, 12]);
    assert!(tracker.settle(sequences[1]) && tracker.settle(sequences[2]));
    let left = tracker.progress(false);
    assert_eq!(settled(&Tracker::resume(10, &left, Some(13))), [(11, 13)]);
    assert_eq!(settled(&Tracker::resume(10, &left, Some(12))), []);
}

#[test]
fn the_reach_is_ahead_of_what_comes_until_the_next_commit() {
    let mut tracker = Tracker::begin(0);
    assert_eq!(tracker.progress(false).reach, 10_000);
    (0..50_000).for_each(|offset| {
        add(&mut tracker, offset);
    });
    assert_eq!(tracker.progress(false).reach, 150_000);
    // A commit right after it does not forget the pace at once.
    assert_eq!(tracker.progress(false).reach, 100_000);
    assert_eq!(tracker.progress(true).reach, 0);
}

#[test]
fn an_unclean_end_flags_and_a_clean_end_does_not() {
    let (mut tracker, sequences) = with(0, &[0, 1, 2]);
    let mut after_clean = next(&mut tracker, true, None);
    assert_eq!(add(&mut after_clean, 0).1, 1);
    let mut after_unclean = next(&mut tracker, false, None);
    assert_eq!(add(&mut after_unclean, 0).1, 2);
    assert_eq!(add(&mut after_unclean, 9_999).1, 2);
    // What was published after the last owner was gone, it did not have.
    let mut cut = next(&mut tracker, false, Some(2));
    assert_eq!([0, 1, 2].map(|offset| add(&mut cut, offset).1), [2, 2, 1]);
    // An owner that ends with everything done leaves nothing to suspect.
    sequences.iter().for_each(|sequence| assert!(tracker.settle(*sequence)));
    let mut idle = next(&mut tracker, false, Some(3));
    assert_eq!(add(&mut idle, 3).1, 1);
}

#[test]
fn owners_that_end_while_nothing_is_there_are_no_crash_loop() {
    let mut tracker = Tracker::begin(7);
    for _ in 0..9 {
        tracker = next(&mut tracker, false, Some(7));
        assert!(!tracker.is_alone());
    }
}

#[test]
fn attempts_count_the_owners_that_ended_at_one_place() {
    let mut tracker = Tracker::begin(0);
    for attempt in 1..6 {
        assert_eq!(tracker.is_alone(), attempt > 3);
        let (sequence, is) = add(&mut tracker, 0);
        assert_eq!(is, attempt);
        if attempt == 5 {
            assert_eq!(tracker.killer(), Some((0, 1)));
            assert!(tracker.settle(sequence));
            assert!(!tracker.is_alone());
            assert_eq!(tracker.killer(), None);
        }
        tracker = next(&mut tracker, false, None);
    }
    // It moved, and ended once since.
    assert_eq!(add(&mut tracker, 1).1, 2);
}

/// What one process does with a partition of 300 records, one of which kills it at once: whether
/// it came to the end, and what it left at the broker.
fn process(mut tracker: Tracker, killer: i64, deadly: &mut Vec<i64>) -> (bool, Progress) {
    const WINDOW: usize = 50;
    let mut left = tracker.progress(false);
    loop {
        // One out, or a window of them: by the order they came, settled in the reverse.
        let window = if tracker.is_alone() { 1 } else { WINDOW };
        let mut out = Vec::new();
        while out.len() < window && tracker.position() < 300 {
            let offset = tracker.position();
            if let Known::New { sequence, .. } = tracker.add(offset, Instant::now()) {
                out.push((sequence, offset));
            }
        }
        if tracker.is_alone() {
            left = tracker.progress(false);
        }
        if let Some((offset, _)) = tracker.killer() {
            // The runtime gives it up instead of handing it out.
            deadly.push(offset);
            out.retain(|(sequence, at)| *at != offset || !tracker.settle(*sequence));
        }
        while let Some((sequence, offset)) = out.pop() {
            if offset == killer {
                return (false, left);
            }
            assert!(tracker.settle(sequence));
        }
        left = tracker.progress(false);
        if tracker.watermark() == 300 {
            return (true, tracker.progress(true));
        }
    }
}

#[test]
fn a_record_that_kills_dies_alone_and_takes_nobody_with_it() {
    for killer in [0, 1, 49, 50, 137, 299] {
        let (mut deaths, mut deadly) = (0, Vec::new());
        let mut tracker = Tracker::begin(0);
        let last = loop {
            let (done, left) = process(tracker, killer, &mut deadly);
            if done {
                break left;
            }
            deaths += 1;
            let read = Progress::decode(&left.encode(Progress::LIMIT), left.watermark).unwrap();
            tracker = Tracker::resume(read.watermark, &read, Some(300));
        };
        assert_eq!(deadly, [killer], "only the one that kills is given up");
        assert_eq!(deaths, 4, "three in company and one alone");
        assert_eq!((last.watermark, last.starts, last.clean), (300, 0, true));
    }
}

#[test]
fn a_suspect_that_is_gone_leaves_nobody_else_suspected() {
    let mut tracker = Tracker::begin(0);
    for _ in 0..3 {
        tracker = next(&mut tracker, false, None);
    }
    assert!(tracker.is_alone());
    // Offsets before the suspect are missing: the commit names its own.
    add(&mut tracker, 5);
    assert_eq!(tracker.watermark(), 0);
    let left = tracker.progress(false);
    assert_eq!(left.watermark, 5);
    let mut there = Tracker::resume(5, &left, None);
    add(&mut there, 5);
    assert_eq!(there.killer(), Some((5, 1)));
    // Compaction removed it.
    let mut gone = Tracker::resume(5, &left, None);
    add(&mut gone, 6);
    assert_eq!(gone.killer(), None);
    assert!(!gone.is_alone());
}
