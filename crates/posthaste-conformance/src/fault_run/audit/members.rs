//! Who the members of the groups are and were, and when they got something last.

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

#[derive(Debug, Default)]
pub(super) struct Members(Vec<Member>);

impl Members {
    /// A member joins. Its number.
    pub(super) fn join(&mut self, group: usize, name: String, at: Millis) -> usize {
        let word = "no event".to_owned();
        let (started, last, got, ended, dropped, lanes) = (at, at, 0, None, false, 0);
        self.0.push(Member { name, group, started, last, got, ended, dropped, lanes, word });
        self.0.len() - 1
    }

    pub(super) fn got(&mut self, member: usize, at: Millis) {
        if let Some(member) = self.0.get_mut(member) {
            member.got += 1;
            member.last = at;
        }
    }

    pub(super) fn heard(&mut self, member: usize, word: String) {
        if let Some(member) = self.0.get_mut(member) {
            member.word = word;
        }
    }

    /// It got a lane, or one is taken from it.
    pub(super) fn lane(&mut self, member: usize, change: i32) {
        if let Some(member) = self.0.get_mut(member) {
            member.lanes += change;
        }
    }

    pub(super) fn leave(&mut self, member: usize, dropped: bool, at: Millis) {
        if let Some(member) = self.0.get_mut(member) {
            member.ended = Some(at);
            member.dropped = dropped;
        }
    }

    /// When it was dropped.
    pub(super) fn dropped_at(&self, member: usize) -> Option<Millis> {
        self.0.get(member).filter(|member| member.dropped)?.ended
    }

    /// Those who are there.
    pub(super) fn present(&self) -> impl Iterator<Item = &Member> {
        self.0.iter().filter(|member| member.ended.is_none())
    }

    pub(super) fn all(&self) -> &[Member] {
        &self.0
    }
}
