//! The group against a simple model: one record for each message, without cursor, slots or lists.

use std::sync::Arc;
use std::time::Duration;

use posthaste_core::broker::{Credit, Lane, LaneState, Received};
use posthaste_core::{DeliveryMode, Envelope, GroupName, Layout, Timestamp, TopicName};
use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::convert;
use crate::engine::log::Entry;

const LEASE: Duration = Duration::from_secs(30);
const PARTITIONS: u16 = 3;

#[derive(Debug, Clone, Copy)]
enum Step {
    Publish { key: Option<u8>, delay: u64 },
    Fetch { member: usize, credit: usize },
    Ack(usize),
    Release(usize),
    Fail { which: usize, delay: u64 },
    GiveUp(usize),
    Extend(usize),
    Wait(u64),
    Join,
    Leave { member: usize, how: Leave },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let which = || 0_usize..64;
    prop_oneof![
        6 => (prop::option::weighted(0.8, 0_u8..5), prop_oneof![4 => Just(0), 1 => 1_u64..40])
            .prop_map(|(key, delay)| Step::Publish { key, delay }),
        6 => (0_usize..4, 1_usize..8).prop_map(|(member, credit)| Step::Fetch { member, credit }),
        6 => which().prop_map(Step::Ack),
        2 => which().prop_map(Step::Release),
        2 => (which(), prop_oneof![Just(0), 1_u64..50])
            .prop_map(|(which, delay)| Step::Fail { which, delay }),
        1 => which().prop_map(Step::GiveUp),
        2 => which().prop_map(Step::Extend),
        3 => (1_u64..25).prop_map(Step::Wait),
        1 => Just(Step::Join),
        1 => (0_usize..4, prop_oneof![Just(Leave::Stopped), Just(Leave::Broken)])
            .prop_map(|(member, how)| Step::Leave { member, how }),
        1 => Just(Step::Restart),
    ]
}

#[derive(Debug)]
struct Record {
    key: Option<u8>,
    place: (usize, u64),
    settled: bool,
    /// Not to be delivered before.
    due: Instant,
    attempts: u32,
    held: Option<Hold>,
}

#[derive(Debug, Clone)]
struct Hold {
    member: u64,
    tag: Tag,
    until: Instant,
    lane: Arc<Lane>,
    /// When the lane is taken away at the latest, once that is known.
    drained: Option<Instant>,
}

/// The group, its model, and every tag that was ever handed out.
struct World {
    layout: Layout,
    now: Instant,
    logs: Vec<Log>,
    group: Group,
    records: Vec<Record>,
    tags: Vec<(usize, u64, Tag)>,
    members: Vec<u64>,
    next_member: u64,
}

impl World {
    fn new(layout: Layout) -> Self {
        let now = Instant::now();
        let partitions = layout.partitions().map_or(1, usize::from);
        let name = GroupName::new("group").unwrap();
        let topic = TopicName::new("topic").unwrap();
        let ordered = layout.partitions().is_some();
        let mut group = Group::new(1, Some(name), topic, ordered, vec![0; partitions], now);
        group.lease_or(LEASE);
        Self {
            layout,
            now,
            logs: std::iter::repeat_with(Log::default).take(partitions).collect(),
            group,
            records: Vec::new(),
            tags: Vec::new(),
            members: Vec::new(),
            next_member: 0,
        }
    }

    fn turn<R>(&mut self, act: impl FnOnce(&mut Group, &mut Turn) -> R) -> R {
        let mut turn = Turn::at(self.now);
        self.group.tick(&mut turn);
        let result = act(&mut self.group, &mut turn);
        turn.end();
        result
    }

    fn publish(&mut self, key: Option<u8>, delay: u64) {
        let mut builder = Envelope::builder("test").source("/t").id(self.records.len().to_string());
        if let Some(key) = key {
            builder = builder.key(vec![key]);
        }
        let envelope = builder.build().unwrap();
        let partition = self.layout.partition(&envelope).map_or(0, usize::from);
        let due = self.now + Duration::from_secs(delay);
        let offset = self.logs[partition].push(Entry {
            envelope,
            number: self.records.len() as u64,
            stored_at: Timestamp::UNIX_EPOCH,
            visible_at: (delay > 0).then_some(due),
        });
        let place = (partition, offset);
        self.records.push(Record { key, place, settled: false, due, attempts: 0, held: None });
    }

    fn fetch(&mut self, member: u64, messages: usize) -> Vec<Received> {
        let mut out = Vec::new();
        loop {
            let mut turn = Turn::at(self.now);
            let mut fetch = Fetch {
                member,
                source: 0,
                credit: Credit::new(messages, usize::MAX),
                mode: DeliveryMode::AtLeastOnce,
                twice: &mut || false,
                out: &mut out,
            };
            let fetched = self.group.fetch(&self.logs, &mut fetch, &mut turn);
            turn.end();
            match fetched {
                Fetched::Event(_) => {}
                Fetched::Messages => break,
                Fetched::Unknown => panic!("a live member is unknown"),
            }
        }
        assert!(out.len() <= messages, "more than the credit");
        for received in &out {
            self.check(member, received);
        }
        out
    }

