//! Who the members of the groups are and were, and when they got something last.

use std::collections::{BTreeMap, VecDeque};

use super::super::clock::Millis;

/// A member, from its start to its end and beyond.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) group: usize,
    pub(super) started: Millis,
    /// When it got a delivery last.
    pub(super) last: Millis,
    pub(super) got: u64,
    pub(super) ended: Option<Millis>,
    /// It was dropped, without a goodbye.
    pub(super) dropped: bool,
    /// How many lanes it has of an ordered topic, as far as it is told.
    pub(super) lanes: i32,
    /// What was heard of its connection last.
    pub(super) word: String,
}

/// A lane of a group on an ordered topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lane {
    pub(super) group: usize,
    pub(super) number: u32,
}

/// How much of what was heard of a lane is kept.
const HEARD: usize = 12;

#[derive(Debug, Default)]
pub(super) struct Members {
    all: Vec<Member>,
    /// What was heard of each lane last.
    lanes: BTreeMap<Lane, VecDeque<String>>,
}

impl Members {
    /// A member joins. Its number.
    pub(super) fn join(&mut self, group: usize, name: String, at: Millis) -> usize {
        let word = "no event".to_owned();
        let (started, last, got, ended, dropped, lanes) = (at, at, 0, None, false, 0);
        self.all.push(Member { name, group, started, last, got, ended, dropped, lanes, word });
        self.all.len() - 1
    }

    pub(super) fn got(&mut self, member: usize, at: Millis) {
        if let Some(member) = self.all.get_mut(member) {
            member.got += 1;
            member.last = at;
        }
    }

    pub(super) fn heard(&mut self, member: usize, word: String) {
        if let Some(member) = self.all.get_mut(member) {
            member.word = word;
        }
    }

    /// It got a lane, or one is taken from it.
    pub(super) fn lane(&mut self, member: usize, lane: Option<u32>, is_ours: bool, at: Millis) {
        let Some(member) = self.all.get_mut(member) else { return };
        member.lanes += if is_ours { 1 } else { -1 };
        if let Some(number) = lane {
            let word = if is_ours { "to" } else { "from" };
            let heard = self.lanes.entry(Lane { group: member.group, number }).or_default();
            if heard.len() == HEARD {
                heard.pop_front();
            }
            heard.push_back(format!("{at} ms {word} {}", member.name));
        }
    }

    /// What was heard of each lane last.
    pub(super) fn lanes(&self) -> impl Iterator<Item = (&Lane, String)> {
        self.lanes.iter().map(|(lane, heard)| {
            (lane, heard.iter().map(String::as_str).collect::<Vec<_>>().join(", "))
        })
    }

    pub(super) fn leave(&mut self, member: usize, dropped: bool, at: Millis) {
        if let Some(member) = self.all.get_mut(member) {
            member.ended = Some(at);
            member.dropped = dropped;
        }
    }

    /// When it was dropped.
    pub(super) fn dropped_at(&self, member: usize) -> Option<Millis> {
        self.all.get(member).filter(|member| member.dropped)?.ended
    }

    /// Those who are there.
    pub(super) fn present(&self) -> impl Iterator<Item = &Member> {
        self.all.iter().filter(|member| member.ended.is_none())
    }

    pub(super) fn all(&self) -> &[Member] {
        &self.all
    }
}
