//! Publishing: the sending handle of a topic.

mod answers;
mod cargo;
mod confirmed;
mod epoch;
mod flight;
mod hold;
mod options;
mod receipt;
mod shared;
mod submit;
mod window;

use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;

pub use confirmed::{Confirmed, PublishReport};
pub use options::PublishOptions;
pub use receipt::Receipt;
pub(crate) use submit::Leave;
pub(crate) use window::Window;

use crate::bus::bounded;
use crate::codec::Encode;
use crate::envelope::EnvelopeBuilder;
use crate::{Bus, Envelope, Event, Result, TopicName, event};

/// Sends to one topic. Cheap to clone; clones and other publishers of the same topic on the same
/// bus share one window (1,000 messages / 16 MiB by default).
///
/// A publish resolves when the broker has taken responsibility. Outcomes that are transient or
/// unknown are sent again with the same id until the publish deadline (30 s by default).
///
/// # Cancel safety
/// Dropping the future of a publish cancels nothing: the message may or may not be stored, and
/// nobody else's publish is affected. While it still waits for room in the window, nothing was
/// sent.
#[derive(Clone)]
pub struct Publisher {
    bus: Bus,
    window: Arc<Window>,
}

impl Publisher {
    pub(crate) const fn new(bus: Bus, window: Arc<Window>) -> Self {
        Self { bus, window }
    }

    pub(crate) const fn bus(&self) -> &Bus {
        &self.bus
    }

