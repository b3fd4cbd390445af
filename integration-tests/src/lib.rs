//! The brokers of this workspace as the conformance suite sees them: who is there, how it is
//! reached, and how it is broken.
//!
//! Two programs use it: the suite, `tests/it`, and the long fault run, `src/bin/faults`.

pub mod brokers;
mod folder;
mod kafka;
mod kafka_cluster;
mod kafka_foreign;
mod kafka_mistakes;
mod kafka_node;
mod memory;
mod nats;
mod nats_mistakes;
mod rabbitmq;
mod rabbitmq_foreign;
mod rabbitmq_management;
mod rabbitmq_mistakes;
mod rabbitmq_node;
pub mod record;
mod redis;
mod redis_foreign;
mod redis_mistakes;
mod redis_node;
pub mod roles;
