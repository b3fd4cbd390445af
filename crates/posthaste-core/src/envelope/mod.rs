//! The envelope: one message's metadata and payload, as CloudEvents 1.0 names them.
//!
//! How an envelope looks on a broker is the matter of [`wire`](crate::wire), not of this module.

pub(crate) mod attribute;
mod builder;
pub(crate) mod check;
mod cloudevents;
mod fill;
mod format;
pub(crate) mod head;
pub(crate) mod json;
pub(crate) mod packed;
mod plain;
mod visit;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

pub use builder::EnvelopeBuilder;
pub use format::EnvelopeFormat;
use head::{FOREIGN, Head, LENIENT, Slot, Tag};

use crate::Timestamp;

/// The type of a message that this library did not write and that names none.
pub const FOREIGN_TYPE: &str = "posthaste.foreign";
/// The source of a message that this library did not write, where nothing better is known.
pub const FOREIGN_SOURCE: &str = "urn:posthaste:foreign";

/// The limit for everything but the payload, in bytes: 1 MiB.
pub(crate) const HEAD_LIMIT: usize = 1 << 20;

/// One message: its attributes, application headers and payload.
///
/// Cloning copies nothing. To change an attribute, go through [`to_builder`](Self::to_builder).
/// `Debug` shows attributes, names of headers and the payload's length, never the payload or
/// values of headers.
///
/// ```
/// use posthaste_core::Envelope;
/// let placed = Envelope::builder("order.placed")
///     .source("/shop")
///     .key("order-7")
///     .content_type("application/json")
///     .header("tenant", "acme")
///     .payload(r#"{"total":12.5}"#)
///     .build()?;
/// assert_eq!(placed.event_type(), "order.placed");
/// assert_eq!(placed.key(), Some(&b"order-7"[..]));
/// assert_eq!(placed.header("tenant"), Some(&b"acme"[..]));
/// # Ok::<(), posthaste_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Envelope {
    head: Arc<[u8]>,
    payload: Bytes,
}

