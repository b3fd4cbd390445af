//! The plain JSON format: five members that need no explanation, and `metadata` for the rest.
//!
//! ```json
//! {"eventType":"order.placed","eventId":"7","timestamp":"2026-11-21T09:30:00Z","version":"1.0",
//!  "payload":{"total":12.5},"metadata":{"source":"/shop","correlationId":"c-1","userId":"u-1"}}
//! ```
//!
//! `version` is the version of the payload's schema. Application headers are members of
//! `metadata` where all of them can be, else they stand in `metadata.headers`. A member that is
//! not known becomes a header.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::attribute::{self, Attribute};
use super::builder::EnvelopeBuilder;
use super::cloudevents::decode_base64;
use super::json::{self, bad};
use super::{Envelope, HEAD_LIMIT, check};
use crate::Result;

/// Where a version that is more than one number is kept.
const VERSION_TEXT: &str = "eventversion";
/// With more headers than this they stand in an array.
const INLINE_HEADERS: usize = 64;

pub(super) fn write(envelope: &Envelope, out: &mut String) {
    out.push('{');
    json::member(out, "eventType", envelope.event_type());
    json::member(out, "eventId", envelope.id());
    if let Some(time) = envelope.time() {
        json::member(out, "timestamp", &time.to_string());
    }
    json::member(out, "version", &version(envelope));
    let json_type = envelope.content_type().is_some_and(json::is_json);
    let raw = if json_type { json::embeddable(envelope.payload()) } else { None };
    json::name(out, "payload");
    match raw {
        Some(raw) => out.push_str(raw),
        None => json::base64(out, envelope.payload()),
    }
    json::name(out, "metadata");
    write_metadata(envelope, raw.is_none(), out);
    out.push('}');
}

/// The version as text: `2.0` for 2, or what an earlier reader kept of it.
fn version(envelope: &Envelope) -> String {
    let Some(number) = envelope.schema_version() else { return "1.0".to_owned() };
    match envelope.extension(VERSION_TEXT) {
        Some(text) if major(text) == Some(number) => text.to_owned(),
        _ => format!("{number}.0"),
    }
}

/// The number before the first dot.
fn major(version: &str) -> Option<u32> {
    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
    let numbers = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if numbers(major) && numbers(minor) { major.parse().ok() } else { None }
}

fn write_metadata(envelope: &Envelope, encoded: bool, out: &mut String) {
    out.push('{');
    envelope.visit_attributes(|name, value| match name.plain {
        "eventType" | "eventId" | "timestamp" | "schemaVersion" => {}
        // What the absence of the member means.
        "contentType" if value == "application/json" => {}
        plain => json::member(out, plain, value),
    });
    if envelope.content_type().is_none() {
        json::name(out, "contentType");
        out.push_str("null");
    }
    if envelope.schema_version().is_none() {
        json::name(out, attribute::VERSION.plain);
        out.push_str("null");
    }
    if encoded {
        json::member(out, "payloadEncoding", "base64");
    }
    if envelope.is_foreign() {
        json::name(out, attribute::FOREIGN.plain);
        out.push_str("true");
    }
    if envelope.extensions().next().is_some() {
        json::name(out, "extensions");
        out.push('{');
        envelope.extensions().for_each(|(name, value)| json::member(out, name, value));
        out.push('}');
    }
    if headers_fit_inline(envelope) {
        for (name, value) in envelope.headers() {
            json::member(out, name, json::plain_text(value).unwrap_or_default());
        }
    } else {
        json::name(out, attribute::HEADERS.plain);
        json::headers(out, envelope);
    }
    out.push('}');
}

fn headers_fit_inline(envelope: &Envelope) -> bool {
    envelope.headers().enumerate().all(|(index, (name, value))| {
        index < INLINE_HEADERS
            && Attribute::by_plain_name(name).is_none()
            && json::plain_text(value).is_some()
            && !envelope.headers().take(index).any(|(earlier, _)| earlier == name)
    })
}

