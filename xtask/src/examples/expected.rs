//! Comparing what an example printed with what it must print.
//!
//! Line by line, white space at the end of a line aside. An expected line is literal, but for
//! these masks, for what differs from run to run:
//!
//! | mask | stands for |
//! |---|---|
//! | `<id>` | one or more ASCII letters, digits, `-` or `_` |
//! | `<number>` | digits, also with a fraction: `12`, `0.5` |
//! | `<time>` | a time of RFC 3339: `2026-01-31T23:59:59.123456Z` |
//! | `<any>` | anything up to the end of what fits, also nothing |

/// What differs first; `None` when `printed` is as expected.
pub(crate) fn difference(expected: &str, printed: &str) -> Option<String> {
    let mut wanted = expected.lines();
    let mut got = printed.lines();
    for number in 1_usize.. {
        let (want, have) = match (wanted.next(), got.next()) {
            (None, None) => return None,
            (Some(want), None) => return Some(format!("line {number} is missing: {want}")),
            (None, Some(have)) => return Some(format!("line {number} is too much: {have}")),
            (Some(want), Some(have)) => (want.trim_end(), have.trim_end()),
        };
        if !fits(want, have) {
            return Some(format!("line {number}\n  expected: {want}\n  printed:  {have}"));
        }
    }
    None
}

/// Whether a printed line is one that the expected line describes.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((literal, mask, rest)) = next_mask(pattern) else { return pattern == text };
    let Some(after) = text.strip_prefix(literal) else { return false };
    // Every length is tried, longest first; lines are short.
    let mut ends: Vec<usize> = after.char_indices().map(|(i, _)| i).collect();
    ends.push(after.len());
    ends.iter().rev().any(|&end| mask.allows(&after[..end]) && fits(rest, &after[end..]))
}

/// The text before the first mask, that mask, and what follows it.
fn next_mask(pattern: &str) -> Option<(&str, Mask, &str)> {
    let found = Mask::ALL.iter().filter_map(|&mask| Some((pattern.find(mask.name())?, mask)));
    let (at, mask) = found.min_by_key(|&(at, _)| at)?;
    Some((&pattern[..at], mask, &pattern[at + mask.name().len()..]))
}

#[derive(Debug, Clone, Copy)]
enum Mask {
    Id,
    Number,
    Time,
    Any,
}

impl Mask {
    const ALL: [Self; 4] = [Self::Id, Self::Number, Self::Time, Self::Any];

    fn name(self) -> &'static str {
        match self {
            Self::Id => "<id>",
            Self::Number => "<number>",
            Self::Time => "<time>",
            Self::Any => "<any>",
        }
    }

    fn allows(self, text: &str) -> bool {
        match self {
            Self::Id => {
                let is_part = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
                !text.is_empty() && text.bytes().all(is_part)
            }
            Self::Number => {
                let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
                is_digits(whole) && is_digits(fraction)
            }
            Self::Time => is_time(text),
            Self::Any => true,
        }
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// `date T time zone`, by its shape.
fn is_time(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let Some(rest) = shape.strip_prefix("0000-00-00T00:00:00") else { return false };
    let zone = match rest.strip_prefix('.') {
        Some(fraction) => {
            let zone = fraction.trim_start_matches('0');
            if zone.len() == fraction.len() {
                return false;
            }
            zone
        }
        None => rest,
    };
    matches!(zone, "Z" | "+00:00" | "-00:00")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_stand_for_what_they_say_and_no_more() {
        assert!(fits("order <id> placed", "order 0190-a_B placed"));
        assert!(!fits("order <id> placed", "order  placed"));
        assert!(!fits("order <id> placed", "order a b placed"));
        assert!(fits("took <number> ms", "took 0.25 ms"));
        assert!(!fits("took <number> ms", "took . ms"));
        assert!(!fits("took <number> ms", "took a ms"));
        assert!(fits("<time> <id>", "2026-01-31T23:59:59.123456Z x"));
        assert!(fits("at <time>.", "at 2026-01-31T23:59:59+02:00."));
        assert!(!fits("at <time>", "at 2026-01-31"));
        assert!(!fits("at <time>", "at 2026-01-31T23:59:59.Z"));
        assert!(fits("<any>: <id>", "a: b: c"));
        assert!(fits("<any>", ""));
        assert!(fits("<id><number>", "ab12"));
        assert!(fits("vec<u8>", "vec<u8>"), "other brackets are literal");
        assert!(fits("total 5 €", "total 5 €") && fits("<any>€", "größer €"));
    }

    #[test]
    fn the_first_difference_is_named() {
        assert_eq!(difference("a\nb <id>\n", "a  \nb 7"), None);
        assert!(difference("a\nb", "a\nc").unwrap().starts_with("line 2"));
        assert!(difference("a\nb", "a").unwrap().contains("missing: b"));
        assert!(difference("a", "a\nb").unwrap().contains("too much: b"));
        assert!(difference("", "a").is_some());
    }
}
