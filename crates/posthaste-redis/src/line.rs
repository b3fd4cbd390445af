//! What the parts of a subscription share: what it reads, what is out, and what there is to do.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use posthaste_core::broker::{DeliveryMode, DriverEvent, Token};
use posthaste_core::{Error, GroupName, TopicName, Topology};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::hub::{Hub, Known};
use crate::lanes::LaneBook;
use crate::names::GroupKeys;

/// What a subscription reads, and how.
pub(crate) struct Plan {
    pub(crate) topics: Vec<TopicPlan>,
    /// The group of all of its topics; without one, one of its own.
    pub(crate) group: Option<GroupName>,
    /// What the group is called at the server.
    pub(crate) name: String,
    /// What this member is called at the server.
    pub(crate) consumer: String,
    pub(crate) lease: Duration,
    pub(crate) prefetch: usize,
    pub(crate) mode: DeliveryMode,
    pub(crate) topology: Topology,
}

/// One topic of it.
pub(crate) struct TopicPlan {
    pub(crate) topic: TopicName,
    pub(crate) known: Arc<Known>,
    pub(crate) keys: GroupKeys,
    /// The first of its sources; they are its streams, and then its private channel.
    pub(crate) first: usize,
    /// Whether its streams are lanes, which members divide.
    pub(crate) lanes: bool,
}

impl TopicPlan {
    /// Its sources without the private channel.
    pub(crate) fn streams(&self) -> std::ops::Range<usize> {
        self.first..self.first + self.known.streams.len()
    }

    pub(crate) fn private(&self) -> usize {
        self.first + self.known.streams.len()
    }
}

/// A stream that is read.
#[derive(Debug)]
pub(crate) struct Source {
    /// Which topic of the plan.
    pub(crate) topic: usize,
    pub(crate) key: String,
    pub(crate) partition: Option<u32>,
    pub(crate) private: bool,
}

/// A subscription, shared by its driver, its settler and its task.
pub(crate) struct Line {
    pub(crate) hub: Arc<Hub>,
    pub(crate) plan: Plan,
    pub(crate) sources: Vec<Source>,
    state: Mutex<State>,
    /// For the task: something changed.
    pub(crate) changed: Notify,
}

/// What changes.
pub(crate) struct State {
    /// What is out, by source and offset.
    pub(crate) out: HashMap<(u32, u64), Out>,
    pub(crate) lanes: LaneBook,
    /// There may be something that was given back, whose lease has ended, or that is replayed.
    pub(crate) take: bool,
    /// A topic or its group is gone.
    pub(crate) gone: bool,
    pub(crate) stopping: bool,
    /// Nothing is held any more: the member may go.
    pub(crate) leaving: bool,
    /// The member has gone.
    pub(crate) left: bool,
    pub(crate) events: VecDeque<DriverEvent>,
    pub(crate) failed: Option<Error>,
    /// The read that waits at the server.
    pub(crate) reading: Option<Reading>,
    /// A script takes something.
    pub(crate) taking: bool,
    /// When what this member lets wait is due.
    pub(crate) due: Option<Instant>,
    waker: Option<Waker>,
}

/// A delivery that is out.
pub(crate) struct Out {
    /// The count of its deliveries.
    pub(crate) count: u32,
    /// When its lease ends unless it is prolonged.
    pub(crate) until: Instant,
}

/// A read that waits at the server.
pub(crate) struct Reading {
    /// The number of its connection.
    pub(crate) number: Option<i64>,
    pub(crate) sources: Vec<usize>,
    pub(crate) since: Instant,
    /// It was told to end when it had surely begun.
    pub(crate) told: bool,
}

/// What is told at most, before it is read.
const MOST_EVENTS: usize = 64;

