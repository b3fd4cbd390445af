//! Publishing: a batch is stored in one turn under the topic's lock.

use async_trait::async_trait;
use posthaste_core::broker::{Destination, Outcomes, Publish, SendOptions};
use posthaste_core::{Difference, Envelope, Error, ErrorKind, Result, Timestamp};
use tokio::time::Instant;

use crate::engine::{Append, LinkState, Topic, later, order};
use crate::{MemoryBroker, error};

#[async_trait]
impl Publish for MemoryBroker {
    async fn publish(
        &self,
        to: &Destination,
        batch: &mut [Envelope],
        options: &SendOptions,
    ) -> Result<Outcomes> {
        let describe = |error: Error| {
            error.with_broker(error::BROKER).with_operation("publish").with_topic(&to.topic)
        };
        let arrived = match self.travel(to).await {
            Ok(()) => self.engine().existing(&to.topic).and_then(|topic| {
                check(&topic, to)?;
                Ok(topic)
            }),
            Err(error) if error.kind() == ErrorKind::Closed => return Err(describe(error)),
            Err(error) => Err(error),
        };
        let stored = arrived.and_then(|topic| {
            let now = Timestamp::now();
            // The wall clock is read first, so that the delay is rather too long than too short.
            let visible_at = options.deliver_at.filter(|at| *at > now);
            let append = Append {
                stored_at: now,
                visible_at: visible_at.map(|at| later(Instant::now(), at.since(now))),
                deduplicate: options.deduplicate,
                fates: self.engine().faults.fates(batch.len()),
            };
            topic
                .turn(|state, turn| state.append(batch, &append, turn))
                .ok_or_else(|| error::no_topic(&to.topic))
        });
        Ok(stored.unwrap_or_else(|error| Outcomes::failed(batch.len(), &describe(error))))
    }
}

impl MemoryBroker {
    /// The way to the broker. What happens to it once the batch has left makes its outcome
    /// unknown, as it would be over a network.
    async fn travel(&self, to: &Destination) -> Result<()> {
        let engine = self.engine();
        if engine.link.state() == LinkState::Down && !self.connection().is_closed() {
            return Err(error::unreachable());
        }
        let restarts = engine.link.restarts();
        let mut arrived = self.reach("publish").await;
        if let Some(delay) = engine.faults.delay().filter(|_| arrived.is_ok()) {
            tokio::time::sleep(delay).await;
            arrived = self.reach("publish").await;
        }
        match arrived {
            Err(error) if error.kind() == ErrorKind::Closed => Err(error),
            Err(error) => Err(error.with_may_be_stored(true)),
            Ok(()) if engine.link.restarts() != restarts => Err(error::interrupted(&to.topic)),
            Ok(()) => Ok(()),
        }
    }
}

/// A publisher that takes the topic for another one would spread keys over the wrong partitions.
fn check(topic: &Topic, to: &Destination) -> Result<()> {
    let mut differences = Vec::new();
    let is = &topic.settings;
    if is.layout != to.layout {
        differences.push(Difference::new("order", order(to.layout), order(is.layout)));
    }
    if is.queue != to.queue {
        differences.push(Difference::new("queue", to.queue, is.queue));
    }
    Difference::refuse(&differences)
}
