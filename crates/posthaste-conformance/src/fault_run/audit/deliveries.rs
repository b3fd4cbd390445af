//! The book of a group: what is known of each message there, in 12 bytes.

use super::super::clock::{Millis, Outages};
use super::super::message::Tag;
use super::findings::{Findings, Wrong};
use super::keys::Keys;

/// A delivery, as far as the books are concerned.
#[derive(Debug, Clone, Copy)]
pub(in crate::fault_run) struct Arrival {
    pub(in crate::fault_run) tag: Tag,
    /// The member that got it, by number.
    pub(in crate::fault_run) member: usize,
    pub(in crate::fault_run) attempt: u32,
    pub(in crate::fault_run) exact: bool,
    pub(in crate::fault_run) offset: Option<u64>,
    /// When this copy was stored, where the broker tells.
    pub(in crate::fault_run) stored: Option<Millis>,
}

/// How a handler ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fault_run) enum Ending {
    Acknowledged,
    DeadLettered,
    /// It failed, was given back or taken away: it has to come again.
    Undone,
}

/// It came.
const CAME: u8 = 1;
const ACKNOWLEDGED: u8 = 2;
const DEAD_LETTERED: u8 = 4;
/// It is a dead letter, because an earlier one of its key is.
const FOLLOWED: u8 = 8;
/// A later one of its key came first; whether that was right shows in the end.
const PASSED: u8 = 16;
/// The room that it took is given back, as far as this group is concerned.
const COUNTED: u8 = 32;
/// Its last settlement was refused, though its handler had ended: it may come again.
const REFUSED: u8 = 64;
const DONE: u8 = ACKNOWLEDGED | DEAD_LETTERED | FOLLOWED;

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// When it came or was settled last.
    at: Millis,
    /// The place of its first copy at the broker; 0 is none.
    place: u32,
    member: u16,
    /// The last one, up to 255.
    attempt: u8,
    flags: u8,
}

/// A message that came before an earlier one of its key was done.
#[derive(Debug)]
pub(super) struct Passed {
    pub(super) tag: Tag,
    /// Which one came, and when.
    by: Tag,
    at: Millis,
    /// What was known of the earlier one then.
    before: Seen,
}

impl std::fmt::Display for Passed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { tag, by, at, before } = self;
        write!(f, "{by} began at {at} ms before {tag} was settled, which ")?;
        if before.flags & CAME == 0 {
            return f.write_str("had not come yet");
        }
        let Seen { at, attempt, member, .. } = before;
        write!(f, "had come at {at} ms to member {member}, attempt {attempt}")
    }
}

#[derive(Debug)]
pub(super) struct Deliveries {
    pub(super) name: String,
    pub(super) topic: usize,
    /// On an ordered topic.
    pub(super) keys: Option<Keys>,
    seen: Vec<Vec<Seen>>,
    /// Messages that came before it was their turn.
    pub(super) passed: Vec<Passed>,
    /// How many confirmed messages have still to be handled.
    pub(super) pending: u64,
    /// How many handlers are at work.
    pub(super) holding: u64,
    /// How many different messages are done.
    pub(super) handled: u64,
    /// How many handlers ended well: what shows that it goes on.
    pub(super) endings: u64,
    pub(super) redelivered: u64,
    /// Of these, how many came again although they had been settled.
    pub(super) again: u64,
    pub(super) dead_lettered: u64,
}

