//! The JSON format of CloudEvents 1.0 for one event.
//!
//! What CloudEvents has no place for travels in extensions: application headers in `phheaders`
//! (JSON in a string), the mark of a foreign message in `phforeign`, a key that is not text in
//! `partitionkeybase64`.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::attribute::{self, Attribute, SPEC, SPEC_VERSION};
use super::builder::EnvelopeBuilder;
use super::json::{self, Members, bad};
use super::{Envelope, HEAD_LIMIT, check};
use crate::Result;

/// How the headers stand in the document.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A complete event: extensions are scalars, so the headers are JSON in a string.
    Event,
    /// No event for other programs: an array.
    Packed,
}

/// Appends the event as one JSON object.
pub(super) fn write(envelope: &Envelope, out: &mut String) {
    write_head(envelope, out, Form::Event);
    let payload = envelope.payload();
    let text = match envelope.content_type() {
        Some(kind) if json::is_json(kind) => json::embeddable(payload).map(|raw| (raw, true)),
        Some(kind) if json::is_text(kind) => {
            std::str::from_utf8(payload).ok().map(|text| (text, false))
        }
        _ => None,
    };
    match text {
        Some((raw, true)) => {
            json::name(out, "data");
            out.push_str(raw);
        }
        Some((text, false)) => json::member(out, "data", text),
        None if payload.is_empty() => {}
        None => {
            json::name(out, "data_base64");
            json::base64(out, payload);
        }
    }
    out.push('}');
}

/// Appends everything but the payload and the closing brace.
pub(super) fn write_head(envelope: &Envelope, out: &mut String, form: Form) {
    out.push('{');
    json::member(out, SPEC_VERSION.event, SPEC);
    envelope.visit_attributes(|name, value| json::member(out, name.event, value));
    for (name, value) in envelope.extensions() {
        json::member(out, name, value);
    }
    if envelope.is_foreign() {
        json::name(out, attribute::FOREIGN.event);
        out.push_str("true");
    }
    if envelope.headers().next().is_some() {
        json::name(out, attribute::HEADERS.event);
        if form == Form::Packed {
            json::headers(out, envelope);
        } else {
            let mut headers = String::new();
            json::headers(&mut headers, envelope);
            json::string(out, &headers);
        }
    }
}

/// Reads one event. `text` is a part of `document`, from which the payload is sliced.
pub(super) fn read(document: &Bytes, text: &str) -> Result<Envelope> {
    let members = json::members("document", text)?;
    let mut builder = EnvelopeBuilder::lenient();
    let found = read_members(&members, &mut builder)?;
    if found.body.is_some() {
        return Err(bad("phbody", "it belongs only beside a payload"));
    }
    let content_type = members.0.iter().find(|(name, _)| name == "datacontenttype");
    let content_type = match content_type {
        Some((_, value)) => json::text("datacontenttype", value)?,
        None => None,
    };
    let payload = match found.payload {
        Payload::Absent => Bytes::new(),
        Payload::Base64(text) => decode_base64("data_base64", &text)?,
        Payload::Data(data) => match content_type.as_deref() {
            Some(kind) if !json::is_json(kind) => match json::text("data", data)? {
                Some(Cow::Borrowed(text)) => document.slice_ref(text.as_bytes()),
                Some(Cow::Owned(text)) => Bytes::from(text),
                None => Bytes::new(),
            },
            kind => {
                if json::depth(data.get()) > json::DEPTH_LIMIT {
                    return Err(bad("data", "it is nested too deep"));
                }
                if kind.is_none() {
                    // What the absence of a content type means in this format is lost elsewhere.
                    builder.imply_json();
                }
                document.slice_ref(data.get().as_bytes())
            }
        },
    };
    builder.set_payload(payload);
    finish(builder)
}

/// Builds what was read, if it is not too large.
pub(super) fn finish(builder: EnvelopeBuilder<'_>) -> Result<Envelope> {
    if builder.head_length() > HEAD_LIMIT {
        return Err(json::too_large("attributes", builder.head_length(), HEAD_LIMIT));
    }
    Ok(builder.build_lenient())
}

