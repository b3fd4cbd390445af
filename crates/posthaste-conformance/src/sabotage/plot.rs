//! What the connections of one sabotaged broker know of each other.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use posthaste_core::broker::{Attempt, Lane, Parcel, Position, Received, Settler, Token};
use posthaste_core::{Envelope, GroupName, TopicName};
use tokio::sync::Notify;

/// The lane that tokens of copies name, which no adapter gives out.
const COPIES: u32 = u32::MAX - 17;

/// Where a subscription is: its first topic and its group.
pub(super) type Place = (TopicName, Option<GroupName>);

/// What a member that died has not settled, with the way to do so.
pub(super) type Estate = (Arc<dyn Settler>, Vec<Token>);

/// What all connections share.
#[derive(Default)]
pub(super) struct Plot {
    published: AtomicUsize,
    members: AtomicU64,
    /// Whether the broker was down at some time.
    was_down: AtomicBool,
    /// Something was settled, or a member left.
    changed: Notify,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The groups of each topic, in the order in which they came.
    groups: HashMap<TopicName, Vec<Option<GroupName>>>,
    /// What members got, by their numbers, without what they settled.
    held: HashMap<u64, Vec<Copy>>,
    /// Where each member is.
    places: HashMap<u64, Place>,
    /// What dead members left.
    estates: Vec<Estate>,
    /// How often each message was given back to its group.
    releases: HashMap<(TopicName, String), u32>,
}

#[derive(Clone)]
struct Copy {
    token: Token,
    envelope: Envelope,
    lane: Arc<Lane>,
    attempt: Attempt,
    position: Position,
    /// Whether it was given to somebody else already.
    given: bool,
}

impl Plot {
    /// Counts a published entry; its number, from 1.
    pub(super) fn count_entry(&self) -> usize {
        self.published.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Notes whether the broker is down now; whether it ever was.
    pub(super) fn was_down(&self, is_down: bool) -> bool {
        self.was_down.fetch_or(is_down, Ordering::AcqRel) || is_down
    }

    /// A member joins: its number, and the rank of its group on the topic.
    pub(super) fn join(&self, place: &Place) -> (u64, usize) {
        let member = self.members.fetch_add(1, Ordering::AcqRel);
        let mut state = self.lock();
        state.places.insert(member, place.clone());
        let groups = state.groups.entry(place.0.clone()).or_default();
        let rank = groups.iter().position(|group| *group == place.1).unwrap_or_else(|| {
            groups.push(place.1.clone());
            groups.len() - 1
        });
        (member, rank)
    }

    /// A member is gone. Returns what it held.
    pub(super) fn leave(&self, member: u64) -> Vec<Token> {
        let held = {
            let mut state = self.lock();
            state.places.remove(&member);
            state.held.remove(&member).unwrap_or_default()
        };
        self.changed.notify_waiters();
        held.into_iter().map(|copy| copy.token).collect()
    }

    /// Keeps what a dead member held.
    pub(super) fn inherit(&self, estate: Estate) {
        self.lock().estates.push(estate);
    }

    /// Takes what dead members left.
    pub(super) fn estates(&self) -> Vec<Estate> {
        std::mem::take(&mut self.lock().estates)
    }

    /// Notes what a member got.
    pub(super) fn note(&self, member: u64, received: &Received) {
        self.lock().held.entry(member).or_default().push(Copy {
            token: received.token.clone(),
            envelope: received.envelope.clone(),
            lane: Arc::clone(&received.lane),
            attempt: received.attempt,
            position: received.position,
            given: false,
        });
    }

    /// Forgets what a member settled.
    pub(super) fn settled(&self, member: u64, token: &Token) {
        if let Some(held) = self.lock().held.get_mut(&member) {
            held.retain(|copy| copy.token != *token);
        }
        self.changed.notify_waiters();
    }

    /// The ids of what a member has not settled.
    pub(super) fn held(&self, member: u64) -> HashSet<String> {
        let state = self.lock();
        let held = state.held.get(&member).into_iter().flatten();
        held.map(|copy| copy.envelope.id().to_owned()).collect()
    }

    /// What a member got by that token, unless it has settled it.
    pub(super) fn parcel(&self, member: u64, token: &Token) -> Option<Box<Parcel>> {
        let state = self.lock();
        let copy = state.held.get(&member)?.iter().find(|copy| copy.token == *token)?;
        let lane = Arc::clone(&copy.lane);
        let count = copy.attempt.count;
        Some(Box::new(Parcel::new(copy.envelope.clone(), copy.position, lane, count, None)))
    }

    /// Whether any other member, wherever it is, holds something.
    pub(super) fn others_hold(&self, member: u64) -> bool {
        self.lock().held.iter().any(|(other, held)| *other != member && !held.is_empty())
    }

    /// Waits until no other member holds anything.
    pub(super) async fn others_are_done(&self, member: u64) {
        loop {
            let changed = self.changed.notified();
            if !self.others_hold(member) {
                return;
            }
            changed.await;
        }
    }

    /// Copies of what the other members of the group hold, each once.
    pub(super) fn copies(&self, member: u64, at_most: usize) -> Vec<Received> {
        let mut state = self.lock();
        let State { held, places, .. } = &mut *state;
        let Some(place) = places.get(&member) else { return Vec::new() };
        held.iter_mut()
            .filter(|(other, _)| **other != member && places.get(other) == Some(place))
            .flat_map(|(_, held)| held.iter_mut())
            .filter(|copy| !copy.given)
            .take(at_most)
            .map(|copy| {
                copy.given = true;
                copied(&copy.envelope, &copy.lane, copy.attempt, copy.position)
            })
            .collect()
    }

    /// Takes from the other members of a group what they hold.
    pub(super) fn rob(&self, place: &Place, member: u64) {
        let state = self.lock();
        let others = state.held.iter().filter(|(other, _)| **other != member);
        let there = others.filter(|(other, _)| state.places.get(other) == Some(place));
        there.flat_map(|(_, held)| held).for_each(|copy| copy.lane.lose());
    }

    /// Counts a release of the message; how often it was given back by now.
    pub(super) fn released(&self, topic: &TopicName, id: &str) -> u32 {
        let mut state = self.lock();
        let releases = state.releases.entry((topic.clone(), id.to_owned())).or_default();
        *releases += 1;
        *releases
    }

    /// How often the message was given back.
    pub(super) fn releases(&self, topic: &TopicName, id: &str) -> u32 {
        self.lock().releases.get(&(topic.clone(), id.to_owned())).copied().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Plot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plot").finish_non_exhaustive()
    }
}

/// A delivery that the broker knows nothing of.
pub(super) fn copied(
    envelope: &Envelope,
    lane: &Arc<Lane>,
    attempt: Attempt,
    position: Position,
) -> Received {
    Received::new(envelope.clone(), Token::sequence(COPIES, 0, 0), Arc::clone(lane))
        .with_attempt(attempt)
        .with_position(position)
}

/// Whether the broker knows nothing of it.
pub(super) fn is_copy(token: &Token) -> bool {
    token.lane == COPIES
}
