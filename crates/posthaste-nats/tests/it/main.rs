//! What is only true of NATS, against real servers.
//!
//! The servers are those of `cargo xtask brokers up`, or of the variables `POSTHASTE_NATS_URL`
//! and so on. A test whose server is not there is ignored, by name.

#![cfg_attr(
    unix,
    expect(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "tests, in functions that clippy does not know for tests"
    )
)]

#[cfg(unix)]
mod binding;
#[cfg(unix)]
mod drive;
#[cfg(unix)]
mod lanes;
#[cfg(unix)]
mod line;
#[cfg(unix)]
mod login;
#[cfg(unix)]
mod loss;
#[cfg(unix)]
mod rights;
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
    loss::add(&mut suite);
    schedule::add(&mut suite);
    binding::add(&mut suite);
    login::add(&mut suite);
    rights::add(&mut suite);
    lanes::add(&mut suite);
    let conclusion = libtest_mimic::run(&arguments, suite.trials());
    // What a failed test left behind is kept to be looked at.
    if !conclusion.has_failed() {
        server::clean_up();
    }
    conclusion.exit();
}

#[cfg(not(unix))]
fn main() {}
