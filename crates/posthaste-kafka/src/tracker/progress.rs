//! What travels in the metadata of a commit, so that the next owner of the partition knows it.
//!
//! Text, as Kafka asks for: `ph1.`, which names the program and the version of the form; a
//! checksum; whether the owner ended cleanly, what follows and how the set is written; who it was;
//! the starts; how far the records reach that may be out; the records that were delivered and are
//! not settled, if there are such; the settled offsets, to the end. Everything counts from the
//! committed offset, and the checksum covers that offset. So metadata that was copied to another
//! offset, as a mirror of clusters or a tool for offsets may do, says nothing: wrongly believed,
//! it would skip messages nobody handled.

use super::again::Again;
use super::digits::{Digits, put_digit, put_fixed, put_number};
use super::runs::{Form, Runs};

/// Who wrote it, and in which form.
const VERSION: &str = "ph1.";
/// How many digits the checksum has.
const SUM_DIGITS: u32 = 5;
/// How many digits the owner has.
const OWNER_DIGITS: u32 = 5;
/// The flag of an owner that ended cleanly.
const CLEAN: u8 = 1;
/// The flag of a set that is written as bits.
const BITS: u8 = 2;
/// The flag of metadata that tells of records to be delivered again.
const AGAIN: u8 = 4;

/// What one owner of a partition leaves to the next: the offset to commit, and its metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The offset to commit: everything below it is settled.
    pub(crate) watermark: i64,
    /// What is settled above it.
    pub(crate) settled: Runs,
    /// How many owners before this one began at this watermark, did not move it, and ended
    /// without a word.
    pub(crate) starts: u32,
    /// Whether this owner has ended in order: nothing it handed out is in use any more.
    pub(crate) clean: bool,
    /// Where the records end that may have been handed out: an estimate from above.
    pub(crate) reach: i64,
    /// Who the owner was, by a number below [`OWNERS`]. Zero is somebody who handled nothing.
    pub(crate) owner: u32,
    /// Records that were delivered before and are not settled, ascending.
    pub(crate) again: Vec<Again>,
}

/// So many owners are told apart.
pub(crate) const OWNERS: u32 = 1 << 30;

impl Progress {
    /// How long metadata may be where the broker has the default `offset.metadata.max.bytes`.
    pub(crate) const LIMIT: usize = 4_096;

    /// The metadata, of at most `limit` bytes. Of the settled offsets it tells the lowest ones,
    /// as many as fit: the others come again. So it does of the records that were delivered, which
    /// take half of the room at most: the others count anew. Empty if not even the rest fits.
    pub(crate) fn encode(&self, limit: usize) -> String {
        let mut body = String::new();
        put_fixed(&mut body, self.owner.into(), OWNER_DIGITS);
        put_number(&mut body, self.starts.into());
        put_number(&mut body, self.reach.max(self.watermark).abs_diff(self.watermark));
        let head = VERSION.len() + SUM_DIGITS as usize + 1 + body.len();
        let Some(most) = limit.checked_sub(head) else { return String::new() };
        let again = Again::write(&self.again, self.watermark, most / 2);
        body.push_str(&again);
        let set = self.settled.write(self.watermark, most - again.len());
        let flags = (u8::from(self.clean) * CLEAN)
            | (u8::from(set.form == Form::Bits) * BITS)
            | (u8::from(!again.is_empty()) * AGAIN);

        let mut told = String::with_capacity(1 + body.len() + set.text.len());
        put_digit(&mut told, flags);
        told.push_str(&body);
        told.push_str(&set.text);
        let mut text = String::with_capacity(head + set.text.len());
        text.push_str(VERSION);
        put_fixed(&mut text, checksum(self.watermark, &told), SUM_DIGITS);
        text.push_str(&told);
        text
    }

    /// What the metadata of a commit says. `None` where it is not ours, of a later version,
    /// damaged, or was written for another offset than it was found at.
    pub(crate) fn decode(metadata: &str, watermark: i64) -> Option<Self> {
        let text = metadata.strip_prefix(VERSION)?;
        let (sum, told) = text.split_at_checked(SUM_DIGITS as usize)?;
        if Digits::new(sum).fixed(SUM_DIGITS)? != checksum(watermark, told) {
            return None;
        }
        let mut digits = Digits::new(told);
        let flags = digits.digit()?;
        if flags & !(CLEAN | BITS | AGAIN) != 0 {
            return None;
        }
        let form = if flags & BITS == 0 { Form::Lengths } else { Form::Bits };
        let owner = u32::try_from(digits.fixed(OWNER_DIGITS)?).ok()?;
        let starts = u32::try_from(digits.number()?).ok()?;
        let reach = watermark.checked_add_unsigned(digits.number()?)?;
        let again = match flags & AGAIN {
            0 => Vec::new(),
            _ => Again::read(watermark, &mut digits)?,
        };
        let settled = Runs::read(form, watermark, &mut digits)?;
        let clean = flags & CLEAN != 0;
        Some(Self { watermark, settled, starts, clean, reach, owner, again })
    }
}

