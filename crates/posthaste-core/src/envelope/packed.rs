//! The JSON of CloudEvents without its payload, for brokers that carry the payload beside it.
//!
//! It differs from a CloudEvents document in that the headers are an array, not an array in a
//! string, and in the member `phbody`, which tells how the body beside it must be read.

use std::borrow::Cow;

use bytes::Bytes;

use super::builder::EnvelopeBuilder;
use super::cloudevents::{self, Form, Payload};
use super::json::{self, bad};
use super::{Envelope, attribute};
use crate::Result;

/// The body is the payload's base64.
pub(crate) const BASE64: &str = "base64";
/// The payload is empty, whatever the body is.
pub(crate) const EMPTY: &str = "empty";

pub(crate) fn write(envelope: &Envelope, body: Option<&str>) -> String {
    let head = envelope.size() - envelope.payload().len();
    let mut out = String::with_capacity(head * 3 / 2 + 256);
    cloudevents::write_head(envelope, &mut out, Form::Packed);
    if let Some(body) = body {
        json::member(&mut out, attribute::BODY.event, body);
    }
    out.push('}');
    out
}

pub(crate) fn read(packed: &str, body: Bytes) -> Result<Envelope> {
    let members = json::members("document", json::document(packed.as_bytes())?)?;
    let mut builder = EnvelopeBuilder::lenient();
    let found = cloudevents::read_members(&members, &mut builder)?;
    let Payload::Absent = found.payload else {
        return Err(bad("data", "it does not belong beside a payload"));
    };
    builder.set_payload(match found.body.as_deref() {
        None => body,
        Some(EMPTY) => Bytes::new(),
        Some(BASE64) => {
            let text = std::str::from_utf8(&body).map(Cow::Borrowed);
            let text =
                text.map_err(|error| bad("phbody", "it must be base64").with_source(error))?;
            cloudevents::decode_base64("phbody", &text)?
        }
        Some(_) => return Err(bad("phbody", "only \"base64\" and \"empty\" are understood")),
    });
    cloudevents::finish(builder)
}
