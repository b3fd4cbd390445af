//! Building envelopes: attributes are borrowed until `build` writes them once.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

use super::attribute;
use super::head::{self, FOREIGN, LENIENT, Parts, Records, Slot, TEXT_SLOTS, Tag};
use super::{Envelope, FOREIGN_SOURCE, FOREIGN_TYPE, HEAD_LIMIT, check};
use crate::{Error, ErrorKind, Result, Timestamp};

pub(super) type Text<'a> = Cow<'a, str>;

/// Collects the parts of an [`Envelope`].
///
/// Made by [`Envelope::builder`] and [`Envelope::to_builder`]. Attributes given as `&str` are
/// borrowed until [`build`](Self::build), which allocates once. Each setter checks its value; the
/// first mistake is reported by `build`. Setting an attribute again replaces it, while
/// [`header`](Self::header) adds.
#[must_use = "a builder does nothing until `build`"]
pub struct EnvelopeBuilder<'a> {
    pub(super) text: [Option<Text<'a>>; TEXT_SLOTS],
    pub(super) key: Option<Key<'a>>,
    pub(super) time: Option<Timestamp>,
    pub(super) expiry: Option<Timestamp>,
    pub(super) sequence: Option<u64>,
    pub(super) version: Option<u32>,
    pub(super) records: Records,
    pub(super) payload: Bytes,
    pub(super) marks: u32,
    /// The parts come from a broker: nothing is refused.
    lenient: bool,
    error: Option<Error>,
}

pub(super) enum Key<'a> {
    Shared(Bytes),
    Borrowed(&'a [u8]),
}

impl Key<'_> {
    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Shared(bytes) => bytes,
            Self::Borrowed(bytes) => bytes,
        }
    }
}

impl<'a> EnvelopeBuilder<'a> {
    #[inline]
    fn empty(marks: u32, lenient: bool) -> Self {
        Self {
            text: [const { None }; TEXT_SLOTS],
            key: None,
            time: None,
            expiry: None,
            sequence: None,
            version: None,
            records: Records::new(),
            payload: Bytes::new(),
            marks,
            lenient,
            error: None,
        }
    }

    #[inline]
    pub(super) fn new(event_type: Text<'a>) -> Self {
        let mut builder = Self::empty(0, false);
        builder.set(Slot::Type, event_type);
        builder
    }

    pub(super) fn from_envelope(envelope: &'a Envelope) -> Self {
        let head = envelope.head();
        let mut builder = Self::empty(head.marks(), false);
        for attribute in &attribute::TEXT {
            builder.text[attribute.slot as usize] = head.text(attribute.slot).map(Cow::Borrowed);
        }
        builder.key = head.bytes(Slot::Key).map(Key::Borrowed);
        builder.time = head.time();
        builder.expiry = head.expiry();
        builder.sequence = head.sequence();
        builder.version = head.version();
        builder.records.extend_from_slice(head.record_bytes());
        builder.payload = envelope.payload().clone();
        builder
    }

    /// A builder for adapters that read messages: nothing is refused, so that an odd header never
    /// costs the message. An attribute that breaks its rule is kept as a header instead, as
    /// `ce-<attribute>`; headers of any name are kept. Finish it with
    /// [`build_lenient`](Self::build_lenient).
    pub fn lenient() -> Self {
        Self::empty(LENIENT, true)
    }

    /// Marks a message that this library did not write; see [`Envelope::is_foreign`].
    #[inline]
    pub fn foreign(mut self, foreign: bool) -> Self {
        self.marks = if foreign { self.marks | FOREIGN } else { self.marks & !FOREIGN };
        self
    }

    #[inline]
    fn put(mut self, slot: Slot, value: Text<'a>) -> Self {
        self.set(slot, value);
        self
    }

    fn set(&mut self, slot: Slot, value: Text<'a>) {
        let checked = (attribute::TEXT[slot as usize].check)(&value);
        if checked.is_err() && self.lenient {
            self.keep_as_header(attribute::TEXT[slot as usize].name.dash, value.as_bytes());
        } else {
            self.note(checked);
            self.text[slot as usize] = Some(value);
        }
    }

    #[inline]
    fn note(&mut self, checked: Result<()>) {
        if let Err(error) = checked {
            self.error.get_or_insert(error);
        }
    }

    /// Sets the id; without one `build` makes a UUIDv7. Brokers and consumers tell duplicates by
    /// it. At most 1,024 bytes.
    #[inline]
    pub fn id(self, id: impl Into<Cow<'a, str>>) -> Self {
        self.put(Slot::Id, id.into())
    }

    /// Sets the source: a URI-reference that names the producer. At most 1,024 bytes.
    #[inline]
    pub fn source(self, source: impl Into<Cow<'a, str>>) -> Self {
        self.put(Slot::Source, source.into())
    }

    /// Sets the type again. At most 1,024 bytes.
    #[inline]
    pub fn event_type(self, event_type: impl Into<Cow<'a, str>>) -> Self {
        self.put(Slot::Type, event_type.into())
    }

    /// Sets what the event is about, within its source.
    #[inline]
    pub fn subject(self, subject: impl Into<Cow<'a, str>>) -> Self {
        self.put(Slot::Subject, subject.into())
    }

