//! What handlers publish: as their result, before the acknowledgement, or on their way.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use posthaste_core::codec::{Codec, Encode};
use posthaste_core::envelope::EnvelopeBuilder;
use posthaste_core::{
    Bus, Bytes, Confirmed, Delivery, Envelope, Event, PublishOptions, Publisher, Result,
};

use crate::{FromDelivery, Incoming};

/// How many topics a consumer keeps publishers of.
const PUBLISHERS: usize = 1_024;

/// An event that a handler returns: it is published before the message is acknowledged.
///
/// If it cannot be published, the message counts as failed, and comes again. Its id is made of the
/// message's, the group, the handler and the topic, so that what is published again after a crash
/// is known as a duplicate. It carries the correlation id of the message, or its id, and names the
/// message as its cause.
///
/// ```
/// # use posthaste_core::{Bytes, Event, codec::Raw};
/// # use posthaste_runtime::{Payload, Publish};
/// # struct Placed(Bytes);
/// # struct Invoiced(Bytes);
/// # impl Event for Placed { const TYPE: &'static str = "a"; type Codec = Raw; }
/// # impl Event for Invoiced { const TYPE: &'static str = "b"; type Codec = Raw; }
/// async fn invoice(order: Payload<Placed>) -> Publish<Invoiced> {
///     Publish::to("invoices", Invoiced(order.0.0))
/// }
/// ```
#[derive(Debug, Clone)]
#[must_use = "it is published when a handler returns it"]
pub struct Publish<T> {
    topic: String,
    event: T,
    options: PublishOptions,
}

impl<T> Publish<T> {
    /// Publishes the event on that topic.
    pub fn to(topic: impl Into<String>, event: T) -> Self {
        Self { topic: topic.into(), event, options: PublishOptions::new() }
    }

    /// With these options; they replace what would be set otherwise.
    pub fn with(mut self, options: PublishOptions) -> Self {
        self.options = options;
        self
    }

    pub(crate) fn encode(self) -> Result<Message>
    where
        T: Event,
        T::Codec: Encode<T>,
    {
        let mut payload = Vec::with_capacity(128);
        <T::Codec as Encode<T>>::encode(&self.event, &mut payload)
            .map_err(|error| error.with_topic(&self.topic))?;
        let mut builder = Envelope::builder(T::TYPE)
            .schema_version(T::VERSION)
            .content_type(T::Codec::CONTENT_TYPE)
            .payload(payload);
        if let Some(key) = self.event.key() {
            builder = builder.key(key);
        }
        Ok(Message { topic: self.topic, event_type: T::TYPE, builder, options: self.options })
    }
}

/// An event that is encoded and has to be published.
pub(crate) struct Message {
    topic: String,
    event_type: &'static str,
    builder: EnvelopeBuilder<'static>,
    options: PublishOptions,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("topic", &self.topic)
            .field("type", &self.event_type)
            .finish_non_exhaustive()
    }
}

/// The publishers of a consumer, by topic.
#[derive(Debug)]
pub(crate) struct Outbox {
    bus: Bus,
    publishers: Mutex<HashMap<String, Publisher>>,
}

impl Outbox {
    pub(crate) fn new(bus: Bus) -> Self {
        Self { bus, publishers: Mutex::default() }
    }

    pub(crate) const fn bus(&self) -> &Bus {
        &self.bus
    }

    fn publisher(&self, topic: &str) -> Result<Publisher> {
        let mut publishers = self.publishers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = publishers.get(topic) {
            return Ok(known.clone());
        }
        let publisher = self.bus.publisher(topic)?;
        if publishers.len() >= PUBLISHERS {
            publishers.clear();
        }
        publishers.insert(topic.to_owned(), publisher.clone());
        Ok(publisher)
    }

    /// Publishes what the handler of a delivery returned, one after the other.
    pub(crate) async fn send(
        &self,
        delivery: &Delivery,
        handler: &str,
        messages: Vec<Message>,
    ) -> Result<()> {
        let cause = delivery.envelope();
        for (index, message) in messages.into_iter().enumerate() {
            let publisher = self.publisher(&message.topic)?;
            let id = follow_up_id(delivery, handler, &message, index);
            let builder = message
                .builder
                .id(id)
                .correlation_id(cause.correlation_id().unwrap_or(cause.id()))
                .causation_id(cause.id());
            let builder = match cause.trace_parent() {
                Some(parent) => builder.trace_parent(parent),
                None => builder,
            };
            let envelope = publisher.envelope(builder)?;
            publisher.publish_envelope_with(envelope, message.options).await?;
        }
        Ok(())
    }
}

/// The same for the same message, however often its handler runs, and as long for a chain of them.
fn follow_up_id(delivery: &Delivery, handler: &str, message: &Message, index: usize) -> String {
    let group = delivery.group().map_or("", |group| group.as_str());
    let cause = delivery.envelope();
    let parts = [cause.source(), cause.id(), group, handler, &message.topic, message.event_type];
    // FNV-1a over 128 bits: ids must not change with the standard library.
    let mut hash = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128;
    let mut mix = |byte: u8| {
        hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    };
    for part in parts {
        // A byte that no text holds ends each part.
        part.bytes().chain([0xff]).for_each(&mut mix);
    }
    index.to_be_bytes().into_iter().for_each(&mut mix);
    uuid::Builder::from_custom_bytes(hash.to_be_bytes()).into_uuid().to_string()
}

/// Publishes on any topic, as a consequence of the message that is handled: with its correlation
/// id, and with its id as the cause.
///
/// What is published this way is published whatever becomes of the message: a handler that fails
/// afterwards publishes again at its next attempt, under another id. Return a [`Publish`] instead
/// where that matters.
#[derive(Debug, Clone)]
pub struct Outgoing {
    outbox: Arc<Outbox>,
    cause: Envelope,
}

impl Outgoing {
    /// Publishes the event and waits for the broker's confirmation.
    ///
    /// # Errors
    /// As [`Publisher::publish`]; `Invalid` for a malformed topic.
    ///
    /// # Cancel safety
    /// When dropped, the message may or may not be stored.
    pub async fn publish<E>(&self, topic: &str, event: &E) -> Result<Confirmed>
    where
        E: Event + ?Sized,
        E::Codec: Encode<E>,
    {
        self.publisher(topic)?.publish_with(event, self.options()).await
    }

    /// What makes a publish a consequence of the message; to be completed.
    pub fn options(&self) -> PublishOptions {
        let cause = &self.cause;
        let options = PublishOptions::new()
            .correlation_id(cause.correlation_id().unwrap_or(cause.id()))
            .causation_id(cause.id());
        match cause.trace_parent() {
            Some(parent) => options.trace_parent(parent),
            None => options,
        }
    }

    /// The publisher of a topic, for options of your own.
    ///
    /// # Errors
    /// `Invalid` for a malformed name; `Closed`.
    pub fn publisher(&self, topic: &str) -> Result<Publisher> {
        self.outbox.publisher(topic)
    }
}

impl<S> FromDelivery<S> for Outgoing {
    fn from_delivery(incoming: &Incoming<'_>, _: &S) -> Result<Self> {
        let outbox = Arc::clone(incoming.context.outbox);
        let cause = incoming.envelope().clone().with_payload(Bytes::new());
        Ok(Self { outbox, cause })
    }
}
