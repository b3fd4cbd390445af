//! The compact form of everything in an envelope but its payload: one slice of bytes.
//!
//! Layout, integers little-endian:
//!
//! | at | what |
//! |---|---|
//! | 0 | `u32` presence bits: one for each slot, then the numbers, then the marks |
//! | 4 | `u32` schema version |
//! | 8 | `i64` time, 16 `i64` expiry, 24 `u64` sequence |
//! | 32 | `u32` end of each slot, counted from the start of the slice |
//! | 84 | the slots' bytes, then the records of extensions and headers to the end |
//!
//! A record is a tag byte, a `u16` name length, a `u32` value length, the name, the value.
//! The layout never leaves the process, so that it may change.
//! This module knows where things stand, not what they mean: it checks no rule.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::Timestamp;

/// The attributes of variable length, in the order in which they stand in the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Slot {
    Id,
    Source,
    Type,
    Subject,
    ContentType,
    DataSchema,
    CorrelationId,
    CausationId,
    ReplyTo,
    TraceParent,
    TraceState,
    DataRef,
    /// Bytes; all others are text.
    Key,
}

pub(crate) const TEXT_SLOTS: usize = 12;
const SLOTS: usize = TEXT_SLOTS + 1;

const HAS_TIME: u32 = 1 << 16;
const HAS_EXPIRY: u32 = 1 << 17;
const HAS_SEQUENCE: u32 = 1 << 18;
const HAS_VERSION: u32 = 1 << 19;
/// The message was not written by this library.
pub(crate) const FOREIGN: u32 = 1 << 30;
/// The head was read from a broker: its parts need not obey the rules for what is published.
pub(crate) const LENIENT: u32 = 1 << 31;
const MARKS: u32 = FOREIGN | LENIENT;

const AT_VERSION: usize = 4;
const AT_TIME: usize = 8;
const AT_EXPIRY: usize = 16;
const AT_SEQUENCE: usize = 24;
const AT_ENDS: usize = 32;
const FIXED: usize = AT_ENDS + 4 * SLOTS;

const RECORD_FIXED: usize = 7;

/// Heads up to this size cost one allocation, larger ones two.
const STACK: usize = 512;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tag {
    Header,
    Extension,
}

/// Records of extensions and headers, in the order they were added.
pub(crate) type Records = SmallVec<[u8; 128]>;

/// The parts a head is made of.
#[derive(Debug, Default)]
pub(crate) struct Parts<'a> {
    /// `FOREIGN` and `LENIENT`.
    pub(crate) marks: u32,
    pub(crate) version: Option<u32>,
    pub(crate) time: Option<Timestamp>,
    pub(crate) expiry: Option<Timestamp>,
    pub(crate) sequence: Option<u64>,
    pub(crate) text: [Option<&'a str>; TEXT_SLOTS],
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) records: &'a [u8],
}

impl Parts<'_> {
    /// The length of the head in bytes.
    pub(crate) fn len(&self) -> usize {
        let text: usize = self.text.iter().flatten().map(|text| text.len()).sum();
        FIXED + text + self.key.map_or(0, <[u8]>::len) + self.records.len()
    }

    /// Writes the head. `None` if it is larger than offsets can tell (4 GiB).
    pub(crate) fn encode(&self) -> Option<Arc<[u8]>> {
        let length = self.len();
        u32::try_from(length).ok()?;
        let mut bits = self.marks & MARKS;
        let mut fixed = [0; FIXED];
        let mut end = FIXED;
        let slots = self.text.iter().map(|text| text.map(str::as_bytes)).chain([self.key]);
        let ends = fixed[AT_ENDS..].chunks_exact_mut(4);
        for (index, (slot, place)) in slots.clone().zip(ends).enumerate() {
            if let Some(bytes) = slot {
                bits |= 1 << index;
                end += bytes.len();
            }
            place.copy_from_slice(&u32::try_from(end).ok()?.to_le_bytes());
        }
        let mut number = |at: usize, bit: u32, bytes: Option<[u8; 8]>| {
            if let Some(bytes) = bytes {
                bits |= bit;
                fixed[at..at + 8].copy_from_slice(&bytes);
            }
        };
        let micros = |time: Option<Timestamp>| time.map(|time| time.as_micros().to_le_bytes());
        number(AT_TIME, HAS_TIME, micros(self.time));
        number(AT_EXPIRY, HAS_EXPIRY, micros(self.expiry));
        number(AT_SEQUENCE, HAS_SEQUENCE, self.sequence.map(u64::to_le_bytes));
        if let Some(version) = self.version {
            bits |= HAS_VERSION;
            fixed[AT_VERSION..AT_VERSION + 4].copy_from_slice(&version.to_le_bytes());
        }
        fixed[..4].copy_from_slice(&bits.to_le_bytes());
        // Usual heads are put together on the stack: the copy into the Arc costs less than growing.
        let (mut stack, mut heap);
        let head: &mut [u8] = if length <= STACK {
            stack = [0; STACK];
            &mut stack[..length]
        } else {
            heap = vec![0; length];
            &mut heap
        };
        let mut rest = &mut *head;
        for part in [&fixed[..]].into_iter().chain(slots.flatten()).chain([self.records]) {
            let (place, after) = rest.split_at_mut_checked(part.len())?;
            place.copy_from_slice(part);
            rest = after;
        }
        Some(Arc::from(&*head))
    }
}

