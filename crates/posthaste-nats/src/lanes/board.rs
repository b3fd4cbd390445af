//! What one member knows of its group's lanes, and what it writes about them.
//!
//! The bucket has one key for each lane, which holds an [`Entry`], and one for each member, whose
//! value does not matter as long as it is written anew. The caller feeds what a watch of the
//! bucket shows, asks for a [`Turn`], does what it says, and reports every write's outcome.
//! Nothing here does I/O or reads a clock.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::lease::{Lease, Terms, Watch};
use super::share::{self, Holder, View};
use super::turn::{Entry, Taken, Tenure, Turn, Write};

/// How long a member's key is kept after it died, in terms of leases. Members that start in that
/// time have to learn that it is dead.
const BURIED_AFTER: u32 = 20;

#[derive(Debug)]
pub(crate) struct Board {
    me: String,
    terms: Terms,
    life: u64,
    lanes: Vec<Lane>,
    members: BTreeMap<String, Watch>,
    next_beat: Instant,
    current: bool,
    leaving: bool,
}

#[derive(Debug)]
struct Lane {
    key: Option<Watch>,
    entry: Option<Entry>,
    claim: Option<Claim>,
    mine: Option<Mine>,
    /// No claim before.
    pause: Instant,
}

/// A claim under way.
#[derive(Debug)]
struct Claim {
    sent: Instant,
    life: u64,
    clean: bool,
}

#[derive(Debug)]
struct Mine {
    lease: Lease,
    life: u64,
    tenure: Tenure,
}

impl Board {
    /// An empty board. `life` is random: it must not come twice for the same member's name.
    pub(crate) fn new(me: String, lanes: u32, terms: Terms, life: u64, now: Instant) -> Self {
        let lane = || Lane { key: None, entry: None, claim: None, mine: None, pause: now };
        Self {
            me,
            terms,
            life,
            lanes: (0..lanes).map(|_| lane()).collect(),
            members: BTreeMap::new(),
            next_beat: now,
            current: false,
            leaving: false,
        }
    }

    /// Whether the watch shows the present. Lanes are claimed or given up only then; say `false`
    /// when the connection is lost, and `true` when a watch has shown all keys.
    pub(crate) const fn current(&mut self, current: bool) {
        self.current = current;
    }

    /// Gives up all lanes, for good. The member's own key can be deleted now.
    pub(crate) const fn leave(&mut self) {
        self.leaving = true;
    }

    /// Whether no lane is left to be given up.
    pub(crate) fn has_left(&self) -> bool {
        self.lanes.iter().all(|lane| lane.mine.is_none() && lane.claim.is_none())
    }

    /// Whether the lane may be acted on: to be asked directly before it is. A lane that was
    /// drained may not, since others may know of it before the answer comes.
    pub(crate) fn holds(&self, lane: u32, now: Instant) -> bool {
        let mine = self.lane(lane).and_then(|lane| lane.mine.as_ref());
        mine.is_some_and(|mine| !mine.tenure.is_free() && mine.lease.is_held(now))
    }

    /// The watch shows a member's key.
    pub(crate) fn member_seen(&mut self, name: &str, revision: u64, now: Instant) {
        match self.members.get_mut(name) {
            Some(watch) => watch.seen(revision, now),
            None => {
                self.members.insert(name.to_owned(), Watch::new(revision, now));
            }
        }
    }

    /// The watch shows that a member's key is gone.
    pub(crate) fn member_gone(&mut self, name: &str) {
        self.members.remove(name);
    }

    /// The watch shows a lane's key; `None` if it is gone.
    pub(crate) fn lane_seen(
        &mut self,
        lane: u32,
        revision: u64,
        entry: Option<Entry>,
        now: Instant,
    ) {
        let me = self.me.clone();
        let lane = self.lane_mut(lane);
        // What an answer told before is newer than what the watch shows after it.
        let newer = |lane: &&mut Lane| lane.key.is_none_or(|key| key.revision() <= revision);
        if let Some(lane) = lane.filter(newer) {
            lane.learn(revision, entry, now);
            let (same, freed) = lane.compare(&me);
            if let Some(mine) = &mut lane.mine {
                mine.lease.seen(revision, same);
            }
            lane.mine.take_if(|_| freed);
        }
    }

