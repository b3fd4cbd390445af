//! The attributes of an envelope: the one table of their names and rules.
//!
//! The formats and the header mapping read it, so that an attribute is added here and nowhere
//! else. How a value is stored is the matter of `head`.

use super::check;
use super::head::{Slot, TEXT_SLOTS};
use crate::Result;

/// The names of one attribute.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Name {
    /// As CloudEvents has it: `datacontenttype`.
    pub(crate) event: &'static str,
    /// With the prefix of each style of header.
    pub(crate) dash: &'static str,
    pub(crate) underscore: &'static str,
    pub(crate) colon: &'static str,
    /// In the plain format: `contentType`.
    pub(crate) plain: &'static str,
}

macro_rules! name {
    ($event:literal, $plain:literal) => {
        Name {
            event: $event,
            dash: concat!("ce-", $event),
            underscore: concat!("ce_", $event),
            colon: concat!("cloudEvents:", $event),
            plain: $plain,
        }
    };
}

/// An attribute that is text.
#[derive(Debug)]
pub(crate) struct TextAttribute {
    pub(crate) slot: Slot,
    pub(crate) name: Name,
    pub(crate) check: fn(&str) -> Result<()>,
}

macro_rules! text {
    ($slot:ident, $event:literal, $plain:literal, $check:expr) => {
        TextAttribute { slot: Slot::$slot, name: name!($event, $plain), check: $check }
    };
}

/// Each at the index of its slot.
pub(crate) static TEXT: [TextAttribute; TEXT_SLOTS] = [
    text!(Id, "id", "eventId", |value| check::identity("id", value)),
    text!(Source, "source", "source", check::source),
    text!(Type, "type", "eventType", |value| check::identity("type", value)),
    text!(Subject, "subject", "subject", |value| check::text("subject", value)),
    text!(ContentType, "datacontenttype", "contentType", check::content_type),
    text!(DataSchema, "dataschema", "dataSchema", |uri| check::absolute_uri("data schema", uri)),
    text!(CorrelationId, "correlationid", "correlationId", |value| {
        check::text("correlation id", value)
    }),
    text!(CausationId, "causationid", "causationId", |value| check::text("causation id", value)),
    text!(ReplyTo, "replyto", "replyTo", |value| check::text("reply to", value)),
    text!(TraceParent, "traceparent", "traceParent", check::trace_parent),
    text!(TraceState, "tracestate", "traceState", |value| check::text("trace state", value)),
    text!(DataRef, "dataref", "dataRef", |uri| check::uri_reference("data ref", uri)),
];

pub(crate) const SPEC_VERSION: Name = name!("specversion", "");
pub(crate) const TIME: Name = name!("time", "timestamp");
pub(crate) const EXPIRY: Name = name!("expirytime", "expiresAt");
pub(crate) const SEQUENCE: Name = name!("sequence", "sequence");
pub(crate) const VERSION: Name = name!("schemaversion", "schemaVersion");
pub(crate) const KEY: Name = name!("partitionkey", "key");
pub(crate) const KEY_BASE64: Name = name!("partitionkeybase64", "keyBase64");
/// Members of CloudEvents JSON that are no attributes of the event itself.
pub(crate) const HEADERS: Name = name!("phheaders", "headers");
pub(crate) const FOREIGN: Name = name!("phforeign", "foreign");
pub(crate) const BODY: Name = name!("phbody", "payloadEncoding");

/// The version of CloudEvents that is written and understood.
pub(crate) const SPEC: &str = "1.0";

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attribute {
    SpecVersion,
    Text(Slot),
    Time,
    Expiry,
    Sequence,
    Version,
    Key,
    KeyBase64,
    /// Not an attribute of its own, nor a name for an extension.
    Reserved,
}

impl Attribute {
    /// By the CloudEvents name. A `match`, because it is on the path of every message; that it
    /// agrees with the table is tested.
    pub(crate) fn by_event_name(name: &str) -> Option<Self> {
        Some(match name {
            "specversion" => Self::SpecVersion,
            "id" => Self::Text(Slot::Id),
            "source" => Self::Text(Slot::Source),
            "type" => Self::Text(Slot::Type),
            "subject" => Self::Text(Slot::Subject),
            "datacontenttype" => Self::Text(Slot::ContentType),
            "dataschema" => Self::Text(Slot::DataSchema),
            "correlationid" => Self::Text(Slot::CorrelationId),
            "causationid" => Self::Text(Slot::CausationId),
            "replyto" => Self::Text(Slot::ReplyTo),
            "traceparent" => Self::Text(Slot::TraceParent),
            "tracestate" => Self::Text(Slot::TraceState),
            "dataref" => Self::Text(Slot::DataRef),
            "time" => Self::Time,
            "expirytime" => Self::Expiry,
            "sequence" => Self::Sequence,
            "schemaversion" => Self::Version,
            "partitionkey" => Self::Key,
            "partitionkeybase64" => Self::KeyBase64,
            "data" | "phheaders" | "phforeign" | "phbody" => Self::Reserved,
            _ => return None,
        })
    }

    /// By the name in the plain format.
    pub(crate) fn by_plain_name(name: &str) -> Option<Self> {
        let number = match name {
            "timestamp" => Self::Time,
            "expiresAt" => Self::Expiry,
            "sequence" => Self::Sequence,
            "schemaVersion" => Self::Version,
            "key" => Self::Key,
            "keyBase64" => Self::KeyBase64,
            "headers" | "foreign" | "extensions" | "payloadEncoding" => Self::Reserved,
            _ => {
                let found = TEXT.iter().find(|text| text.name.plain == name);
                return found.map(|text| Self::Text(text.slot));
            }
        };
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_table_agree() {
        for (index, attribute) in TEXT.iter().enumerate() {
            assert_eq!(attribute.slot as usize, index);
            let found = Some(Attribute::Text(attribute.slot));
            assert_eq!(Attribute::by_event_name(attribute.name.event), found);
            assert_eq!(Attribute::by_plain_name(attribute.name.plain), found);
        }
        for (name, attribute) in [
            (SPEC_VERSION, Attribute::SpecVersion),
            (TIME, Attribute::Time),
            (EXPIRY, Attribute::Expiry),
            (SEQUENCE, Attribute::Sequence),
            (VERSION, Attribute::Version),
            (KEY, Attribute::Key),
            (KEY_BASE64, Attribute::KeyBase64),
            (HEADERS, Attribute::Reserved),
            (FOREIGN, Attribute::Reserved),
            (BODY, Attribute::Reserved),
        ] {
            assert_eq!(Attribute::by_event_name(name.event), Some(attribute));
            if attribute != Attribute::SpecVersion {
                assert_eq!(Attribute::by_plain_name(name.plain), Some(attribute));
            }
        }
    }
}