    /// A delivery must be allowed by the model, and is noted there.
    fn check(&mut self, member: u64, received: &Received) {
        let id: usize = received.envelope.id().parse().unwrap();
        let record = &self.records[id];
        assert!(!record.settled, "{id} was settled and came again");
        assert!(record.held.is_none(), "{id} is still held: {record:?}");
        assert!(record.due <= self.now, "{id} came too early");
        assert_eq!(received.attempt.count, record.attempts + 1, "attempts of {id}");
        assert_eq!(received.position.offset, Some(record.place.1));
        if self.layout.partitions().is_some() {
            self.check_order(member, id);
            assert_eq!(received.lane.state(), LaneState::Live);
        }
        let tag = convert::tag(&received.token);
        let record = &mut self.records[id];
        record.attempts += 1;
        let (until, lane) = (self.now + LEASE, Arc::clone(&received.lane));
        record.held = Some(Hold { member, tag, until, lane, drained: None });
        self.tags.push((id, member, tag));
    }

    fn check_order(&self, member: u64, id: usize) {
        let record = &self.records[id];
        for earlier in self.records.iter().filter(|other| !other.settled) {
            let same_lane = earlier.place.0 == record.place.0;
            if same_lane && let Some(hold) = &earlier.held {
                assert_eq!(hold.member, member, "two members hold partition {}", record.place.0);
            }
            let before = same_lane && earlier.place.1 < record.place.1;
            let same_key = record.key.is_some() && earlier.key == record.key;
            if before && same_key && earlier.due <= self.now {
                assert!(earlier.held.is_some(), "{id} overtook {earlier:?}");
            }
        }
    }

    /// What time does in the model.
    fn expire(&mut self) {
        let now = self.now;
        let ordered = self.layout.partitions().is_some();
        let mut ended: Vec<((usize, u64), u8)> = Vec::new();
        for record in &mut self.records {
            if record.held.take_if(|hold| hold.until <= now).is_some() && ordered {
                ended.extend(record.key.map(|key| (record.place, key)));
            }
        }
        for record in &mut self.records {
            // The later ones of a key come back with it.
            let follows = |(place, key): &((usize, u64), u8)| {
                place.0 == record.place.0 && place.1 < record.place.1 && record.key == Some(*key)
            };
            if ended.iter().any(follows) {
                record.held = None;
            }
            let Some(hold) = &mut record.held else { continue };
            match hold.lane.state() {
                LaneState::Live => {}
                LaneState::Draining(until) => hold.drained = Some(until),
                LaneState::Lost => {
                    let until = hold.drained.expect("a lane is taken away without notice");
                    assert!(until <= now, "a lane is taken away too early");
                    record.held = None;
                }
            }
        }
    }

    fn run(&mut self, step: Step) {
        self.turn(|_, _| ());
        self.expire();
        let pick = |which: usize, count: usize| (count > 0).then(|| which % count);
        match step {
            Step::Publish { key, delay } => self.publish(key, delay),
            Step::Fetch { member, credit } => {
                if let Some(at) = pick(member, self.members.len()) {
                    self.fetch(self.members[at], credit);
                }
            }
            Step::Wait(secs) => self.now += Duration::from_secs(secs),
            Step::Join => {
                self.next_member += 1;
                let id = self.next_member;
                self.members.push(id);
                self.turn(|group, turn| group.join(id, "m", &Arc::default(), turn));
            }
            Step::Leave { member, how } => {
                if let Some(at) = pick(member, self.members.len()) {
                    let id = self.members.remove(at);
                    self.turn(|group, turn| group.leave(id, how, turn));
                    self.drop_holds(|hold| how == Leave::Broken && hold.member == id);
                }
            }
            Step::Restart => {
                self.members.clear();
                self.turn(Group::restart);
                self.drop_holds(|_| true);
            }
            Step::Ack(which)
            | Step::Release(which)
            | Step::GiveUp(which)
            | Step::Extend(which)
            | Step::Fail { which, .. } => {
                if let Some(at) = pick(which, self.tags.len()) {
                    self.settle(&step, at);
                }
            }
        }
    }

