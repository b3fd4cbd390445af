//! What an application may want to know of its subscription besides the deliveries.

use futures_util::FutureExt;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};

use crate::{Difference, TopicName};

/// Something that happened to a subscription. None of it ends the stream.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum SubscriptionEvent {
    /// The connection was lost; the adapter is reconnecting.
    Disconnected {
        /// Why.
        reason: String,
    },
    /// The connection is back.
    Reconnected,
    /// A lane is ours now.
    LaneAssigned {
        /// Its topic.
        topic: TopicName,
        /// Its partition.
        partition: Option<u32>,
    },
    /// A lane goes or is gone.
    LaneRevoked {
        /// Its topic.
        topic: TopicName,
        /// Its partition.
        partition: Option<u32>,
    },
    /// The lease of a delivery ended before it was settled: somebody else may get it.
    LeaseLost {
        /// The message.
        id: String,
    },
    /// Settlements that did not reach the broker: the messages come again.
    SettleFailed {
        /// The messages.
        ids: Vec<String>,
        /// Why.
        reason: String,
    },
    /// A delayed message comes later than it was asked for.
    SettleDelayed {
        /// The message.
        id: String,
        /// After how long it comes.
        by: std::time::Duration,
    },
    /// A message expired before it was handled.
    Expired {
        /// The message.
        id: String,
    },
    /// A message was given up that has no place as a dead letter, because the subscription has no
    /// group.
    Discarded {
        /// The message.
        id: String,
    },
    /// Messages were removed before this group read them.
    Lost {
        /// Their topic.
        topic: TopicName,
        /// How many, where known.
        count: Option<u64>,
        /// What removed them.
        reason: String,
    },
    /// A shared setting of the group differs from this subscription's, and was left as it is.
    Differs(Difference),
    /// So many events were missed because they were not read in time.
    Missed(u64),
}

/// The events of a subscription. From [`Subscription::events`](crate::Subscription::events). At
/// most 256 are kept; what is not read in time is counted as [`SubscriptionEvent::Missed`].
#[derive(Debug)]
pub struct Events {
    receiver: broadcast::Receiver<SubscriptionEvent>,
    ended: watch::Receiver<Option<usize>>,
}

impl Events {
    pub(super) const fn new(
        receiver: broadcast::Receiver<SubscriptionEvent>,
        ended: watch::Receiver<Option<usize>>,
    ) -> Self {
        Self { receiver, ended }
    }

    /// The next event; `None` once the subscription has drained, whoever still holds a part of it.
    ///
    /// # Cancel safety
    /// Cancel safe: no event is lost.
    pub async fn next(&mut self) -> Option<SubscriptionEvent> {
        let event = tokio::select! {
            biased;
            event = self.receiver.recv() => event,
            _ = self.ended.wait_for(Option::is_some) => self.receiver.recv().now_or_never()?,
        };
        match event {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(missed)) => Some(SubscriptionEvent::Missed(missed)),
            Err(RecvError::Closed) => None,
        }
    }
}
