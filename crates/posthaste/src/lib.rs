#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod connect;
pub mod prelude;

pub use connect::{builder, connect, from_env};
pub use posthaste_core::*;
pub use posthaste_derive::Event;
pub use posthaste_runtime::{
    Attempt, Class, Consumer, Control, DeadLetters, FromDelivery, FromRef, HandlerError, Headers,
    Incoming, Key, Metadata, Outcome, Outgoing, Payload, Permanent, Publish, Report, RetryPolicy,
    State, Unknown, shutdown_signal,
};

/// The in-process broker, for tests and for programs that need no other process.
#[doc(inline)]
pub use posthaste_memory as memory;

/// Handlers: everything of the consumer runtime, with its guide.
#[doc(inline)]
pub use posthaste_runtime as runtime;

/// The adapter for Apache Kafka.
#[cfg(feature = "kafka")]
#[cfg_attr(docsrs, doc(cfg(feature = "kafka")))]
#[doc(inline)]
pub use posthaste_kafka as kafka;

/// The adapters for NATS: JetStream, and NATS without it for what may be lost.
#[cfg(feature = "nats")]
#[cfg_attr(docsrs, doc(cfg(feature = "nats")))]
#[doc(inline)]
pub use posthaste_nats as nats;

/// The adapter for RabbitMQ.
#[cfg(feature = "rabbitmq")]
#[cfg_attr(docsrs, doc(cfg(feature = "rabbitmq")))]
#[doc(inline)]
pub use posthaste_rabbitmq as rabbitmq;

/// The adapter for Redis Streams, on Redis or Valkey.
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
#[doc(inline)]
pub use posthaste_redis as redis;

/// For types that derive `Serialize` and `Deserialize` without a dependency on `serde` of their
/// own: `#[serde(crate = "posthaste::serde")]`.
#[doc(no_inline)]
pub use serde;
