//! The memory broker through the adapter's contract, promise by promise.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests may fail the test, which is how it is told"
)]

mod admin;
mod config;
mod faults;
mod groups;
mod order;
mod publish;
mod retention;
mod settle;
mod support;
