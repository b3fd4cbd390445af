//! Records that were delivered before and are not settled, as the next owner has to know them.

use posthaste_core::Timestamp;

use super::digits::{Digits, put_number};

/// A record that was delivered before and is not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Again {
    pub(crate) offset: i64,
    /// Which delivery the next one is.
    pub(crate) attempt: u32,
    /// Not before that. Told in whole milliseconds, and never too early.
    pub(crate) due: Option<Timestamp>,
}

impl Again {
    /// How many of them are written, and these: the first of `all`, counted from `base`, in at most
    /// `most` digits. Nothing if there is none to write.
    pub(super) fn write(all: &[Self], base: i64, most: usize) -> String {
        /// The digits of a number as large as that of any list that fits a commit.
        const COUNT: usize = 3;
        let (mut told, mut count, mut behind) = (String::new(), 0, base);
        for one in all {
            let fits = told.len();
            put_number(&mut told, one.offset.abs_diff(behind));
            put_number(&mut told, one.attempt.into());
            put_number(&mut told, one.due.map_or(0, millis));
            if told.len() + COUNT > most {
                told.truncate(fits);
                break;
            }
            count += 1;
            behind = one.offset.saturating_add(1);
        }
        if count == 0 {
            return String::new();
        }
        let mut text = String::with_capacity(COUNT + told.len());
        put_number(&mut text, count);
        text.push_str(&told);
        text
    }

    /// Reads what was written. Takes no more memory than the text is long.
    pub(super) fn read(base: i64, digits: &mut Digits<'_>) -> Option<Vec<Self>> {
        let (mut all, mut behind) = (Vec::new(), base);
        for _ in 0..digits.number()? {
            let offset = behind.checked_add_unsigned(digits.number()?)?;
            let attempt = u32::try_from(digits.number()?).ok()?;
            let due = match i64::try_from(digits.number()?).ok()? {
                0 => None,
                millis => Some(Timestamp::from_micros(millis.checked_mul(1_000)?)),
            };
            all.push(Self { offset, attempt, due });
            behind = offset.checked_add(1)?;
        }
        Some(all)
    }
}

/// Not zero, which stands for no time.
fn millis(due: Timestamp) -> u64 {
    let micros = u64::try_from(due.as_micros()).unwrap_or(0);
    micros.div_ceil(1_000).max(1)
}
