//! Lanes: the partitions of an ordered topic, each handed to one member at a time.
//!
//! Sticky: who joins or leaves moves only what it must. A lane that moves drains first: its owner
//! gets nothing new from it, and the next one gets it when all its deliveries are settled or their
//! leases have ended. So a key is never handled by two members at once.

use std::sync::Arc;

use posthaste_core::broker::{DriverEvent, Lane};
use tokio::time::Instant;

use super::{Group, Member};
use crate::engine::port::{Port, Turn};

#[derive(Debug)]
pub(super) struct Owner {
    pub(super) member: u64,
    pub(super) lane: Arc<Lane>,
    pub(super) phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Live,
    /// Moves to a member that is there: taken away at this time at the latest.
    Draining(Instant),
    /// Its owner fetches no more, and may keep its leases as long as its handlers need.
    Leaving,
}

/// How a member leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// It stopped: what it holds it may still settle.
    Stopped,
    /// Its connection is gone, and its leases with it.
    Broken,
}

impl Group {
    pub(crate) fn join(&mut self, id: u64, name: &str, port: &Arc<Port>, turn: &mut Turn) {
        let lane = Arc::new(Lane::new(self.topic.clone(), None));
        self.members.push(Member {
            id,
            name: name.to_owned(),
            port: Arc::clone(port),
            events: std::collections::VecDeque::new(),
            lane,
            armed: None,
            first: 0,
        });
        self.rebalance(turn);
        self.rearm(turn);
    }

    /// Ends a membership; no error if there is none.
    pub(crate) fn leave(&mut self, id: u64, how: Leave, turn: &mut Turn) {
        let Some(at) = self.members.iter().position(|member| member.id == id) else { return };
        let member = self.members.remove(at);
        self.idle_since = turn.now;
        if how == Leave::Broken {
            member.lane.lose();
            self.end_leases(turn, |_, holder| holder == id);
        }
        for partition in 0..self.parts.len() {
            let Some(part) = self.parts.get_mut(partition) else { break };
            let Some(owner) = part.owner.as_mut().filter(|owner| owner.member == id) else {
                continue;
            };
            if owner.phase == Phase::Live {
                owner.phase = Phase::Leaving;
            }
            if part.leased == 0 {
                self.hand_over(partition, turn);
            }
        }
        self.rebalance(turn);
        self.rearm(turn);
    }

    /// Ends all memberships and leases, as a restart of the broker does.
    pub(crate) fn restart(&mut self, turn: &mut Turn) {
        while let Some(member) = self.members.first() {
            turn.wake(&member.port);
            let id = member.id;
            self.leave(id, Leave::Broken, turn);
        }
        // Those of members that had left before.
        self.end_leases(turn, |_, _| true);
    }

    /// The lane by which that member may fetch from the partition, if it may.
    pub(super) fn lane_of(&self, partition: usize, at: usize) -> Option<Arc<Lane>> {
        let member = self.members.get(at)?;
        if !self.exclusive {
            return Some(Arc::clone(&member.lane));
        }
        let owner = self.parts.get(partition)?.owner.as_ref()?;
        let may = owner.member == member.id && owner.phase == Phase::Live;
        may.then(|| Arc::clone(&owner.lane))
    }

    /// A delivery of the partition is settled or came back: the lane may be drained now.
    pub(super) fn came_back(&mut self, partition: usize, turn: &mut Turn) {
        let Some(part) = self.parts.get_mut(partition) else { return };
        part.leased = part.leased.saturating_sub(1);
        let going = part.owner.as_ref().is_some_and(|owner| owner.phase != Phase::Live);
        if part.leased == 0 && going {
            self.hand_over(partition, turn);
        }
    }

    /// Takes a drained lane away, whatever is still delivered.
    pub(super) fn end_lane(&mut self, partition: usize, turn: &mut Turn) {
        self.end_leases(turn, |at, _| at == partition);
    }

