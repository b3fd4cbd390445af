//! A topic: its logs, groups and dead letters under one lock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use posthaste_core::broker::{RangeQuery, Retained, SettleOutcome, Settlement, Start, Verdict};
use posthaste_core::{
    Capabilities, Difference, Error, GroupName, Layout, Result, Retention, Timestamp, TopicName,
    TopicSpec,
};

use super::dedup::Dedup;
use super::group::{Group, Standing};
use super::letters::Letters;
use super::log::Log;
use super::port::Turn;
use crate::{convert, error};

/// What a topic is, fixed at its creation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) layout: Layout,
    pub(crate) queue: bool,
    pub(crate) retention: Retention,
    pub(crate) deduplication_window: Duration,
    /// The broker's own bounds, which nothing is dropped for.
    pub(crate) max_messages: usize,
    pub(crate) max_bytes: usize,
    pub(crate) max_message_bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: TopicName,
    pub(crate) settings: Settings,
    pub(crate) capabilities: Arc<Capabilities>,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(super) settings: Settings,
    pub(super) name: TopicName,
    pub(crate) logs: Vec<Log>,
    pub(crate) groups: BTreeMap<u64, Group>,
    pub(crate) letters: Letters,
    pub(super) dedup: Dedup,
    /// Messages and bytes in the logs.
    pub(super) count: usize,
    pub(super) bytes: usize,
    pub(super) appended: u64,
    pub(super) last_stored: Timestamp,
    last_group: u64,
    deleted: bool,
}

impl Topic {
    pub(crate) fn new(
        name: TopicName,
        settings: Settings,
        capabilities: Arc<Capabilities>,
    ) -> Self {
        let partitions = settings.layout.partitions().map_or(1, usize::from);
        let state = State {
            settings,
            name: name.clone(),
            logs: std::iter::repeat_with(Log::default).take(partitions).collect(),
            groups: BTreeMap::new(),
            letters: Letters::default(),
            dedup: Dedup::new(settings.deduplication_window, settings.max_messages),
            count: 0,
            bytes: 0,
            appended: 0,
            last_stored: Timestamp::MIN,
            last_group: 0,
            deleted: false,
        };
        Self { name, settings, capabilities, state: Mutex::new(state) }
    }

    /// Takes one turn under the lock. `None` if the topic was deleted.
    pub(crate) fn turn<R>(&self, act: impl FnOnce(&mut State, &mut Turn) -> R) -> Option<R> {
        self.turn_even_if_deleted(|state, turn| (!state.deleted).then(|| act(state, turn)))
    }

    /// The same, for what is owed to members of a deleted topic.
    pub(crate) fn turn_even_if_deleted<R>(
        &self,
        act: impl FnOnce(&mut State, &mut Turn) -> R,
    ) -> R {
        // No user code runs under the lock, so that a poisoned one is a defect of ours that was
        // reported by its panic already; going on is better than failing every other topic user.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut turn = Turn::begin();
        state.trim_aged();
        let result = act(&mut state, &mut turn);
        drop(state);
        turn.end();
        result
    }

    /// How the topic differs from what a spec asks for. What the spec leaves open, does not.
    pub(crate) fn differences(&self, spec: &TopicSpec) -> Vec<Difference> {
        let mut found = Vec::new();
        let mut compare = |setting, wanted: String, is: String| {
            if wanted != is {
                found.push(Difference::new(setting, wanted, is));
            }
        };
        let settings = &self.settings;
        compare("order", order(spec.layout), order(settings.layout));
        compare("queue", spec.queue.to_string(), settings.queue.to_string());
        let open = "not limited";
        let retention = (&spec.retention, &settings.retention);
        if let Some(age) = retention.0.max_age {
            compare("max_age", seconds(Some(age), open), seconds(retention.1.max_age, open));
        }
        if let Some(bytes) = retention.0.max_bytes {
            compare("max_bytes", bytes.to_string(), number(retention.1.max_bytes, open));
        }
        if let Some(messages) = retention.0.max_messages {
            compare("max_messages", messages.to_string(), number(retention.1.max_messages, open));
        }
        if let Some(window) = spec.deduplication_window {
            let is = seconds(Some(settings.deduplication_window), open);
            compare("deduplication_window", seconds(Some(window), open), is);
        }
        found
    }
}

impl State {
    pub(crate) fn group(&mut self, name: &GroupName) -> Option<&mut Group> {
        self.groups.values_mut().find(|group| group.name.as_ref() == Some(name))
    }

    /// The group of that name, which must exist.
    pub(crate) fn existing(&mut self, name: &GroupName) -> Result<&mut Group> {
        let topic = self.name.clone();
        self.group(name).ok_or_else(|| error::no_group(&topic, name))
    }

    /// Adds a group and returns its number.
    pub(crate) fn create_group(
        &mut self,
        name: Option<GroupName>,
        start: Start,
        turn: &Turn,
    ) -> Result<u64> {
        let (cursors, lost) = self.cursors(start)?;
        let ends = self.logs.iter().map(Log::end);
        let cursors = cursors.into_iter().zip(ends).map(|(cursor, end)| cursor.unwrap_or(end));
        let exclusive = self.settings.layout.partitions().is_some();
        self.last_group += 1;
        let id = self.last_group;
        let topic = self.name.clone();
        let mut group = Group::new(id, name, topic, exclusive, cursors.collect(), turn.now);
        if lost > 0 {
            group.lose(lost, "removed before the group's start");
        }
        self.groups.insert(id, group);
        Ok(id)
    }

