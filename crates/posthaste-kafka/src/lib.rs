#![doc = include_str!("docs.md")]

mod address;
mod admin;
mod binding;
mod broker;
mod completion;
mod concerns;
mod config;
mod connect;
mod consumer;
mod context;
mod convert;
mod dead_letter;
mod error;
mod groups;
mod hub;
mod letters;
mod names;
mod oauth;
mod offsets;
mod pipeline;
mod private;
mod producer;
mod properties;
mod publish;
mod settings;
mod settle;
mod subscribe;
mod topology;
mod tracker;
mod worker;

pub use binding::Binding;
pub use broker::{KafkaBroker, KafkaNative};
pub use config::{Compression, GroupProtocol, KafkaConfig, Sasl};
pub use convert::TOMBSTONE;
pub use oauth::OauthToken;
pub use pipeline::{Handling, Input, KafkaPipeline, PipelineBuilder, PipelineStopper, Transaction};
