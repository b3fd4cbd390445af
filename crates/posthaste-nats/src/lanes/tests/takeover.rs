//! Owners of a lane, one after the other, against the model of a consumer.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;
use tokio::time::Instant;

use super::server::{Consumer, Down, LEASE, Up};
use super::steps::{Step, steps};
use crate::lanes::doubt::{Facts, Question};
use crate::lanes::message::Step as Outcome;
use crate::lanes::takeover::Takeover;

const PREFETCH: usize = 6;

#[derive(Debug)]
struct Owner {
    number: usize,
    life: Takeover<u64>,
    up: VecDeque<Up>,
    down: VecDeque<Down>,
    facts: VecDeque<(Question, Facts)>,
    /// What core has.
    hand: BTreeSet<u64>,
    /// What was handed out, and what of it was given back.
    out: BTreeSet<u64>,
    released: BTreeSet<u64>,
    /// The server crashed meanwhile.
    crashed: bool,
}

#[derive(Debug)]
struct World {
    now: Instant,
    server: Consumer,
    saved: Consumer,
    owner: Owner,
    earlier: Vec<Owner>,
    handled: BTreeSet<u64>,
    crashed: bool,
    /// How often an order was kept that could have been broken, so that tests can see it.
    waited: usize,
}

impl Owner {
    fn new(number: usize, server: &Consumer, clean: bool, now: Instant) -> Self {
        let life = Takeover::begin(LEASE, &server.facts(), clean, now);
        let (up, down, facts) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        let (hand, out, released) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        Self { number, life, up, down, facts, hand, out, released, crashed: false }
    }

    fn outstanding(&self, server: &Consumer) -> usize {
        let asked = self.up.iter().map(|up| match up {
            Up::Pull { messages, .. } => *messages,
            _ => 0,
        });
        let coming = self.down.iter().filter(|down| matches!(down, Down::Message(_))).count();
        asked.sum::<usize>() + coming + server.waiting_of(self.number)
    }
}

impl World {
    fn new() -> Self {
        let (server, now) = (Consumer::default(), Instant::now());
        let owner = Owner::new(0, &server, false, now);
        let (saved, handled) = (server.clone(), BTreeSet::new());
        Self { now, server, saved, owner, earlier: Vec::new(), handled, crashed: false, waited: 0 }
    }

    fn serve(&mut self) {
        self.server.expire(self.now);
        for (owner, down) in self.server.serve(self.now) {
            self.down_to(owner).into_iter().for_each(|to| to.push_back(down));
        }
    }

    fn down_to(&mut self, number: usize) -> Option<&mut VecDeque<Down>> {
        let mut all = self.earlier.iter_mut().chain([&mut self.owner]);
        all.find(|owner| owner.number == number).map(|owner| &mut owner.down)
    }

    fn act(&mut self) {
        let now = self.now;
        if self.owner.life.lapses_at().is_some_and(|at| at <= now) {
            return self.hand(false);
        }
        self.hand_out();
        let owner = &mut self.owner;
        let needs = owner.life.needs(now);
        assert!(needs.pull > 0 || needs.ask || needs.wake.is_some(), "sleeps for ever");
        assert!(needs.ask || needs.wake.is_none_or(|at| at > now), "wakes up in vain");
        if needs.ask {
            let question = owner.life.asked(now);
            owner.up.push_back(Up::Ask(question));
        }
        let outstanding = owner.outstanding(&self.server);
        let has = owner.hand.len() + owner.life.held().count() + outstanding;
        let free = PREFETCH.saturating_sub(has);
        let wanted = needs.pull.saturating_sub(outstanding).min(PREFETCH);
        if wanted > free && needs.no_wait {
            for sequence in owner.life.make_room(wanted - free, now) {
                owner.up.push_back(Up::Nak(sequence));
            }
        }
        let has = owner.hand.len() + owner.life.held().count() + outstanding;
        let messages = wanted.min(PREFETCH.saturating_sub(has));
        if messages > 0 {
            owner.up.push_back(Up::Pull { messages, no_wait: needs.no_wait, at: now });
        }
    }

