//! What order per key means for the books: who passes when, who waits for whom.
//!
//! A delivery of a key is ready only while no earlier one of the key is unsettled. If one leaves
//! us unsettled, those behind it wait until it has come again. What is given back goes in the
//! order in which it came.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::event::SubscriptionEvent;
use super::gap::Name;
use super::ledger::{Ledger, Phase, Slot, State};
use super::stats::count;
use crate::broker::{LaneState, Verdict};

impl Ledger {
    /// A delivery of the key has arrived: it is ready, or it waits for its turn.
    pub(super) fn arrive(&self, state: &mut State, key: u64, slot: usize) {
        let entry = &state.slots[slot];
        if state.gaps.is_stale(key, &entry.lane) {
            self.end_gap(state, key);
        }
        if state.gaps.arrive(key, slot, || state.slots[slot].name()) {
            self.advance(state, key);
        } else if let Some(passed) = state.gate.offer(key, slot) {
            state.make_ready(passed);
        }
    }

    /// The key's delivery is out of the way: the next one is ready.
    pub(super) fn pass_next(&self, state: &mut State, key: Option<u64>) {
        let Some(next) = key.and_then(|key| state.gate.release(key)) else { return };
        state.make_ready(next);
        state.wake_reader();
    }

    /// Frees the slot of a delivery that is not ours any more.
    pub(super) fn forget(&self, state: &mut State, slot: usize) {
        let key = state.slots[slot].key.take();
        state.free(slot);
        self.pass_next(state, key);
    }

    /// The lease of a delivery is over: somebody else may get it, or we may get it again.
    pub(super) fn lose_lease(&self, state: &mut State, slot: usize) {
        let Some(entry) = state.slots.get_mut(slot).filter(|entry| !entry.lost) else { return };
        entry.lost = true;
        count(&self.counters.leases_lost);
        self.tell(SubscriptionEvent::LeaseLost { id: entry.envelope.id().to_owned() });
        let waits = entry.phase == Phase::Waiting;
        // With a lost lane went all that was behind it. What waits now has come again since.
        let gone = entry.lane.state() == LaneState::Lost;
        match entry.key.filter(|_| !gone) {
            Some(key) if waits => {
                let (until, name) = (self.gap_until(entry), entry.name());
                if !state.gaps.lose(key, slot, until, name) {
                    let mut behind = state.gate.take_from(key, |waiting| *waiting == slot);
                    behind.pop_front();
                    self.open_gap(state, key, slot, behind);
                }
                state.free(slot);
            }
            Some(key) => {
                let behind = state.gate.take_waiting(key);
                self.open_gap(state, key, slot, behind);
            }
            None => {}
        }
        // What is ready or rests is dropped when its turn comes; what is held, by its holder.
        state.wake_reader();
    }

    /// The delivery has left us unsettled: what is behind it waits until it has come again.
    pub(super) fn open_gap(
        &self,
        state: &mut State,
        key: u64,
        slot: usize,
        behind: VecDeque<usize>,
    ) {
        let entry = &state.slots[slot];
        state.gaps.open(key, &entry.lane, self.gap_until(entry), entry.name(), behind);
    }

    /// What was lost has been handled all the same: nobody has to wait for it.
    pub(super) fn fill_gap(&self, state: &mut State, slot: usize) {
        let entry = &state.slots[slot];
        if let Some(key) = entry.key {
            let name = entry.name();
            state.gaps.found(key, &name);
            self.advance(state, key);
        }
    }

    /// Lets those of a key go on that wait for nothing that is missing.
    fn advance(&self, state: &mut State, key: u64) {
        while let Some(next) = state.gaps.next(key) {
            if let Some(passed) = state.gate.offer(key, next) {
                state.make_ready(passed);
                state.wake_reader();
            }
        }
    }

    /// Waits no longer for what is missing. What waited for it is given back, in order, because
    /// it may still come.
    fn end_gap(&self, state: &mut State, key: u64) {
        for slot in state.gaps.end(key) {
            let entry = &mut state.slots[slot];
            entry.key = None;
            if entry.is_lost() {
                state.free(slot);
            } else {
                let parcel = entry.parcel(None);
                self.book(state, slot, Verdict::Release(parcel));
            }
        }
    }

    /// Ends the gaps that have lasted too long, and those of lanes that go or are gone.
    pub(super) fn end_gaps(&self, state: &mut State, now: Instant) {
        for key in state.gaps.over(now) {
            self.end_gap(state, key);
        }
    }

    /// By then a broker has delivered again what left us unsettled.
    fn gap_until(&self, entry: &Slot) -> Instant {
        entry.lease_until.max(Instant::now()) + self.policy.lease.mul_f64(1.5)
    }

    /// Gives back what the application does not hold, as far as it fits: of each key the first,
    /// then the next. What waits behind a held delivery stays behind it.
    pub(super) fn give_back(&self, state: &mut State, fits: impl Fn(&Slot) -> bool) {
        let now = Instant::now();
        let resting: HashMap<usize, Instant> =
            state.resting.iter().map(|(due, slot)| (*slot, *due)).collect();
        let idle = state.ready.iter().copied().chain(resting.keys().copied());
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
                let mut parcel = entry.parcel(None);
                let due = resting.get(&slot);
                parcel.rest = due.map_or(Duration::ZERO, |due| due.saturating_duration_since(now));
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
        self.end_gaps(state, Instant::now());
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

    /// Gives back everything that the application does not hold, because the subscription stops.
    pub(super) fn give_back_all(&self) {
        let mut guard = self.lock();
        let state = &mut *guard;
        self.give_back_rest(state);
    }

    pub(super) fn give_back_rest(&self, state: &mut State) {
        for key in state.gaps.keys() {
            self.end_gap(state, key);
        }
        self.give_back(state, |_| true);
    }
}

impl State {
    pub(super) fn make_ready(&mut self, slot: usize) {
        self.slots[slot].phase = Phase::Ready;
        self.ready.push_back(slot);
    }
}

impl Slot {
    fn name(&self) -> Name {
        Name { position: self.position, envelope: self.envelope.clone() }
    }
}
