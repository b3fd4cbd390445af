//! The tracker against a naive model: what really happened to each record of a partition, over
//! owners that come, commit and end.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    /// The next record comes.
    Come,
    /// A record comes that came before.
    ComeAgain(prop::sample::Index),
    /// One of the unsettled records is settled.
    Settle(prop::sample::Index),
    /// One that was given out in this generation is settled, which may be done already.
    SettleAny(prop::sample::Index),
    /// Something is settled that nobody was given.
    SettleUnknown(u64),
    /// The progress is committed, with so much room for its metadata.
    Commit(usize),
    /// The owner ends, with a word or without, and another begins.
    End { clean: bool, knows_end: bool },
    /// Compaction removes a record.
    Vanish(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        20 => Just(Step::Come),
        1 => index().prop_map(Step::ComeAgain),
        16 => index().prop_map(Step::Settle),
        2 => index().prop_map(Step::SettleAny),
        1 => any::<u64>().prop_map(Step::SettleUnknown),
        2 => (0_usize..80).prop_map(Step::Commit),
        2 => Just(Step::Commit(Progress::LIMIT)),
        2 => any::<(bool, bool)>().prop_map(|(clean, knows_end)| Step::End { clean, knows_end }),
        1 => index().prop_map(Step::Vanish),
    ]
}

/// A partition and its present owner.
struct World {
    /// The records, and whether anybody ever settled them.
    log: BTreeMap<i64, bool>,
    tracker: Tracker,
    /// Where this generation began.
    begun: i64,
    /// What came in it, and whether that is settled.
    came: BTreeMap<i64, bool>,
    /// What was given out in it.
    given: Vec<(u64, i64)>,
    /// What is at the broker.
    committed: (i64, String),
    /// What that must have told.
    told: BTreeSet<i64>,
    /// What an owner had that ended without a word just now.
    orphans: BTreeSet<i64>,
}

impl World {
    fn new(gaps: &[i64]) -> Self {
        let offsets = gaps.iter().scan(100, |at, gap| {
            *at += gap;
            Some(*at)
        });
        let mut world = Self {
            log: offsets.map(|offset| (offset, false)).collect(),
            tracker: Tracker::begin(100),
            begun: 100,
            came: BTreeMap::new(),
            given: Vec::new(),
            committed: (100, String::new()),
            told: BTreeSet::new(),
            orphans: BTreeSet::new(),
        };
        world.commit(Progress::LIMIT, false);
        world
    }

    fn come(&mut self) {
        let Some((&offset, &settled)) = self.log.range(self.tracker.position()..).next() else {
            return;
        };
        match self.tracker.add(offset, Instant::now()) {
            Known::New { sequence, attempt } => {
                assert!(!self.told.contains(&offset), "{offset} was settled, and that fitted");
                assert!(!self.orphans.contains(&offset) || attempt >= 2, "{offset} is not flagged");
                self.given.push((sequence, offset));
                self.came.insert(offset, false);
            }
            Known::Settled => {
                assert!(settled, "{offset} was skipped and nobody settled it");
                self.came.insert(offset, true);
            }
            Known::Earlier => panic!("{offset} is new"),
        }
    }

    fn settle(&mut self, (sequence, offset): (u64, i64)) {
        let was = self.came.insert(offset, true);
        assert_eq!(self.tracker.settle(sequence), was == Some(false));
        self.log.entry(offset).and_modify(|settled| *settled = true);
    }

    fn commit(&mut self, limit: usize, clean: bool) {
        let progress = self.tracker.progress(clean);
        self.committed = (progress.watermark, progress.encode(limit));
        self.told.clear();
        if limit >= Progress::LIMIT {
            let offsets = progress.settled.iter().flat_map(|run| run.start..run.end);
            self.told.extend(offsets.filter(|offset| self.log.contains_key(offset)));
        }
    }

    fn end(&mut self, clean: bool, knows_end: bool) {
        self.orphans.clear();
        if clean {
            self.commit(Progress::LIMIT, true);
        }
        let (position, metadata) = self.committed.clone();
        let end = self.log.last_key_value().map(|(offset, _)| offset + 1);
        self.tracker = match Progress::decode(&metadata, position) {
            Some(last) => {
                for run in last.settled.iter() {
                    assert!(self.log.range(run.start..run.end).all(|(_, settled)| *settled));
                }
                if !clean {
                    self.orphans.extend(self.given.iter().map(|(_, offset)| offset));
                }
                Tracker::resume(position, &last, end.filter(|_| knows_end))
            }
            None => Tracker::begin(position),
        };
        self.begun = position;
        self.came.clear();
        self.given.clear();
        // The log may end before what was settled, if its end was removed.
        if self.committed.1.is_empty() || knows_end {
            self.told.clear();
        }
        let told = self.told.clone();
        self.commit(Progress::LIMIT, false);
        self.told = told;
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Come => self.come(),
            Step::ComeAgain(ref index) if !self.came.is_empty() => {
                let offsets: Vec<_> = self.came.keys().copied().collect();
                let known = self.tracker.add(*index.get(&offsets), Instant::now());
                assert_eq!(known, Known::Earlier);
            }
            Step::Settle(ref index) => {
                let open: Vec<_> =
                    self.given.iter().copied().filter(|(_, at)| !self.came[at]).collect();
                if !open.is_empty() {
                    self.settle(*index.get(&open));
                }
            }
            Step::SettleAny(ref index) if !self.given.is_empty() => {
                self.settle(*index.get(&self.given));
            }
            Step::SettleUnknown(sequence) => {
                if self.given.iter().all(|(given, _)| *given != sequence) {
                    assert!(!self.tracker.settle(sequence));
                }
            }
            Step::Commit(limit) => self.commit(limit, false),
            Step::End { clean, knows_end } => self.end(clean, knows_end),
            Step::Vanish(ref index) if !self.log.is_empty() => {
                let offsets: Vec<_> = self.log.keys().copied().collect();
                self.log.remove(index.get(&offsets));
            }
            Step::ComeAgain(_) | Step::SettleAny(_) | Step::Vanish(_) => {}
        }
    }

    fn check(&self) {
        let done = self.came.iter().take_while(|(_, done)| **done).last();
        let watermark = done.map_or(self.begun, |(offset, _)| offset + 1);
        assert_eq!(self.tracker.watermark(), watermark);
        assert!(self.log.range(..watermark).all(|(_, settled)| *settled), "below the watermark");

        let open = || self.came.iter().filter(|(_, done)| !**done).map(|(offset, _)| *offset);
        assert!(self.tracker.unsettled().eq(open()));
        assert_eq!(self.tracker.outstanding(), open().count());
        assert_eq!(self.tracker.oldest().is_some(), open().next().is_some());

        let runs: Vec<_> = self.tracker.settled().iter().collect();
        for run in &runs {
            assert!(self.log.range(run.start..run.end).all(|(_, settled)| *settled));
            assert!(run.start >= watermark && run.start < run.end);
        }
        assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start));
        let above = self.came.range(watermark..).filter(|(_, done)| **done);
        for (offset, _) in above {
            assert!(runs.iter().any(|run| (run.start..run.end).contains(offset)));
        }
    }
}

proptest! {
    #[test]
    fn nothing_unsettled_is_ever_skipped(
        gaps in prop::collection::vec(prop_oneof![4 => Just(1_i64), 1 => 1_i64..20], 1..120),
        steps in prop::collection::vec(step(), 0..300),
    ) {
        let mut world = World::new(&gaps);
        world.check();
        for step in steps {
            world.take(&step);
            world.check();
        }
    }
}