/// Appends a record. `false`, and nothing appended, if the name or value is too long to tell.
pub(crate) fn push_record(records: &mut Records, tag: Tag, name: &str, value: &[u8]) -> bool {
    let (Ok(name_len), Ok(value_len)) = (u16::try_from(name.len()), u32::try_from(value.len()))
    else {
        return false;
    };
    records.reserve(RECORD_FIXED + name.len() + value.len());
    let [n0, n1] = name_len.to_le_bytes();
    let [v0, v1, v2, v3] = value_len.to_le_bytes();
    records.extend_from_slice(&[u8::from(tag == Tag::Extension), n0, n1, v0, v1, v2, v3]);
    records.extend_from_slice(name.as_bytes());
    records.extend_from_slice(value);
    true
}

/// Takes out every record of that tag and name.
pub(crate) fn remove_records(records: &mut Records, tag: Tag, name: &str) {
    let found = RecordIter(records).any(|(at, found, _)| at == tag && found == name);
    if found {
        let mut kept = Records::new();
        for (at, found, value) in RecordIter(records) {
            if at != tag || found != name {
                push_record(&mut kept, at, found, value);
            }
        }
        *records = kept;
    }
}

/// Walks over records: tag, name, value.
#[derive(Debug, Clone)]
pub(crate) struct RecordIter<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for RecordIter<'a> {
    type Item = (Tag, &'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (fixed, rest) = self.0.split_first_chunk::<RECORD_FIXED>()?;
        let [tag, n0, n1, v0, v1, v2, v3] = *fixed;
        let (name, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([n0, n1])))?;
        let value_len = usize::try_from(u32::from_le_bytes([v0, v1, v2, v3])).ok()?;
        let (value, rest) = rest.split_at_checked(value_len)?;
        self.0 = rest;
        Some((if tag == 1 { Tag::Extension } else { Tag::Header }, text(name), value))
    }
}

/// Reads a head that [`Parts::encode`] wrote.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head<'a>(pub(crate) &'a [u8]);

impl<'a> Head<'a> {
    fn at<const N: usize>(self, at: usize) -> [u8; N] {
        self.0.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
    }

    fn bits(self) -> u32 {
        u32::from_le_bytes(self.at(0))
    }

    fn has(self, bit: u32) -> bool {
        self.bits() & bit != 0
    }

    pub(crate) fn marks(self) -> u32 {
        self.bits() & MARKS
    }

    pub(crate) fn version(self) -> Option<u32> {
        self.has(HAS_VERSION).then(|| u32::from_le_bytes(self.at(AT_VERSION)))
    }

    pub(crate) fn time(self) -> Option<Timestamp> {
        let micros = || i64::from_le_bytes(self.at(AT_TIME));
        self.has(HAS_TIME).then(|| Timestamp::from_micros(micros()))
    }

    pub(crate) fn expiry(self) -> Option<Timestamp> {
        let micros = || i64::from_le_bytes(self.at(AT_EXPIRY));
        self.has(HAS_EXPIRY).then(|| Timestamp::from_micros(micros()))
    }

    pub(crate) fn sequence(self) -> Option<u64> {
        self.has(HAS_SEQUENCE).then(|| u64::from_le_bytes(self.at(AT_SEQUENCE)))
    }

    fn end(self, slot: usize) -> usize {
        usize::try_from(u32::from_le_bytes(self.at(AT_ENDS + 4 * slot))).unwrap_or(usize::MAX)
    }

    pub(crate) fn bytes(self, slot: Slot) -> Option<&'a [u8]> {
        let index = slot as usize;
        let start = if index == 0 { FIXED } else { self.end(index - 1) };
        self.has(1 << index).then(|| self.0.get(start..self.end(index)).unwrap_or_default())
    }

    pub(crate) fn text(self, slot: Slot) -> Option<&'a str> {
        self.bytes(slot).map(text)
    }

    pub(crate) fn record_bytes(self) -> &'a [u8] {
        self.0.get(self.end(SLOTS - 1)..).unwrap_or_default()
    }

    /// Whether everything but the records is the same. How it was read does not count.
    pub(crate) fn fixed_eq(self, other: Head<'_>) -> bool {
        let (mine, theirs) = (self.end(SLOTS - 1), other.end(SLOTS - 1));
        self.bits() & !LENIENT == other.bits() & !LENIENT
            && mine == theirs
            && self.0.get(4..mine) == other.0.get(4..theirs)
    }

    pub(crate) fn records(self, tag: Tag) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let all = RecordIter(self.record_bytes());
        all.filter(move |(found, ..)| *found == tag).map(|(_, name, value)| (name, value))
    }
}

/// Bytes that were text when they were written. Checking again costs some nanoseconds for the
/// usual short ASCII and keeps this crate free of unsafe code.
pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}