    /// The topic it sends to.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        self.window.topic()
    }

    /// Publishes an event and waits for the broker's confirmation.
    ///
    /// # Errors
    /// `Encode`; `Invalid` for a malformed attribute; `TooLarge`; `Timeout` at the deadline;
    /// `Backpressure` if the window stayed full; `NotFound`, `Conflict`, `Unroutable`, `Auth`
    /// from the broker; `Closed`. [`may_be_stored`](crate::Error::may_be_stored) tells whether it
    /// can be stored all the same.
    ///
    /// # Cancel safety
    /// See [`Publisher`].
    ///
    /// ```no_run
    /// # use posthaste_core::{Bytes, Event, Publisher, Result, codec::Text};
    /// struct Greeting(String);
    /// impl AsRef<str> for Greeting {
    ///     fn as_ref(&self) -> &str {
    ///         &self.0
    ///     }
    /// }
    /// impl Event for Greeting {
    ///     const TYPE: &'static str = "greeting.sent";
    ///     type Codec = Text;
    /// }
    /// # async fn example(greetings: Publisher) -> Result<()> {
    /// let confirmed = greetings.publish(&Greeting("hello".to_owned())).await?;
    /// println!("stored as {:?}", confirmed.broker_id());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish<E>(&self, event: &E) -> Result<Confirmed>
    where
        E: Event + ?Sized,
        E::Codec: Encode<E>,
    {
        let (options, now) = (PublishOptions::new(), Instant::now());
        let envelope = self.encode(event, None, now)?;
        self.send(envelope, &options, now).await
    }

    /// Publishes an event with options.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), and `Unsupported` for an option that this topic refuses.
    ///
    /// # Cancel safety
    /// See [`Publisher`].
    pub async fn publish_with<E>(&self, event: &E, options: PublishOptions) -> Result<Confirmed>
    where
        E: Event + ?Sized,
        E::Codec: Encode<E>,
    {
        let now = Instant::now();
        let envelope = self.encode(event, Some(&options), now)?;
        self.send(envelope, &options, now).await
    }

    /// Publishes an envelope: the untyped way.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    ///
    /// # Cancel safety
    /// See [`Publisher`].
    pub async fn publish_envelope(&self, envelope: Envelope) -> Result<Confirmed> {
        self.send(envelope, &PublishOptions::new(), Instant::now()).await
    }

    /// Publishes an envelope with options; those that concern attributes replace the envelope's.
    ///
    /// # Errors
    /// As [`publish_with`](Self::publish_with).
    ///
    /// # Cancel safety
    /// See [`Publisher`].
    pub async fn publish_envelope_with(
        &self,
        envelope: Envelope,
        options: PublishOptions,
    ) -> Result<Confirmed> {
        let envelope = if options.leaves_envelope() {
            envelope
        } else {
            options.apply(envelope.to_builder()).build()?
        };
        self.send(envelope, &options, Instant::now()).await
    }

    /// Queues an event and returns once it has a slot in the window. Await the receipt for the
    /// outcome; the message is sent either way.
    ///
    /// # Errors
    /// `Encode`, `Invalid`, `TooLarge`, `Backpressure`, `Closed`: nothing was sent.
    ///
    /// # Cancel safety
    /// When dropped before it returns, nothing was sent.
    pub async fn enqueue<E>(&self, event: &E) -> Result<Receipt>
    where
        E: Event + ?Sized,
        E::Codec: Encode<E>,
    {
        let now = Instant::now();
        self.queue(self.encode(event, None, now)?, now).await
    }

    /// Queues an envelope; see [`enqueue`](Self::enqueue).
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue).
    ///
    /// # Cancel safety
    /// When dropped before it returns, nothing was sent.
    pub async fn enqueue_envelope(&self, envelope: Envelope) -> Result<Receipt> {
        self.queue(envelope, Instant::now()).await
    }

    /// Publishes events in native batches and reports each. The report has one outcome for each
    /// event, in order; one that fails does not affect the rest.
    ///
    /// # Errors
    /// `Encode` or `Invalid` if an event has no envelope: then nothing was sent. All else is in
    /// the report.
    ///
    /// # Cancel safety
    /// When dropped, each event may or may not be stored.
    pub async fn publish_all<'a, E>(
        &self,
        events: impl IntoIterator<Item = &'a E>,
    ) -> Result<PublishReport>
    where
        E: Event + 'a,
        E::Codec: Encode<E>,
    {
        let now = Instant::now();
        let envelopes: Result<Vec<_>> =
            events.into_iter().map(|event| self.encode(event, None, now)).collect();
        Ok(self.publish_all_envelopes(envelopes?).await)
    }

    /// Publishes envelopes in native batches and reports each.
    ///
    /// # Cancel safety
    /// When dropped, each envelope may or may not be stored.
    pub async fn publish_all_envelopes(&self, envelopes: Vec<Envelope>) -> PublishReport {
        let deadline = self.deadline(&PublishOptions::new(), Instant::now());
        let mut receipts = Vec::with_capacity(envelopes.len());
        for envelope in envelopes {
            let send = Default::default();
            receipts.push(self.window.submit(envelope, send, deadline, Leave::Together).await);
        }
        self.window.depart();
        let mut outcomes = Vec::with_capacity(receipts.len());
        for receipt in receipts {
            outcomes.push(match receipt {
                Ok(receipt) => receipt.await,
                Err(refused) => Err(refused),
            });
        }
        PublishReport::new(outcomes)
    }

    /// Finishes an envelope with the bus's source, as [`publish`](Self::publish) does.
    ///
    /// # Errors
    /// `Invalid` or `TooLarge` names the attribute that is wrong.
    pub fn envelope(&self, builder: EnvelopeBuilder<'_>) -> Result<Envelope> {
        self.finish(builder, Instant::now()).map_err(|error| error.with_topic(self.topic()))
    }

    /// Waits until everything that was published on this topic before is resolved.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn flush(&self) {
        self.window.flush().await;
    }

    fn encode<E>(
        &self,
        event: &E,
        options: Option<&PublishOptions>,
        now: Instant,
    ) -> Result<Envelope>
    where
        E: Event + ?Sized,
        E::Codec: Encode<E>,
    {
        event::encode(event, |builder| match options {
            Some(options) => self.finish(options.apply(builder), now),
            None => self.finish(builder, now),
        })
        .map_err(|error| error.with_operation("publish").with_topic(self.topic()))
    }

    fn finish(&self, builder: EnvelopeBuilder<'_>, now: Instant) -> Result<Envelope> {
        builder.build_at(self.bus.source(), self.bus.time(now))
    }

    async fn send(
        &self,
        envelope: Envelope,
        options: &PublishOptions,
        now: Instant,
    ) -> Result<Confirmed> {
        let deadline = self.deadline(options, now);
        self.window.submit(envelope, options.send(), deadline, Leave::Straight).await?.await
    }

    async fn queue(&self, envelope: Envelope, now: Instant) -> Result<Receipt> {
        let options = PublishOptions::new();
        let deadline = self.deadline(&options, now);
        self.window.submit(envelope, options.send(), deadline, Leave::Queued).await
    }

    fn deadline(&self, options: &PublishOptions, now: Instant) -> Instant {
        now + bounded(options.deadline_or(self.bus.publish_deadline()))
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("topic", self.topic()).finish_non_exhaustive()
    }
}
