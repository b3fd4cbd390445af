//! What is only true of Redis, against real servers.
//!
//! The servers are those of `cargo xtask brokers up`, or of the variables `POSTHASTE_REDIS_URL`
//! and so on. A test whose server is not there is ignored, by name.

#![cfg_attr(
    unix,
    expect(
        clippy::expect_used,
        clippy::print_stdout,
        reason = "tests and what they tell, in functions that clippy does not know for tests"
    )
)]

#[cfg(unix)]
mod adapter;
#[cfg(unix)]
mod login;
#[cfg(unix)]
mod mistakes;
#[cfg(unix)]
mod raw;
#[cfg(unix)]
mod scripts;
#[cfg(unix)]
mod server;
#[cfg(unix)]
mod suite;
#[cfg(unix)]
mod trouble;

#[cfg(unix)]
fn main() {
    let mut arguments = libtest_mimic::Arguments::from_args();
    // Servers and clients share few cores: more at once only makes deadlines tight.
    arguments.test_threads.get_or_insert(4);
    let mut suite = suite::Suite::new();
    login::add(&mut suite);
    mistakes::add(&mut suite);
    scripts::add(&mut suite);
    trouble::add(&mut suite);
    let (trials, missing) = suite.finish();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !missing.is_empty() {
        println!("NOT TESTED, because it is not there: {}", missing.join(", "));
    }
    conclusion.exit();
}

#[cfg(not(unix))]
fn main() {}
