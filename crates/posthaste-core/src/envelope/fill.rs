//! Filling a builder with what was read: by reference, and without refusing anything but values
//! that break the rules for attributes, which the caller then keeps elsewhere.

use std::borrow::Cow;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::attribute::{self, Attribute};
use super::builder::{EnvelopeBuilder, Key, Text, empty_key};
use super::check;
use super::head::{self, FOREIGN, Slot, Tag};
use crate::{Error, Result, Timestamp};

impl<'a> EnvelopeBuilder<'a> {
    /// Sets an attribute from its text on the wire, if it is as it should be.
    pub(crate) fn read(&mut self, attribute: Attribute, value: Text<'a>) -> Result<()> {
        match attribute {
            Attribute::Text(slot) => {
                (attribute::TEXT[slot as usize].check)(&value)?;
                self.text[slot as usize] = Some(value);
            }
            Attribute::Time => self.time = Some(value.parse()?),
            Attribute::Expiry => self.expiry = Some(value.parse()?),
            Attribute::Sequence => self.sequence = Some(number("sequence", &value)?),
            Attribute::Version => self.version = Some(number("schema version", &value)?),
            Attribute::Key if value.is_empty() => return Err(empty_key()),
            Attribute::Key => {
                self.key = Some(match value {
                    Cow::Borrowed(text) => Key::Borrowed(text.as_bytes()),
                    Cow::Owned(text) => Key::Shared(Bytes::from(text)),
                });
            }
            Attribute::KeyBase64 => {
                let key = STANDARD
                    .decode(&*value)
                    .map_err(|error| Error::invalid("key: it is not base64").with_source(error))?;
                if key.is_empty() {
                    return Err(empty_key());
                }
                self.key = Some(Key::Shared(Bytes::from(key)));
            }
            Attribute::SpecVersion | Attribute::Reserved => {
                return Err(Error::invalid("it has no place in an envelope"));
            }
        }
        Ok(())
    }

    /// Whether the attribute was set.
    pub(crate) fn has(&self, attribute: Attribute) -> bool {
        match attribute {
            Attribute::Text(slot) => self.text[slot as usize].is_some(),
            Attribute::Time => self.time.is_some(),
            Attribute::Expiry => self.expiry.is_some(),
            Attribute::Sequence => self.sequence.is_some(),
            Attribute::Version => self.version.is_some(),
            Attribute::Key | Attribute::KeyBase64 => self.key.is_some(),
            Attribute::SpecVersion | Attribute::Reserved => false,
        }
    }

    pub(crate) fn key_bytes(&self) -> Option<&[u8]> {
        self.key.as_ref().map(Key::as_slice)
    }

    pub(crate) fn set_time(&mut self, time: Timestamp) {
        self.time = Some(time);
    }

    pub(crate) fn set_key(&mut self, key: &'a [u8]) {
        self.key = Some(Key::Borrowed(key));
    }

    pub(crate) fn set_foreign(&mut self) {
        self.marks |= FOREIGN;
    }

    pub(crate) fn set_version(&mut self, version: u32) {
        self.version = Some(version);
    }

    pub(crate) fn forget_version(&mut self) {
        self.version = None;
    }

    /// The payload is JSON, though nothing said so.
    pub(crate) fn imply_json(&mut self) {
        self.text[Slot::ContentType as usize] = Some(Cow::Borrowed("application/json"));
    }

    pub(crate) fn set_payload(&mut self, payload: Bytes) {
        self.payload = payload;
    }

    /// Keeps what is found as a header, whatever its name.
    pub(crate) fn keep_as_header(&mut self, name: &str, value: &[u8]) {
        head::push_record(&mut self.records, Tag::Header, name, value);
    }

    /// Keeps an extension whose name and value the caller has checked.
    pub(crate) fn keep_extension(&mut self, name: &str, value: &str) {
        head::remove_records(&mut self.records, Tag::Extension, name);
        head::push_record(&mut self.records, Tag::Extension, name, value.as_bytes());
    }

    pub(crate) fn head_length(&self) -> usize {
        self.parts().len()
    }
}

fn number<N: FromStr>(what: &'static str, text: &str) -> Result<N> {
    // `parse` alone would take a plus sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = if digits { text.parse().ok() } else { None };
    parsed.ok_or_else(|| check::refuse(what, text, "it must be a whole number within the limits"))
}
