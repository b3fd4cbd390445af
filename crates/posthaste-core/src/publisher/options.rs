//! What a single publish asks for beyond its event.

use std::time::Duration;

use bytes::Bytes;

use crate::broker::SendOptions;
use crate::envelope::EnvelopeBuilder;
use crate::{Capabilities, Error, Result, Timestamp};

/// What a publish asks for beyond its event. Everything is optional.
///
/// ```
/// use std::time::Duration;
/// use posthaste_core::PublishOptions;
/// let options = PublishOptions::new()
///     .header("tenant", "acme")
///     .correlation_id("cart-7")
///     .expires_in(Duration::from_secs(3600));
/// # let _ = options;
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "options do nothing until they are given to a publish"]
pub struct PublishOptions {
    id: Option<String>,
    key: Option<Bytes>,
    subject: Option<String>,
    correlation_id: Option<String>,
    causation_id: Option<String>,
    reply_to: Option<String>,
    trace_parent: Option<String>,
    expires_at: Option<Timestamp>,
    headers: Vec<(String, Bytes)>,
    deadline: Option<Duration>,
    send: SendOptions,
}

impl PublishOptions {
    /// No options.
    pub fn new() -> Self {
        Self::default()
    }

    /// The message's id, instead of a new UUIDv7. Consumers tell duplicates by it.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// The key, instead of the event's own.
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// What the event is about, within its source.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// The conversation it belongs to.
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.correlation_id = Some(id.into());
        self
    }

    /// The message that caused it.
    pub fn causation_id(mut self, id: impl Into<String>) -> Self {
        self.causation_id = Some(id.into());
        self
    }

    /// Where an answer goes.
    pub fn reply_to(mut self, topic: impl Into<String>) -> Self {
        self.reply_to = Some(topic.into());
        self
    }

    /// The W3C trace context.
    pub fn trace_parent(mut self, trace_parent: impl Into<String>) -> Self {
        self.trace_parent = Some(trace_parent.into());
        self
    }

    /// From when on it is not to be handled any more.
    pub fn expires_at(mut self, at: Timestamp) -> Self {
        self.expires_at = Some(at);
        self
    }

    /// After which time it is not to be handled any more.
    pub fn expires_in(self, after: Duration) -> Self {
        self.expires_at(Timestamp::now() + after)
    }

    /// Adds an application header. Names may repeat.
    pub fn header(mut self, name: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.into(), Bytes::copy_from_slice(value.as_ref())));
        self
    }

    /// Not to be delivered before this time. Refused where the broker cannot delay.
    pub fn deliver_at(mut self, at: Timestamp) -> Self {
        self.send.deliver_at = Some(at);
        self
    }

    /// Not to be delivered before this time has passed.
    pub fn deliver_after(self, delay: Duration) -> Self {
        self.deliver_at(Timestamp::now() + delay)
    }

    /// To be stored once, however often the same id is published within the topic's
    /// deduplication window. Refused where the broker cannot.
    pub const fn deduplicate(mut self) -> Self {
        self.send.deduplicate = true;
        self
    }

    /// By when the call has to end, instead of the bus's publish deadline (30 s).
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    pub(crate) fn apply<'a>(&'a self, mut builder: EnvelopeBuilder<'a>) -> EnvelopeBuilder<'a> {
        macro_rules! text {
            ($($field:ident),*) => {
                $( if let Some(value) = &self.$field { builder = builder.$field(value.as_str()); } )*
            };
        }
        text!(id, subject, correlation_id, causation_id, reply_to, trace_parent);
        if let Some(key) = &self.key {
            builder = builder.key(key.clone());
        }
        if let Some(at) = self.expires_at {
            builder = builder.expires_at(at);
        }
        for (name, value) in &self.headers {
            builder = builder.header(name, value);
        }
        builder
    }

    /// Whether nothing of the envelope is changed.
    pub(crate) fn leaves_envelope(&self) -> bool {
        self.id.is_none()
            && self.key.is_none()
            && self.subject.is_none()
            && self.correlation_id.is_none()
            && self.causation_id.is_none()
            && self.reply_to.is_none()
            && self.trace_parent.is_none()
            && self.expires_at.is_none()
            && self.headers.is_empty()
    }

    pub(crate) const fn send(&self) -> SendOptions {
        self.send
    }

    pub(crate) const fn deadline_or(&self, default: Duration) -> Duration {
        match self.deadline {
            Some(deadline) => deadline,
            None => default,
        }
    }
}

/// Refuses what the topic cannot do, before anything is sent.
pub(crate) fn check(send: SendOptions, capabilities: &Capabilities) -> Result<()> {
    if let Some(at) = send.deliver_at {
        capabilities.deliver_at.require("delayed publish")?;
        let delay = at.since(Timestamp::now());
        if let Some(max) = capabilities.max_publish_delay.filter(|max| delay > *max) {
            return Err(Error::unsupported("delayed publish: the delay is too long")
                .with_context("longest in seconds", max.as_secs())
                .with_context("wanted in seconds", delay.as_secs()));
        }
    }
    if send.deduplicate {
        capabilities.deduplication.require("deduplicated publish")?;
    }
    Ok(())
}
