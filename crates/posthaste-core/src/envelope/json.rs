//! JSON text: what the formats have in common.
//!
//! Written by hand into a `String`, because payloads go in as the bytes they are; read with
//! `serde_json`, whose raw values keep them so. Every bound for documents is here.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::builder::EnvelopeBuilder;
use super::check::is_event_text;
use super::{Envelope, HEAD_LIMIT};
use crate::{Error, ErrorKind, Result};

/// The longest document that is read, in bytes: 128 MiB, the largest body any broker takes.
pub(super) const DOCUMENT_LIMIT: usize = 128 << 20;
/// The deepest payload that is read or written as JSON.
pub(super) const DEPTH_LIMIT: usize = 128;
/// The most members an object may have that is not payload.
pub(super) const MEMBER_LIMIT: usize = 256;
/// The most headers a document may have.
const HEADER_LIMIT: usize = 65_536;

/// Appends a JSON string.
pub(crate) fn string(out: &mut String, text: &str) {
    out.push('"');
    if is_event_text(text) && !text.contains(['"', '\\']) {
        out.push_str(text);
    } else {
        for c in text.chars() {
            let mut utf8 = [0; 4];
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                // Some brokers refuse these even inside of JSON.
                _ if !is_event_text(c.encode_utf8(&mut utf8)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str("\\u");
                        for shift in [12, 8, 4, 0] {
                            let digit = char::from_digit(u32::from(*unit >> shift & 0xF), 16);
                            out.push(digit.unwrap_or('0'));
                        }
                    }
                }
                _ => out.push(c),
            }
        }
    }
    out.push('"');
}

/// Appends the bytes as a string of base64.
pub(super) fn base64(out: &mut String, bytes: &[u8]) {
    out.push('"');
    STANDARD.encode_string(bytes, out);
    out.push('"');
}

/// Appends `"name":`, after a comma unless it is the first member.
pub(super) fn name(out: &mut String, name: &str) {
    if !out.ends_with('{') {
        out.push(',');
    }
    string(out, name);
    out.push(':');
}

/// Appends `"name":"value"`.
pub(super) fn member(out: &mut String, member: &str, value: &str) {
    name(out, member);
    string(out, value);
}

/// Appends the headers as an array of pairs: the value is a string where CloudEvents could carry
/// it as one, else `{"base64":"..."}`.
pub(super) fn headers(out: &mut String, envelope: &Envelope) {
    out.push('[');
    for (index, (name, value)) in envelope.headers().enumerate() {
        out.push_str(if index == 0 { "[" } else { ",[" });
        string(out, name);
        out.push(',');
        match plain_text(value) {
            Some(text) => string(out, text),
            None => {
                out.push_str("{\"base64\":");
                base64(out, value);
                out.push('}');
            }
        }
        out.push(']');
    }
    out.push(']');
}

pub(super) fn plain_text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok().filter(|text| is_event_text(text))
}

/// Reads what [`headers`] wrote.
pub(super) fn read_headers(
    part: &str,
    text: &str,
    builder: &mut EnvelopeBuilder<'_>,
) -> Result<()> {
    #[derive(Deserialize)]
    struct Binary<'a> {
        #[serde(borrow)]
        base64: Cow<'a, str>,
    }
    // Escapes and base64 make a document's headers larger than those of an envelope.
    if text.len() > 16 * HEAD_LIMIT {
        return Err(too_large(part, text.len(), 16 * HEAD_LIMIT));
    }
    let pairs: Vec<(Text<'_>, &RawValue)> = serde_json::from_str(text)
        .map_err(|error| bad(part, "it must be an array of pairs").with_source(error))?;
    if pairs.len() > HEADER_LIMIT {
        return Err(too_large(part, pairs.len(), HEADER_LIMIT));
    }
    for (Text(name), value) in pairs {
        let value = value.get();
        if let Ok(Text(text)) = serde_json::from_str(value) {
            builder.keep_as_header(&name, text.as_bytes());
            continue;
        }
        let decoded = serde_json::from_str(value)
            .ok()
            .and_then(|Binary { base64 }| STANDARD.decode(&*base64).ok())
            .ok_or_else(|| bad(part, "a value must be a string or {\"base64\":\"...\"}"))?;
        builder.keep_as_header(&name, &decoded);
    }
    Ok(())
}

