#![doc = include_str!("docs.md")]

mod address;
mod admin;
mod binding;
mod broker;
mod completion;
mod config;
mod connect;
mod consumer;
mod context;
#[cfg_attr(not(test), expect(dead_code, reason = "some of it is for receiving"))]
mod convert;
mod error;
mod groups;
mod hub;
mod names;
mod offsets;
mod producer;
mod properties;
mod publish;
mod settings;
mod settle;
#[expect(dead_code, reason = "the broker's handle starts subscriptions once it is switched")]
mod subscribe;
mod topology;
#[cfg_attr(not(test), expect(dead_code, reason = "most of it is for receiving"))]
mod tracker;
mod worker;

pub use binding::Binding;
pub use broker::{KafkaBroker, KafkaNative};
pub use config::{Compression, GroupProtocol, KafkaConfig, Sasl};
