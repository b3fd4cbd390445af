//! What is only true of NATS, against real servers.
//!
//! The servers are those of `cargo xtask brokers up`, or of the variables `POSTHASTE_NATS_URL`
//! and so on. A test whose server is not there is ignored, by name.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and spawns and joins by itself"
)]

#[cfg(unix)]
mod drive;
#[cfg(unix)]
mod logins;
#[cfg(unix)]
mod schedule;
#[cfg(unix)]
mod server;
#[cfg(unix)]
mod smoke;
#[cfg(unix)]
mod suite;
#[cfg(unix)]
mod topology;

#[cfg(unix)]
fn main() {
    let mut arguments = libtest_mimic::Arguments::from_args();
    // Servers and clients share few cores: more at once only makes deadlines tight.
    arguments.test_threads.get_or_insert(4);
    let mut suite = suite::Suite::new();
    smoke::add(&mut suite);
    topology::add(&mut suite);
    logins::add(&mut suite);
    schedule::add(&mut suite);
    libtest_mimic::run(&arguments, suite.trials()).exit();
}

#[cfg(not(unix))]
fn main() {}
