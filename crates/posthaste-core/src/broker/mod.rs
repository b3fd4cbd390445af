//! The adapter's contract: what a crate per broker implements.
//!
//! Core owns *when* (batching, retry, deadlines, leases, policy); an adapter owns *how*,
//! atomically: the client, reconnecting, topology, mapping, prefetch, and the move behind each
//! verdict. Adapters never retry a publish beyond what their protocol does, never spawn a task
//! they do not own, and never log payloads.
//!
//! The traits are object-safe and take batches, so that a dynamic call costs a batch a box and
//! a message nothing.

pub mod address;
mod admin;
mod lane;
mod publish;
mod settle;
mod subscribe;

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

pub use admin::{
    Admin, DeadLetterPage, DeadLetterQuery, GroupInfo, Lag, RangeQuery, Retained, StoredLetter,
};
pub use lane::{Lane, LaneState};
pub use publish::{Destination, Outcomes, Publish, SendOptions, Stored};
pub use settle::{
    Confirmation, Extended, Parcel, SettleOutcome, SettleReport, Settlement, Settler, Token,
    Verdict,
};
pub use subscribe::{
    Attempt, Credit, DeliveryMode, DriverEvent, Order, Polled, Position, Prefetch, Received, Start,
    SubscribeRequest, Subscribed, SubscriptionDriver,
};

use crate::{Capabilities, Health, Result, TopicName};

/// A connection to a broker, shared by everything on a [`Bus`](crate::Bus).
#[async_trait]
pub trait Broker: Publish {
    /// What can be done on this topic, or by default where `None`. Cheap; refreshed after a
    /// reconnect.
    fn capabilities(&self, topic: Option<&TopicName>) -> Arc<Capabilities>;

    /// Starts a subscription: login, topology and capability are checked before it returns.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for a request this broker cannot honour,
    /// `NotFound`, `Conflict`, `Auth`, `Connection`, `Timeout`.
    ///
    /// # Cancel safety
    /// MUST be cancel safe: when dropped, nothing is left behind but topology that was created.
    async fn subscribe(&self, request: SubscribeRequest) -> Result<Subscribed>;

    /// Topology, groups, lag, seek, dead letters.
    fn admin(&self) -> &dyn Admin;

    /// One cheap round trip.
    ///
    /// # Errors
    /// Only [`Closed`](crate::ErrorKind::Closed): an unreachable broker is [`Health::Down`].
    ///
    /// # Cancel safety
    /// MUST be cancel safe.
    async fn health(&self) -> Result<Health>;

    /// Ends every connection and joins every task by the deadline. Called once, after publishers
    /// have been flushed and subscriptions drained. MUST be idempotent.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout) if something had to be abandoned.
    ///
    /// # Cancel safety
    /// When dropped, closing goes on only as far as dropping the adapter does it.
    async fn close(&self, deadline: Instant) -> Result<()>;

    /// The native client, for what this contract does not cover.
    fn native(&self) -> Option<&(dyn Any + Send + Sync)> {
        None
    }
}

impl fmt::Display for dyn Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.capabilities(None).broker)
    }
}
