//! Arguments that tell about the message besides its payload.

use posthaste_core::{
    Bytes, Delivery, Envelope, Error, ErrorKind, GroupName, Result, Timestamp, TopicName,
};

use crate::{FromDelivery, Incoming};

/// Where a message came from and how: its attributes and its place at the broker.
#[derive(Debug, Clone)]
pub struct Metadata {
    envelope: Envelope,
    topic: TopicName,
    group: Option<GroupName>,
    partition: Option<u32>,
    offset: Option<u64>,
    stored_at: Option<Timestamp>,
    attempt: Attempt,
}

impl Metadata {
    /// The message's id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.envelope.id()
    }

    /// Who produced it.
    #[must_use]
    pub fn source(&self) -> &str {
        self.envelope.source()
    }

    /// Its event type.
    #[must_use]
    pub fn event_type(&self) -> &str {
        self.envelope.event_type()
    }

    /// The version of its schema.
    #[must_use]
    pub fn schema_version(&self) -> Option<u32> {
        self.envelope.schema_version()
    }

    /// When it happened.
    #[must_use]
    pub fn time(&self) -> Option<Timestamp> {
        self.envelope.time()
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.envelope.key()
    }

    /// The id that all messages of its business transaction share.
    #[must_use]
    pub fn correlation_id(&self) -> Option<&str> {
        self.envelope.correlation_id()
    }

    /// All attributes and headers.
    #[must_use]
    pub const fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The topic it came from.
    #[must_use]
    pub const fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// The group it was delivered to.
    #[must_use]
    pub const fn group(&self) -> Option<&GroupName> {
        self.group.as_ref()
    }

    /// The partition of an ordered topic or log.
    #[must_use]
    pub const fn partition(&self) -> Option<u32> {
        self.partition
    }

    /// The offset or sequence at the broker.
    #[must_use]
    pub const fn offset(&self) -> Option<u64> {
        self.offset
    }

    /// When the broker stored it, where it tells.
    #[must_use]
    pub const fn stored_at(&self) -> Option<Timestamp> {
        self.stored_at
    }

    /// Which attempt it is.
    #[must_use]
    pub const fn attempt(&self) -> Attempt {
        self.attempt
    }
}

impl<S> FromDelivery<S> for Metadata {
    fn from_delivery(incoming: &Incoming<'_>, _: &S) -> Result<Self> {
        let delivery = incoming.delivery();
        Ok(Self {
            envelope: delivery.envelope().clone(),
            topic: delivery.topic().clone(),
            group: delivery.group().cloned(),
            partition: delivery.partition(),
            offset: delivery.offset(),
            stored_at: delivery.stored_at(),
            attempt: incoming.attempt(),
        })
    }
}

/// The application headers of a message. Costs no copy.
#[derive(Debug, Clone)]
pub struct Headers(Envelope);

impl Headers {
    /// The first header of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.header(name)
    }

    /// The first header of that name, if it is UTF-8.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.0.header(name)?).ok()
    }

    /// All headers of that name, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.0.header_all(name)
    }

    /// All headers, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.headers()
    }
}

impl<S> FromDelivery<S> for Headers {
    fn from_delivery(incoming: &Incoming<'_>, _: &S) -> Result<Self> {
        // Without the payload, so that a header that is kept does not keep it too.
        Ok(Self(incoming.envelope().clone().with_payload(Bytes::new())))
    }
}

/// The key of a message. One without a key is a dead letter; take `Option<Key>` where it may lack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(pub Bytes);

impl<S> FromDelivery<S> for Key {
    fn from_delivery(incoming: &Incoming<'_>, _: &S) -> Result<Self> {
        let key = incoming.envelope().key().ok_or_else(|| {
            Error::new(ErrorKind::Decode, "the handler asks for a key, and the message has none")
        })?;
        Ok(Self(Bytes::copy_from_slice(key)))
    }
}

impl<S> FromDelivery<S> for Option<Key> {
    fn from_delivery(incoming: &Incoming<'_>, _: &S) -> Result<Self> {
        Ok(incoming.envelope().key().map(|key| Key(Bytes::copy_from_slice(key))))
    }
}

/// Which attempt at a message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    pub(crate) number: u32,
    pub(crate) exact: bool,
    pub(crate) again: u32,
}

impl Attempt {
    pub(crate) const fn of(delivery: &Delivery, again: u32) -> Self {
        Self { number: delivery.attempt(), exact: delivery.attempt_is_exact(), again }
    }

    /// Which delivery of the message to this group it is, from 1. It survives restarts.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.number
    }

    /// Whether the broker counts deliveries exactly.
    #[must_use]
    pub const fn is_exact(self) -> bool {
        self.exact
    }

    /// How often this delivery was tried before, in this process: see
    /// [`RetryPolicy::immediate`](crate::RetryPolicy::immediate). A restart forgets it.
    #[must_use]
    pub const fn immediate(self) -> u32 {
        self.again
    }

    /// Whether it is the first try that is known of.
    #[must_use]
    pub const fn is_first(self) -> bool {
        self.number <= 1 && self.again == 0
    }
}

impl<S> FromDelivery<S> for Attempt {
    fn from_delivery(incoming: &Incoming<'_>, _: &S) -> Result<Self> {
        Ok(incoming.attempt())
    }
}