    fn hand_out(&mut self) {
        let mut out = Vec::new();
        let owner = &mut self.owner;
        owner.life.hand_out(PREFETCH, &mut out, self.now);
        for (sequence, message) in out {
            assert_eq!(sequence, message);
            assert!(owner.hand.insert(sequence), "{sequence} is out twice");
            let highest = owner.out.last().copied().unwrap_or(0);
            // A server that forgets repeats what was settled.
            let repeated = self.crashed && self.handled.contains(&sequence);
            let again = owner.released.remove(&sequence) || repeated;
            assert!(owner.out.insert(sequence) || again, "{sequence} was settled here");
            assert!(highest < sequence || again, "{sequence} after {highest}");
            for earlier in self.server.log.iter().take_while(|earlier| **earlier < sequence) {
                let seen = self.handled.contains(earlier) || owner.hand.contains(earlier);
                assert!(seen, "{sequence} is out before {earlier}");
            }
        }
        self.waited += owner.life.held().count();
    }

    fn up(&mut self, from: Option<usize>) {
        let now = self.now;
        let owner = match from {
            Some(at) => &mut self.earlier[at],
            None => &mut self.owner,
        };
        match owner.up.pop_front() {
            Some(Up::Ack(sequence)) => {
                assert!(self.handled.contains(&sequence), "{sequence} is lost");
                self.server.settle(sequence);
            }
            Some(Up::Nak(sequence)) => self.server.give_back(sequence),
            Some(Up::Pull { messages, no_wait, at }) => {
                let number = owner.number;
                let got = self.server.pull(number, messages, no_wait, at, now);
                self.down_to(number).into_iter().for_each(|to| to.extend(&got));
            }
            Some(Up::Ask(question)) => owner.facts.push_back((question, self.server.facts())),
            None => {}
        }
        self.serve();
    }

    fn down(&mut self) {
        let now = self.now;
        let owner = &mut self.owner;
        match owner.down.pop_front() {
            Some(Down::Message(place)) => match owner.life.arrived(place, place.sequence, now) {
                Outcome::Kept => {}
                Outcome::InHand(sequence) => assert!(owner.hand.contains(&sequence)),
                Outcome::AckAgain(sequence) => owner.up.push_back(Up::Ack(sequence)),
            },
            Some(Down::Ended(requested)) => owner.life.exhausted(requested, now),
            None => {}
        }
        self.hand_out();
    }

    fn facts(&mut self) {
        if let Some((question, facts)) = self.owner.facts.pop_front() {
            self.owner.life.learn(question, &facts, self.now);
        }
        self.hand_out();
    }

    /// A handler ends: acknowledged here, and some time later at the server.
    fn handle(&mut self, index: Index) {
        let hand = &mut self.owner.hand;
        if hand.is_empty() {
            return;
        }
        let sequence = *hand.iter().nth(index.index(hand.len())).unwrap();
        hand.remove(&sequence);
        self.handled.insert(sequence);
        self.owner.life.settled(sequence);
        self.owner.up.push_back(Up::Ack(sequence));
    }

    fn release(&mut self, index: Index) {
        let hand = &mut self.owner.hand;
        if hand.is_empty() {
            return;
        }
        let sequence = *hand.iter().nth(index.index(hand.len())).unwrap();
        hand.remove(&sequence);
        self.owner.released.insert(sequence);
        self.owner.life.released(sequence, self.now);
        self.owner.up.push_back(Up::Nak(sequence));
    }

    fn extend(&mut self) {
        let owner = &mut self.owner;
        for sequence in owner.life.held() {
            self.server.prolong(*sequence, self.now);
        }
        for sequence in &owner.hand {
            self.server.prolong(*sequence, self.now);
            owner.life.extended(*sequence, self.now);
        }
    }

    fn cut(&mut self) {
        let owner = &mut self.owner;
        owner.up.clear();
        owner.down.clear();
        owner.facts.clear();
        owner.life.interrupted(self.now);
        let number = owner.number;
        self.server.forget(number);
        self.serve();
    }

    fn hand(&mut self, clean: bool) {
        let was_clean = clean && self.give_up();
        let number = self.owner.number + 1;
        let owner = Owner::new(number, &self.server, was_clean, self.now);
        let earlier = std::mem::replace(&mut self.owner, owner);
        // Late words about what the server forgot in a crash cannot be told apart.
        if !earlier.crashed {
            self.earlier.push(earlier);
        }
        self.hand_out();
    }

