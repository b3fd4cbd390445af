#![doc = include_str!("docs.md")]

mod address;
mod admin;
mod binding;
mod broker;
mod config;
mod connect;
mod convert;
mod dead_letter;
mod driver;
mod error;
mod groups;
mod hub;
mod id;
mod lanes;
mod line;
mod link;
mod names;
mod publish;
mod range;
mod read;
mod renew;
mod script;
mod settle;
mod subscribe;
mod topology;
mod upkeep;
mod value;

pub use binding::Binding;
pub use broker::{RedisBroker, RedisNative};
pub use config::{Durable, RedisConfig};