    fn hand_over(&mut self, partition: usize, turn: &mut Turn) {
        let Some(part) = self.parts.get_mut(partition) else { return };
        let heir = part.heir.take();
        if let Some(owner) = part.owner.take() {
            owner.lane.lose();
            if let Phase::Draining(until) = owner.phase {
                self.drains.remove(&(until, partition));
            }
        }
        if let Some(heir) = heir {
            self.give(partition, heir, turn);
        }
    }

    fn give(&mut self, partition: usize, id: u64, turn: &mut Turn) {
        let number = u32::try_from(partition).ok();
        let lane = Arc::new(Lane::new(self.topic.clone(), number));
        let Some(member) = self.member_mut(id) else { return };
        member.events.push_back(DriverEvent::LaneAssigned(Arc::clone(&lane)));
        turn.wake(&member.port);
        if let Some(part) = self.parts.get_mut(partition) {
            part.owner = Some(Owner { member: id, lane, phase: Phase::Live });
        }
    }

    /// Sees to it that the partition becomes that member's.
    fn promise(&mut self, partition: usize, id: u64, turn: &mut Turn) {
        let until = turn.after(self.lease());
        let Some(part) = self.parts.get_mut(partition) else { return };
        part.heir = Some(id);
        let Some(owner) = &mut part.owner else { return self.hand_over(partition, turn) };
        if owner.phase == Phase::Live {
            if owner.member == id {
                part.heir = None;
                return;
            }
            owner.phase = Phase::Draining(until);
            owner.lane.drain(until);
            let (from, lane) = (owner.member, Arc::clone(&owner.lane));
            self.drains.insert((until, partition));
            if let Some(member) = self.member_mut(from) {
                member.hear_revoked(lane);
                turn.wake(&member.port);
            }
        }
        if self.parts.get(partition).is_some_and(|part| part.leased == 0) {
            self.hand_over(partition, turn);
        }
    }

    fn rebalance(&mut self, turn: &mut Turn) {
        if !self.exclusive || self.members.is_empty() {
            self.parts.iter_mut().for_each(|part| part.heir = None);
            return;
        }
        let members: Vec<u64> = self.members.iter().map(|member| member.id).collect();
        let mut load = vec![0_usize; members.len()];
        // Who has each partition in the end, as an index into `members`.
        let mut targets: Vec<Option<usize>> = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let live = part.owner.as_ref().filter(|owner| owner.phase == Phase::Live);
            let id = part.heir.or(live.map(|owner| owner.member));
            let target = id.and_then(|id| members.iter().position(|member| *member == id));
            target.into_iter().for_each(|target| load[target] += 1);
            targets.push(target);
        }
        for target in targets.iter_mut().filter(|target| target.is_none()) {
            let (least, _) = extremes(&load);
            load[least] += 1;
            *target = Some(least);
        }
        loop {
            let (least, most) = extremes(&load);
            if load[most] - load[least] <= 1 {
                break;
            }
            // What is at rest moves at once, so it goes first.
            let movable = targets.iter().enumerate().filter(|(_, target)| **target == Some(most));
            let Some((moved, _)) = movable.min_by_key(|(at, _)| self.parts[*at].leased) else {
                break;
            };
            targets[moved] = Some(least);
            load[most] -= 1;
            load[least] += 1;
        }
        for (partition, target) in targets.into_iter().enumerate() {
            if let Some(target) = target {
                self.promise(partition, members[target], turn);
            }
        }
    }
}

impl Member {
    /// What the member has not heard that it got, it need not hear that it lost. So its events are
    /// bounded by the lanes it had and those it has.
    fn hear_revoked(&mut self, lane: Arc<Lane>) {
        let unheard = self.events.iter().position(
            |event| matches!(event, DriverEvent::LaneAssigned(other) if Arc::ptr_eq(other, &lane)),
        );
        match unheard {
            Some(at) => drop(self.events.remove(at)),
            None => self.events.push_back(DriverEvent::LaneRevoked(lane)),
        }
    }
}

/// The first with the least and the first with the most.
fn extremes(load: &[usize]) -> (usize, usize) {
    let (mut least, mut most) = (0, 0);
    for (at, count) in load.iter().enumerate() {
        least = if *count < load[least] { at } else { least };
        most = if *count > load[most] { at } else { most };
    }
    (least, most)
}