pub(super) fn decode_base64(part: &str, text: &str) -> Result<Bytes> {
    use base64::Engine as _;
    let decoded = base64::engine::general_purpose::STANDARD.decode(text);
    decoded.map(Bytes::from).map_err(|error| bad(part, "it must be base64").with_source(error))
}

/// What is no attribute.
pub(super) struct Found<'a> {
    pub(super) payload: Payload<'a>,
    /// How the body beside a packed head must be read.
    pub(super) body: Option<Cow<'a, str>>,
}

pub(super) enum Payload<'a> {
    Absent,
    Data(&'a RawValue),
    Base64(Cow<'a, str>),
}

/// Reads every member into the builder, and checks that those of each event are there.
pub(super) fn read_members<'a>(
    members: &Members<'a>,
    builder: &mut EnvelopeBuilder<'a>,
) -> Result<Found<'a>> {
    let mut payload = Payload::Absent;
    let mut body = None;
    let mut understood = false;
    for (name, value) in &members.0 {
        let value: &'a RawValue = value;
        match (&**name, Attribute::by_event_name(name)) {
            ("data_base64", _) => {
                if let Some(text) = json::text("data_base64", value)? {
                    if let Payload::Data(_) = payload {
                        return Err(bad("data_base64", "it stands beside `data`"));
                    }
                    payload = Payload::Base64(text);
                }
            }
            ("data", _) => {
                if let Payload::Base64(_) = payload {
                    return Err(bad("data", "it stands beside `data_base64`"));
                }
                payload = Payload::Data(value);
            }
            ("phbody", _) => body = json::text("phbody", value)?,
            ("phforeign", _) => {
                if json::boolean("phforeign", value)? {
                    builder.set_foreign();
                }
            }
            ("phheaders", _) => match value.get().as_bytes() {
                [b'[', ..] => json::read_headers("phheaders", value.get(), builder)?,
                _ => {
                    if let Some(text) = json::text("phheaders", value)? {
                        json::read_headers("phheaders", &text, builder)?;
                    }
                }
            },
            (_, Some(Attribute::SpecVersion)) => {
                understood = json::text("specversion", value)?.as_deref() == Some(SPEC);
                if !understood {
                    return Err(bad("specversion", "only \"1.0\" is understood"));
                }
            }
            (_, Some(attribute)) => read_attribute(name, attribute, value, builder)?,
            (_, None) => read_extension(name, value, builder)?,
        }
    }
    if !understood {
        return Err(bad("specversion", "it is absent"));
    }
    for required in ["id", "source", "type"] {
        if !Attribute::by_event_name(required).is_some_and(|attribute| builder.has(attribute)) {
            return Err(bad(required, "it is absent"));
        }
    }
    Ok(Found { payload, body })
}

fn read_attribute<'a>(
    name: &str,
    attribute: Attribute,
    value: &'a RawValue,
    builder: &mut EnvelopeBuilder<'a>,
) -> Result<()> {
    let counts = matches!(attribute, Attribute::Sequence | Attribute::Version);
    let text = if counts { json::scalar(name, value)? } else { json::text(name, value)? };
    let Some(text) = text else { return Ok(()) };
    if matches!(attribute, Attribute::Key | Attribute::KeyBase64) && builder.has(attribute) {
        return Err(bad(name, "there are two keys"));
    }
    match builder.read(attribute, text.clone()) {
        // Elsewhere these are free text, so that another meaning is no mistake.
        Err(_) if counts => builder.keep_as_header(&format!("ce-{name}"), text.as_bytes()),
        Err(error) => return Err(json::broken_rule(name, &error)),
        Ok(()) => {}
    }
    Ok(())
}

fn read_extension(name: &str, value: &RawValue, builder: &mut EnvelopeBuilder<'_>) -> Result<()> {
    let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    if !check::readable_extension_name(name) {
        return Err(bad(&shown, "it is no name of an attribute: only a-z and 0-9, 64 at most"));
    }
    match json::scalar(&shown, value)? {
        Some(text) if check::is_event_text(&text) => builder.keep_extension(name, &text),
        Some(_) => return Err(bad(&shown, "control characters are not allowed")),
        None => {}
    }
    Ok(())
}
