//! A time as text, as nearly all envelopes have it: `2026-11-21T09:30:00.25Z`.
//!
//! Every envelope that is built writes its time, and every one that comes is read, so this is done
//! without the general reading and writing of dates, which costs as much as the rest of an
//! envelope.

/// As long as `9999-12-31T23:59:59.999999Z`.
pub(super) const LONGEST: usize = 27;

const MICROS: i64 = 1_000_000;
const DAY: i64 = 86_400 * MICROS;

/// From 0000-03-01 to 1970-01-01, in days. Years are counted from March here: then the day that
/// some have more is their last.
const EPOCH: i64 = 719_468;
/// Four hundred years, after which the calendar repeats itself.
const ERA_YEARS: i64 = 400;
const ERA: i64 = 146_097;

/// Writes a time of the years 0001 to 9999. Gives the length.
pub(super) fn write(micros: i64, out: &mut [u8; LONGEST]) -> usize {
    let (days, within) = (micros.div_euclid(DAY), micros.rem_euclid(DAY));
    let (year, month, day) = date(days);
    let (seconds, fraction) = (within / MICROS, within % MICROS);
    *out = *b"0000-00-00T00:00:00.000000Z";
    let parts = [
        (0, 4, year),
        (5, 2, month),
        (8, 2, day),
        (11, 2, seconds / 3_600),
        (14, 2, seconds / 60 % 60),
        (17, 2, seconds % 60),
        (20, 6, fraction),
    ];
    for (at, digits, value) in parts {
        put(&mut out[at..at + digits], value);
    }
    let mut end = LONGEST - 1;
    while end > 20 && out[end - 1] == b'0' {
        end -= 1;
    }
    // Without a fraction there is no point.
    let end = if end == 20 { 19 } else { end };
    out[end] = b'Z';
    end + 1
}

/// The time in a text of just this form, with up to six digits behind the point. `None` for any
/// other, which may be a time all the same.
pub(super) fn read(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let (head, tail) = bytes.split_at_checked(19)?;
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if marks.iter().any(|(at, mark)| head[*at] != *mark) {
        return None;
    }
    let fraction = match tail {
        b"Z" => 0,
        [b'.', digits @ .., b'Z'] if (1..=6).contains(&digits.len()) => {
            let missing = u32::try_from(6 - digits.len()).ok()?;
            get(digits)? * 10_i64.pow(missing)
        }
        _ => return None,
    };
    let (year, month, day) = (get(&head[..4])?, get(&head[5..7])?, get(&head[8..10])?);
    let (hour, minute) = (get(&head[11..13])?, get(&head[14..16])?);
    let second = get(&head[17..])?;
    let days = days(year, month, day);
    // A day that is not in its month is another date.
    if year == 0 || hour > 23 || minute > 59 || second > 59 || date(days) != (year, month, day) {
        return None;
    }
    Some(days * DAY + ((hour * 60 + minute) * 60 + second) * MICROS + fraction)
}

/// Year, month and day of a day since 1970-01-01.
const fn date(days: i64) -> (i64, i64, i64) {
    let days = days + EPOCH;
    let (era, day) = (days.div_euclid(ERA), days.rem_euclid(ERA));
    // Every fourth year has a day more, but not the hundredth, but the four-hundredth.
    let year = (day - day / 1_460 + day / 36_524 - day / (ERA - 1)) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // From March on, months have 31, 30, 31, 30, 31 days, twice, and then what is left.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = era * ERA_YEARS + year;
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

/// The day since 1970-01-01. For a month or a day that there is not, any.
const fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year) = (year.div_euclid(ERA_YEARS), year.rem_euclid(ERA_YEARS));
    let in_year = (153 * month + 2) / 5 + day - 1;
    era * ERA + 365 * year + year / 4 - year / 100 + in_year - EPOCH
}

fn put(out: &mut [u8], value: i64) {
    let mut value = value.unsigned_abs();
    for digit in out.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
    }
}

fn get(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |value, digit| {
        digit.is_ascii_digit().then(|| value * 10 + i64::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;

    use super::super::Timestamp;
    use super::*;

    fn text(micros: i64) -> String {
        let mut out = [0; LONGEST];
        let length = write(micros, &mut out);
        String::from_utf8(out[..length].to_vec()).unwrap()
    }

    fn general(micros: i64) -> String {
        let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).unwrap();
        time.format(&Rfc3339).unwrap()
    }

    #[test]
    fn every_day_is_written_and_read_as_in_general() {
        let first = Timestamp::MIN.as_micros();
        for day in 0..=(Timestamp::MAX.as_micros() - first) / DAY {
            let noon = first + day * DAY + DAY / 2;
            let text = text(noon);
            assert_eq!(read(&text), Some(noon), "{text}");
            if day % 97 == 0 {
                assert_eq!(text, general(noon));
            }
        }
        for end in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
            assert_eq!(text(end.as_micros()), general(end.as_micros()));
        }
    }

    #[test]
    fn what_is_no_time_of_this_form_is_left_to_others() {
        for text in [
            "",
            "2026-11-21T09:30:00",
            "2026-11-21T09:30:00.Z",
            "2026-11-21T09:30:00.1234567Z",
            "2026-11-21T09:30:00+01:00",
            "2026-11-21t09:30:00Z",
            "2026-11-21T09:30:60Z",
            "2026-11-21T24:00:00Z",
            "2026-02-29T09:30:00Z",
            "2026-00-01T09:30:00Z",
            "2026-13-01T09:30:00Z",
            "2026-04-31T09:30:00Z",
            "2026-04-00T09:30:00Z",
            "2026-99-99T09:30:00Z",
            "0000-01-01T00:00:00Z",
            "+026-11-21T09:30:00Z",
            "2026-11-21T09:30:0\u{e9}Z",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(read("2000-02-29T00:00:00.5Z"), Some(951_782_400_500_000));
    }

    proptest! {
        #[test]
        fn times_are_written_and_read_as_in_general(
            micros in Timestamp::MIN.as_micros()..=Timestamp::MAX.as_micros(),
            coarse in prop::sample::select(vec![1, 10, 1_000, 1_000_000]),
        ) {
            let micros = micros.div_euclid(coarse) * coarse;
            prop_assume!(micros >= Timestamp::MIN.as_micros());
            prop_assert_eq!(text(micros), general(micros));
            prop_assert_eq!(read(&text(micros)), Some(micros));
        }

        #[test]
        fn what_is_read_is_what_is_read_in_general(text in "[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{0,8})?Z") {
            if let Some(micros) = read(&text) {
                let time = OffsetDateTime::parse(&text, &Rfc3339).unwrap();
                prop_assert_eq!(time.unix_timestamp_nanos().div_euclid(1_000), i128::from(micros));
            }
        }
    }
}
