//! The rules for attributes and headers of what is published.
//!
//! Attributes obey them always: a reader keeps an attribute that does not as a header. The rules
//! for names of headers bind applications only; a reader keeps what it finds.

use super::attribute::Attribute;
use crate::{Error, ErrorKind, Result};

/// The longest id, source and type, in bytes.
pub(crate) const IDENTITY_LIMIT: usize = 1024;
/// The longest header name, in bytes.
pub(crate) const HEADER_NAME_LIMIT: usize = 255;
/// The longest extension name that may be published, in bytes.
pub(crate) const EXTENSION_NAME_LIMIT: usize = 20;
/// The longest extension name that is understood when read, in bytes.
pub(crate) const EXTENSION_NAME_READ_LIMIT: usize = 64;

/// What begins the names that brokers, their libraries and this library keep for themselves,
/// with the reason. Compared without regard to ASCII case.
const RESERVED_PREFIXES: [(&str, &str); 11] = [
    ("ph-", "names beginning with `ph-` belong to this library"),
    ("ce-", "names beginning with `ce-` are CloudEvents attributes: use the attribute"),
    ("ce_", "names beginning with `ce_` are CloudEvents attributes: use the attribute"),
    ("cloudEvents", "names beginning with `cloudEvents` are CloudEvents attributes"),
    ("Nats-", "names beginning with `Nats-` are instructions to NATS"),
    ("x-death", "names beginning with `x-death` are written by RabbitMQ"),
    ("x-first-death-", "names beginning with `x-first-death-` are written by RabbitMQ"),
    ("x-last-death-", "names beginning with `x-last-death-` are written by RabbitMQ"),
    ("x-delivery-count", "names beginning with `x-delivery-count` are written by RabbitMQ"),
    ("AWS.", "names beginning with `AWS.` are refused by SQS"),
    ("Amazon.", "names beginning with `Amazon.` are refused by SQS"),
];

/// Why an application may not use this header name, if it may not.
pub(crate) fn reserved_header(name: &str) -> Option<&'static str> {
    if name.eq_ignore_ascii_case("content-type") {
        return Some("`content-type` is an attribute: use `content_type`");
    }
    let begins = |prefix: &str| {
        let start = name.as_bytes().get(..prefix.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    RESERVED_PREFIXES.iter().find(|(prefix, _)| begins(prefix)).map(|(_, reason)| *reason)
}

/// Whether every broker can carry this as a header name.
pub(crate) fn portable_header_name(name: &str) -> bool {
    let graphic = |byte: u8| byte.is_ascii_graphic() && byte != b':';
    !name.is_empty() && name.len() <= HEADER_NAME_LIMIT && name.bytes().all(graphic)
}

pub(crate) fn header_name(name: &str) -> Result<()> {
    // First, because it says more about `cloudEvents:id` than its colon does.
    if let Some(reason) = reserved_header(name) {
        return Err(refuse("header name", name, reason));
    }
    if portable_header_name(name) {
        return Ok(());
    }
    let why = if name.len() > HEADER_NAME_LIMIT {
        "it is longer than 255 bytes"
    } else {
        "only printable ASCII without space and `:` is allowed, at least one character"
    };
    Err(refuse("header name", name, why))
}

pub(crate) fn extension_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > EXTENSION_NAME_LIMIT {
        return Err(refuse("extension name", name, "it must have 1 to 20 characters"));
    }
    if !lower_alphanumeric(name) {
        return Err(refuse("extension name", name, "only a-z and 0-9 are allowed"));
    }
    if Attribute::by_event_name(name).is_some() {
        return Err(refuse("extension name", name, "it is an attribute with a place of its own"));
    }
    Ok(())
}

/// Whether a reader takes this for the name of an extension.
pub(crate) fn readable_extension_name(name: &str) -> bool {
    (1..=EXTENSION_NAME_READ_LIMIT).contains(&name.len())
        && lower_alphanumeric(name)
        && Attribute::by_event_name(name).is_none()
}

