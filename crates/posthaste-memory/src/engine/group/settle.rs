//! What becomes of a delivery: settled, given back, delayed, or its lease ends.

use std::time::Duration;

use posthaste_core::Timestamp;

use super::table::{Message, State};
use super::{Group, Held, Standing, Tag};
use crate::engine::port::Turn;

impl Group {
    pub(crate) fn standing(&self, tag: Tag) -> Standing {
        self.table.standing(tag)
    }

    pub(crate) fn held_at(&self, tag: Tag) -> Option<&Held> {
        self.table.get(tag.slot)
    }

    /// Completes the message. A late acknowledgement does so too, because the message was handled;
    /// if somebody else has it by now, only their own acknowledgement is still welcome.
    pub(crate) fn ack(&mut self, tag: Tag, turn: &mut Turn) {
        if self.standing(tag) != Standing::Gone {
            self.complete(tag.slot, turn);
        }
    }

    /// Gives the message back without fault. `false` if the lease is lost.
    pub(crate) fn release(&mut self, tag: Tag, turn: &mut Turn) -> bool {
        if self.standing(tag) != Standing::Current {
            return false;
        }
        self.end_lease(tag.slot, turn);
        true
    }

    /// Gives the message back as failed, to come again after the delay. `false` if the lease is
    /// lost.
    pub(crate) fn fail(
        &mut self,
        tag: Tag,
        delay: Duration,
        at: Timestamp,
        turn: &mut Turn,
    ) -> bool {
        if self.standing(tag) != Standing::Current {
            return false;
        }
        if let Some(held) = self.table.get_mut(tag.slot) {
            held.first_failed_at.get_or_insert(at);
        }
        if delay.is_zero() {
            self.end_lease(tag.slot, turn);
        } else {
            self.withdraw(tag.slot, turn);
            self.delay(tag.slot, turn.after(delay));
        }
        true
    }

    /// Prolongs a lease from now. `false` if it is lost.
    pub(crate) fn extend(&mut self, tag: Tag, turn: &Turn) -> bool {
        let holds = self.standing(tag) == Standing::Current;
        if holds {
            self.table.prolong(tag.slot, turn.after(self.lease()));
        }
        holds
    }

    /// Takes a message into the private channel, to come as if it had never been delivered.
    pub(crate) fn replay(&mut self, message: Message, turn: &mut Turn) {
        let slot = self.table.insert(message);
        self.make_ready(slot, turn);
    }

    /// The message is done with.
    pub(super) fn complete(&mut self, slot: usize, turn: &mut Turn) {
        self.withdraw(slot, turn);
        self.table.remove(slot);
    }

    /// A lease ended by itself. On an ordered topic the later messages of its key that are still
    /// out come back with it: else they would have to be handled before it.
    pub(super) fn expire(&mut self, slot: usize, turn: &mut Turn) {
        let ended = self.table.get(slot).map(|held| held.message.clone());
        self.end_lease(slot, turn);
        let Some(ended) =
            ended.filter(|message| self.exclusive && message.envelope.key().is_some())
        else {
            return;
        };
        let later: Vec<usize> = self
            .table
            .leases()
            .filter(|(_, held, _)| {
                held.message.partition == ended.partition
                    && held.message.offset > ended.offset
                    && held.message.envelope.key() == ended.envelope.key()
            })
            .map(|(slot, ..)| slot)
            .collect();
        later.into_iter().for_each(|slot| self.end_lease(slot, turn));
    }

    /// Ends the leases of which the partition and the holder fit.
    pub(super) fn end_leases(&mut self, turn: &mut Turn, fits: impl Fn(usize, u64) -> bool) {
        let ended: Vec<usize> = self
            .table
            .leases()
            .filter(|(_, held, lease)| fits(held.message.partition, lease.member))
            .map(|(slot, ..)| slot)
            .collect();
        ended.into_iter().for_each(|slot| self.end_lease(slot, turn));
    }

    /// A delivery comes back and can be delivered again.
    pub(super) fn end_lease(&mut self, slot: usize, turn: &mut Turn) {
        self.withdraw(slot, turn);
        self.make_ready(slot, turn);
    }

    pub(super) fn make_ready(&mut self, slot: usize, turn: &mut Turn) {
        let Some(held) = self.table.get_mut(slot) else { return };
        held.state = State::Ready;
        let (partition, offset) = (held.message.partition, held.message.offset);
        if let Some(part) = self.parts.get_mut(partition) {
            part.ready.insert((offset, slot));
        }
        self.wake_for(partition, turn);
    }

    pub(super) fn delay(&mut self, slot: usize, due: tokio::time::Instant) {
        if let Some(held) = self.table.get_mut(slot) {
            held.state = State::Delayed(due);
            self.delayed.insert((due, slot));
        }
    }

    /// Takes the message out of wherever it waits or is delivered.
    fn withdraw(&mut self, slot: usize, turn: &mut Turn) {
        let Some(held) = self.table.get(slot) else { return };
        let (partition, offset) = (held.message.partition, held.message.offset);
        match held.state {
            State::Ready => {
                if let Some(part) = self.parts.get_mut(partition) {
                    part.ready.remove(&(offset, slot));
                }
            }
            State::Delayed(due) => {
                self.delayed.remove(&(due, slot));
            }
            State::Leased(_) => {
                self.table.end(slot);
                self.came_back(partition, turn);
            }
        }
    }
}