    /// What is to be done now. Every write it names counts as sent.
    pub(crate) fn turn(&mut self, now: Instant) -> Turn {
        let mut turn = Turn::default();
        for (number, lane) in (0_u32..).zip(&mut self.lanes) {
            if let Some(mine) = lane.mine.take_if(|mine| !mine.lease.is_held(now)) {
                lane.pause = now + self.terms.retry();
                if !mine.tenure.is_free() {
                    turn.lost.push(number);
                }
            }
        }
        let plan = self.plan(now);
        for number in plan.give_up {
            let lane = self.lane_mut(number);
            if let Some(mine) = lane.and_then(|lane| lane.mine.as_mut()) {
                mine.tenure = Tenure::Leaving;
                mine.lease.hurry(now);
                turn.drain.push(number);
            }
        }
        let me = self.me.clone();
        for number in plan.claim {
            self.life = self.life.wrapping_add(1);
            let life = self.life;
            let claim = self.lane_mut(number).map(|lane| lane.claim(number, &me, life, now));
            turn.writes.extend(claim);
        }
        for (number, lane) in (0_u32..).zip(&mut self.lanes) {
            turn.writes.extend(lane.renew(number, &me, now));
        }
        turn.beat = !self.leaving && now >= self.next_beat;
        if turn.beat {
            self.next_beat = now + self.terms.renewal();
        }
        let (terms, long) = (self.terms, self.terms.ttl() * BURIED_AFTER);
        let dead = |watch: &Watch| now >= watch.expires_at(terms) + long;
        let dead = self.members.iter().filter(|(_, watch)| self.current && dead(watch));
        turn.bury = dead.map(|(name, watch)| (name.clone(), watch.revision())).collect();
        turn.wake = self.wake(now);
        turn
    }

    /// The write was taken and got that revision.
    pub(crate) fn taken(&mut self, write: Write, revision: u64, now: Instant) -> Taken {
        let terms = self.terms;
        let Some(lane) = self.lane_mut(write.lane) else { return Taken::Known };
        let Entry { life, tenure, .. } = write.entry;
        if lane.key.is_none_or(|key| key.revision() < revision) {
            lane.learn(revision, Some(write.entry), now);
        }
        if let Some(claim) = lane.claim.take_if(|claim| claim.life == life) {
            let lease = Lease::acquired(terms, revision, claim.sent);
            let seen = lane.key.map_or(revision, |key| key.revision());
            if seen != revision || !lease.is_held(now) {
                return Taken::Known;
            }
            lane.mine = Some(Mine { lease, life, tenure });
            return Taken::Claimed { clean: claim.clean };
        }
        let Some(mine) = lane.mine.as_mut().filter(|mine| mine.life == life) else {
            return Taken::Known;
        };
        mine.lease.renewed(revision);
        if mine.tenure != tenure {
            mine.lease.hurry(now);
        } else if tenure.is_free() {
            lane.mine = None;
        }
        Taken::Known
    }

    /// The write was refused because of the key's revision. `found` is what was then read: its
    /// revision, 0 if there is none, and its value; `None` if that failed.
    pub(crate) fn refused(
        &mut self,
        write: &Write,
        found: Option<(u64, Option<Entry>)>,
        now: Instant,
    ) {
        let pause = now + self.terms.retry();
        let me = self.me.clone();
        let Some(lane) = self.lane_mut(write.lane) else { return };
        let life = write.entry.life;
        if lane.claim.take_if(|claim| claim.life == life).is_some() && found.is_none() {
            lane.pause = pause;
        }
        let read = found.as_ref().map(|(revision, _)| *revision);
        if let Some((revision, entry)) = found {
            lane.learn(revision, entry, now);
        }
        let (same, freed) = lane.compare(&me);
        if let Some(mine) = lane.mine.as_mut().filter(|mine| mine.life == life) {
            mine.lease.refused(read.map(|revision| (revision, same)), now);
        }
        lane.mine.take_if(|_| freed);
    }

    /// The write got no answer.
    pub(crate) fn unanswered(&mut self, write: &Write, now: Instant) {
        let pause = now + self.terms.retry();
        let Some(lane) = self.lane_mut(write.lane) else { return };
        let life = write.entry.life;
        if lane.claim.take_if(|claim| claim.life == life).is_some() {
            lane.pause = pause;
        }
        if let Some(mine) = lane.mine.as_mut().filter(|mine| mine.life == life) {
            mine.lease.unanswered(now);
        }
    }

    /// Nothing of the lane is in hand any more: it is freed. `clean` as in [`Tenure::Free`].
    pub(crate) fn drained(&mut self, lane: u32, clean: bool, now: Instant) {
        if let Some(mine) = self.lane_mut(lane).and_then(|lane| lane.mine.as_mut()) {
            mine.tenure = Tenure::Free { clean };
            mine.lease.hurry(now);
        }
    }

    fn lane(&self, lane: u32) -> Option<&Lane> {
        self.lanes.get(usize::try_from(lane).ok()?)
    }