impl Line {
    pub(crate) fn new(hub: Arc<Hub>, plan: Plan) -> Self {
        let mut sources = Vec::new();
        for (topic, planned) in plan.topics.iter().enumerate() {
            let lanes = planned.known.layout.partitions().map_or(0, u32::from);
            for (number, key) in (0..).zip(&planned.known.streams) {
                let partition = (number < lanes).then_some(number);
                sources.push(Source { topic, key: key.clone(), partition, private: false });
            }
            let key = planned.keys.private();
            sources.push(Source { topic, key, partition: None, private: true });
        }
        let lanes = LaneBook::new(&plan, &sources);
        let state = State {
            out: HashMap::new(),
            lanes,
            take: true,
            gone: false,
            stopping: false,
            leaving: false,
            left: false,
            events: VecDeque::new(),
            failed: None,
            reading: None,
            taking: false,
            due: None,
            waker: None,
        };
        Self { hub, plan, sources, state: Mutex::new(state), changed: Notify::new() }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held but an allocation that failed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn source(&self, token: &Token) -> Option<&Source> {
        self.sources.get(usize::try_from(token.lane).ok()?)
    }

    pub(crate) fn topic(&self, source: &Source) -> Option<&TopicPlan> {
        self.plan.topics.get(source.topic)
    }

    /// There is something to take, and the driver hears of it.
    pub(crate) fn take(&self) {
        let mut state = self.state();
        if !state.stopping {
            state.take = true;
            state.wake();
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Whether members divide it among themselves.
    pub(crate) fn is_lane(&self, source: usize) -> bool {
        self.sources
            .get(source)
            .is_some_and(|of| !of.private && self.topic(of).is_some_and(|planned| planned.lanes))
    }

    /// Where the owner of a source's lane stands.
    pub(crate) fn lanes_key(&self, source: usize) -> String {
        let planned = self.sources.get(source).and_then(|of| self.topic(of));
        planned.map(|planned| planned.keys.lanes()).unwrap_or_default()
    }

    /// The number of a source's lane; empty for what is nobody's own.
    pub(crate) fn lane_number(&self, source: usize) -> String {
        if !self.is_lane(source) {
            return String::new();
        }
        let first = self.topic(&self.sources[source]).map_or(0, |planned| planned.first);
        (source - first).to_string()
    }

    /// Whether what is read is settled by that.
    pub(crate) fn settles_first(&self) -> bool {
        self.plan.mode == DeliveryMode::AtMostOnce
    }
}

impl State {
    pub(crate) fn register(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(known) => known.clone_from(waker),
            None => self.waker = Some(waker.clone()),
        }
    }

    /// A delivery is not out any more.
    pub(crate) fn settled(&mut self, token: &Token) {
        let key = (token.lane, token.sequence);
        if self.out.get(&key).is_some_and(|out| out.count == token.generation) {
            self.out.remove(&key);
            if self.stopping && self.out.is_empty() {
                self.wake();
            }
        }
    }

    /// The member has gone.
    pub(crate) fn leave(&mut self) {
        self.left = true;
        self.wake();
    }

    /// How much of each source is out.
    pub(crate) fn held(&self, sources: usize) -> Vec<usize> {
        let mut held = vec![0; sources];
        for (source, _) in self.out.keys() {
            if let Some(held) = usize::try_from(*source).ok().and_then(|at| held.get_mut(at)) {
                *held += 1;
            }
        }
        held
    }

    /// A lane is not ours any more, and nothing of it is out. Says so if it was and nobody was told.
    pub(crate) fn lose(&mut self, source: usize) -> Option<DriverEvent> {
        let number = u32::try_from(source).unwrap_or(u32::MAX);
        self.out.retain(|(of, _), _| *of != number);
        if self.stopping && self.out.is_empty() {
            self.wake();
        }
        self.lanes.lose(source)
    }

    /// Whether something of a source is out.
    pub(crate) fn holds(&self, source: usize) -> bool {
        let number = u32::try_from(source).unwrap_or(u32::MAX);
        self.out.keys().any(|(of, _)| *of == number)
    }

    /// Whether something of a source may be on its way here.
    pub(crate) fn expects(&self, source: usize) -> bool {
        let read = self.reading.as_ref();
        self.taking || read.is_some_and(|reading| reading.sources.contains(&source))
    }

    /// Forgets what nobody prolonged: it is not ours any more, and nobody has to settle it.
    pub(crate) fn expire(&mut self) {
        if self.out.is_empty() {
            return;
        }
        let now = Instant::now();
        self.out.retain(|_, out| out.until > now);
        if self.stopping && self.out.is_empty() {
            self.wake();
        }
    }

    /// The driver has something to do.
    pub(crate) fn wake(&mut self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    pub(crate) fn tell(&mut self, event: DriverEvent) {
        if self.events.len() < MOST_EVENTS {
            self.events.push_back(event);
        }
        self.wake();
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line")
            .field("group", &self.plan.name)
            .field("consumer", &self.plan.consumer)
            .field("sources", &self.sources.len())
            .finish_non_exhaustive()
    }
}
