//! All books together, without a clock and without a lock: what is told to them, and what they
//! make of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::clock::{Millis, Outages};
use super::super::message::Tag;
use super::deliveries::{Arrival, Deliveries, Ending};
use super::findings::{Findings, Wrong};
use super::keys::{Right, Waiting};
use super::members::Members;
use super::publications::{Publications, Published, State};

/// Who publishes where, and which groups read what.
#[derive(Debug, Clone, Default)]
pub(in crate::fault_run) struct Shape {
    /// For each publisher its topic, and whether it asks for deduplication.
    pub(in crate::fault_run) publishers: Vec<(usize, bool)>,
    /// For each group its name, its topic, and whether that is ordered.
    pub(in crate::fault_run) groups: Vec<(String, usize, bool)>,
    /// After an outage, what was settled at most so long before may come again.
    pub(in crate::fault_run) replay_window: Duration,
    /// Members of plain topics share lanes, too.
    pub(in crate::fault_run) share_lanes: bool,
}

/// A dead letter that was found in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fault_run) struct Letter {
    pub(in crate::fault_run) tag: Tag,
    /// Because it follows another one of its key.
    pub(in crate::fault_run) follows: bool,
}

/// How many messages of a publisher may be on their way at once, by far.
const MIXED: usize = 2_000;

#[derive(Debug)]
pub(in crate::fault_run) struct Books {
    pub(super) publishers: Vec<Publications>,
    pub(super) groups: Vec<Deliveries>,
    pub(super) members: Members,
    pub(super) outages: Outages,
    share_lanes: bool,
    pub(super) findings: Findings,
    /// Second copies of messages that groups got.
    pub(super) copies: u64,
    /// Processes that were killed with deliveries in hand.
    pub(super) processes: usize,
}

impl Books {
    pub(super) fn new(shape: Shape) -> Self {
        let groups_of = |topic| shape.groups.iter().filter(|(_, of, _)| *of == topic).count();
        let publishers = shape.publishers.iter();
        let publishers = publishers.map(|(topic, deduplicates)| {
            Publications::new(*topic, groups_of(*topic), *deduplicates)
        });
        Self {
            publishers: publishers.collect(),
            outages: Outages::new(shape.replay_window),
            share_lanes: shape.share_lanes,
            members: Members::default(),
            findings: Findings::default(),
            copies: 0,
            processes: 0,
            groups: shape
                .groups
                .into_iter()
                .map(|(name, topic, ordered)| Deliveries::new(name, topic, ordered))
                .collect(),
        }
    }

    /// A new message. Nothing is known of it yet.
    pub(super) fn attempt(&mut self, publisher: usize) -> Tag {
        Tag::new(publisher, self.publishers[publisher].attempt())
    }

    /// The outcome of a publish. Whether its room is free now.
    pub(super) fn published(&mut self, tag: Tag, outcome: Published) -> bool {
        let publisher = &mut self.publishers[tag.publisher];
        let before = publisher.state(tag.number);
        let free = publisher.published(tag.number, outcome);
        let confirmed = publisher.state(tag.number) == Some(State::Confirmed);
        if confirmed && before != Some(State::Confirmed) {
            let topic = publisher.topic;
            for group in self.groups.iter_mut().filter(|group| group.topic == topic) {
                group.pending += u64::from(group.expects(tag));
                if let Some(keys) = &mut group.keys {
                    keys.confirmed(tag);
                }
            }
        }
        free
    }

    /// A message came that is none of ours, or was changed.
    pub(super) fn foreign(&mut self, group: usize, id: &str) {
        let group = &self.groups[group].name;
        self.findings.add(Wrong::Foreign, || format!("{id} for {group}"));
    }

