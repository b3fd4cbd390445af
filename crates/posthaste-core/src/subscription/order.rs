//! What order per key means for the books: who passes when, who comes back with whom.
//!
//! A delivery of a key is ready only while no earlier one of the key is unsettled. If one leaves
//! us unsettled, those behind it have to come again behind it, so they are not ours any more
//! either. What is given back goes in the order in which it came.

use std::collections::VecDeque;

use super::event::SubscriptionEvent;
use super::ledger::{Ledger, Phase, Slot, State};
use super::stats::count;
use crate::broker::{LaneState, Verdict};

impl Ledger {
    /// The key's delivery is out of the way: the next one is ready.
    pub(super) fn pass_next(&self, state: &mut State, key: Option<u64>) {
        let Some(next) = key.and_then(|key| state.gate.release(key)) else { return };
        state.slots[next].phase = Phase::Ready;
        state.ready.push_back(next);
        state.wake_reader();
    }

    /// Frees the slot of a delivery that is not ours any more.
    pub(super) fn forget(&self, state: &mut State, slot: usize) {
        let key = state.slots[slot].key.take();
        state.free(slot);
        self.pass_next(state, key);
    }

    /// The lease of a delivery is over: somebody else may get it, and then those behind it.
    pub(super) fn lose_lease(&self, state: &mut State, slot: usize) {
        let Some(entry) = state.slots.get_mut(slot).filter(|entry| !entry.lost) else { return };
        // With a lost lane went those behind it too; what waits now has come again since.
        let gone = entry.lane.state() == LaneState::Lost;
        entry.lost = true;
        let (key, phase) = (entry.key.filter(|_| !gone), entry.phase);
        self.tell_lost(entry);
        match key {
            Some(key) if phase == Phase::Waiting => {
                let behind = state.gate.take_from(key, |waiting| *waiting == slot);
                self.lose_all(state, behind);
            }
            Some(key) => self.lose_followers(state, key),
            None => {}
        }
        // What is ready or rests is dropped when its turn comes; what is held, by its holder.
        state.wake_reader();
    }

    /// The key's delivery has left us unsettled and comes again: what waits behind it must not be
    /// handled before. It is not released, because then it could come before it; its lease ends
    /// by itself.
    pub(super) fn lose_followers(&self, state: &mut State, key: u64) {
        let behind = state.gate.take_waiting(key);
        self.lose_all(state, behind);
    }

    fn lose_all(&self, state: &mut State, slots: VecDeque<usize>) {
        for slot in slots {
            let entry = &mut state.slots[slot];
            if !std::mem::replace(&mut entry.lost, true) {
                self.tell_lost(entry);
            }
            state.free(slot);
        }
    }

    fn tell_lost(&self, entry: &Slot) {
        count(&self.counters.leases_lost);
        self.tell(SubscriptionEvent::LeaseLost { id: entry.envelope.id().to_owned() });
    }

    /// Gives back what the application does not hold, as far as it fits: of each key the first,
    /// then the next. What waits behind a held delivery stays behind it.
    pub(super) fn give_back(&self, state: &mut State, fits: impl Fn(&Slot) -> bool) {
        let resting = state.resting.iter().map(|(_, slot)| *slot);
        let idle = state.ready.iter().copied().chain(resting);
        let mut idle: Vec<usize> = idle.filter(|slot| fits(&state.slots[*slot])).collect();
        if idle.is_empty() {
            return;
        }
        let slots = &state.slots;
        state.ready.retain(|slot| !fits(&slots[*slot]));
        state.resting.retain(|(_, slot)| !fits(&slots[*slot]));
        idle.sort_unstable_by_key(|slot| slots[*slot].arrival);
        let mut idle = VecDeque::from(idle);
        while let Some(slot) = idle.pop_front() {
            let others = state.ready.len();
            let entry = &state.slots[slot];
            if entry.is_lost() {
                self.forget(state, slot);
            } else {
                let parcel = entry.parcel(None);
                self.book(state, slot, Verdict::Release(parcel));
            }
            // The next one of its key, if any.
            let next = state.ready.get(others).copied();
            if let Some(next) = next.filter(|next| fits(&state.slots[*next])) {
                state.ready.truncate(others);
                idle.push_back(next);
            }
        }
    }

    /// Gives back what lies here of lanes that go, and forgets what lies here of those that are
    /// gone. Only a failed delivery of a lost lane goes on resting: should the message come to us
    /// again, it waits behind it for its time.
    pub(super) fn give_back_going(&self) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let going = |slot: &Slot| match slot.lane.state() {
            LaneState::Live => false,
            LaneState::Draining(_) => true,
            LaneState::Lost => slot.phase == Phase::Ready,
        };
        self.give_back(state, going);
        let gone: Vec<_> =
            state.in_phase(Phase::Waiting).filter(|slot| state.slots[*slot].is_lost()).collect();
        for slot in gone {
            if state.gate.take_one(|waiting| *waiting == slot).is_some() {
                state.free(slot);
            }
        }
        state.wake_reader();
    }
}
