//! Boards of several members, over a bucket that is slow, goes away, and forgets answers.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;
use tokio::time::Instant;

use crate::lanes::board::Board;
use crate::lanes::lease::Terms;
use crate::lanes::turn::{Entry, Taken, Tenure, Write};

const TERMS: Terms = Terms::new(Duration::from_secs(12));
const TICK: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Time passes.
    Wait,
    /// A member acts.
    Turn(Index),
    /// A member sees what the bucket told it long ago.
    See(Index),
    /// A write reaches the bucket, or an answer its sender.
    Carry(Index),
    /// A request or an answer is lost.
    Drop(Index),
    /// The lanes that a member drains are empty.
    Drained(Index, bool),
    Join,
    Leave(Index),
    Crash(Index),
    /// A member loses its connection, or gets it back.
    Cut(Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<Index>;
    let step = prop_oneof![
        10 => Just(Step::Wait),
        12 => index().prop_map(Step::Turn),
        12 => index().prop_map(Step::See),
        16 => index().prop_map(Step::Carry),
        1 => index().prop_map(Step::Drop),
        2 => (index(), any::<bool>()).prop_map(|(who, clean)| Step::Drained(who, clean)),
        1 => Just(Step::Join),
        1 => index().prop_map(Step::Leave),
        1 => index().prop_map(Step::Crash),
        1 => index().prop_map(Step::Cut),
    ];
    prop::collection::vec(step, 0..400)
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Lane(u32, u64, Entry),
    Member(String, u64),
    Gone(String),
}

#[derive(Debug)]
struct Node {
    name: String,
    board: Board,
    draining: Vec<u32>,
    /// What the watch has still to show.
    unseen: VecDeque<Change>,
    writes: VecDeque<(Write, Option<Answer>)>,
    connected: bool,
    leaving: bool,
}

#[derive(Debug)]
enum Answer {
    Taken(u64),
    Refused(u64, Option<Entry>),
}

#[derive(Debug)]
struct World {
    now: Instant,
    lanes: u32,
    revision: u64,
    bucket: BTreeMap<u32, (u64, Entry)>,
    beats: BTreeMap<String, u64>,
    nodes: Vec<Node>,
    joined: u64,
}

impl World {
    fn new(lanes: u32, members: usize) -> Self {
        let (bucket, beats, nodes) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        let now = Instant::now();
        let mut world = Self { now, lanes, revision: 0, bucket, beats, nodes, joined: 0 };
        (0..members).for_each(|_| world.join());
        world
    }

    fn join(&mut self) {
        if self.nodes.len() >= 5 {
            return;
        }
        self.joined += 1;
        let name = format!("member-{}", self.joined);
        let board = Board::new(name.clone(), self.lanes, TERMS, self.joined << 32, self.now);
        self.nodes.push(Node {
            name,
            board,
            draining: Vec::new(),
            unseen: VecDeque::new(),
            writes: VecDeque::new(),
            connected: false,
            leaving: false,
        });
        self.reconnect(self.nodes.len() - 1);
    }

    /// A new watch shows all keys as they are now.
    fn reconnect(&mut self, at: usize) {
        let lanes =
            self.bucket.iter().map(|(lane, (r, entry))| Change::Lane(*lane, *r, entry.clone()));
        let members = self.beats.iter().map(|(name, r)| Change::Member(name.clone(), *r));
        let unseen = lanes.chain(members).collect();
        let node = &mut self.nodes[at];
        node.connected = true;
        node.unseen = unseen;
        node.board.current(node.unseen.is_empty());
    }

    fn tell(&mut self, change: &Change) {
        let watching = self.nodes.iter_mut().filter(|node| node.connected);
        watching.for_each(|node| node.unseen.push_back(change.clone()));
    }

