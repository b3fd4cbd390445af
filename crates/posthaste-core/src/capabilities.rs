//! What an adapter can do for a topic, as plain data.
//!
//! Tests read it to choose their cases, the parity table is generated from it, and core refuses
//! with it before the first message. A claim without a conformance case is a bug, and so is a
//! refusal without a denial case.

use std::borrow::Cow;
use std::time::Duration;

use crate::{Error, Promise, Result};

/// Whether a promise is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Support {
    /// Kept without reservation.
    Kept,
    /// Kept within the limit that the text states.
    Limited(Cow<'static, str>),
    /// Refused with [`Unsupported`](crate::ErrorKind::Unsupported); the text says why.
    Refused(Cow<'static, str>),
}

impl Support {
    /// A limit, from its text.
    pub fn limited(text: impl Into<Cow<'static, str>>) -> Self {
        Self::Limited(text.into())
    }

    /// A refusal, from its reason.
    pub fn refused(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Refused(reason.into())
    }

    /// Whether the feature can be used at all.
    #[must_use]
    pub const fn is_kept(&self) -> bool {
        !matches!(self, Self::Refused(_))
    }

    /// Passes if the feature can be used.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) with `what` and the adapter's reason.
    pub fn require(&self, what: &str) -> Result<()> {
        match self {
            Self::Kept | Self::Limited(_) => Ok(()),
            Self::Refused(reason) => Err(Error::unsupported(format!("{what}: {reason}"))),
        }
    }
}

/// What a confirmed publish survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// Nothing: the transport keeps no copy.
    None,
    /// The life of this process.
    Process,
    /// A restart of the broker. After a crash of its machine, what was confirmed within the
    /// window before it may be missing; `None` where nothing may.
    Server {
        /// The loss window after a crash of the machine.
        loss_window: Option<Duration>,
    },
}

/// What [`ack_confirmed`](crate::Delivery::ack_confirmed) waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AckConfirmation {
    /// The broker answers each acknowledgement.
    Broker,
    /// The protocol has no answer: a round trip behind the acknowledgement is awaited.
    Barrier,
}

/// What the members of a group share out among themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sharing {
    /// Messages: any member gets the next one, and what another one's lease lets go. A lease is a
    /// setting of the group.
    Messages,
    /// Whole lanes, such as the partitions of a log. What comes again goes to the member that has
    /// the lane, and one that joins gets lanes. A lease is each member's own.
    Lanes,
}

/// What an adapter can do for a topic.
///
/// Obtained from [`Bus::capabilities`](crate::Bus::capabilities). Support may depend on the topic
/// and on the server's version, and is refreshed after a reconnect.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Capabilities {
    /// The scheme of the adapter, for example `nats`.
    pub broker: &'static str,
    /// The server's version, once known.
    pub server: Option<String>,
    /// What a confirmed publish survives.
    pub durability: Durability,
    /// Settled after handling, with redelivery. Refused by transports that keep no copy.
    pub at_least_once: Support,
    /// What the members of a group share out among themselves.
    pub sharing: Sharing,
    /// Several groups on one topic.
    pub fan_out: Support,
    /// Queues: exactly one group, addressed directly.
    pub queue: Support,
    /// Ordered topics and `Order::PerKey`.
    pub order: Support,
    /// Topics that keep a number of messages at most.
    pub retention_by_count: Support,
    /// Groups that start at the earliest retained message.
    pub start_earliest: Support,
    /// Groups that start at a time.
    pub start_at_time: Support,
    /// Groups that start at an offset.
    pub start_at_offset: Support,
    /// Publish that is delivered later.
    pub deliver_at: Support,
    /// The longest delay of a delayed publish; `None` is unlimited.
    pub max_publish_delay: Option<Duration>,
    /// Publishing the same id twice stores it once.
    pub deduplication: Support,
    /// How long an id is remembered, where deduplication is kept.
    pub deduplication_window: Option<Duration>,
    /// Whether attempts are counted exactly.
    pub exact_attempts: bool,
    /// The longest delay of a nack; `None` is unlimited.
    pub max_nack_delay: Option<Duration>,
    /// Dead letters can be stored, listed, replayed and discarded.
    pub dead_letters: Support,
    /// The lag of a group.
    pub lag: Support,
    /// Moving a group without members.
    pub seek: Support,
    /// Reading a range again without a group.
    pub range: Support,
    /// Listing and deleting groups.
    pub group_lifecycle: Support,
    /// Removing all messages of a topic.
    pub purge: Support,
    /// Binding existing names.
    pub binding: Support,
    /// Visible loss.
    pub visible_loss: Support,
    /// What a confirmed acknowledgement waits for.
    pub ack_confirmation: AckConfirmation,
    /// The largest payload with its headers, in bytes; `None` is unlimited.
    pub max_message_bytes: Option<usize>,
    /// How many entries one native batch takes.
    pub max_batch: usize,
    /// How many batches of one topic may be in flight at once.
    pub max_flights: usize,
    /// After an outage, settlements that were made at most this long before it may come again;
    /// [`Duration::MAX`] where the broker gives no bound.
    pub replay_window: Duration,
    /// After a stop has returned, released messages are visible to others within this time.
    pub handover: Duration,
}

