//! Ids of entries, as one number.
//!
//! An id is a time in milliseconds and a number within it. 42 bits are enough for the time until
//! the year 2109, and 22 for four million entries a millisecond, which no server takes. So an id is
//! the offset of a message, and fits a token.

/// The bits of the number within a millisecond.
const BITS: u32 = 22;
const MOST: u64 = (1 << BITS) - 1;

/// The id as a number; what does not fit ends at the limit.
pub(crate) const fn pack(millis: u64, number: u64) -> u64 {
    let number = if number > MOST { MOST } else { number };
    let millis = if millis > u64::MAX >> BITS { u64::MAX >> BITS } else { millis };
    millis << BITS | number
}

/// The time and the number within it.
pub(crate) const fn unpack(id: u64) -> (u64, u64) {
    (id >> BITS, id & MOST)
}

/// Reads `1526919030474-55`.
pub(crate) fn parse(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let (millis, number) = text.split_once('-')?;
    Some(pack(millis.parse().ok()?, number.parse().ok()?))
}

/// The id as the server writes it.
pub(crate) fn text(id: u64) -> String {
    let (millis, number) = unpack(id);
    format!("{millis}-{number}")
}

/// The last id before this one, as the server writes it: a group that has read up to there gets
/// this one next.
pub(crate) fn before(id: u64) -> String {
    match unpack(id) {
        (0, 0) => "0-0".to_owned(),
        (millis, 0) => format!("{}-{}", millis - 1, u64::MAX),
        (millis, number) => format!("{millis}-{}", number - 1),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn come_back_as_they_were(millis in 0_u64..1 << 42, number in 0_u64..=MOST) {
            let id = pack(millis, number);
            prop_assert_eq!(parse(text(id).as_bytes()), Some(id));
            prop_assert_eq!(unpack(id), (millis, number));
        }

        #[test]
        fn are_in_the_order_of_the_server(
            one in (0_u64..1 << 42, 0_u64..=MOST),
            two in (0_u64..1 << 42, 0_u64..=MOST),
        ) {
            prop_assert_eq!(one.cmp(&two), pack(one.0, one.1).cmp(&pack(two.0, two.1)));
        }
    }

    #[test]
    fn the_one_before_is_before() {
        assert_eq!(before(pack(5, 3)), "5-2");
        assert_eq!(before(pack(5, 0)), format!("4-{}", u64::MAX));
        assert_eq!(before(0), "0-0");
        assert_eq!(parse(b"5"), None);
        assert_eq!(parse(b"a-1"), None);
    }
}