fn lower_alphanumeric(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// The String type of CloudEvents, and not empty.
pub(crate) fn text(what: &'static str, value: &str) -> Result<()> {
    if value.is_empty() {
        return Err(refuse(what, value, "it is empty"));
    }
    if is_event_text(value) {
        Ok(())
    } else {
        Err(refuse(what, value, "control characters and noncharacters are not allowed"))
    }
}

/// Whether CloudEvents can carry this as a String.
pub(crate) fn is_event_text(value: &str) -> bool {
    // Without an early end, so that the usual case is done many bytes at a time.
    if value.bytes().fold(true, |fine, byte| fine & (b' '..=b'~').contains(&byte)) {
        return true;
    }
    !value.chars().any(|c| c.is_control() || is_noncharacter(c))
}

fn is_noncharacter(c: char) -> bool {
    ('\u{FDD0}'..='\u{FDEF}').contains(&c) || u32::from(c) & 0xFFFE == 0xFFFE
}

/// id, source, type.
pub(crate) fn identity(what: &'static str, value: &str) -> Result<()> {
    check_length(what, value)?;
    text(what, value)
}

fn check_length(what: &'static str, value: &str) -> Result<()> {
    if value.len() <= IDENTITY_LIMIT {
        return Ok(());
    }
    Err(Error::new(ErrorKind::TooLarge, format!("{what}: it is too long"))
        .with_context("bytes", value.len())
        .with_context("limit in bytes", IDENTITY_LIMIT))
}

pub(crate) fn source(value: &str) -> Result<()> {
    check_length("source", value)?;
    uri_reference("source", value)
}

/// A URI-reference of RFC 3986, by its characters.
pub(crate) fn uri_reference(what: &'static str, value: &str) -> Result<()> {
    if value.is_empty() {
        return text(what, value);
    }
    let plain = |byte: u8| in_uri(byte) || byte == b'%';
    if value.bytes().all(plain) && (!value.as_bytes().contains(&b'%') || escapes_are_whole(value)) {
        return Ok(());
    }
    Err(refuse(what, value, "it must be a URI-reference: no spaces, other characters as %XX"))
}

fn escapes_are_whole(value: &str) -> bool {
    let hex = |bytes: &[u8]| bytes.iter().all(u8::is_ascii_hexdigit);
    let mut escapes = value.split('%').skip(1).map(str::as_bytes);
    escapes.all(|after| after.get(..2).is_some_and(hex))
}

/// Whether the byte may stand in a URI-reference by itself.
pub(crate) fn in_uri(byte: u8) -> bool {
    URI[usize::from(byte)]
}

const URI: [bool; 256] = {
    let mut fine = [false; 256];
    let others = b"-._~:/?#[]@!$&'()*+,;=";
    let mut byte = 0_u8;
    while byte < 128 {
        fine[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        fine[others[at] as usize] = true;
        at += 1;
    }
    fine
};

/// A URI with a scheme.
pub(crate) fn absolute_uri(what: &'static str, value: &str) -> Result<()> {
    uri_reference(what, value)?;
    let scheme = value.split_once(':').map_or("", |(scheme, _)| scheme);
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    if scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.bytes().all(inner) {
        Ok(())
    } else {
        Err(refuse(what, value, "it must be a URI with a scheme, for example urn:order:1"))
    }
}

pub(crate) fn content_type(value: &str) -> Result<()> {
    // Most messages have one of two, and are checked when they are built and when they are read.
    if matches!(value, "application/json" | "application/octet-stream") {
        return Ok(());
    }
    text("content type", value)?;
    let bytes = value.as_bytes();
    let end = bytes.iter().position(|byte| *byte == b';').unwrap_or(bytes.len());
    let media = bytes[..end].trim_ascii_end();
    let token = |part: &[u8]| {
        let fine = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
        !part.is_empty() && part.iter().all(fine)
    };
    let slash = media.iter().position(|byte| *byte == b'/').unwrap_or(0);
    if slash > 0 && token(&media[..slash]) && token(&media[slash + 1..]) {
        return Ok(());
    }
    Err(refuse("content type", value, "it must be like application/json"))
}

/// The W3C trace context header: `00-<32 hex>-<16 hex>-<2 hex>`.
pub(crate) fn trace_parent(value: &str) -> Result<()> {
    if is_trace_parent(value) {
        Ok(())
    } else {
        Err(refuse("trace parent", value, "it must be like 00-<32 hex>-<16 hex>-01, not all zero"))
    }
}

fn is_trace_parent(value: &str) -> bool {
    let Some((fixed, rest)) = value.split_at_checked(55) else { return false };
    let fixed = fixed.as_bytes();
    let dashes = [2, 35, 52].into_iter().all(|at| fixed[at] == b'-');
    let [version, trace, parent, flags] = [0..2, 3..35, 36..52, 53..55].map(|at| &fixed[at]);
    let lower_hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    let hex = |part: &[u8]| part.iter().all(lower_hex);
    let some = |part: &[u8]| part.iter().any(|byte| *byte != b'0');
    // Later versions may add further fields; version 00 has exactly four.
    let end = rest.is_empty() || (version != b"00" && rest.starts_with('-') && is_event_text(rest));
    dashes
        && end
        && [version, trace, parent, flags].into_iter().all(hex)
        && version != b"ff"
        && some(trace)
        && some(parent)
}

#[cold]
pub(crate) fn refuse(what: &'static str, value: &str, why: &'static str) -> Error {
    let shown: String = value.chars().take(120).flat_map(char::escape_debug).collect();
    Error::invalid(format!("{what}: {why}")).with_context("found", shown)
}