    /// A delivery to a group whose handler begins now. How much room is free now; nothing if it is
    /// no message of the group's topic.
    pub(super) fn arrived(
        &mut self,
        at_group: usize,
        arrival: &Arrival,
        right: &Arc<dyn Right>,
        at: Millis,
    ) -> Option<usize> {
        let Self { publishers, groups, members, outages, findings, copies, .. } = self;
        let (tag, group) = (arrival.tag, &mut groups[at_group]);
        let known = publishers.get(tag.publisher);
        let known = known.filter(|of| of.topic == group.topic && of.state(tag.number).is_some());
        let Some(publisher) = known else {
            let name = &group.name;
            findings.add(Wrong::Foreign, || format!("{tag} for {name}: it was never published"));
            return None;
        };
        members.got(arrival.member, at);
        group.holding += 1;
        let dropped = |member| members.dropped_at(member);
        if let Some(by_an_outage) = group.arrived(arrival, at, outages, dropped, findings) {
            *copies += 1;
            if publisher.deduplicates || !by_an_outage {
                let name = &group.name;
                findings.add(Wrong::StoredTwice, || format!("{tag}, seen by {name} at {at} ms"));
            }
        }
        let Some(keys) = &mut group.keys else { return Some(0) };
        let (holder, open) = keys.begin(tag, right);
        if let Some(holder) = holder {
            let name = &group.name;
            findings.add(Wrong::Overtaken, || {
                format!("{tag} for {name} began at {at} ms while {holder} was being handled")
            });
        }
        let open: Vec<Tag> = open.map(|turn| tag.at_turn(turn)).collect();
        let passed = open.into_iter().filter(|earlier| self.pass(at_group, tag, *earlier));
        Some(passed.count())
    }

    /// A handler has ended. Whether the room of its message is free now.
    pub(super) fn ended(
        &mut self,
        group: usize,
        tag: Tag,
        right: &Arc<dyn Right>,
        ending: Ending,
        at: Millis,
    ) -> bool {
        let of = &mut self.groups[group];
        of.holding -= 1;
        if let Some(keys) = &mut of.keys {
            keys.end(tag, right, ending != Ending::Undone);
        }
        let dead_lettered = match ending {
            Ending::Undone => return false,
            Ending::Acknowledged => false,
            Ending::DeadLettered => true,
        };
        self.change(group, tag, |group| group.settled(tag, dead_lettered, at))
    }

    /// The settlement of what a handler had ended was refused. What was acknowledged may come
    /// again, since a late acknowledgement may count or not; what is no dead letter has to.
    pub(super) fn refused(&mut self, group: usize, tag: Tag, ending: Ending) {
        match ending {
            Ending::Acknowledged => self.groups[group].refused(tag),
            Ending::DeadLettered => {
                self.change(group, tag, |group| group.undone(tag));
            }
            Ending::Undone => {}
        }
    }

    /// A later one of its key came first. Whether its room is free now.
    fn pass(&mut self, group: usize, by: Tag, tag: Tag) -> bool {
        let expected = self.groups[group].expects(tag);
        expected && self.change(group, tag, |group| group.pass(by, tag))
    }

    /// Changes what is known of a message in a group. Whether its room is free now.
    fn change(&mut self, group: usize, tag: Tag, change: impl FnOnce(&mut Deliveries)) -> bool {
        let (group, publisher) = (&mut self.groups[group], &mut self.publishers[tag.publisher]);
        let expected = group.expects(tag);
        change(group);
        let expects = group.expects(tag);
        if publisher.state(tag.number) == Some(State::Confirmed) {
            group.pending += u64::from(expects);
            group.pending -= u64::from(expected);
        }
        !expects && group.count(tag) && publisher.done_by_a_group(tag.number)
    }

    /// Dead letters that are there because they follow another one: their group has done with
    /// them. How much room is free now.
    pub(super) fn followed(&mut self, group: usize, letters: &[Letter]) -> usize {
        let ours = |letter: &&Letter| letter.follows && self.is_ours(group, letter.tag);
        let tags: Vec<Tag> = letters.iter().filter(ours).map(|letter| letter.tag).collect();
        let free = |tag: &Tag| self.change(group, *tag, |group| group.followed(*tag));
        tags.iter().copied().filter(free).count()
    }

    fn is_ours(&self, group: usize, tag: Tag) -> bool {
        let topic = self.groups[group].topic;
        let publisher = self.publishers.get(tag.publisher);
        publisher.is_some_and(|of| of.topic == topic && of.state(tag.number).is_some())
    }

    /// Compares all dead letters of a group with what was given to them.
    pub(super) fn compare_letters(&mut self, group: usize, letters: &[Letter]) {
        let mut counts: BTreeMap<Tag, u32> = BTreeMap::new();
        for letter in letters {
            *counts.entry(letter.tag).or_default() += 1;
            let is_ours = self.is_ours(group, letter.tag);
            let (group, findings) = (&self.groups[group], &mut self.findings);
            let (tag, name) = (letter.tag, &group.name);
            if !is_ours || !(letter.follows || group.is_dead_lettered(tag)) {
                findings.add(Wrong::LetterUnexpected, || format!("{tag} of {name}"));
            }
        }
        let (group, findings) = (&self.groups[group], &mut self.findings);
        let name = &group.name;
        for (tag, count) in counts.iter().filter(|(_, count)| **count > 1) {
            if !self.outages.excuse(group.last(*tag)) {
                findings.add(Wrong::LetterTwice, || format!("{tag} of {name}, {count} times"));
            }
        }
        for tag in group.dead_letters().filter(|tag| !counts.contains_key(tag)) {
            findings.add(Wrong::LetterMissing, || format!("{tag} of {name}"));
        }
    }

