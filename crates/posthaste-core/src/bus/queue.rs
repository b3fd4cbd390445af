//! Point to point: a topic with exactly one group.

use std::ops::Deref;

use crate::topic::QUEUE_GROUP;
use crate::{Publisher, SubscribeBuilder, TopicName};

/// The handle of a queue. It sends like the [`Publisher`] it derefs to, and every message goes to
/// exactly one of its consumers.
///
/// ```no_run
/// # async fn example(bus: posthaste_core::Bus, envelope: posthaste_core::Envelope)
/// # -> posthaste_core::Result<()> {
/// let charge = bus.queue("charge")?;
/// let mut commands = charge.subscribe().start().await?;
/// charge.publish_envelope(envelope).await?;
/// let command = commands.next().await;
/// # let _ = command;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Queue {
    name: TopicName,
    publisher: Publisher,
}

impl Queue {
    pub(crate) const fn new(name: TopicName, publisher: Publisher) -> Self {
        Self { name, publisher }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &TopicName {
        &self.name
    }

    /// The sending handle.
    #[must_use]
    pub const fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Begins a subscription to its only group.
    pub fn subscribe(&self) -> SubscribeBuilder {
        let names = vec![self.name.as_str().to_owned()];
        SubscribeBuilder::new(self.publisher.bus().clone(), names, true).group(QUEUE_GROUP)
    }
}

impl Deref for Queue {
    type Target = Publisher;

    fn deref(&self) -> &Publisher {
        &self.publisher
    }
}