/// Tells damaged text, and text at another offset, from what was written: FNV-1a, folded to as
/// many bits as its digits carry.
fn checksum(watermark: i64, told: &str) -> u64 {
    let bytes = watermark.to_le_bytes().into_iter().chain(told.bytes());
    let sum =
        bytes.fold(0x811c_9dc5_u32, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    u64::from((sum >> 30) ^ (sum & ((1 << 30) - 1)))
}

#[cfg(test)]
mod tests {
    use posthaste_core::Timestamp;
    use proptest::prelude::*;

    use super::*;

    fn progress(watermark: i64, runs: &[(i64, i64)]) -> Progress {
        let mut settled = Runs::default();
        runs.iter().for_each(|&(start, end)| settled.push(start, end));
        let (reach, again) = (watermark, Vec::new());
        Progress { watermark, settled, starts: 0, clean: false, reach, owner: 0, again }
    }

    /// One that waits for that millisecond, or for nothing.
    fn again(offset: i64, attempt: u32, millis: Option<i64>) -> Again {
        let due = millis.map(|millis| Timestamp::from_micros(millis * 1_000));
        Again { offset, attempt, due }
    }

    /// The text for a body that this code would not write, with a checksum that is right.
    fn forged(watermark: i64, told: &str) -> String {
        let mut text = VERSION.to_owned();
        put_fixed(&mut text, checksum(watermark, told), SUM_DIGITS);
        text + told
    }

    /// What is at brokers must be read by later versions.
    #[test]
    fn the_form_stays_as_it_is() {
        let mut settled = progress(1_000, &[(1_001, 1_002), (1_040, 2_000)]);
        assert_eq!(settled.encode(Progress::LIMIT), "ph1.G8H0WAAAAAAAABBmBge");
        settled.starts = 3;
        settled.clean = true;
        settled.reach = 11_000;
        settled.owner = 77;
        assert_eq!(settled.encode(Progress::LIMIT), "ph1.l_c0kBNBAAADw4JBBmBge");
    }

    #[test]
    fn records_that_come_again_take_half_of_the_room_and_leave_the_rest_to_the_set() {
        let mut all = progress(1_000, &[(1_001, 1_002), (1_040, 2_000)]);
        all.again = vec![again(1_000, 3, Some(1_800_000_000_000)), again(1_002, 2, None)];
        let text = all.encode(Progress::LIMIT);
        assert_eq!(Progress::decode(&text, 1_000), Some(all.clone()));
        assert!(text.len() < 45, "{text}");
        // A window of given-back records fits; of very many, the first do.
        all.again = (0..256).map(|at| again(1_000 + 2 * at, 2, None)).collect();
        assert_eq!(Progress::decode(&all.encode(Progress::LIMIT), 1_000), Some(all.clone()));
        all.again = (0..9_000).map(|at| again(1_000 + at, 2, Some(1_800_000_000_000))).collect();
        let text = all.encode(Progress::LIMIT);
        let read = Progress::decode(&text, 1_000).unwrap();
        assert!(text.len() <= Progress::LIMIT && read.again.len() > 100, "{}", read.again.len());
        assert_eq!((read.settled, &all.again[..read.again.len()]), (all.settled, &*read.again));
    }

    #[test]
    fn nothing_settled_is_short() {
        assert!(progress(i64::MAX / 2, &[]).encode(Progress::LIMIT).len() < 21);
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let all = progress(0, &[(1, 2), (40, 50), (1_000, 1_001), (90_000, 90_001)]);
        let long = all.encode(Progress::LIMIT);
        let short = all.encode(long.len() - 1);
        assert!(short.len() < long.len());
        let read = Progress::decode(&short, 0);
        assert_eq!(read, Some(progress(0, &[(1, 2), (40, 50), (1_000, 1_001)])));
    }

    #[test]
    fn a_limit_below_everything_gives_nothing() {
        let mut full = progress(0, &[(1, 2)]);
        (full.starts, full.reach) = (u32::MAX, i64::MAX);
        let shortest = (0..100).find(|limit| !full.encode(*limit).is_empty());
        assert_eq!(shortest, Some(35));
        assert_eq!(Progress::decode("", 0), None);
        let none = progress(0, &[]);
        assert_eq!(
            Progress::decode(&full.encode(35), 0).map(|read| read.settled),
            Some(none.settled)
        );
    }

    #[test]
    fn a_window_of_ten_thousand_fits_however_it_is_settled() {
        let mut settled = Runs::default();
        (1..10_000).filter(|at| at * at % 7 < 3).for_each(|at| settled.push(at, at + 1));
        let all = Progress { settled, ..progress(0, &[]) };
        assert_eq!(Progress::decode(&all.encode(Progress::LIMIT), 0), Some(all));
    }

    #[test]
    fn metadata_says_nothing_at_another_offset() {
        let text = progress(1_000, &[(1_001, 1_002)]).encode(Progress::LIMIT);
        assert!(Progress::decode(&text, 1_000).is_some());
        for elsewhere in [0, 999, 1_001, -1, i64::MAX, i64::MIN] {
            assert_eq!(Progress::decode(&text, elsewhere), None);
        }
    }

    #[test]
    fn what_others_wrote_is_none() {
        for text in [
            "",
            " ",
            "{\"offset\": 3}",
            "ph",
            "ph1.",
            "ph1.AAAA",
            "ph1.AAAAA",
            "ph1.AAAAAAAA",
            "ph1.ääääää",
            "ph1.AAAAä",
            "ph2.YmUmSAAABBmBg-",
            "consumer-1-host",
        ] {
            assert_eq!(Progress::decode(text, 0), None, "{text}");
        }
    }

    #[test]
    fn damage_is_noticed() {
        let text = progress(1_000, &[(1_001, 1_002), (1_040, 2_000)]).encode(Progress::LIMIT);
        for at in 0..text.len() {
            assert_eq!(Progress::decode(&text[..at], 1_000), None);
            let mut other = text.clone();
            other.replace_range(at..=at, if &text[at..=at] == "x" { "y" } else { "x" });
            assert_eq!(Progress::decode(&other, 1_000), None, "{other}");
        }
    }

    #[test]
    fn a_forged_body_is_refused_or_harmless() {
        let most = &"_".repeat(12);
        for told in [
            String::new(),
            "A".to_owned(),
            // An unknown flag.
            "IAAAAAAA".to_owned(),
            // Records that are announced and do not come, and one behind all offsets.
            "EAAAAAAA".to_owned(),
            "EAAAAAAAC".to_owned(),
            format!("EAAAAAAAB{most}HAA"),
            // More starts than there are, and a reach behind all offsets.
            format!("AAAAAA{most}PA"),
            format!("AAAAAAA{most}P"),
            // A run without a length, and one that is too long.
            "AAAAAAAAB".to_owned(),
            format!("AAAAAAAA{most}H{most}H"),
            "AAAAAAAA=".to_owned(),
        ] {
            assert_eq!(Progress::decode(&forged(5, &told), 5), None, "{told}");
        }
        // Runs of nothing are none.
        let empty = Progress::decode(&forged(5, "AAAAAAAAAAAAAA"), 5);
        assert_eq!(empty, Some(progress(5, &[])));
    }

    proptest! {
        #[test]
        fn all_reads_as_it_was_written(
            watermark in 0_i64..i64::MAX / 2,
            steps in prop::collection::vec((1_i64..99, 1_i64..999), 0..300),
            starts in any::<u32>(),
            clean in any::<bool>(),
            ahead in 0_i64..i64::MAX / 2,
            owner in 0..OWNERS,
            given in prop::collection::vec(
                (1_i64..99, 1_u32..99, prop::option::of(1_i64..99_999_999_999_999)),
                0..40,
            ),
        ) {
            let mut settled = Runs::default();
            let mut at = watermark;
            for (gap, len) in steps {
                settled.push(at + gap, at + gap + len);
                at += gap + len;
            }
            let reach = watermark + ahead;
            let offsets = given.iter().scan(watermark, |at, (gap, ..)| {
                *at += gap;
                Some(*at)
            });
            let again = offsets.zip(&given).map(|(at, (_, attempt, due))| again(at, *attempt, *due));
            let again = again.collect();
            let all = Progress { watermark, settled, starts, clean, reach, owner, again };
            prop_assert_eq!(Progress::decode(&all.encode(Progress::LIMIT), watermark), Some(all));
        }

        #[test]
        fn no_text_is_too_much(text in ".{0,99}", told in "[A-Za-z0-9_=-]{0,99}", at in any::<i64>()) {
            let _ = Progress::decode(&text, at);
            let _ = Progress::decode(&format!("{VERSION}{text}"), at);
            if let Some(read) = Progress::decode(&forged(at, &told), at) {
                let again = Progress::decode(&read.encode(Progress::LIMIT), at);
                prop_assert_eq!(again, Some(read));
            }
        }
    }
}