    fn see(&mut self, at: usize) {
        let now = self.now;
        let node = &mut self.nodes[at];
        match node.unseen.pop_front() {
            Some(Change::Lane(lane, r, entry)) => node.board.lane_seen(lane, r, Some(entry), now),
            Some(Change::Member(name, revision)) => node.board.member_seen(&name, revision, now),
            Some(Change::Gone(name)) => node.board.member_gone(&name),
            None => {}
        }
        if node.connected && node.unseen.is_empty() {
            node.board.current(true);
        }
    }

    fn turn(&mut self, at: usize) {
        let now = self.now;
        let node = &mut self.nodes[at];
        let turn = node.board.turn(now);
        for lane in &turn.lost {
            assert!(!node.board.holds(*lane, now), "lost and held");
            node.draining.retain(|draining| draining != lane);
        }
        node.draining.extend(turn.drain);
        for write in turn.writes {
            let lane = write.lane;
            let other = node
                .writes
                .iter()
                .find(|(other, _)| other.lane == lane && other.entry.life == write.entry.life);
            assert!(other.is_none(), "two writes of a lease are under way");
            node.writes.push_back((write, None));
        }
        let name = node.name.clone();
        if turn.beat && node.connected {
            self.revision += 1;
            self.beats.insert(name.clone(), self.revision);
            self.tell(&Change::Member(name, self.revision));
        }
        for (name, revision) in turn.bury {
            if self.beats.get(&name) == Some(&revision) {
                self.beats.remove(&name);
                self.tell(&Change::Gone(name));
            }
        }
    }

    fn carry(&mut self, at: usize) {
        let Some((write, answer)) = self.nodes[at].writes.pop_front() else { return };
        let now = self.now;
        let Some(answer) = answer else {
            if !self.nodes[at].connected {
                return self.nodes[at].board.unanswered(&write, now);
            }
            let found = self.bucket.get(&write.lane).cloned();
            let answer = if found.as_ref().map_or(0, |(r, _)| *r) == write.revision {
                self.revision += 1;
                self.bucket.insert(write.lane, (self.revision, write.entry.clone()));
                self.tell(&Change::Lane(write.lane, self.revision, write.entry.clone()));
                Answer::Taken(self.revision)
            } else {
                let (revision, entry) = found.map_or((0, None), |(r, entry)| (r, Some(entry)));
                Answer::Refused(revision, entry)
            };
            return self.nodes[at].writes.push_back((write, Some(answer)));
        };
        let board = &mut self.nodes[at].board;
        match answer {
            Answer::Taken(revision) => {
                let (lane, claims) = (write.lane, write.entry.tenure == Tenure::Held);
                let held = board.holds(lane, now);
                let taken = board.taken(write, revision, now);
                if let Taken::Claimed { .. } = taken {
                    assert!(claims && !held && board.holds(lane, now));
                }
            }
            Answer::Refused(revision, entry) => {
                board.refused(&write, Some((revision, entry)), now);
            }
        }
    }

    fn drop_one(&mut self, at: usize) {
        let now = self.now;
        let node = &mut self.nodes[at];
        if let Some((write, _)) = node.writes.pop_front() {
            node.board.unanswered(&write, now);
        }
    }

    fn drained(&mut self, at: usize, clean: bool) {
        let now = self.now;
        let node = &mut self.nodes[at];
        node.draining.drain(..).for_each(|lane| node.board.drained(lane, clean, now));
        if node.leaving && node.board.has_left() && node.writes.is_empty() {
            let name = self.nodes.remove(at).name;
            self.beats.remove(&name);
            self.tell(&Change::Gone(name));
        }
    }

