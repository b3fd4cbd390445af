//! A message on its way to a handler, and what is around it.

use std::sync::Arc;

use posthaste_core::{Bus, Delivery, Envelope, Error, ErrorKind, Result, TopicName};

use crate::Attempt;
use crate::publish::Outbox;

/// A message on its way to a handler: what [`FromDelivery`](crate::FromDelivery) makes arguments of.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    pub(crate) delivery: &'a Delivery,
    pub(crate) context: Context<'a>,
}

/// What all deliveries of one call of a handler have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) outbox: &'a Arc<Outbox>,
    /// How often this delivery was tried before.
    pub(crate) again: u32,
}

impl<'a> Incoming<'a> {
    /// The delivery. The runtime settles it.
    #[must_use]
    pub const fn delivery(&self) -> &'a Delivery {
        self.delivery
    }

    /// The message.
    #[must_use]
    pub const fn envelope(&self) -> &'a Envelope {
        self.delivery.envelope()
    }

    /// The topic it came from.
    #[must_use]
    pub fn topic(&self) -> &'a TopicName {
        self.delivery.topic()
    }

    /// Which attempt it is.
    #[must_use]
    pub const fn attempt(&self) -> Attempt {
        Attempt::of(self.delivery, self.context.again)
    }

    /// The bus that the consumer runs on.
    #[must_use]
    pub fn bus(&self) -> &'a Bus {
        self.context.outbox.bus()
    }

    /// The first header of that name.
    ///
    /// # Errors
    /// `Decode` names the header that the message lacks.
    pub fn require_header(&self, name: &str) -> Result<&'a [u8]> {
        self.envelope().header(name).ok_or_else(|| {
            Error::new(ErrorKind::Decode, "a header that the handler asks for is missing")
                .with_context("header", name.escape_debug())
                .with_topic(self.topic())
        })
    }
}