impl Deliveries {
    pub(super) fn new(name: String, topic: usize, ordered: bool) -> Self {
        Self {
            name,
            topic,
            keys: ordered.then(Keys::default),
            seen: Vec::new(),
            passed: Vec::new(),
            pending: 0,
            holding: 0,
            handled: 0,
            endings: 0,
            redelivered: 0,
            again: 0,
            dead_lettered: 0,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.seen.iter().map(|seen| seen.capacity() * size_of::<Seen>()).sum()
    }

    pub(super) fn is_done(&self, tag: Tag) -> bool {
        self.flags(tag) & DONE != 0
    }

    pub(super) fn has_followed(&self, tag: Tag) -> bool {
        self.flags(tag) & FOLLOWED != 0
    }

    pub(super) fn is_dead_lettered(&self, tag: Tag) -> bool {
        self.flags(tag) & DEAD_LETTERED != 0
    }

    /// Whether anybody waits for it.
    pub(super) fn expects(&self, tag: Tag) -> bool {
        self.flags(tag) & (DONE | PASSED) == 0
    }

    pub(super) fn came(&self, tag: Tag) -> bool {
        self.flags(tag) & CAME != 0
    }

    /// When it came or was settled last.
    pub(super) fn last(&self, tag: Tag) -> Millis {
        self.get(tag).map_or(0, |seen| seen.at)
    }

    /// A delivery. Whether it is another copy of a message that is stored already, and then whether
    /// an outage could be the reason.
    pub(super) fn arrived(
        &mut self,
        arrival: &Arrival,
        at: Millis,
        outages: &Outages,
        dropped: impl Fn(usize) -> Option<Millis>,
        findings: &mut Findings,
    ) -> Option<bool> {
        let group = self.name.clone();
        let Arrival { tag, attempt, .. } = *arrival;
        let place = place(arrival.offset);
        let seen = self.slot(tag);
        // A repetition may come from another place, a first delivery of the same copy cannot.
        let is_copy = attempt == 1 && seen.place != 0 && place != 0 && seen.place != place;
        let came = seen.flags & CAME != 0;
        let settled = seen.flags & DONE != 0 && seen.flags & REFUSED == 0;
        let before = *seen;
        if came && !is_copy {
            if settled {
                // Whoever died just after a settlement has taken it along.
                let lost_with_its_member = dropped(usize::from(seen.member))
                    .is_some_and(|gone| gone.abs_diff(seen.at) <= SETTLING);
                if !outages.excuse(seen.at) && !lost_with_its_member {
                    findings.add(Wrong::Repeated, || {
                        format!(
                            "{tag} for {group} at {at} ms, attempt {attempt}, settled at {} ms",
                            before.at
                        )
                    });
                }
            }
            let grew = attempt > u32::from(before.attempt);
            if arrival.exact && !grew && !outages.touch(seen.at, at) {
                findings.add(Wrong::AttemptsWentBack, || {
                    format!(
                        "{tag} for {group} at {at} ms: attempt {attempt} after attempt {} at {} ms",
                        before.attempt, before.at
                    )
                });
            }
        }
        seen.flags |= CAME;
        seen.at = at;
        seen.attempt = u8::try_from(attempt).unwrap_or(u8::MAX);
        seen.member = u16::try_from(arrival.member).unwrap_or(u16::MAX);
        if seen.place == 0 && attempt == 1 {
            seen.place = place;
        }
        self.redelivered += u64::from(came && !is_copy);
        self.again += u64::from(came && !is_copy && settled);
        // Where much waits, both copies are read long after the outage that made the second one.
        let since = arrival.stored.map_or(before.at, |stored| stored.min(before.at));
        is_copy.then(|| outages.touch(since, at))
    }

    /// A handler has ended well.
    pub(super) fn settled(&mut self, tag: Tag, dead_lettered: bool, at: Millis) {
        let seen = self.slot(tag);
        let first = seen.flags & DONE == 0;
        let letter = dead_lettered && seen.flags & DEAD_LETTERED == 0;
        seen.flags |= if dead_lettered { DEAD_LETTERED } else { ACKNOWLEDGED };
        seen.flags &= !REFUSED;
        seen.at = at;
        self.endings += 1;
        self.handled += u64::from(first);
        self.dead_lettered += u64::from(letter);
    }

    /// Its acknowledgement was refused: it was handled, and may come again all the same.
    pub(super) fn refused(&mut self, tag: Tag) {
        self.slot(tag).flags |= REFUSED;
    }

    /// It did not become a dead letter after all.
    pub(super) fn undone(&mut self, tag: Tag) {
        let seen = self.slot(tag);
        let (was_done, letter) = (seen.flags & DONE != 0, seen.flags & DEAD_LETTERED != 0);
        seen.flags &= !DONE;
        self.handled -= u64::from(was_done);
        self.dead_lettered -= u64::from(letter);
    }

    /// It became a dead letter behind another one.
    pub(super) fn followed(&mut self, tag: Tag) {
        let seen = self.slot(tag);
        let first = seen.flags & DONE == 0;
        seen.flags |= FOLLOWED;
        self.handled += u64::from(first);
    }

    /// A later one of its key began first.
    pub(super) fn pass(&mut self, by: Tag, tag: Tag) {
        let (at, before) = (self.last(by), *self.slot(tag));
        self.slot(tag).flags |= PASSED;
        self.passed.push(Passed { tag, by, at, before });
    }

    /// This group needs its room no more. Whether it did until now.
    pub(super) fn count(&mut self, tag: Tag) -> bool {
        let seen = self.slot(tag);
        let first = seen.flags & COUNTED == 0;
        seen.flags |= COUNTED;
        first
    }

    /// All that were given to the dead letters.
    pub(super) fn dead_letters(&self) -> impl Iterator<Item = Tag> {
        self.seen.iter().enumerate().flat_map(|(publisher, seen)| {
            let numbers = 0..u32::try_from(seen.len()).unwrap_or(u32::MAX);
            let is = |(seen, _): &(&Seen, u32)| seen.flags & DEAD_LETTERED != 0;
            seen.iter().zip(numbers).filter(is).map(move |(_, number)| Tag::new(publisher, number))
        })
    }

    fn flags(&self, tag: Tag) -> u8 {
        self.get(tag).map_or(0, |seen| seen.flags)
    }

    fn get(&self, tag: Tag) -> Option<&Seen> {
        self.seen.get(tag.publisher)?.get(usize::try_from(tag.number).ok()?)
    }

    fn slot(&mut self, tag: Tag) -> &mut Seen {
        if self.seen.len() <= tag.publisher {
            self.seen.resize_with(tag.publisher + 1, Vec::new);
        }
        let of = &mut self.seen[tag.publisher];
        let number = usize::try_from(tag.number).unwrap_or(usize::MAX);
        if of.len() <= number {
            of.resize(number + 1, Seen::default());
        }
        &mut of[number]
    }
}

/// A place in few bytes: two copies of a message are not four billion messages apart.
fn place(offset: Option<u64>) -> u32 {
    let short = |offset: u64| u32::try_from(offset % u64::from(u32::MAX)).unwrap_or_default();
    offset.map_or(0, |offset| short(offset) + 1)
}

/// How long before the death of its member a settlement may have been made that is lost by it.
const SETTLING: Millis = 1_000;
