//! The lanes of a subscription: which are ours, and what has to happen before they are read.
//!
//! A plain topic is one lane that is nobody's own. The streams of an ordered topic are divided
//! among the members of a group by the script `lanes`; who gets one takes what its former owner has
//! left unsettled before anything new is read.

use std::sync::Arc;
use std::time::Duration;

use posthaste_core::TopicName;
use posthaste_core::broker::{DriverEvent, Lane};
use tokio::time::Instant;

use crate::line::{Plan, Source};

/// How long the handlers of a lane that goes may take.
pub(crate) const DRAIN: Duration = Duration::from_secs(30);

/// The lanes of a subscription, by source.
pub(crate) struct LaneBook {
    lanes: Vec<LaneState>,
}

/// What is with one lane.
enum LaneState {
    /// Somebody else's.
    Away,
    /// Ours; what was left is taken, from this id on.
    Sweeping(Arc<Lane>, String),
    /// Ours, and read.
    Live(Arc<Lane>),
    /// Ours, and given up once nothing of it is held.
    Going(Arc<Lane>, Instant),
}

impl LaneBook {
    pub(crate) fn new(plan: &Plan, sources: &[Source]) -> Self {
        let lanes = sources.iter().map(|source| {
            let planned = &plan.topics[source.topic];
            if planned.lanes && !source.private {
                LaneState::Away
            } else {
                LaneState::Live(Arc::new(Lane::new(planned.topic.clone(), source.partition)))
            }
        });
        Self { lanes: lanes.collect() }
    }

    /// The lane of a source, if it is ours.
    pub(crate) fn lane(&self, source: usize) -> Option<&Arc<Lane>> {
        match self.lanes.get(source)? {
            LaneState::Away => None,
            LaneState::Sweeping(lane, _) | LaneState::Live(lane) | LaneState::Going(lane, _) => {
                Some(lane)
            }
        }
    }

    /// Whether something new is read from it.
    pub(crate) fn is_live(&self, source: usize) -> bool {
        matches!(self.lanes.get(source), Some(LaneState::Live(_)))
    }

    /// The first lane whose former owner may have left something, and from where on.
    pub(crate) fn to_sweep(&self) -> Option<(usize, String)> {
        self.lanes.iter().enumerate().find_map(|(source, lane)| match lane {
            LaneState::Sweeping(_, after) => Some((source, after.clone())),
            _ => None,
        })
    }

    /// What was left is taken up to there; an empty id is the end.
    pub(crate) fn swept(&mut self, source: usize, last: &str) {
        let Some(state) = self.lanes.get_mut(source) else { return };
        if let LaneState::Sweeping(lane, after) = state {
            if last.is_empty() {
                *state = LaneState::Live(Arc::clone(lane));
            } else {
                *after = format!("({last}");
            }
        }
    }

    /// The lane is ours. Says so if it was not.
    pub(crate) fn gain(
        &mut self,
        source: usize,
        topic: &TopicName,
        partition: Option<u32>,
    ) -> Option<DriverEvent> {
        let state = self.lanes.get_mut(source)?;
        if !matches!(state, LaneState::Away) {
            return None;
        }
        let lane = Arc::new(Lane::new(topic.clone(), partition));
        *state = LaneState::Sweeping(Arc::clone(&lane), "-".to_owned());
        Some(DriverEvent::LaneAssigned(lane))
    }

    /// The lane is to be given up. Says so once.
    pub(crate) fn give_up(&mut self, source: usize) -> Option<DriverEvent> {
        let state = self.lanes.get_mut(source)?;
        let lane = match state {
            LaneState::Sweeping(lane, _) | LaneState::Live(lane) => Arc::clone(lane),
            LaneState::Away | LaneState::Going(..) => return None,
        };
        let until = Instant::now() + DRAIN;
        lane.drain(until);
        *state = LaneState::Going(Arc::clone(&lane), until);
        Some(DriverEvent::LaneRevoked(lane))
    }

    /// The lanes that are given up, and whether their time is over.
    pub(crate) fn going(&self) -> Vec<(usize, bool)> {
        let now = Instant::now();
        let going = self.lanes.iter().enumerate().filter_map(|(source, lane)| match lane {
            LaneState::Going(_, until) => Some((source, *until <= now)),
            _ => None,
        });
        going.collect()
    }

    /// The lane is not ours any more. Says so if it was and nobody was told.
    pub(crate) fn lose(&mut self, source: usize) -> Option<DriverEvent> {
        let state = self.lanes.get_mut(source)?;
        match std::mem::replace(state, LaneState::Away) {
            LaneState::Away => None,
            LaneState::Going(lane, _) => {
                lane.lose();
                None
            }
            LaneState::Sweeping(lane, _) | LaneState::Live(lane) => {
                lane.lose();
                Some(DriverEvent::LaneRevoked(lane))
            }
        }
    }
}
