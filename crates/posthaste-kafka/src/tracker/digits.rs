//! Text of sixty-four characters: numbers and bits that may travel where only text may.

/// The characters of base64 for URLs, each worth its place.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// How many bits of a number a digit carries; its highest bit says that more digits follow.
const NUMBER_BITS: u32 = 5;
/// Says that more digits of the number follow.
const MORE: u8 = 1 << NUMBER_BITS;

/// How many bits a digit has.
pub(super) const DIGIT_BITS: u32 = 6;

/// Appends one digit; bits above the sixth are cut off.
pub(super) fn put_digit(text: &mut String, digit: u8) {
    text.push(char::from(ALPHABET[usize::from(digit & 63)]));
}

/// Appends a number, the lowest bits first: a digit for each five bits.
pub(super) fn put_number(text: &mut String, mut value: u64) {
    loop {
        let low = low_bits(value) & (MORE - 1);
        value >>= NUMBER_BITS;
        if value == 0 {
            return put_digit(text, low);
        }
        put_digit(text, low | MORE);
    }
}

/// Appends the lowest bits of a number in that many digits.
pub(super) fn put_fixed(text: &mut String, value: u64, digits: u32) {
    for at in 0..digits {
        put_digit(text, low_bits(value >> (DIGIT_BITS * at)));
    }
}

fn low_bits(value: u64) -> u8 {
    value.to_le_bytes()[0]
}

/// Reads what was put.
#[derive(Debug)]
pub(super) struct Digits<'a>(std::str::Bytes<'a>);

impl<'a> Digits<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self(text.bytes())
    }

    /// Whether all was read.
    pub(super) fn is_empty(&self) -> bool {
        self.0.len() == 0
    }

    /// The next digit. `None` is the end, or a character that is no digit.
    pub(super) fn digit(&mut self) -> Option<u8> {
        match self.0.next()? {
            byte @ b'A'..=b'Z' => Some(byte - b'A'),
            byte @ b'a'..=b'z' => Some(byte - b'a' + 26),
            byte @ b'0'..=b'9' => Some(byte - b'0' + 52),
            b'-' => Some(62),
            b'_' => Some(63),
            _ => None,
        }
    }

    /// The next number. `None` is none, or one of more than 64 bits.
    pub(super) fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for at in 0.. {
            let digit = self.digit()?;
            let bits = u64::from(digit & (MORE - 1));
            let shifted = bits.checked_shl(NUMBER_BITS * at)?;
            if shifted >> (NUMBER_BITS * at) != bits {
                return None;
            }
            value |= shifted;
            if digit & MORE == 0 {
                break;
            }
        }
        Some(value)
    }

    /// The next number of that many digits.
    pub(super) fn fixed(&mut self, digits: u32) -> Option<u64> {
        (0..digits)
            .try_fold(0, |value, at| Some(value | (u64::from(self.digit()?) << (DIGIT_BITS * at))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_digit_reads_as_it_was_put() {
        let mut text = String::new();
        (0..64).for_each(|digit| put_digit(&mut text, digit));
        assert_eq!(text.as_bytes(), ALPHABET);
        let mut digits = Digits::new(&text);
        assert!((0..64).all(|digit| digits.digit() == Some(digit)));
        assert!(digits.is_empty());
    }

    #[test]
    fn small_numbers_are_short() {
        for (value, expected) in [(0, "A"), (31, "f"), (32, "gB"), (1_023, "_f")] {
            let mut text = String::new();
            put_number(&mut text, value);
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn what_is_no_number_is_none() {
        // Nothing, no digit, no end, 65 bits, digits without end.
        for text in ["", "=", "ü", "g", "____________Q", &"_".repeat(99), &"g".repeat(99)] {
            assert_eq!(Digits::new(text).number(), None, "{text}");
        }
        assert_eq!(Digits::new("____________P").number(), Some(u64::MAX));
    }

    proptest! {
        #[test]
        fn numbers_read_as_they_were_put(values in prop::collection::vec(any::<u64>(), 0..9)) {
            let mut text = String::new();
            for value in &values {
                put_number(&mut text, *value);
                put_fixed(&mut text, *value, 5);
            }
            let mut digits = Digits::new(&text);
            for value in &values {
                prop_assert_eq!(digits.number(), Some(*value));
                prop_assert_eq!(digits.fixed(5), Some(value & ((1 << 30) - 1)));
            }
            prop_assert!(digits.is_empty());
        }
    }
}