impl Envelope {
    /// Begins an envelope. The type names what happened, for example `order.placed`.
    pub fn builder<'a>(event_type: impl Into<Cow<'a, str>>) -> EnvelopeBuilder<'a> {
        EnvelopeBuilder::new(event_type.into())
    }

    /// Begins a changed copy: all attributes, headers and the payload are taken over and not
    /// checked again.
    pub fn to_builder(&self) -> EnvelopeBuilder<'_> {
        EnvelopeBuilder::from_envelope(self)
    }

    pub(crate) fn from_parts(head: Arc<[u8]>, payload: Bytes) -> Self {
        Self { head, payload }
    }

    pub(crate) fn head(&self) -> Head<'_> {
        Head(&self.head)
    }

    /// Whether names of headers may be such that an application may not give them.
    pub(crate) fn is_lenient(&self) -> bool {
        self.head().marks() & LENIENT != 0
    }

    /// The id. Together with the source it is unique.
    #[must_use]
    pub fn id(&self) -> &str {
        self.head().text(Slot::Id).unwrap_or_default()
    }

    /// Who produced the message: a URI-reference.
    #[must_use]
    pub fn source(&self) -> &str {
        self.head().text(Slot::Source).unwrap_or_default()
    }

    /// What happened, or what is asked for.
    #[must_use]
    pub fn event_type(&self) -> &str {
        self.head().text(Slot::Type).unwrap_or_default()
    }

    /// What the event is about, within its source.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.head().text(Slot::Subject)
    }

    /// When it happened. Always present on what this library built.
    #[must_use]
    pub fn time(&self) -> Option<Timestamp> {
        self.head().time()
    }

    /// The media type of the payload.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.head().text(Slot::ContentType)
    }

    /// The schema of the payload.
    #[must_use]
    pub fn data_schema(&self) -> Option<&str> {
        self.head().text(Slot::DataSchema)
    }

    /// The key: messages of one key stay in order on an ordered topic. No key means no order.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.head().bytes(Slot::Key)
    }

    /// The id that all messages of one business transaction share.
    #[must_use]
    pub fn correlation_id(&self) -> Option<&str> {
        self.head().text(Slot::CorrelationId)
    }

    /// The id of the message that caused this one.
    #[must_use]
    pub fn causation_id(&self) -> Option<&str> {
        self.head().text(Slot::CausationId)
    }

    /// Where an answer is expected.
    #[must_use]
    pub fn reply_to(&self) -> Option<&str> {
        self.head().text(Slot::ReplyTo)
    }

    /// The W3C `traceparent`.
    #[must_use]
    pub fn trace_parent(&self) -> Option<&str> {
        self.head().text(Slot::TraceParent)
    }

    /// The W3C `tracestate`.
    #[must_use]
    pub fn trace_state(&self) -> Option<&str> {
        self.head().text(Slot::TraceState)
    }

    /// The number of the message within its source or aggregate.
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        self.head().sequence()
    }

    /// When the message loses its meaning: after that it is not handled.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.head().expiry()
    }

    /// Where the payload is stored, if not in the message.
    #[must_use]
    pub fn data_ref(&self) -> Option<&str> {
        self.head().text(Slot::DataRef)
    }

    /// The version of the payload's schema.
    #[must_use]
    pub fn schema_version(&self) -> Option<u32> {
        self.head().version()
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The payload alone.
    #[must_use]
    pub fn into_payload(self) -> Bytes {
        self.payload
    }

    /// The same attributes and headers with another payload.
    #[must_use]
    pub fn with_payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }

    /// The first header of that name. Names are compared byte by byte.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers().find_map(|(found, value)| (found == name).then_some(value))
    }

    /// All headers of that name, in order.
    pub fn header_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.headers().filter_map(move |(found, value)| (found == name).then_some(value))
    }

    /// All application headers in the order they were added; names may repeat.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.head().records(Tag::Header)
    }

    /// A CloudEvents extension attribute that has no accessor of its own.
    #[must_use]
    pub fn extension(&self, name: &str) -> Option<&str> {
        self.extensions().find_map(|(found, value)| (found == name).then_some(value))
    }

    /// All CloudEvents extension attributes that have no accessor of their own.
    pub fn extensions(&self) -> impl Iterator<Item = (&str, &str)> {
        self.head().records(Tag::Extension).map(|(name, value)| (name, head::text(value)))
    }

    /// Whether this library did not write the message. Its type is then [`FOREIGN_TYPE`] unless
    /// the message named one, and what else is not known is absent.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.head().marks() & FOREIGN != 0
    }

    /// The bytes this message counts for where queues are bounded by bytes: attributes, headers
    /// and payload.
    #[must_use]
    pub fn size(&self) -> usize {
        self.head.len() + self.payload.len()
    }
}

/// Equal in every attribute, extension, header and the payload. The order of headers counts, that
/// of extensions does not.
impl PartialEq for Envelope {
    fn eq(&self, other: &Self) -> bool {
        let (one, two) = (self.head(), other.head());
        let extensions = |from: &Self, to: &Self| {
            from.extensions().all(|(name, value)| to.extension(name) == Some(value))
        };
        self.payload == other.payload
            && one.fixed_eq(two)
            && self.headers().eq(other.headers())
            && extensions(self, other)
            && extensions(other, self)
    }
}

impl Eq for Envelope {}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Envelope");
        out.field("id", &self.id()).field("source", &self.source());
        out.field("type", &self.event_type());
        let mut some = |name: &str, value: Option<&dyn fmt::Debug>| {
            if let Some(value) = value {
                out.field(name, value);
            }
        };
        macro_rules! show {
            ($($name:ident),*) => {
                $(some(stringify!($name), self.$name().as_ref().map(|v| v as &dyn fmt::Debug));)*
            };
        }
        show!(subject, time, content_type, data_schema);
        let key = self.key().map(|key| key.escape_ascii().to_string());
        some("key", key.as_ref().map(|key| key as &dyn fmt::Debug));
        show!(correlation_id, causation_id, reply_to, trace_parent, trace_state, sequence);
        show!(expires_at, data_ref, schema_version);
        let extensions: Vec<_> = self.extensions().collect();
        let headers: Vec<_> = self.headers().map(|(name, _)| name).collect();
        if !extensions.is_empty() {
            out.field("extensions", &extensions);
        }
        if !headers.is_empty() {
            out.field("header_names", &headers);
        }
        if self.is_foreign() {
            out.field("foreign", &true);
        }
        out.field("payload", &format_args!("{} bytes", self.payload.len())).finish()
    }
}
