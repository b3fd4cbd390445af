//! Sets of offsets, as the runs they consist of.

use super::digits::{DIGIT_BITS, Digits, put_digit, put_number};

/// Offsets from `start` to before `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// The first offset.
    pub(crate) start: i64,
    /// The one behind the last.
    pub(crate) end: i64,
}

/// A set of offsets: runs that ascend and do not touch. Costs by its runs, not by its offsets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Runs(Vec<Run>);

/// How a set is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// For each run how far it is from the one before, and how long it is.
    Lengths,
    /// A bit for each offset.
    Bits,
}

/// A set as text, or as much of it as fitted: the lowest offsets.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) form: Form,
    pub(super) text: String,
    /// How many offsets it tells.
    told: i64,
}

impl Runs {
    /// Adds a run that begins behind all others or goes on from the last. An empty one is none.
    pub(super) fn push(&mut self, start: i64, end: i64) {
        if start >= end {
            return;
        }
        match self.0.last_mut() {
            Some(last) if last.end >= start => last.end = last.end.max(end),
            _ => self.0.push(Run { start, end }),
        }
    }

    /// The runs, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Run> {
        self.0.iter().copied()
    }

    /// The offset behind the last one.
    pub(super) fn end(&self) -> Option<i64> {
        self.0.last().map(|run| run.end)
    }

    /// Writes the set in at most `most` digits, counted from `base`, which is not above it: in the
    /// form that tells more of it, and of equal ones in the shorter.
    pub(super) fn write(&self, base: i64, most: usize) -> Written {
        let lengths = self.write_lengths(base, most);
        let span = self.end().map_or(0, |end| end.saturating_sub(base));
        let bits_take = usize::try_from(span).unwrap_or(usize::MAX).div_ceil(DIGIT_BITS as usize);
        let all = self.0.iter().fold(0_i64, |all, run| all.saturating_add(run.end - run.start));
        if lengths.told == all && lengths.text.len() <= bits_take {
            return lengths;
        }
        let bits = self.write_bits(base, most);
        let better = (bits.told, lengths.text.len()) > (lengths.told, bits.text.len());
        if better { bits } else { lengths }
    }

    fn write_lengths(&self, base: i64, most: usize) -> Written {
        let (mut text, mut told, mut behind) = (String::new(), 0_i64, base);
        for run in self.iter() {
            let fits = text.len();
            put_number(&mut text, run.start.abs_diff(behind));
            put_number(&mut text, run.end.abs_diff(run.start));
            if text.len() > most {
                text.truncate(fits);
                break;
            }
            told = told.saturating_add(run.end - run.start);
            behind = run.end;
        }
        Written { form: Form::Lengths, text, told }
    }

    fn write_bits(&self, base: i64, most: usize) -> Written {
        let (mut digits, mut told) = (Vec::new(), 0);
        let bits = most.saturating_mul(DIGIT_BITS as usize);
        'all: for run in self.iter() {
            for offset in run.start..run.end {
                let Some(at) = usize::try_from(offset.abs_diff(base)).ok().filter(|at| *at < bits)
                else {
                    break 'all;
                };
                let (digit, bit) = (at / DIGIT_BITS as usize, at % DIGIT_BITS as usize);
                if digits.len() <= digit {
                    digits.resize(digit + 1, 0);
                }
                digits[digit] |= 1 << bit;
                told += 1;
            }
        }
        let mut text = String::with_capacity(digits.len());
        digits.iter().for_each(|digit| put_digit(&mut text, *digit));
        Written { form: Form::Bits, text, told }
    }

    /// Reads a set that was written, to the end of the text. Takes no more memory than the text is
    /// long, whatever lengths it tells.
    pub(super) fn read(form: Form, base: i64, digits: &mut Digits<'_>) -> Option<Self> {
        let mut runs = Self::default();
        let mut behind = base;
        while !digits.is_empty() {
            match form {
                Form::Lengths => {
                    let start = behind.checked_add_unsigned(digits.number()?)?;
                    behind = start.checked_add_unsigned(digits.number()?)?;
                    runs.push(start, behind);
                }
                Form::Bits => {
                    let digit = digits.digit()?;
                    for bit in 0..DIGIT_BITS {
                        let next = behind.checked_add(1)?;
                        if digit & (1 << bit) != 0 {
                            runs.push(behind, next);
                        }
                        behind = next;
                    }
                }
            }
        }
        Some(runs)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn runs(all: &[(i64, i64)]) -> Runs {
        let mut runs = Runs::default();
        all.iter().for_each(|&(start, end)| runs.push(start, end));
        runs
    }

    fn read(written: &Written, base: i64) -> Option<Runs> {
        Runs::read(written.form, base, &mut Digits::new(&written.text))
    }

    #[test]
    fn runs_that_touch_are_one() {
        assert_eq!(runs(&[(1, 2), (2, 5), (5, 5), (7, 8)]), runs(&[(1, 5), (7, 8)]));
    }

    #[test]
    fn a_long_run_is_written_by_its_length_and_a_scattered_set_by_bits() {
        let long = runs(&[(101, 1_000_000)]).write(100, 4_096);
        assert_eq!((long.form, long.text.len()), (Form::Lengths, 5));
        let scattered: Vec<_> = (0..100).map(|at| (100 + 2 * at, 101 + 2 * at)).collect();
        let scattered = runs(&scattered).write(100, 4_096);
        assert_eq!((scattered.form, scattered.text.len()), (Form::Bits, 34));
    }

    #[test]
    fn the_form_that_tells_more_is_taken_where_not_all_fits() {
        // Lengths tell two runs in four digits, bits twelve offsets.
        let mut all: Vec<_> = (0..20).map(|at| (2 * at, 1 + 2 * at)).collect();
        let written = runs(&all).write(0, 4);
        assert_eq!((written.form, written.told), (Form::Bits, 12));
        // The same with a run behind the first that bits cannot tell.
        all.truncate(1);
        all.push((100, 100_000));
        let written = runs(&all).write(0, 9);
        assert_eq!((written.form, written.told), (Form::Lengths, 99_901));
    }

    #[test]
    fn nothing_is_written_as_nothing() {
        let written = Runs::default().write(7, 0);
        assert_eq!((written.form, written.text.as_str()), (Form::Lengths, ""));
        assert_eq!(read(&written, 7), Some(Runs::default()));
    }

    #[test]
    fn lengths_beyond_the_last_offset_are_refused() {
        for (first, second) in [(u64::MAX, 1), (0, u64::MAX), (i64::MAX.unsigned_abs(), 1)] {
            let mut text = String::new();
            put_number(&mut text, first);
            put_number(&mut text, second);
            assert_eq!(Runs::read(Form::Lengths, 1, &mut Digits::new(&text)), None);
        }
        assert_eq!(Runs::read(Form::Bits, i64::MAX - 3, &mut Digits::new("B")), None);
    }

    #[test]
    fn a_hostile_length_takes_no_memory() {
        let mut text = String::new();
        put_number(&mut text, 1);
        put_number(&mut text, i64::MAX.unsigned_abs() - 1);
        let read = Runs::read(Form::Lengths, 0, &mut Digits::new(&text));
        assert_eq!(read, Some(runs(&[(1, i64::MAX)])));
        // And such a set is written again without a walk over its offsets.
        let written = read.map(|runs| runs.write(0, 4_096));
        assert_eq!(written.map(|written| written.form), Some(Form::Lengths));
    }

    proptest! {
        #[test]
        fn what_fits_reads_as_it_was_written(
            steps in prop::collection::vec((0_i64..9, 1_i64..90), 0..40),
            base in 0_i64..i64::MAX / 2,
            most in 0_usize..90,
        ) {
            let mut set = Runs::default();
            let mut at = base;
            for (gap, len) in steps {
                set.push(at + gap, at + gap + len);
                at += gap + len;
            }
            let written = set.write(base, most);
            prop_assert!(written.text.len() <= most);
            let Some(read) = read(&written, base) else { panic!("{written:?}") };
            let offsets = |runs: &Runs| {
                runs.iter().flat_map(|run| run.start..run.end).collect::<Vec<_>>()
            };
            let (all, told) = (offsets(&set), offsets(&read));
            // The lowest ones, and no others.
            prop_assert_eq!(&all[..told.len()], &told[..]);
            prop_assert!(most < 80 || told.len() == all.len() || set.0.len() > 10);
            prop_assert_eq!(told.len() as i64, written.told);
        }
    }
}