pub(super) fn read(document: &Bytes, text: &str) -> Result<Envelope> {
    let members = json::members("document", text)?;
    let mut builder = EnvelopeBuilder::lenient();
    let mut metadata: Option<&RawValue> = None;
    let mut payload: Option<&RawValue> = None;
    for (name, value) in &members.0 {
        match &**name {
            "eventType" | "eventId" | "timestamp" => read_attribute(name, value, &mut builder)?,
            "version" => read_version(value, &mut builder)?,
            "payload" => payload = Some(value),
            "metadata" => metadata = Some(value),
            other => keep(other, value, &mut builder)?,
        }
    }
    for (required, event_name) in [("eventType", "type"), ("eventId", "id")] {
        if !Attribute::by_event_name(event_name).is_some_and(|found| builder.has(found)) {
            return Err(bad(required, "it is absent"));
        }
    }
    let payload = payload.ok_or_else(|| bad("payload", "it is absent"))?;
    let metadata = metadata.map_or("{}", RawValue::get);
    let mut encoding = Encoding::Json;
    let mut content_type = ContentType::Implied;
    let metadata = json::members("metadata", if metadata == "null" { "{}" } else { metadata })?;
    for (name, value) in &metadata.0 {
        match &**name {
            "contentType" if value.get() == "null" => content_type = ContentType::Known,
            "schemaVersion" if value.get() == "null" => builder.forget_version(),
            "payloadEncoding" => {
                if let Some(text) = json::text("payloadEncoding", value)? {
                    encoding = Encoding::by_name(&text)?;
                }
            }
            "foreign" => {
                if json::boolean("foreign", value)? {
                    builder.set_foreign();
                }
            }
            "extensions" => read_extensions(value, &mut builder)?,
            "headers" => json::read_headers("headers", value.get(), &mut builder)?,
            other => match Attribute::by_plain_name(other) {
                Some(_) => {
                    if other == "contentType" {
                        content_type = ContentType::Known;
                    }
                    read_attribute(other, value, &mut builder)?;
                }
                None => keep(other, value, &mut builder)?,
            },
        }
    }
    if content_type == ContentType::Implied {
        builder.imply_json();
    }
    builder.set_payload(match encoding {
        Encoding::Base64 => {
            let text = json::text("payload", payload)?;
            decode_base64("payload", &text.ok_or_else(|| bad("payload", "it must be base64"))?)?
        }
        Encoding::Json if json::depth(payload.get()) > json::DEPTH_LIMIT => {
            return Err(bad("payload", "it is nested too deep"));
        }
        Encoding::Json => document.slice_ref(payload.get().as_bytes()),
    });
    if builder.head_length() > HEAD_LIMIT {
        return Err(json::too_large("metadata", builder.head_length(), HEAD_LIMIT));
    }
    Ok(builder.build_lenient())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ContentType {
    Implied,
    Known,
}

#[derive(Clone, Copy)]
enum Encoding {
    Json,
    Base64,
}

impl Encoding {
    fn by_name(name: &str) -> Result<Self> {
        match name {
            "json" => Ok(Self::Json),
            "base64" => Ok(Self::Base64),
            _ => Err(bad("payloadEncoding", "only \"json\" and \"base64\" are understood")),
        }
    }
}

fn read_version(value: &RawValue, builder: &mut EnvelopeBuilder<'_>) -> Result<()> {
    let text = match value.get().as_bytes() {
        [b'0'..=b'9', ..] => Some(value.get().into()),
        _ => json::text("version", value)?,
    };
    let Some(text) = text else { return Ok(()) };
    let number = major(&text).ok_or_else(|| bad("version", "it must be like \"1.0\""))?;
    builder.set_version(number);
    if *text != format!("{number}.0") {
        builder.keep_extension(VERSION_TEXT, &text);
    }
    Ok(())
}

fn read_attribute<'a>(
    name: &str,
    value: &'a RawValue,
    builder: &mut EnvelopeBuilder<'a>,
) -> Result<()> {
    let Some(attribute) = Attribute::by_plain_name(name) else { return Ok(()) };
    let counts = matches!(attribute, Attribute::Sequence | Attribute::Version);
    let text = if counts { json::scalar(name, value)? } else { json::text(name, value)? };
    let Some(text) = text else { return Ok(()) };
    if matches!(attribute, Attribute::Key | Attribute::KeyBase64) && builder.has(attribute) {
        return Err(bad(name, "there are two keys"));
    }
    builder.read(attribute, text).map_err(|error| json::broken_rule(name, &error))
}

fn read_extensions(value: &RawValue, builder: &mut EnvelopeBuilder<'_>) -> Result<()> {
    if value.get() == "null" {
        return Ok(());
    }
    for (name, value) in &json::members("extensions", value.get())?.0 {
        let Some(text) = json::scalar("extensions", value)? else { continue };
        if !check::readable_extension_name(name) || !check::is_event_text(&text) {
            return Err(bad("extensions", "a name or value breaks the rules for extensions"));
        }
        builder.keep_extension(name, &text);
    }
    Ok(())
}

/// Keeps a member that is not known as a header: a string as its text, else as JSON.
fn keep(name: &str, value: &RawValue, builder: &mut EnvelopeBuilder<'_>) -> Result<()> {
    let part: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    match value.get().as_bytes() {
        b"null" => {}
        [b'"', ..] => {
            if let Some(text) = json::text(&part, value)? {
                builder.keep_as_header(name, text.as_bytes());
            }
        }
        json => builder.keep_as_header(name, json),
    }
    Ok(())
}
