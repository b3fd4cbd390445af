//! The ids of a topic's deduplicated messages, each for one window.

use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::time::Duration;

use posthaste_core::{Bytes, Envelope};
use tokio::time::Instant;

/// Where a message was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) partition: usize,
    pub(crate) offset: u64,
}

#[derive(Debug)]
pub(crate) struct Dedup {
    window: Duration,
    limit: usize,
    known: HashMap<Seen, Place>,
    order: VecDeque<(Instant, Seen)>,
}

/// A message's identity: its source and id. Keeps the envelope's head, which is shared, not copied.
#[derive(Debug, Clone)]
struct Seen(Envelope);

impl PartialEq for Seen {
    fn eq(&self, other: &Self) -> bool {
        self.0.id() == other.0.id() && self.0.source() == other.0.source()
    }
}

impl Eq for Seen {}

impl Hash for Seen {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id().hash(state);
        self.0.source().hash(state);
    }
}

impl Seen {
    fn of(envelope: &Envelope) -> Self {
        Self(envelope.clone().with_payload(Bytes::new()))
    }
}

impl Dedup {
    pub(crate) fn new(window: Duration, limit: usize) -> Self {
        Self { window, limit, known: HashMap::new(), order: VecDeque::new() }
    }

    /// Where a message of that identity was stored within the window.
    pub(crate) fn find(&mut self, envelope: &Envelope, now: Instant) -> Option<Place> {
        while self.order.front().is_some_and(|(at, _)| now - *at >= self.window) {
            if let Some((_, seen)) = self.order.pop_front() {
                self.known.remove(&seen);
            }
        }
        self.known.get(&Seen::of(envelope)).copied()
    }

    /// Whether no further id can be remembered before one is forgotten.
    pub(crate) fn is_full(&self) -> bool {
        self.order.len() >= self.limit
    }

    pub(crate) fn remember(&mut self, envelope: &Envelope, place: Place, now: Instant) {
        let seen = Seen::of(envelope);
        self.known.insert(seen.clone(), place);
        self.order.push_back((now, seen));
    }
}
