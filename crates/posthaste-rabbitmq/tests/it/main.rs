//! What is only true of RabbitMQ, against real brokers.
//!
//! The brokers are those of `cargo xtask brokers up`, or of the variables `POSTHASTE_RABBITMQ_URL`
//! and so on. A test whose broker is not there is ignored, by name.

#![cfg_attr(
    unix,
    expect(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::print_stdout,
        reason = "tests and what they tell, in functions that clippy does not know for tests"
    )
)]

#[cfg(unix)]
mod adapter;
#[cfg(unix)]
mod blocked;
#[cfg(unix)]
mod deploys;
#[cfg(unix)]
mod exchanges;
#[cfg(unix)]
mod killed;
#[cfg(unix)]
mod member;
#[cfg(unix)]
mod mistakes;
#[cfg(unix)]
mod outage;
#[cfg(unix)]
mod pika;
#[cfg(unix)]
mod raw;
#[cfg(unix)]
mod relay;
#[cfg(unix)]
mod retries;
#[cfg(unix)]
mod server;
#[cfg(unix)]
mod suite;
#[cfg(unix)]
mod too_much;
#[cfg(unix)]
mod vanished;
#[cfg(unix)]
mod waiting;

#[cfg(unix)]
fn main() {
    if killed::child() {
        return;
    }
    let mut arguments = libtest_mimic::Arguments::from_args();
    // Brokers and clients share few cores: more at once only makes deadlines tight.
    arguments.test_threads.get_or_insert(2);
    let mut suite = suite::Suite::new();
    blocked::add(&mut suite);
    deploys::add(&mut suite);
    exchanges::add(&mut suite);
    killed::add(&mut suite);
    mistakes::add(&mut suite);
    outage::add(&mut suite);
    pika::add(&mut suite);
    retries::add(&mut suite);
    too_much::add(&mut suite);
    vanished::add(&mut suite);
    waiting::add(&mut suite);
    let (trials, missing) = suite.finish();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !missing.is_empty() {
        println!("NOT TESTED, because it is not there: {}", missing.join(", "));
    }
    conclusion.exit();
}

#[cfg(not(unix))]
fn main() {}
