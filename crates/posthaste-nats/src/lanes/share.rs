//! Who shall have which lanes: a member's part of the decision, from what it sees.
//!
//! Every member decides for itself and moves only its own lanes. Members that see the same come
//! to plans that fit together; those that see different things may want the same lane, and the
//! write to its key decides. With m members and n lanes each ends with n / m lanes, and n mod m
//! of them with one more. Nobody gives a lane away that it may keep:
//!
//! - Whoever has most keeps the extra ones, ties in order of names. So a member that joins gets
//!   n / m lanes, rounded down, and no other lane moves.
//! - When a member leaves, what everyone else has is still within its part: only the lanes of the
//!   one that left move.
//!
//! It knows no time: who is alive and which leases have ended is told by
//! [`Board`](super::board::Board).

use std::collections::BTreeMap;

/// What a member sees.
#[derive(Debug, Clone)]
pub(crate) struct View<'a> {
    /// Its own name. It counts as alive whether it is among the members or not.
    pub(crate) me: &'a str,
    /// Who is alive, in any order.
    pub(crate) members: Vec<&'a str>,
    /// Every lane of the group, by number.
    pub(crate) lanes: Vec<Holder<'a>>,
}

/// Who has a lane, as far as a member sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder<'a> {
    /// Nobody, or somebody whose lease has ended: whoever writes first gets it.
    Nobody,
    /// That member.
    Member(&'a str),
    /// Somebody who is about to give it up, or is not alive, but whose lease has not ended.
    Leaving,
}

/// What a member does about it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Plan {
    /// Lanes to take now.
    pub(crate) claim: Vec<u32>,
    /// Lanes to give up: they drain first.
    pub(crate) give_up: Vec<u32>,
    /// Lanes to keep.
    pub(crate) renew: Vec<u32>,
}

/// What the member does. Lanes that are leaving are in no part of the plan.
pub(crate) fn plan(view: &View<'_>) -> Plan {
    let parts = parts(view);
    let Some(mine) = parts.iter().find(|part| part.name == view.me) else {
        return Plan::default();
    };
    let numbered = || (0_u32..).zip(&view.lanes);
    let held = numbered().filter(|(_, holder)| **holder == Holder::Member(view.me));
    let mut renew: Vec<u32> = held.map(|(lane, _)| lane).collect();
    let give_up = renew.split_off(mine.quota.min(renew.len()));
    // Free lanes go to those who lack some in order of names: whoever sees the same takes
    // others.
    let before: usize = parts.iter().take_while(|part| part.name < view.me).map(Part::lacks).sum();
    let free = numbered().filter(|(_, holder)| **holder == Holder::Nobody).map(|(lane, _)| lane);
    let claim = free.skip(before).take(mine.lacks()).collect();
    Plan { claim, give_up, renew }
}

/// What a member has and shall have.
#[derive(Debug)]
struct Part<'a> {
    name: &'a str,
    has: usize,
    quota: usize,
}

impl Part<'_> {
    const fn lacks(&self) -> usize {
        self.quota.saturating_sub(self.has)
    }
}

/// Everybody's part, in order of names.
fn parts<'a>(view: &View<'a>) -> Vec<Part<'a>> {
    let mut has: BTreeMap<&str, usize> = view.members.iter().map(|name| (*name, 0)).collect();
    has.entry(view.me).or_default();
    for holder in &view.lanes {
        if let Holder::Member(name) = holder
            && let Some(has) = has.get_mut(name)
        {
            *has += 1;
        }
    }
    let (members, lanes) = (has.len(), view.lanes.len());
    let mut parts: Vec<Part<'_>> =
        has.into_iter().map(|(name, has)| Part { name, has, quota: lanes / members }).collect();
    // A stable sort: ties stay in order of names.
    parts.sort_by_key(|part| std::cmp::Reverse(part.has));
    parts.iter_mut().take(lanes % members).for_each(|part| part.quota += 1);
    parts.sort_by_key(|part| part.name);
    parts
}