    /// The owner settles what it has, and waits until the server has it.
    fn give_up(&mut self) -> bool {
        let number = self.owner.number;
        self.server.forget(number);
        while !self.owner.down.is_empty() {
            self.down();
        }
        let owner = &mut self.owner;
        let back: Vec<u64> = owner.hand.iter().copied().chain(owner.life.give_up()).collect();
        for sequence in std::mem::take(&mut owner.hand) {
            owner.life.released(sequence, self.now);
        }
        owner.up.retain(|up| matches!(up, Up::Ack(_) | Up::Nak(_)));
        owner.up.extend(back.into_iter().map(Up::Nak));
        while !self.owner.up.is_empty() {
            self.up(None);
        }
        self.owner.life.is_clean()
    }

    fn sweep(&mut self) {
        if let Some((after, upto)) = self.owner.life.absent() {
            let absent = (after + 1..=upto).filter(|sequence| !self.owner.life.has(*sequence));
            absent.for_each(|sequence| self.server.give_back(sequence));
            self.owner.life.swept(self.now);
            self.serve();
        }
    }

    fn late(&mut self, index: Index) {
        if self.earlier.is_empty() {
            return;
        }
        let at = index.index(self.earlier.len());
        // What reaches an earlier owner is given back, or was lost with it.
        while let Some(down) = self.earlier[at].down.pop_front() {
            if let Down::Message(place) = down
                && place.sequence % 2 == 0
            {
                self.earlier[at].up.push_back(Up::Nak(place.sequence));
            }
        }
        self.up(Some(at));
    }

    fn late_handler(&mut self, index: Index) {
        if self.earlier.is_empty() {
            return;
        }
        let at = index.index(self.earlier.len());
        if let Some(sequence) = self.earlier[at].hand.pop_first() {
            self.handled.insert(sequence);
            self.earlier[at].up.push_back(Up::Ack(sequence));
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Publish { gap } => {
                self.server.publish(gap);
                self.serve();
            }
            Step::Wait { millis } => {
                self.now += Duration::from_millis(millis);
                self.serve();
            }
            Step::Act => self.act(),
            Step::Up(times) => (0..times).for_each(|_| self.up(None)),
            Step::Down(times) => (0..times).for_each(|_| self.down()),
            Step::Facts => self.facts(),
            Step::Handle(index) => self.handle(index),
            Step::Release(index) => self.release(index),
            Step::Extend => self.extend(),
            Step::Cut => self.cut(),
            Step::Drop => drop(self.owner.down.pop_front()),
            Step::Hand { clean } => self.hand(clean),
            Step::Late(index) => self.late(index),
            Step::LateHandler(index) => self.late_handler(index),
            Step::Sweep => self.sweep(),
            Step::Save => self.saved = self.server.clone(),
            Step::Crash => {
                self.crashed = true;
                self.server.restore(self.saved.clone());
                self.owner.crashed = true;
                self.earlier.clear();
                self.cut();
            }
        }
    }

    /// Everything works from now on. Returns after how long everything is handled.
    fn heal(&mut self) -> Duration {
        let begun = self.now;
        self.earlier.clear();
        for _ in 0..2_000 {
            self.now += Duration::from_millis(100);
            self.serve();
            self.extend();
            self.act();
            while !(self.owner.up.is_empty() && self.owner.down.is_empty()) {
                self.up(None);
                self.down();
            }
            while !self.owner.facts.is_empty() {
                self.facts();
            }
            while let Some(sequence) = self.owner.hand.pop_first() {
                self.handled.insert(sequence);
                self.owner.life.settled(sequence);
                self.owner.up.push_back(Up::Ack(sequence));
            }
            let all = self.server.log.iter().all(|sequence| self.handled.contains(sequence));
            if all && self.server.pending.is_empty() {
                return self.now - begun;
            }
        }
        panic!("something is never handled: {self:#?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn hands_out_everything_in_order(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        let took = world.heal();
        prop_assert!(took < 4 * LEASE, "took {took:?}");
    }
}