    fn lane_mut(&mut self, lane: u32) -> Option<&mut Lane> {
        self.lanes.get_mut(usize::try_from(lane).ok()?)
    }

    fn plan(&self, now: Instant) -> share::Plan {
        if self.leaving {
            let held = |lane: &Lane| lane.mine.as_ref().is_some_and(|m| m.tenure == Tenure::Held);
            let held = (0_u32..).zip(&self.lanes).filter(|(_, lane)| held(lane));
            let give_up = held.map(|(number, _)| number).collect();
            return share::Plan { give_up, ..share::Plan::default() };
        }
        if !self.current {
            return share::Plan::default();
        }
        let alive = self.members.iter().filter(|(_, watch)| !watch.is_expired(self.terms, now));
        let members: Vec<&str> = alive.map(|(name, _)| name.as_str()).collect();
        let holder = |lane| self.holder(lane, &members, now);
        let lanes = self.lanes.iter().map(holder).collect();
        let mut plan = share::plan(&View { me: &self.me, members, lanes });
        plan.claim.retain(|lane| self.lane(*lane).is_some_and(|lane| lane.pause <= now));
        plan
    }

    fn holder<'a>(&'a self, lane: &'a Lane, members: &[&str], now: Instant) -> Holder<'a> {
        if let Some(mine) = &lane.mine {
            return match mine.tenure {
                Tenure::Held => Holder::Member(&self.me),
                Tenure::Leaving | Tenure::Free { .. } => Holder::Leaving,
            };
        }
        if lane.claim.is_some() {
            return Holder::Member(&self.me);
        }
        // An entry of this member that is not a lease here is of a claim without an answer, or
        // of a lease that ran out: nobody else acts on it.
        let Some(entry) = lane.entry.as_ref().filter(|entry| entry.member != self.me) else {
            return Holder::Nobody;
        };
        let expired = lane.key.is_none_or(|key| key.is_expired(self.terms, now));
        match entry.tenure {
            Tenure::Free { .. } => Holder::Nobody,
            Tenure::Held | Tenure::Leaving if expired => Holder::Nobody,
            Tenure::Held if members.contains(&entry.member.as_str()) => {
                Holder::Member(&entry.member)
            }
            Tenure::Held | Tenure::Leaving => Holder::Leaving,
        }
    }

    /// The next time at which a turn can bring something.
    fn wake(&self, now: Instant) -> Option<Instant> {
        let leases = self.lanes.iter().filter_map(|lane| lane.mine.as_ref());
        let leases = leases.flat_map(|mine| [Some(mine.lease.ends_at()), mine.lease.due_at()]);
        let others = self.lanes.iter().filter(|lane| lane.mine.is_none());
        let keys = others.clone().filter_map(|lane| lane.key.as_ref()).chain(self.members.values());
        let keys = keys.map(|key| key.expires_at(self.terms));
        let pauses = others.map(|lane| lane.pause);
        let beat = (!self.leaving).then_some(self.next_beat);
        let later = keys.chain(pauses).filter(|at| *at > now);
        leases.flatten().chain(later).chain(beat).min()
    }
}

impl Lane {
    fn learn(&mut self, revision: u64, entry: Option<Entry>, now: Instant) {
        match &mut self.key {
            Some(key) => key.seen(revision, now),
            None => self.key = Some(Watch::new(revision, now)),
        }
        self.entry = entry;
    }

    /// Whether the key holds what this lease wrote, and whether that was its end.
    fn compare(&self, me: &str) -> (bool, bool) {
        let (Some(mine), Some(entry)) = (&self.mine, &self.entry) else { return (false, false) };
        let same = entry.member == me && entry.life == mine.life;
        (same, same && entry.tenure.is_free())
    }

    fn claim(&mut self, number: u32, me: &str, life: u64, now: Instant) -> Write {
        let tenure = self.entry.as_ref().map(|entry| entry.tenure);
        let clean = tenure == Some(Tenure::Free { clean: true });
        self.claim = Some(Claim { sent: now, life, clean });
        let entry = Entry { member: me.to_owned(), life, tenure: Tenure::Held };
        Write { lane: number, revision: self.key.map_or(0, |key| key.revision()), entry }
    }

    fn renew(&mut self, number: u32, me: &str, now: Instant) -> Option<Write> {
        let mine = self.mine.as_mut()?;
        let revision = mine.lease.write(now)?;
        let entry = Entry { member: me.to_owned(), life: mine.life, tenure: mine.tenure };
        Some(Write { lane: number, revision, entry })
    }
}