    /// Sets when it happened; without one `build` takes the time now.
    #[inline]
    pub fn time(mut self, time: Timestamp) -> Self {
        self.time = Some(time);
        self
    }

    /// Sets the media type of the payload, for example `application/json`.
    #[inline]
    pub fn content_type(self, content_type: impl Into<Cow<'a, str>>) -> Self {
        self.put(Slot::ContentType, content_type.into())
    }

    /// Sets the schema of the payload: a URI with a scheme.
    #[inline]
    pub fn data_schema(self, data_schema: impl Into<Cow<'a, str>>) -> Self {
        self.put(Slot::DataSchema, data_schema.into())
    }

    /// Sets the key: on an ordered topic, messages of one key stay in order. Any bytes, but not
    /// empty: no key means no order.
    #[inline]
    pub fn key(self, key: impl Into<Bytes>) -> Self {
        self.put_key(Key::Shared(key.into()))
    }

    /// The same as [`key`](Self::key) for bytes that are borrowed until `build`.
    #[inline]
    pub fn key_ref(self, key: &'a [u8]) -> Self {
        self.put_key(Key::Borrowed(key))
    }

    fn put_key(mut self, key: Key<'a>) -> Self {
        if !key.as_slice().is_empty() {
            self.key = Some(key);
        } else if !self.lenient {
            self.note(Err(empty_key()));
        }
        self
    }

    /// Sets the id that all messages of one business transaction share.
    #[inline]
    pub fn correlation_id(self, id: impl Into<Cow<'a, str>>) -> Self {
        self.put(Slot::CorrelationId, id.into())
    }

    /// Sets the id of the message that caused this one.
    #[inline]
    pub fn causation_id(self, id: impl Into<Cow<'a, str>>) -> Self {
        self.put(Slot::CausationId, id.into())
    }

    /// Sets where an answer is expected.
    #[inline]
    pub fn reply_to(self, reply_to: impl Into<Cow<'a, str>>) -> Self {
        self.put(Slot::ReplyTo, reply_to.into())
    }

    /// Sets the W3C `traceparent`. Its format is checked.
    #[inline]
    pub fn trace_parent(self, trace_parent: impl Into<Cow<'a, str>>) -> Self {
        self.put(Slot::TraceParent, trace_parent.into())
    }

    /// Sets the W3C `tracestate`.
    #[inline]
    pub fn trace_state(self, trace_state: impl Into<Cow<'a, str>>) -> Self {
        self.put(Slot::TraceState, trace_state.into())
    }

    /// Sets the number of the message within its source or aggregate.
    #[inline]
    pub fn sequence(mut self, sequence: u64) -> Self {
        self.sequence = Some(sequence);
        self
    }

    /// Sets when the message loses its meaning: after that it is not handled.
    #[inline]
    pub fn expires_at(mut self, expires_at: Timestamp) -> Self {
        self.expiry = Some(expires_at);
        self
    }

    /// Sets where the payload is stored, if not in the message: a URI-reference.
    #[inline]
    pub fn data_ref(self, data_ref: impl Into<Cow<'a, str>>) -> Self {
        self.put(Slot::DataRef, data_ref.into())
    }

    /// Sets the version of the payload's schema.
    #[inline]
    pub fn schema_version(mut self, version: u32) -> Self {
        self.version = Some(version);
        self
    }