    fn step(&mut self, step: Step) {
        if matches!(step, Step::Wait) {
            self.now += TICK;
        } else if matches!(step, Step::Join) {
            self.join();
        }
        let nodes = self.nodes.len();
        let at = |index: Index| (nodes > 0).then(|| index.index(nodes));
        match step {
            Step::Wait | Step::Join => {}
            Step::Turn(who) => at(who).map_or((), |at| self.turn(at)),
            Step::See(who) => at(who).map_or((), |at| self.see(at)),
            Step::Carry(who) => at(who).map_or((), |at| self.carry(at)),
            Step::Drop(who) => at(who).map_or((), |at| self.drop_one(at)),
            Step::Drained(who, clean) => at(who).map_or((), |at| self.drained(at, clean)),
            Step::Leave(who) => {
                if let Some(at) = at(who) {
                    self.nodes[at].board.leave();
                    self.nodes[at].leaving = true;
                }
            }
            Step::Crash(who) => {
                if let Some(at) = at(who) {
                    self.nodes.remove(at);
                }
            }
            Step::Cut(who) => {
                if let Some(at) = at(who) {
                    if self.nodes[at].connected {
                        self.nodes[at].connected = false;
                        self.nodes[at].unseen.clear();
                        self.nodes[at].board.current(false);
                    } else {
                        self.reconnect(at);
                    }
                }
            }
        }
        self.assert_exclusive();
    }

    fn holders(&self, lane: u32) -> Vec<&Node> {
        self.nodes.iter().filter(|node| node.board.holds(lane, self.now)).collect()
    }

    fn assert_exclusive(&self) {
        for lane in 0..self.lanes {
            assert!(self.holders(lane).len() <= 1, "two hold lane {lane}: {self:#?}");
        }
    }

    /// Everything works from now on: every member acts, everything arrives. Returns the ticks
    /// until all lanes are fairly shared for good.
    fn heal(&mut self) -> u32 {
        for at in 0..self.nodes.len() {
            if !self.nodes[at].connected {
                self.reconnect(at);
            }
        }
        let mut unfair = 0;
        for tick in 1..300 {
            self.now += TICK;
            for at in (0..self.nodes.len()).rev() {
                while !self.nodes[at].unseen.is_empty() {
                    self.see(at);
                }
                self.turn(at);
                self.assert_exclusive();
                while !self.nodes[at].writes.is_empty() {
                    self.carry(at);
                    self.assert_exclusive();
                }
                self.drained(at, true);
            }
            if !self.is_fair() {
                unfair = tick;
            }
        }
        unfair
    }

    fn is_fair(&self) -> bool {
        let staying = self.nodes.iter().filter(|node| !node.leaving);
        let parts: Vec<usize> = staying
            .map(|node| (0..self.lanes).filter(|l| node.board.holds(*l, self.now)).count())
            .collect();
        let (n, m) = (self.lanes as usize, parts.len().max(1));
        let fair = parts.iter().all(|part| (n / m..=n.div_ceil(m)).contains(part));
        parts.is_empty() || fair && parts.iter().sum::<usize>() == n
    }
}

proptest! {
    /// Whatever happens to members, their views and their writes: no lane is held by two. Once it
    /// stops happening, the lanes are fairly shared within three times what a lease takes: one
    /// for those of the dead, one for members that are thought to be alive, one for what moves.
    #[test]
    fn a_lane_has_one_holder_and_finds_one(
        lanes in 1_u32..7,
        members in 1_usize..4,
        steps in steps(),
    ) {
        let mut world = World::new(lanes, members);
        for step in steps {
            world.step(step);
        }
        let ticks = world.heal();
        let bound = 3 * TERMS.ttl().as_millis() / TICK.as_millis();
        prop_assert!(u128::from(ticks) <= bound, "{ticks} ticks: {world:#?}");
    }

    /// Members that are not disturbed keep what they have.
    #[test]
    fn nothing_moves_while_nothing_happens(lanes in 1_u32..7, members in 1_usize..4) {
        let mut world = World::new(lanes, members);
        world.heal();
        let lives = |world: &World| -> Vec<u64> {
            world.bucket.values().map(|(_, entry)| entry.life).collect()
        };
        let before = lives(&world);
        world.heal();
        prop_assert_eq!(lives(&world), before);
    }
}
