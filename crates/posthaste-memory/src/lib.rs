#![doc = include_str!("docs.md")]

mod admin;
mod attach;
mod broker;
mod config;
mod convert;
mod engine;
mod error;
mod fault;
mod publish;
mod settle;
mod subscribe;

pub use broker::MemoryBroker;
pub use config::MemoryConfig;
pub use fault::Faults;
