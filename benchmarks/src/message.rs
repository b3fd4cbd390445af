//! What is published.

use bytes::Bytes;
use posthaste::{Envelope, Publisher, Result};

/// The type of every message.
pub(crate) const TYPE: &str = "bench.sent";
/// The source of every message.
pub(crate) const SOURCE: &str = "/benchmarks";

/// A payload of that many bytes. Cloning it copies nothing.
pub(crate) fn payload(bytes: usize) -> Bytes {
    Bytes::from(vec![b'x'; bytes])
}

/// A new message, with an id and a time of its own.
pub(crate) fn envelope(publisher: &Publisher, payload: &Bytes) -> Result<Envelope> {
    publisher.envelope(Envelope::builder(TYPE).payload(payload.clone()))
}

/// A name for a topic that nobody had before.
pub(crate) fn fresh_topic() -> String {
    format!("bench-{}", uuid::Uuid::now_v7().simple())
}
