//! What a group has read from the log and not settled: a slab of messages, and through it a list
//! of the leases in the order in which they end. Knows nothing of partitions and members.

use posthaste_core::{Envelope, Timestamp};
use slab::Slab;
use tokio::time::Instant;

/// A message as the group holds it, whatever retention does to the log meanwhile.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) envelope: Envelope,
    pub(crate) partition: usize,
    pub(crate) offset: u64,
    pub(crate) stored_at: Timestamp,
    /// It came back from the dead letters: it is no longer the log's, and seeking leaves it.
    pub(crate) replayed: bool,
}

/// One delivery: the message's slot, and the number of this hand-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) slot: usize,
    pub(crate) handout: u32,
}

/// What a tag means now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The lease holds.
    Current,
    /// The lease is over, the message is not settled.
    Late,
    /// The message is settled, or the group was moved away from it.
    Gone,
}

#[derive(Debug)]
pub(crate) enum State {
    /// Can be delivered.
    Ready,
    /// Waits for its time.
    Delayed(Instant),
    /// Is delivered.
    Leased(Lease),
}

#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) until: Instant,
    pub(crate) member: u64,
    sooner: Option<usize>,
    later: Option<usize>,
}

#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) message: Message,
    /// How often it was delivered.
    pub(crate) attempts: u32,
    pub(crate) first_failed_at: Option<Timestamp>,
    pub(crate) state: State,
    // The hand-outs of this message have numbers from `first` to `last`. Those of earlier messages
    // in the same slot are below `first`. The numbers wrap after 2^32 hand-outs of a group.
    first: u32,
    last: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    slots: Slab<Held>,
    handouts: u32,
    bytes: usize,
    leased: usize,
    soonest: Option<usize>,
    latest: Option<usize>,
}

impl Table {
    /// How many messages are held.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// How many bytes are held.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many are delivered now.
    pub(crate) const fn leased(&self) -> usize {
        self.leased
    }

    /// Holds a message, ready.
    pub(crate) fn insert(&mut self, message: Message) -> usize {
        self.bytes += message.envelope.size();
        let first = self.number();
        self.slots.insert(Held {
            message,
            attempts: 0,
            first_failed_at: None,
            state: State::Ready,
            first,
            last: first,
        })
    }

    pub(crate) fn get(&self, slot: usize) -> Option<&Held> {
        self.slots.get(slot)
    }

    pub(crate) fn get_mut(&mut self, slot: usize) -> Option<&mut Held> {
        self.slots.get_mut(slot)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &Held)> {
        self.slots.iter()
    }

    pub(crate) fn standing(&self, tag: Tag) -> Standing {
        let Some(held) = self.slots.get(tag.slot) else { return Standing::Gone };
        if tag.handout == held.last && matches!(held.state, State::Leased(_)) {
            return Standing::Current;
        }
        let age = held.last.wrapping_sub(held.first);
        if tag.handout.wrapping_sub(held.first) <= age { Standing::Late } else { Standing::Gone }
    }

    /// Hands a message out: one more attempt. `until` must not be before that of any other lease.
    pub(crate) fn lease(&mut self, slot: usize, member: u64, until: Instant) -> Option<Tag> {
        let handout = self.number();
        let held = self.slots.get_mut(slot)?;
        held.attempts = held.attempts.saturating_add(1);
        held.last = handout;
        self.link(slot, member, until);
        Some(Tag { slot, handout })
    }

    /// Moves the end of a lease. `until` must not be before that of any other lease.
    pub(crate) fn prolong(&mut self, slot: usize, until: Instant) {
        if let Some(lease) = self.end(slot) {
            self.link(slot, lease.member, until);
        }
    }

    /// Ends a lease; the message is ready then.
    pub(crate) fn end(&mut self, slot: usize) -> Option<Lease> {
        let held = self.slots.get_mut(slot)?;
        if !matches!(held.state, State::Leased(_)) {
            return None;
        }
        let State::Leased(lease) = std::mem::replace(&mut held.state, State::Ready) else {
            return None;
        };
        self.leased -= 1;
        match lease.sooner {
            Some(sooner) => self.with_lease(sooner, |neighbour| neighbour.later = lease.later),
            None => self.soonest = lease.later,
        }
        match lease.later {
            Some(later) => self.with_lease(later, |neighbour| neighbour.sooner = lease.sooner),
            None => self.latest = lease.sooner,
        }
        Some(lease)
    }

    /// Holds the message no longer. Its lease must have been ended.
    pub(crate) fn remove(&mut self, slot: usize) -> Option<Held> {
        let held = self.slots.try_remove(slot)?;
        self.bytes -= held.message.envelope.size();
        Some(held)
    }

    /// When the next lease ends.
    pub(crate) fn next_end(&self) -> Option<Instant> {
        self.leases().next().map(|(_, _, lease)| lease.until)
    }

    /// A lease that is over by now.
    pub(crate) fn ended(&self, now: Instant) -> Option<usize> {
        let (slot, _, lease) = self.leases().next()?;
        (lease.until <= now).then_some(slot)
    }

    /// All leases, the next to end first.
    pub(crate) fn leases(&self) -> impl Iterator<Item = (usize, &Held, &Lease)> {
        let mut next = self.soonest;
        std::iter::from_fn(move || {
            let slot = next?;
            let held = self.slots.get(slot)?;
            let State::Leased(lease) = &held.state else { return None };
            next = lease.later;
            Some((slot, held, lease))
        })
    }

    fn number(&mut self) -> u32 {
        self.handouts = self.handouts.wrapping_add(1);
        self.handouts
    }

    fn link(&mut self, slot: usize, member: u64, until: Instant) {
        let sooner = self.latest;
        let Some(held) = self.slots.get_mut(slot) else { return };
        held.state = State::Leased(Lease { until, member, sooner, later: None });
        match sooner {
            Some(sooner) => self.with_lease(sooner, |neighbour| neighbour.later = Some(slot)),
            None => self.soonest = Some(slot),
        }
        self.latest = Some(slot);
        self.leased += 1;
    }

    fn with_lease(&mut self, slot: usize, change: impl FnOnce(&mut Lease)) {
        if let Some(Held { state: State::Leased(lease), .. }) = self.slots.get_mut(slot) {
            change(lease);
        }
    }
}