/// A JSON string that borrows from the document where nothing is escaped.
#[derive(Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// The members of an object, in order, each name once.
pub(super) struct Members<'a>(pub(super) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::with_capacity(16);
                while let Some(Text(name)) = map.next_key()? {
                    if members.iter().any(|(found, _)| *found == name) {
                        return Err(A::Error::custom(format_args!(
                            "a member stands twice: {name}"
                        )));
                    }
                    if members.len() == MEMBER_LIMIT {
                        return Err(A::Error::custom("there are too many members"));
                    }
                    members.push((name, map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// Reads an object without looking into its values.
pub(super) fn members<'a>(part: &str, text: &'a str) -> Result<Members<'a>> {
    serde_json::from_str(text)
        .map_err(|error| bad(part, "it must be a JSON object").with_source(error))
}

/// The text of a document, if it is not too long to be read.
pub(super) fn document(bytes: &[u8]) -> Result<&str> {
    if bytes.len() > DOCUMENT_LIMIT {
        return Err(too_large("document", bytes.len(), DOCUMENT_LIMIT));
    }
    std::str::from_utf8(bytes)
        .map_err(|error| bad("document", "it must be UTF-8").with_source(error))
}

/// The text of an attribute: a string, a boolean or a whole number; `None` for null.
pub(super) fn scalar<'a>(part: &str, value: &'a RawValue) -> Result<Option<Cow<'a, str>>> {
    let text = value.get();
    match text.as_bytes() {
        b"null" => Ok(None),
        [b'"', ..] => {
            let read = serde_json::from_str(text).map(|Text(text)| Some(text));
            read.map_err(|error| bad(part, "it is not a proper string").with_source(error))
        }
        b"true" | b"false" => Ok(Some(Cow::Borrowed(text))),
        [b'-' | b'0'..=b'9', ..] if !text.contains(['.', 'e', 'E']) => {
            Ok(Some(Cow::Borrowed(text)))
        }
        _ => Err(bad(part, "it must be a string, a boolean or a whole number")),
    }
}

/// The same for what must be a string.
pub(super) fn text<'a>(part: &str, value: &'a RawValue) -> Result<Option<Cow<'a, str>>> {
    match value.get().as_bytes() {
        [b'"', ..] | b"null" => scalar(part, value),
        _ => Err(bad(part, "it must be a string")),
    }
}

/// A boolean; absent as null.
pub(super) fn boolean(part: &str, value: &RawValue) -> Result<bool> {
    match value.get() {
        "true" => Ok(true),
        "false" | "null" => Ok(false),
        _ => Err(bad(part, "it must be true or false")),
    }
}

/// Whether the content type says that the payload is JSON.
pub(super) fn is_json(content_type: &str) -> bool {
    let media = content_type.split(';').next().unwrap_or_default().trim_end();
    ends_with(media, "/json") || ends_with(media, "+json")
}

/// Whether the content type says that the payload is text.
pub(super) fn is_text(content_type: &str) -> bool {
    let media = content_type.split(';').next().unwrap_or_default().trim_end();
    let start = media.get(..5).unwrap_or_default();
    start.eq_ignore_ascii_case("text/") || ends_with(media, "/xml") || ends_with(media, "+xml")
}

fn ends_with(text: &str, end: &str) -> bool {
    let start = text.len().checked_sub(end.len()).and_then(|at| text.get(at..));
    start.is_some_and(|found| found.eq_ignore_ascii_case(end))
}

/// The payload as JSON that can stand in a document and come out as the same bytes.
pub(super) fn embeddable(payload: &[u8]) -> Option<&str> {
    let value: &RawValue = serde_json::from_slice(payload).ok()?;
    // White space around the value would not come back.
    (value.get().len() == payload.len() && depth(value.get()) <= DEPTH_LIMIT).then(|| value.get())
}

/// How deep arrays and objects are nested in valid JSON.
pub(super) fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// An error that names the part of the document.
#[cold]
pub(super) fn bad(part: &str, why: &str) -> Error {
    Error::new(ErrorKind::Decode, format!("{part}: {why}")).with_context("part", part)
}

#[cold]
pub(super) fn too_large(part: &str, found: usize, limit: usize) -> Error {
    Error::new(ErrorKind::TooLarge, format!("{part}: it is too large to be read"))
        .with_context("part", part)
        .with_context("found", found)
        .with_context("limit", limit)
}

/// The error of a rule, for a document.
#[cold]
pub(super) fn broken_rule(part: &str, error: &Error) -> Error {
    let kind = if error.kind() == ErrorKind::TooLarge { error.kind() } else { ErrorKind::Decode };
    Error::new(kind, error.message().to_owned()).with_context("part", part)
}