    /// What a reader of a topic found: of each publisher how many copies of each number, up to the
    /// last one it found.
    pub(super) fn stored(&mut self, copies: &[Vec<u8>]) {
        let Self { publishers, findings, .. } = self;
        for (number, (publisher, copies)) in publishers.iter().zip(copies).enumerate() {
            // What the broker removed is at the beginning. Publishing at once mixes a few.
            let confirmed = publisher.all(number, State::Confirmed).next();
            let at = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
            let copies_of = |number: u32| copies.get(at(number)).copied().unwrap_or(0);
            let complete = confirmed.is_some_and(|tag| copies_of(tag.number) > 0);
            let first = copies.iter().position(|copies| *copies > 0).unwrap_or(usize::MAX);
            let from = if complete { 0 } else { first.saturating_add(MIXED) };
            for tag in publisher.all(number, State::Confirmed) {
                if at(tag.number) >= from && copies_of(tag.number) == 0 {
                    findings.add(Wrong::Lost, || format!("{tag} is not in its topic"));
                }
                if publisher.deduplicates && copies_of(tag.number) > 1 {
                    findings.add(Wrong::StoredTwice, || format!("{tag} is in its topic twice"));
                }
            }
            let ghosts = publisher.all(number, State::NotStored);
            for tag in ghosts.filter(|tag| copies_of(tag.number) > 0) {
                findings.add(Wrong::NotStoredButDelivered, || format!("{tag} is in its topic"));
            }
        }
    }

    /// Present members that got nothing for so long, while their group had something to do. Where
    /// lanes are shared only who has one has something to do.
    pub(super) fn idle_members(&self, now: Millis, longer_than: Millis) -> Vec<String> {
        let idle = self.members.present().filter(|member| {
            let group = &self.groups[member.group];
            let by_lanes = group.keys.is_some() || self.share_lanes;
            let has_work = group.pending > 0 && (!by_lanes || member.lanes > 0);
            has_work && now.saturating_sub(member.last) > longer_than
        });
        let name = |group: usize| &self.groups[group].name;
        idle.map(|it| format!("{} of {}, with {} lanes,", it.name, name(it.group), it.lanes))
            .collect()
    }

    /// The key of an ordered topic that has waited longest, and its group.
    pub(super) fn longest_wait(&mut self, now: Millis) -> Option<(Waiting, String)> {
        let waits = self.groups.iter_mut().filter_map(|group| {
            let waiting = group.keys.as_mut()?.look(now)?;
            Some((waiting, group.name.clone()))
        });
        waits.max()
    }

    /// Draws the balance. What is confirmed and not handled is lost, if all had time to come.
    pub(super) fn close(&mut self, drained: bool) {
        let Self { publishers, groups, findings, .. } = self;
        for group in &*groups {
            let name = &group.name;
            let ours = publishers.iter().enumerate().filter(|(_, of)| of.topic == group.topic);
            for (number, publisher) in ours {
                let lost = publisher.all(number, State::Confirmed);
                for tag in lost.filter(|tag| drained && !group.is_done(*tag)) {
                    findings.add(Wrong::Lost, || format!("{tag} for {name}"));
                }
                let ghosts = publisher.all(number, State::NotStored);
                for tag in ghosts.filter(|tag| group.came(*tag)) {
                    findings.add(Wrong::NotStoredButDelivered, || format!("{tag} for {name}"));
                }
            }
            for passed in &group.passed {
                let tag = passed.tag;
                let state = publishers[tag.publisher].state(tag.number);
                if state == Some(State::Confirmed) && !group.has_followed(tag) {
                    findings.add(Wrong::Overtaken, || format!("in {name} {passed}"));
                }
            }
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let publishers = self.publishers.iter().map(Publications::bytes);
        publishers.chain(self.groups.iter().map(Deliveries::bytes)).sum()
    }
}
