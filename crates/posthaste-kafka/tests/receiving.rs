//! Receiving, against real brokers, until the adapter's handle gives it: then these tests belong
//! to those of `it`.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    unused_imports,
    reason = "of the adapter's parts, only some are used here"
)]
#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests and what they tell, in functions that clippy does not know for tests"
)]

#[path = "../src/address.rs"]
mod address;
#[path = "../src/binding.rs"]
mod binding;
#[path = "../src/completion.rs"]
mod completion;
#[path = "../src/config.rs"]
mod config;
#[path = "../src/connect.rs"]
mod connect;
#[path = "../src/consumer/mod.rs"]
mod consumer;
#[path = "../src/context.rs"]
mod context;
#[path = "../src/convert.rs"]
mod convert;
#[path = "../src/error.rs"]
mod error;
#[path = "../src/groups.rs"]
mod groups;
#[path = "../src/hub.rs"]
mod hub;
#[path = "../src/names.rs"]
mod names;
#[path = "../src/offsets.rs"]
mod offsets;
#[path = "../src/producer.rs"]
mod producer;
#[path = "../src/properties.rs"]
mod properties;
#[path = "../src/publish.rs"]
mod publish;
#[path = "../src/settings.rs"]
mod settings;
#[path = "../src/settle.rs"]
mod settle;
#[path = "../src/subscribe.rs"]
mod subscribe;
#[path = "../src/topology.rs"]
mod topology;
#[path = "../src/tracker/mod.rs"]
mod tracker;
#[path = "../src/worker.rs"]
mod worker;

#[path = "it/adapter.rs"]
mod adapter;
#[path = "it/member.rs"]
mod member;
#[path = "it/raw.rs"]
mod raw;
#[path = "it/rebalancing.rs"]
mod rebalancing;
#[path = "it/receiving.rs"]
mod receiving;
#[path = "it/server.rs"]
mod server;
#[path = "it/suite.rs"]
mod suite;

#[test]
fn all_on_real_brokers() {
    let mut suite = suite::Suite::new();
    receiving::add(&mut suite);
    rebalancing::add(&mut suite);
    let (trials, missing) = suite.finish();
    let filter = std::env::var("POSTHASTE_TEST").ok();
    let arguments = libtest_mimic::Arguments {
        test_threads: Some(2),
        filter,
        ..libtest_mimic::Arguments::default()
    };
    let conclusion = libtest_mimic::run(&arguments, trials);
    println!("not there: {missing:?}");
    assert!(!conclusion.has_failed());
}
