//! Shares of members that all see the present.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::Index;

use crate::lanes::share::{Holder, Plan, View, plan};

/// Who has which lane, and who is there.
#[derive(Debug, Clone)]
struct Group {
    members: BTreeSet<String>,
    lanes: Vec<Option<String>>,
    moves: usize,
}

impl Group {
    fn new(members: usize, lanes: Vec<Option<String>>) -> Self {
        Self { members: (0..members).map(name).collect(), lanes, moves: 0 }
    }

    fn plan(&self, me: &str) -> Plan {
        let lanes = self.lanes.iter().map(|holder| match holder {
            Some(name) => Holder::Member(name),
            None => Holder::Nobody,
        });
        let members = self.members.iter().map(String::as_str).collect();
        plan(&View { me, members, lanes: lanes.collect() })
    }

    /// Everybody acts once, in that order. Returns whether anything changed.
    fn round(&mut self, order: &[Index]) -> bool {
        let mut waiting: Vec<String> = self.members.iter().cloned().collect();
        let before = self.lanes.clone();
        for index in order.iter().cycle() {
            if waiting.is_empty() {
                break;
            }
            let me = waiting.remove(index.index(waiting.len()));
            let Plan { claim, give_up, renew } = self.plan(&me);
            for lane in &renew {
                assert_eq!(self.lanes[*lane as usize].as_ref(), Some(&me));
            }
            for lane in give_up {
                assert_eq!(self.lanes[lane as usize].take(), Some(me.clone()));
                self.moves += 1;
            }
            for lane in claim {
                assert_eq!(self.lanes[lane as usize].replace(me.clone()), None);
            }
        }
        before != self.lanes
    }

    fn settle(&mut self, order: &[Index]) -> usize {
        (0..100).find(|_| !self.round(order)).expect("never comes to rest")
    }

    fn has(&self, name: &str) -> usize {
        self.lanes.iter().filter(|holder| holder.as_deref() == Some(name)).count()
    }

    fn assert_fair(&self) {
        let (n, m) = (self.lanes.len(), self.members.len());
        let parts: Vec<usize> = self.members.iter().map(|name| self.has(name)).collect();
        assert_eq!(parts.iter().sum::<usize>(), n, "a lane is left: {self:?}");
        assert_eq!(parts.iter().filter(|has| **has == n / m).count(), m - n % m, "{parts:?}");
        assert_eq!(parts.iter().filter(|has| **has == n / m + 1).count(), n % m, "{parts:?}");
    }
}

fn name(number: usize) -> String {
    format!("member-{number}")
}

fn groups() -> impl Strategy<Value = Group> {
    (1_usize..8).prop_flat_map(|members| {
        let holder = prop::option::of((0..members).prop_map(name));
        prop::collection::vec(holder, 1..24).prop_map(move |lanes| Group::new(members, lanes))
    })
}

fn orders() -> impl Strategy<Value = Vec<Index>> {
    prop::collection::vec(any::<Index>(), 7)
}

proptest! {
    /// However the lanes lie, they are soon fairly shared, and each member gave away
    /// exactly what it had too much of.
    #[test]
    fn comes_to_rest_with_fair_parts(mut group in groups(), order in orders()) {
        let has = group.members.iter().map(|name| group.has(name));
        let mut has: Vec<usize> = has.collect();
        has.sort_unstable_by(|a, b| b.cmp(a));
        let (n, m) = (group.lanes.len(), group.members.len());
        let too_much = |(at, has): (usize, &usize)| {
            has.saturating_sub(n / m + usize::from(at < n % m))
        };
        let least: usize = has.iter().enumerate().map(too_much).sum();
        let rounds = group.settle(&order);
        group.assert_fair();
        prop_assert!(rounds <= 4, "{rounds} rounds");
        prop_assert_eq!(group.moves, least);
    }

    /// Who joins gets the smaller part, and nothing else moves.
    #[test]
    fn a_join_moves_what_it_must(mut group in groups(), order in orders()) {
        group.settle(&order);
        let before = group.lanes.clone();
        group.moves = 0;
        group.members.insert(name(9));
        group.settle(&order);
        group.assert_fair();
        prop_assert_eq!(group.moves, group.lanes.len() / group.members.len());
        prop_assert_eq!(group.has(&name(9)), group.moves);
        let moved = before.iter().zip(&group.lanes).filter(|(before, after)| before != after);
        prop_assert_eq!(moved.count(), group.moves);
    }

    /// Who leaves, or dies, is inherited from, and nothing else moves.
    #[test]
    fn a_leave_moves_what_it_must(mut group in groups(), order in orders(), who in any::<Index>()) {
        group.settle(&order);
        group.moves = 0;
        let gone = group.members.iter().nth(who.index(group.members.len())).cloned().unwrap();
        group.members.remove(&gone);
        if group.members.is_empty() {
            return Ok(());
        }
        let freed = |holder: &mut Option<String>| *holder = holder.take_if(|name| *name != gone);
        group.lanes.iter_mut().for_each(freed);
        group.settle(&order);
        group.assert_fair();
        prop_assert_eq!(group.moves, 0);
    }

    /// Those who see the same want different lanes.
    #[test]
    fn claims_do_not_meet(group in groups()) {
        let claims: Vec<u32> = group.members.iter().flat_map(|me| group.plan(me).claim).collect();
        let distinct: BTreeSet<_> = claims.iter().collect();
        prop_assert_eq!(distinct.len(), claims.len());
    }
}

#[test]
fn more_members_than_lanes_stand_by() {
    let mut group = Group::new(5, vec![None, None]);
    assert_eq!(group.plan("member-0").claim, [0]);
    assert_eq!(group.plan("member-1").claim, [1]);
    assert_eq!(group.plan("member-2"), Plan::default());
    group.lanes = vec![Some(name(0)), Some(name(1))];
    assert_eq!(group.plan("member-2"), Plan::default());
    group.members.remove("member-0");
    group.lanes[0] = None;
    assert_eq!(group.plan("member-2").claim, [0]);
}

#[test]
fn a_member_that_nobody_sees_yet_counts_itself() {
    let view = View { me: "new", members: vec!["old"], lanes: vec![Holder::Nobody; 4] };
    assert_eq!(plan(&view).claim, [0, 1]);
}

#[test]
fn a_lane_that_is_leaving_is_left_alone() {
    let lanes = vec![Holder::Leaving, Holder::Member("me"), Holder::Leaving, Holder::Nobody];
    let plan = plan(&View { me: "me", members: vec!["me"], lanes });
    assert_eq!(plan, Plan { claim: vec![3], give_up: vec![], renew: vec![1] });
}

#[test]
fn one_that_died_keeps_its_lanes_until_their_leases_end_and_takes_part_in_nothing() {
    let lanes = vec![Holder::Member("dead"), Holder::Member("me"), Holder::Nobody];
    let plan = plan(&View { me: "me", members: vec!["me"], lanes });
    assert_eq!(plan.claim, [2]);
}
