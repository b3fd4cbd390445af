//! Whole envelopes as JSON documents.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::json::{self, bad};
use super::{Envelope, cloudevents, plain};
use crate::Result;

/// The most events that are read from one batch.
const BATCH_LIMIT: usize = 65_536;

/// A JSON document that holds a whole envelope, for files, webhooks, and brokers or programs that
/// know no headers.
///
/// Both formats keep everything: attributes, extensions, headers, and the payload byte for byte.
///
/// ```
/// use posthaste_core::Envelope;
/// use posthaste_core::envelope::EnvelopeFormat;
/// let placed = Envelope::builder("order.placed").source("/shop").payload("{}").build()?;
/// for format in [EnvelopeFormat::CloudEvents, EnvelopeFormat::Plain] {
///     assert_eq!(format.read(format.write(&placed))?, placed);
/// }
/// # Ok::<(), posthaste_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EnvelopeFormat {
    /// The JSON format of CloudEvents 1.0.
    CloudEvents,
    /// `{"eventType", "eventId", "timestamp", "version", "payload", "metadata"}`, as programs
    /// write that know nothing of CloudEvents.
    Plain,
}

impl EnvelopeFormat {
    /// The media type of such a document.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::CloudEvents => Envelope::JSON,
            Self::Plain => "application/json",
        }
    }

    /// The envelope as a document.
    #[must_use]
    pub fn write(self, envelope: &Envelope) -> String {
        // Attributes and their names take up to twice their size, base64 a third more.
        let mut out = String::with_capacity(envelope.size() * 3 / 2 + 256);
        match self {
            Self::CloudEvents => cloudevents::write(envelope, &mut out),
            Self::Plain => plain::write(envelope, &mut out),
        }
        out
    }

    /// The envelope in a document. A JSON payload is a slice of the document, not a copy.
    ///
    /// A document of at most 128 MiB is read, with at most 256 members, 65,536 headers, 1 MiB of
    /// attributes and headers, and a payload nested at most 128 deep.
    ///
    /// # Errors
    /// [`Decode`](crate::ErrorKind::Decode) or [`TooLarge`](crate::ErrorKind::TooLarge), with the
    /// offending part as the context `part`.
    pub fn read(self, document: impl Into<Bytes>) -> Result<Envelope> {
        let document = document.into();
        let text = json::document(&document)?;
        match self {
            Self::CloudEvents => cloudevents::read(&document, text),
            Self::Plain => plain::read(&document, text),
        }
    }
}

impl Envelope {
    /// The media type of [`to_json`](Self::to_json).
    pub const JSON: &'static str = "application/cloudevents+json";
    /// The media type of [`to_json_batch`](Self::to_json_batch).
    pub const JSON_BATCH: &'static str = "application/cloudevents-batch+json";

    /// The event in the JSON format of CloudEvents 1.0.
    ///
    /// A payload that is JSON by its content type and its bytes stands in `data` as it is, text
    /// (`text/*`, XML) in `data` as a string, all else in `data_base64`. Application headers,
    /// which CloudEvents does not have, travel in the extension `phheaders`.
    #[must_use]
    pub fn to_json(&self) -> String {
        EnvelopeFormat::CloudEvents.write(self)
    }

    /// Reads an event in the JSON format of CloudEvents 1.0, whoever wrote it. `sequence` and
    /// `schemaversion` are free text elsewhere: what is no number is kept as the header
    /// `ce-sequence` or `ce-schemaversion`.
    ///
    /// # Errors
    /// As [`EnvelopeFormat::read`].
    pub fn from_json(document: impl Into<Bytes>) -> Result<Self> {
        EnvelopeFormat::CloudEvents.read(document)
    }

    /// Events in the JSON batch format of CloudEvents 1.0.
    #[must_use]
    pub fn to_json_batch<'a>(events: impl IntoIterator<Item = &'a Self>) -> String {
        let mut out = String::from("[");
        for (index, event) in events.into_iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            cloudevents::write(event, &mut out);
        }
        out.push(']');
        out
    }

    /// Reads the JSON batch format of CloudEvents 1.0: at most 65,536 events, each within the
    /// bounds of [`EnvelopeFormat::read`], and all of them or none.
    ///
    /// # Errors
    /// As [`EnvelopeFormat::read`]; the context `event` tells which one, from 0.
    pub fn from_json_batch(document: impl Into<Bytes>) -> Result<Vec<Self>> {
        let document = document.into();
        let text = json::document(&document)?;
        let events: Vec<&RawValue> = serde_json::from_str(text)
            .map_err(|error| bad("document", "it must be a JSON array").with_source(error))?;
        if events.len() > BATCH_LIMIT {
            return Err(json::too_large("document", events.len(), BATCH_LIMIT));
        }
        let read = |(index, event): (usize, &&RawValue)| {
            cloudevents::read(&document, event.get())
                .map_err(|error| error.with_context("event", index))
        };
        events.iter().enumerate().map(read).collect()
    }
}