    fn settle(&mut self, step: &Step, at: usize) {
        let (id, _, tag) = self.tags[at];
        let now = self.now;
        let holds = self.records[id].held.as_ref().is_some_and(|hold| hold.tag == tag);
        match *step {
            Step::Ack(_) => {
                self.turn(|group, turn| group.ack(tag, turn));
                // Also late: the message was handled.
                self.records[id].settled = true;
                self.records[id].held = None;
            }
            Step::Release(_) => {
                assert_eq!(self.turn(|group, turn| group.release(tag, turn)), holds);
                if holds {
                    self.records[id].held = None;
                }
            }
            Step::Fail { delay, .. } => {
                let delay = Duration::from_secs(delay);
                let at = Timestamp::UNIX_EPOCH;
                assert_eq!(self.turn(|group, turn| group.fail(tag, delay, at, turn)), holds);
                if holds {
                    self.records[id].held = None;
                    self.records[id].due = now + delay;
                }
            }
            Step::GiveUp(_) => {
                let current = self.group.standing(tag) == Standing::Current;
                assert_eq!(current, holds);
                if holds {
                    self.turn(|group, turn| group.ack(tag, turn));
                    self.records[id].settled = true;
                    self.records[id].held = None;
                }
            }
            Step::Extend(_) => {
                assert_eq!(self.turn(|group, turn| group.extend(tag, turn)), holds);
                if let Some(hold) = self.records[id].held.as_mut().filter(|_| holds) {
                    hold.until = now + LEASE;
                }
            }
            _ => unreachable!("only verdicts come here"),
        }
    }

    fn drop_holds(&mut self, fits: impl Fn(&Hold) -> bool) {
        for record in &mut self.records {
            record.held = record.held.take().filter(|hold| !fits(hold));
        }
    }

    /// Whatever happened before, one member gets everything that is left, and then nothing is.
    fn drain(&mut self) {
        self.run(Step::Restart);
        self.run(Step::Join);
        self.now += Duration::from_secs(3_600);
        let member = self.members[0];
        loop {
            let received = self.fetch(member, 7);
            if received.is_empty() {
                break;
            }
            for received in received {
                let tag = convert::tag(&received.token);
                let id: usize = received.envelope.id().parse().unwrap();
                self.turn(|group, turn| group.ack(tag, turn));
                self.records[id].settled = true;
                self.records[id].held = None;
            }
        }
        let lost: Vec<_> = self.records.iter().filter(|record| !record.settled).collect();
        assert!(lost.is_empty(), "never delivered: {lost:?}");
        let turn = Turn::at(self.now);
        let lag = self.group.lag(&self.logs, &turn, Timestamp::UNIX_EPOCH);
        assert_eq!(lag.total(), 0);
        assert_eq!(self.group.held(), (0, 0));
        assert_eq!(self.group.next_deadline(), None);
    }

    /// The lag must be what the model counts.
    fn check_lag(&mut self) {
        self.turn(|_, _| ());
        self.expire();
        let turn = Turn::at(self.now);
        let lag = self.group.lag(&self.logs, &turn, Timestamp::UNIX_EPOCH);
        let count = |fits: &dyn Fn(&Record) -> bool| {
            let open = self.records.iter().filter(|record| !record.settled);
            Some(open.filter(|record| fits(record)).count() as u64)
        };
        let held = |record: &Record| record.held.is_some();
        assert_eq!(lag.in_flight, count(&held));
        assert_eq!(lag.delayed, count(&|record| !held(record) && record.due > self.now));
        assert_eq!(lag.ready, count(&|record| !held(record) && record.due <= self.now));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_or_held_twice(
        ordered in any::<bool>(),
        steps in prop::collection::vec(step(), 1..160),
    ) {
        let layout = if ordered { Layout::Ordered(PARTITIONS) } else { Layout::Plain };
        let mut world = World::new(layout);
        for step in steps {
            world.run(step);
            world.check_lag();
        }
        world.drain();
    }
}

/// A member that is never polled hears no more than it can use.
#[test]
fn unheard_events_are_bounded() {
    let mut world = World::new(Layout::Ordered(6));
    world.run(Step::Join);
    for _ in 0..100 {
        world.run(Step::Join);
        world.run(Step::Leave { member: 1, how: Leave::Stopped });
    }
    let events = world.group.members[0].events.len();
    assert!(events <= 12, "{events} events");
}

/// Joining and leaving moves no lane that need not move.
#[test]
fn lanes_are_sticky() {
    let mut world = World::new(Layout::Ordered(7));
    let owners = |world: &World| -> Vec<Option<u64>> {
        let owner = |part: &Part| part.owner.as_ref().map(|owner| owner.member);
        world.group.parts.iter().map(owner).collect()
    };
    let moved = |before: &[Option<u64>], after: &[Option<u64>]| {
        before.iter().zip(after).filter(|(before, after)| before != after).count()
    };
    world.run(Step::Join);
    let one = owners(&world);
    assert!(one.iter().all(|owner| *owner == Some(1)));
    world.run(Step::Join);
    let two = owners(&world);
    assert_eq!(moved(&one, &two), 3, "7 lanes are 4 and 3");
    world.run(Step::Join);
    let three = owners(&world);
    assert_eq!(moved(&two, &three), 2, "4 and 3 become 3, 2 and 2");
    world.run(Step::Leave { member: 2, how: Leave::Stopped });
    let left = owners(&world);
    assert_eq!(moved(&three, &left), 2, "only what the third had");
}