    /// Where to read from, for each partition that `start` speaks of, and how much of what it asks
    /// for is gone.
    pub(crate) fn cursors(&self, start: Start) -> Result<(Vec<Option<u64>>, u64)> {
        let each = |cursor: &dyn Fn(&Log) -> u64| -> Vec<Option<u64>> {
            self.logs.iter().map(|log| Some(cursor(log))).collect()
        };
        let (partition, offset) = match start {
            Start::Created | Start::Latest => return Ok((each(&Log::end), 0)),
            Start::Earliest => return Ok((each(&Log::base), 0)),
            Start::At(time) => return Ok((each(&|log| log.offset_at(time)), 0)),
            Start::AtOffset { partition, offset } => (partition, offset),
            _ => return Err(Error::unsupported("this start is not known to the memory broker")),
        };
        let ordered = self.settings.layout.partitions().is_some();
        let meant = |at: usize| match partition {
            None => true,
            Some(partition) => ordered && usize::try_from(partition) == Ok(at),
        };
        let (mut cursors, mut lost, mut reached) = (vec![None; self.logs.len()], 0, false);
        for (at, (cursor, log)) in cursors.iter_mut().zip(&self.logs).enumerate() {
            if meant(at) {
                reached |= offset <= log.end();
                lost += log.base().saturating_sub(offset);
                *cursor = Some(offset.clamp(log.base(), log.end()));
            }
        }
        if !reached {
            return Err(Error::invalid("there is no such offset yet, or no such partition")
                .with_context("offset", offset)
                .with_topic(&self.name));
        }
        Ok((cursors, lost))
    }

    /// Applies a verdict. `None` is done.
    pub(crate) fn settle(
        &mut self,
        group: u64,
        settlement: &Settlement,
        now: Timestamp,
        turn: &mut Turn,
    ) -> Option<SettleOutcome> {
        let tag = convert::tag(&settlement.token);
        let group = self.groups.get_mut(&group);
        let Some(group) = group.filter(|_| !self.deleted) else {
            // With the group, everything that could be settled is gone.
            let handled = matches!(settlement.verdict, Verdict::Ack);
            return (!handled).then_some(SettleOutcome::LeaseLost);
        };
        let done = match &settlement.verdict {
            Verdict::Ack => {
                group.ack(tag, turn);
                true
            }
            Verdict::Release(_) => group.release(tag, turn),
            Verdict::Requeue(_) => group.fail(tag, Duration::ZERO, now, turn),
            Verdict::After(delay, _) => group.fail(tag, *delay, now, turn),
            Verdict::DeadLetter(record) => {
                let current = group.standing(tag) == Standing::Current;
                match (group.held_at(tag).filter(|_| current), &group.name) {
                    (None, _) => false,
                    (Some(_), None) => {
                        return Some(SettleOutcome::Failed(error::no_dead_letters(&self.name)));
                    }
                    (Some(held), Some(name)) => {
                        let mut record = record.as_ref().clone();
                        // The group may have seen it fail before, on another member.
                        let failures = [record.first_failed_at, held.first_failed_at];
                        record.first_failed_at = failures.into_iter().flatten().min();
                        self.letters.push(name, record, held.message.clone());
                        group.ack(tag, turn);
                        true
                    }
                }
            }
            _ => {
                let error = Error::unsupported("this verdict is not known to the memory broker");
                return Some(SettleOutcome::Failed(error));
            }
        };
        (!done).then_some(SettleOutcome::LeaseLost)
    }

    /// Everything the logs hold from there on, oldest first.
    pub(crate) fn range(&self, query: &RangeQuery) -> Result<Vec<Retained>> {
        let (cursors, _) = self.cursors(query.from)?;
        let ordered = self.settings.layout.partitions().is_some();
        let mut sources: Vec<_> = self
            .logs
            .iter()
            .enumerate()
            .zip(cursors)
            .filter_map(|((at, log), cursor)| {
                let partition = if ordered { u32::try_from(at).ok() } else { None };
                Some((partition, log.from(cursor?).peekable()))
            })
            .collect();
        let mut found = Vec::new();
        while found.len() < query.limit {
            let next = sources.iter_mut().filter_map(|(partition, entries)| {
                let number = entries.peek()?.1.number;
                Some((number, *partition, entries))
            });
            let Some((_, partition, entries)) = next.min_by_key(|(number, ..)| *number) else {
                break;
            };
            if let Some((offset, entry)) = entries.next() {
                found.push(convert::retained(entry, partition, offset));
            }
        }
        Ok(found)
    }

    /// Ends the topic: every group's members are told what they lose.
    pub(crate) fn delete(&mut self, turn: &mut Turn) {
        self.deleted = true;
        let now = Timestamp::now();
        for group in self.groups.values_mut() {
            let total = group.lag(&self.logs, turn, now).total();
            group.lose(total, "the topic was deleted");
            group.restart(turn);
        }
        self.logs.clear();
        self.letters = Letters::default();
    }
}

pub(crate) fn order(layout: Layout) -> String {
    layout.partitions().map_or_else(|| "plain".to_owned(), |n| format!("ordered({n})"))
}

fn number(limit: Option<u64>, open: &str) -> String {
    limit.map_or_else(|| open.to_owned(), |limit| limit.to_string())
}

fn seconds(limit: Option<Duration>, open: &str) -> String {
    limit.map_or_else(|| open.to_owned(), |limit| format!("{limit:?}"))
}
