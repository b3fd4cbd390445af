//! The contract of Posthaste: the envelope, what an adapter implements, and what an application
//! holds.
//!
//! Applications use the `posthaste` crate, which re-exports this one. Adapters depend on this
//! crate and on their client, and on nothing else of ours: see [`broker`].

pub mod broker;
mod bus;
mod capabilities;
pub mod codec;
mod dead_letter;
mod delivery;
pub mod envelope;
mod error;
mod event;
mod health;
mod keygate;
mod lease;
mod name;
mod partition;
mod promise;
mod publisher;
mod subscription;
mod timestamp;
mod topic;
pub mod wire;

#[doc(no_inline)]
pub use bytes::Bytes;

pub use broker::{Broker, DeliveryMode, GroupInfo, Lag, Order, Prefetch, Start};
pub use bus::{Admin, Bus, BusBuilder, Queue, Topics};
pub use capabilities::{AckConfirmation, Capabilities, Durability, Sharing, Support};
pub use dead_letter::{Cause, DeadLetter, LetterId, Reason};
pub use delivery::{Delivery, Nack, Settle};
pub use envelope::{Envelope, EnvelopeBuilder};
pub use error::{Error, ErrorKind, Result, Retry};
pub use event::{AsKey, Event};
pub use health::Health;
pub use lease::Lease;
pub use name::{BoundName, GroupName, TopicName};
pub use partition::{Layout, murmur2};
pub use promise::Promise;
pub use publisher::{Confirmed, PublishOptions, PublishReport, Publisher, Receipt};
pub use subscription::{
    Events, Expired, KeyFailure, Stats, Stopper, SubscribeBuilder, Subscription, SubscriptionEvent,
};
pub use timestamp::Timestamp;
pub use topic::{Difference, Retention, TopicConfig, TopicInfo, TopicSpec, Topology};
