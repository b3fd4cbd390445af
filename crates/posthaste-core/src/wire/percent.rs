//! Percent-encoding, as the CloudEvents bindings for text headers define it.

use std::borrow::Cow;

/// Whether the value can stand as it is where values of attributes are percent-encoded.
pub(super) fn is_plain(value: &str) -> bool {
    value.bytes().all(stands)
}

fn stands(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'"' && byte != b'%'
}

/// Appends the text with `%XX` for each byte that is not fine.
pub(super) fn encode_with(out: &mut String, text: &str, fine: impl Fn(u8) -> bool) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii() && fine(byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(DIGITS[usize::from(byte >> 4)]));
            out.push(char::from(DIGITS[usize::from(byte & 0xF)]));
        }
    }
}

/// Appends the value of an attribute.
pub(super) fn encode(out: &mut String, value: &str) {
    encode_with(out, value, stands);
}

/// Reads the value of an attribute. `None` if what was encoded is not UTF-8.
pub(super) fn decode(value: &str) -> Option<Cow<'_, str>> {
    if !value.as_bytes().contains(&b'%') && !value.starts_with('"') {
        return Some(Cow::Borrowed(value));
    }
    // Earlier versions of the binding allowed quotes around the value.
    let value = match value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) => Cow::Owned(unquote(quoted)),
        None => Cow::Borrowed(value),
    };
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = match (first, tail) {
            (b'%', [high, low, tail @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    decoded.push(high << 4 | low);
                    tail
                }
                _ => {
                    decoded.push(b'%');
                    &rest[1..]
                }
            },
            (byte, tail) => {
                decoded.push(*byte);
                tail
            }
        };
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

fn unquote(quoted: &str) -> String {
    let mut chars = quoted.chars();
    let mut out = String::with_capacity(quoted.len());
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.extend(chars.next()),
            _ => out.push(c),
        }
    }
    out
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}
