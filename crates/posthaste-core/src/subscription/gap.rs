//! What has left us unsettled and comes again, and what of its key must wait for it.
//!
//! A pure state machine. A lease that ends, or a dead letter that was not stored, leaves a gap in
//! the order of its key: the broker delivers the message again, but until it does, later ones of
//! the key may be here already, or come first.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use crate::Envelope;
use crate::broker::{Lane, LaneState, Position};

/// The gaps of a subscription, by key.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    keys: HashMap<u64, Gap>,
}

#[derive(Debug)]
struct Gap {
    lane: Arc<Lane>,
    /// By then it has come again, or it does not come any more.
    until: Instant,
    /// What follows, in order, from the first that is missing.
    line: VecDeque<Item>,
}

#[derive(Debug)]
enum Item {
    Missing(Name),
    /// By slot.
    Here(usize),
}

/// What a message is known by when it comes again.
#[derive(Debug, Clone)]
pub(super) struct Name {
    pub(super) position: Position,
    pub(super) envelope: Envelope,
}

impl Gaps {
    /// A message of the key has to come again before `behind`, and before what is in line already.
    pub(super) fn open(
        &mut self,
        key: u64,
        lane: &Arc<Lane>,
        until: Instant,
        missing: Name,
        behind: VecDeque<usize>,
    ) {
        let gap = self.keys.entry(key).or_insert_with(|| Gap {
            lane: Arc::clone(lane),
            until,
            line: VecDeque::new(),
        });
        gap.until = gap.until.max(until);
        behind.into_iter().rev().for_each(|slot| gap.line.push_front(Item::Here(slot)));
        gap.line.push_front(Item::Missing(missing));
    }

    /// What waited in line has to come again, too. `false` if it is not in line.
    pub(super) fn lose(&mut self, key: u64, slot: usize, until: Instant, name: Name) -> bool {
        let Some(gap) = self.keys.get_mut(&key) else { return false };
        let here = |item: &&mut Item| matches!(item, Item::Here(here) if *here == slot);
        let Some(item) = gap.line.iter_mut().find(here) else { return false };
        *item = Item::Missing(name);
        gap.until = gap.until.max(until);
        true
    }

    /// A message of the key has arrived: it takes its place in line. `false` if there is no gap.
    pub(super) fn arrive(&mut self, key: u64, slot: usize, name: impl Fn() -> Name) -> bool {
        let Some(gap) = self.keys.get_mut(&key) else { return false };
        let name = name();
        let missing =
            |item: &&mut Item| matches!(item, Item::Missing(missing) if missing.is(&name));
        match gap.line.iter_mut().find(missing) {
            Some(item) => *item = Item::Here(slot),
            None => gap.line.push_back(Item::Here(slot)),
        }
        true
    }

    /// What was missing has been handled after all.
    pub(super) fn found(&mut self, key: u64, name: &Name) {
        if let Some(gap) = self.keys.get_mut(&key) {
            let missing = |item: &Item| matches!(item, Item::Missing(missing) if missing.is(name));
            if let Some(at) = gap.line.iter().position(missing) {
                gap.line.remove(at);
            }
        }
    }

    /// The next one that may go on. With the last one the gap is closed.
    pub(super) fn next(&mut self, key: u64) -> Option<usize> {
        let gap = self.keys.get_mut(&key)?;
        let next = match gap.line.front() {
            Some(Item::Here(slot)) => Some(*slot),
            Some(Item::Missing(_)) => return None,
            None => None,
        };
        gap.line.pop_front();
        if gap.line.is_empty() {
            self.keys.remove(&key);
        }
        next
    }

    /// Whether the key's gap is of another life of its lane.
    pub(super) fn is_stale(&self, key: u64, lane: &Arc<Lane>) -> bool {
        self.keys.get(&key).is_some_and(|gap| !Arc::ptr_eq(&gap.lane, lane))
    }

    /// Ends a gap: what waited in it, in order.
    pub(super) fn end(&mut self, key: u64) -> Vec<usize> {
        let here = |item: &Item| match item {
            Item::Here(slot) => Some(*slot),
            Item::Missing(_) => None,
        };
        let gap = self.keys.remove(&key);
        gap.map(|gap| gap.line.iter().filter_map(here).collect()).unwrap_or_default()
    }

    /// The keys whose gaps end by now, and those whose lanes go or are gone.
    pub(super) fn over(&self, now: Instant) -> Vec<u64> {
        let over = |gap: &Gap| gap.until <= now || gap.lane.state() != LaneState::Live;
        self.keys.iter().filter(|(_, gap)| over(gap)).map(|(key, _)| *key).collect()
    }

    pub(super) fn keys(&self) -> Vec<u64> {
        self.keys.keys().copied().collect()
    }

    /// When the next one ends.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.keys.values().map(|gap| gap.until).min()
    }
}

impl Name {
    fn is(&self, other: &Self) -> bool {
        match (self.position.offset, other.position.offset) {
            (Some(ours), Some(theirs)) => {
                ours == theirs && self.position.partition == other.position.partition
            }
            _ => self.envelope.id() == other.envelope.id(),
        }
    }
}
