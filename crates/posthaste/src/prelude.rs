//! What a program that publishes and subscribes names, in one `use`.
//!
//! Not here: `Result` and `Error`, which would hide those of the standard library and of the
//! application.

pub use posthaste_core::{
    Bus, BusBuilder, Cause, Confirmed, Delivery, Envelope, ErrorKind, Event, Expired, KeyFailure,
    Nack, Order, Promise, PublishOptions, PublishReport, Publisher, Queue, Receipt, Settle, Start,
    Subscription, SubscriptionEvent, Timestamp, TopicConfig, Topology,
};
pub use posthaste_derive::Event;
pub use posthaste_runtime::{
    Attempt, Consumer, HandlerError, Metadata, Outcome, Payload, Permanent, Publish, RetryPolicy,
    State, shutdown_signal,
};
pub use serde::{Deserialize, Serialize};
