#![doc = include_str!("docs.md")]

mod address;
mod admin;
mod arguments;
mod attach;
mod binding;
mod book;
mod broker;
mod config;
mod confirm;
mod connect;
mod convert;
mod dead_letter;
mod declare;
mod delay;
mod driver;
mod error;
mod groups;
mod hub;
mod lifecycle;
mod line;
mod link;
mod mismatch;
mod names;
mod outgoing;
mod pool;
mod publish;
mod registry;
mod settle;
mod subscribe;
mod table;
mod topology;
mod unrouted;

pub use binding::{Binding, ExchangeType};
pub use broker::{RabbitmqBroker, RabbitmqNative};
pub use config::{QueueType, RabbitmqConfig};