    /// Adds an application header. The name is 1 to 255 bytes of printable ASCII without space
    /// and `:`, and not one that is reserved (`ph-`, `ce-`, `ce_`, `cloudEvents`, `Nats-`,
    /// `x-death`, `x-first-death-`, `x-last-death-`, `x-delivery-count`, `AWS.`, `Amazon.`,
    /// `content-type`). The value is any bytes. A name may be repeated; order is kept.
    #[inline]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        if !self.lenient {
            self.note(check::header_name(name));
        }
        self.push(Tag::Header, name, value.as_ref());
        self
    }

    /// Sets a CloudEvents extension attribute that has no setter of its own. The name is 1 to 20
    /// of `a-z` and `0-9`; the value is text, not empty.
    #[inline]
    pub fn extension(mut self, name: &str, value: impl AsRef<str>) -> Self {
        let value = value.as_ref();
        if self.lenient {
            if check::readable_extension_name(name) && check::is_event_text(value) {
                self.keep_extension(name, value);
            } else {
                self.keep_as_header(name, value.as_bytes());
            }
            return self;
        }
        self.note(check::extension_name(name));
        self.note(check::text("extension value", value));
        head::remove_records(&mut self.records, Tag::Extension, name);
        self.push(Tag::Extension, name, value.as_bytes());
        self
    }

    fn push(&mut self, tag: Tag, name: &str, value: &[u8]) {
        let kept = head::push_record(&mut self.records, tag, name, value);
        if !kept && !self.lenient {
            self.note(Err(too_large(value.len())));
        }
    }

    /// Takes out every header of that name.
    pub fn remove_header(mut self, name: &str) -> Self {
        head::remove_records(&mut self.records, Tag::Header, name);
        self
    }

    /// Takes out an extension attribute.
    pub fn remove_extension(mut self, name: &str) -> Self {
        head::remove_records(&mut self.records, Tag::Extension, name);
        self
    }

    /// Sets the payload. It is shared, not copied.
    #[inline]
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }

    /// Builds the envelope, with a UUIDv7 as the id and the time now where those are absent.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) names the first part that breaks its rule, also an absent
    /// source; [`TooLarge`](ErrorKind::TooLarge) if an id, source or type has more than 1,024
    /// bytes or everything but the payload more than 1 MiB.
    #[inline]
    pub fn build(self) -> Result<Envelope> {
        self.finish(None, Timestamp::now)
    }

    /// The same as [`build`](Self::build), with a source for messages that name none.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    #[inline]
    pub fn build_with(self, default_source: &str) -> Result<Envelope> {
        if self.text[Slot::Source as usize].is_none() {
            check::source(default_source)?;
        }
        self.finish(Some(default_source), Timestamp::now)
    }

    /// The same with a source that was checked before, at a time that is known.
    #[inline]
    pub(crate) fn build_at(self, default_source: &str, now: Timestamp) -> Result<Envelope> {
        self.finish(Some(default_source), || now)
    }

    #[inline]
    fn finish(
        mut self,
        default_source: Option<&str>,
        clock: impl Fn() -> Timestamp,
    ) -> Result<Envelope> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let mut id = [0; UUID_LENGTH];
        let mut parts = self.parts();
        if parts.text[Slot::Source as usize].is_none() {
            parts.text[Slot::Source as usize] = Some(default_source.ok_or_else(|| {
                Error::invalid("source: it is absent; name the producer, for example /billing")
            })?);
        }
        // A time that was not known when the message was read is not known in a copy of it.
        let timed = parts.time.is_some() || parts.marks & LENIENT != 0;
        let slot = &mut parts.text[Slot::Id as usize];
        if slot.is_none() || !timed {
            let now = clock();
            slot.get_or_insert_with(|| new_id(now, &mut id));
            if !timed {
                parts.time = Some(now);
            }
        }
        // What a broker delivered may be larger than what may be published.
        if parts.len() > HEAD_LIMIT && parts.marks & LENIENT == 0 {
            return Err(too_large(parts.len()));
        }
        let head = parts.encode().ok_or_else(|| too_large(parts.len()))?;
        Ok(Envelope::from_parts(head, self.payload))
    }

    /// Builds the envelope of a message that was read, and keeps what can be kept. An absent id
    /// becomes a UUIDv7, an absent source [`FOREIGN_SOURCE`], an absent type
    /// [`FOREIGN_TYPE`]; an absent time stays absent. Mistakes noted before are forgotten.
    #[must_use]
    pub fn build_lenient(self) -> Envelope {
        let mut id = [0; UUID_LENGTH];
        let mut parts = self.parts();
        parts.marks |= LENIENT;
        parts.text[Slot::Id as usize].get_or_insert_with(|| new_id(Timestamp::now(), &mut id));
        parts.text[Slot::Source as usize].get_or_insert(FOREIGN_SOURCE);
        parts.text[Slot::Type as usize].get_or_insert(FOREIGN_TYPE);
        let head = parts.encode().unwrap_or_else(|| {
            // Above 4 GiB: no broker delivers that. Headers go first.
            parts.records = &[];
            parts.encode().unwrap_or_default()
        });
        Envelope::from_parts(head, self.payload)
    }

    pub(super) fn parts(&self) -> Parts<'_> {
        Parts {
            marks: self.marks,
            version: self.version,
            time: self.time,
            expiry: self.expiry,
            sequence: self.sequence,
            text: std::array::from_fn(|index| self.text[index].as_deref()),
            key: self.key.as_ref().map(Key::as_slice),
            records: &self.records,
        }
    }
}

impl fmt::Debug for EnvelopeBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvelopeBuilder")
            .field("type", &self.text[Slot::Type as usize])
            .field("id", &self.text[Slot::Id as usize])
            .field("payload", &format_args!("{} bytes", self.payload.len()))
            .finish_non_exhaustive()
    }
}

const UUID_LENGTH: usize = uuid::fmt::Hyphenated::LENGTH;

/// A UUIDv7. Behind its time it is random, so that nothing is shared between those who make some.
fn new_id(now: Timestamp, buffer: &mut [u8; UUID_LENGTH]) -> &str {
    let micros = u64::try_from(now.as_micros()).unwrap_or(0);
    let nanos = u32::try_from(micros % 1_000_000 * 1_000).unwrap_or(0);
    let time = uuid::Timestamp::from_unix(uuid::NoContext, micros / 1_000_000, nanos);
    uuid::Uuid::new_v7(time).hyphenated().encode_lower(buffer)
}

#[cold]
pub(super) fn empty_key() -> Error {
    Error::invalid("key: it is empty; no key means no order")
}

#[cold]
fn too_large(bytes: usize) -> Error {
    Error::new(ErrorKind::TooLarge, "attributes and headers: together they are too long")
        .with_context("bytes", bytes)
        .with_context("limit in bytes", HEAD_LIMIT)
}
