//! The book of a publisher: what became of each message, in a byte.

use super::super::message::Tag;

/// What a publish brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fault_run) enum Published {
    Confirmed {
        duplicate: bool,
    },
    /// It failed, and is certainly not stored.
    NotStored,
    /// It failed, and may be stored.
    Unknown,
}

/// What is known of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Open,
    Confirmed,
    NotStored,
    Unknown,
}

const STATE: u8 = 0b11;
/// The room that it took is given back.
const ROOM: u8 = 0b100;
/// By how many groups it is done, from this bit on.
const GROUPS: u8 = 0b1000;

/// Numbers go from 0.
#[derive(Debug)]
pub(super) struct Publications {
    pub(super) topic: usize,
    pub(super) deduplicates: bool,
    /// How many groups its topic has, at most 31.
    groups: u8,
    states: Vec<u8>,
    pub(super) confirmed: u64,
    /// Confirmed as known before.
    pub(super) duplicates: u64,
    pub(super) not_stored: u64,
    pub(super) unknown: u64,
    /// How often it was not known whether a message is stored, also if that is known since.
    pub(super) doubts: u64,
}

impl Publications {
    pub(super) fn new(topic: usize, groups: usize, deduplicates: bool) -> Self {
        let groups = u8::try_from(groups).unwrap_or(u8::MAX).min(31);
        Self {
            topic,
            deduplicates,
            groups,
            states: Vec::new(),
            confirmed: 0,
            duplicates: 0,
            not_stored: 0,
            unknown: 0,
            doubts: 0,
        }
    }

    /// The next number.
    pub(super) fn attempt(&mut self) -> u32 {
        self.states.push(0);
        u32::try_from(self.states.len() - 1).unwrap_or(u32::MAX)
    }

    pub(super) fn attempted(&self) -> u64 {
        self.states.len() as u64
    }

    /// How many have no outcome yet.
    pub(super) fn open(&self) -> u64 {
        self.attempted() - self.confirmed - self.not_stored - self.unknown
    }

    pub(super) fn bytes(&self) -> usize {
        self.states.capacity()
    }

    /// What is known of it; nothing if it was never published.
    pub(super) fn state(&self, number: u32) -> Option<State> {
        let state = self.states.get(usize::try_from(number).ok()?)?;
        Some(match state & STATE {
            0 => State::Open,
            1 => State::Confirmed,
            2 => State::NotStored,
            _ => State::Unknown,
        })
    }

    /// An outcome, also of a further try. Whether its room is free now.
    pub(super) fn published(&mut self, number: u32, outcome: Published) -> bool {
        match (self.state(number), outcome) {
            (Some(State::Open), _) => {}
            // A further try tells nothing of an earlier one but by storing it.
            (Some(State::Unknown), Published::NotStored) => return false,
            (Some(State::Unknown), _) => self.unknown -= 1,
            (Some(State::NotStored), _) => self.not_stored -= 1,
            (Some(State::Confirmed), outcome) => {
                let duplicate = Published::Confirmed { duplicate: true };
                self.duplicates += u64::from(outcome == duplicate);
                return false;
            }
            (None, _) => return false,
        }
        let state = match outcome {
            Published::Confirmed { duplicate } => {
                self.confirmed += 1;
                self.duplicates += u64::from(duplicate);
                1
            }
            Published::NotStored => {
                self.not_stored += 1;
                2
            }
            Published::Unknown => {
                self.unknown += 1;
                self.doubts += 1;
                3
            }
        };
        let Some(byte) = self.byte(number) else { return false };
        *byte = *byte & !STATE | state;
        // What is confirmed takes room until the groups have done with it.
        state != 1 && take_room(byte)
    }

    /// One more group has done with it. Whether its room is free now.
    pub(super) fn done_by_a_group(&mut self, number: u32) -> bool {
        let groups = self.groups;
        let Some(byte) = self.byte(number).filter(|byte| **byte / GROUPS < groups) else {
            return false;
        };
        *byte += GROUPS;
        *byte / GROUPS == groups && take_room(byte)
    }

    /// All names of messages in this state.
    pub(super) fn all(&self, publisher: usize, state: State) -> impl Iterator<Item = Tag> {
        let numbers = 0..u32::try_from(self.states.len()).unwrap_or(u32::MAX);
        numbers
            .filter(move |number| self.state(*number) == Some(state))
            .map(move |number| Tag::new(publisher, number))
    }

    fn byte(&mut self, number: u32) -> Option<&mut u8> {
        self.states.get_mut(usize::try_from(number).ok()?)
    }
}

/// Whether the room was still taken.
fn take_room(byte: &mut u8) -> bool {
    let free = *byte & ROOM == 0;
    *byte |= ROOM;
    free
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIRMED: Published = Published::Confirmed { duplicate: false };

    #[test]
    fn outcomes_are_counted_and_an_unknown_may_become_known() {
        let mut book = Publications::new(0, 2, false);
        for number in 0..4 {
            assert_eq!(book.attempt(), number);
        }
        book.published(0, CONFIRMED);
        book.published(1, Published::NotStored);
        book.published(2, Published::Unknown);
        assert_eq!((book.confirmed, book.not_stored, book.unknown, book.open()), (1, 1, 1, 1));
        book.published(2, Published::Confirmed { duplicate: true });
        assert_eq!((book.confirmed, book.duplicates, book.unknown), (2, 1, 0));
        assert_eq!(book.doubts, 1);
        assert_eq!(book.state(2), Some(State::Confirmed));
        book.published(2, Published::Confirmed { duplicate: true });
        book.published(2, Published::NotStored);
        assert_eq!((book.confirmed, book.duplicates, book.not_stored), (2, 2, 1));
        assert_eq!(book.state(4), None);
        assert_eq!(book.all(7, State::NotStored).collect::<Vec<_>>(), [Tag::new(7, 1)]);
    }

    #[test]
    fn a_further_try_that_fails_for_certain_leaves_the_first_one_unknown() {
        let mut book = Publications::new(0, 1, true);
        book.attempt();
        book.published(0, Published::Unknown);
        book.published(0, Published::NotStored);
        assert_eq!((book.state(0), book.unknown, book.not_stored), (Some(State::Unknown), 1, 0));
        book.attempt();
        book.published(1, Published::NotStored);
        book.published(1, Published::Unknown);
        assert_eq!((book.state(1), book.unknown, book.not_stored), (Some(State::Unknown), 2, 0));
    }

    #[test]
    fn room_is_free_once_when_all_groups_have_done_with_it() {
        let mut book = Publications::new(0, 2, false);
        book.attempt();
        assert!(!book.done_by_a_group(0));
        assert!(!book.published(0, CONFIRMED));
        assert!(book.done_by_a_group(0));
        assert!(!book.done_by_a_group(0), "there are no more groups");
        assert!(!book.published(0, Published::Unknown));
    }

    #[test]
    fn what_failed_takes_no_room() {
        let mut book = Publications::new(0, 1, false);
        book.attempt();
        assert!(book.published(0, Published::Unknown));
        assert!(!book.published(0, CONFIRMED), "it was free already");
        assert!(!book.done_by_a_group(0));
    }
}