impl Capabilities {
    /// Everything kept, nothing limited: an adapter takes this and states what differs.
    #[must_use]
    pub const fn all(broker: &'static str) -> Self {
        Self {
            broker,
            server: None,
            durability: Durability::Server { loss_window: None },
            at_least_once: Support::Kept,
            sharing: Sharing::Messages,
            fan_out: Support::Kept,
            queue: Support::Kept,
            order: Support::Kept,
            retention_by_count: Support::Kept,
            start_earliest: Support::Kept,
            start_at_time: Support::Kept,
            start_at_offset: Support::Kept,
            deliver_at: Support::Kept,
            max_publish_delay: None,
            deduplication: Support::Kept,
            deduplication_window: Some(Duration::from_secs(120)),
            exact_attempts: true,
            max_nack_delay: None,
            dead_letters: Support::Kept,
            lag: Support::Kept,
            seek: Support::Kept,
            range: Support::Kept,
            group_lifecycle: Support::Kept,
            purge: Support::Kept,
            binding: Support::Kept,
            visible_loss: Support::Kept,
            ack_confirmation: AckConfirmation::Broker,
            max_message_bytes: None,
            max_batch: 1_000,
            max_flights: 4,
            replay_window: Duration::ZERO,
            handover: Duration::from_secs(1),
        }
    }

    /// How the promise is kept here: the cell of the parity table.
    #[must_use]
    pub fn promise(&self, promise: Promise) -> Support {
        use Promise as P;
        let redelivers = || self.at_least_once.clone();
        match promise {
            P::P1 => match self.durability {
                Durability::None => Support::refused("keeps no copy"),
                Durability::Process => Support::limited("while the process lives"),
                Durability::Server { loss_window: None } => Support::Kept,
                Durability::Server { loss_window: Some(window) } => Support::limited(format!(
                    "a crash of the machine may lose the last {} s",
                    window.as_secs_f32()
                )),
            },
            P::P2 | P::P3 | P::P8 | P::P9 | P::P10 | P::P13 | P::P17 | P::P18 | P::P28 => {
                redelivers()
            }
            P::P5 => self.fan_out.clone(),
            P::P6 => self.queue.clone(),
            P::P7 => self.starts(),
            P::P11 => match (&self.at_least_once, self.max_nack_delay) {
                (Support::Kept, Some(max)) => {
                    Support::limited(format!("delay at most {} s", max.as_secs()))
                }
                (support, _) => support.clone(),
            },
            P::P12 => self.dead_letters.clone(),
            P::P14 => match (&self.at_least_once, self.exact_attempts) {
                (Support::Kept, false) => Support::limited("approximate"),
                (support, _) => support.clone(),
            },
            P::P15 => self.order.clone(),
            P::P22 => match (&self.deliver_at, self.max_publish_delay) {
                (Support::Kept, Some(max)) => {
                    Support::limited(format!("at most {} s", max.as_secs()))
                }
                (support, _) => support.clone(),
            },
            P::P23 => self.deduplication.clone(),
            P::P24 => self.lag.clone(),
            P::P25 => self.seek.clone(),
            P::P29 => self.visible_loss.clone(),
            P::P33 => self.group_lifecycle.clone(),
            P::P34 => self.binding.clone(),
            P::P4
            | P::P16
            | P::P19
            | P::P20
            | P::P21
            | P::P26
            | P::P27
            | P::P30
            | P::P31
            | P::P32 => Support::Kept,
        }
    }

    fn starts(&self) -> Support {
        let starts = [
            ("Earliest", &self.start_earliest),
            ("At", &self.start_at_time),
            ("AtOffset", &self.start_at_offset),
        ];
        let kept = starts.iter().filter(|(_, support)| support.is_kept()).map(|(name, _)| *name);
        let kept: Vec<_> = ["Created", "Latest"].into_iter().chain(kept).collect();
        if kept.len() == 5 { Support::Kept } else { Support::limited(kept.join(", ")) }
    }
}
