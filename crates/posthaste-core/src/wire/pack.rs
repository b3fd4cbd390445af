//! Attributes and headers as one JSON text, for brokers that carry few fields beside the payload.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::envelope::packed;
use crate::{Envelope, Result};

/// Everything but the payload as compact JSON, with the CloudEvents names as members.
///
/// ```
/// use posthaste_core::Envelope;
/// use posthaste_core::wire;
/// let placed = Envelope::builder("order.placed").source("/shop").payload("{}").build()?;
/// let head = wire::pack(&placed);
/// assert_eq!(wire::unpack(&head, placed.payload().clone())?, placed);
/// # Ok::<(), posthaste_core::Error>(())
/// ```
#[must_use]
pub fn pack(envelope: &Envelope) -> String {
    packed::write(envelope, None)
}

/// The same for a broker whose bodies are text and not empty: the packed attributes, and the body.
///
/// The payload is the body if XML 1.0 could carry it, as SQS asks. Else the body is its base64 and
/// the attributes say so, or a `-` for an empty payload.
#[must_use]
pub fn pack_text(envelope: &Envelope) -> (String, Cow<'_, str>) {
    let payload = envelope.payload();
    if payload.is_empty() {
        return (packed::write(envelope, Some(packed::EMPTY)), Cow::Borrowed("-"));
    }
    match std::str::from_utf8(payload) {
        Ok(text) if text.chars().all(is_xml) => {
            (packed::write(envelope, None), Cow::Borrowed(text))
        }
        _ => {
            let head = packed::write(envelope, Some(packed::BASE64));
            (head, Cow::Owned(STANDARD.encode(payload)))
        }
    }
}

fn is_xml(c: char) -> bool {
    c >= ' ' && !matches!(c, '\u{FFFE}' | '\u{FFFF}') || matches!(c, '\t' | '\n' | '\r')
}

/// Reads what [`pack`] or [`pack_text`] wrote. A body that is not the payload itself is decoded.
///
/// # Errors
/// [`Decode`](crate::ErrorKind::Decode) or [`TooLarge`](crate::ErrorKind::TooLarge), with the
/// offending part as the context `part`. The message can then still be read as a foreign one.
pub fn unpack(packed: &str, body: impl Into<Bytes>) -> Result<Envelope> {
    packed::read(packed, body.into())
}
