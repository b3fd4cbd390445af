//! What is only true of Kafka, against real brokers.
//!
//! The brokers are those of `cargo xtask brokers up`, or of the variables `POSTHASTE_KAFKA_URL`
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
mod binding;
#[cfg(unix)]
mod closing;
#[cfg(unix)]
mod connecting;
#[cfg(unix)]
mod crashes;
#[cfg(unix)]
mod dead_letters;
#[cfg(unix)]
mod fatal;
#[cfg(unix)]
mod groups;
#[cfg(unix)]
mod handover;
#[cfg(unix)]
mod limits;
#[cfg(unix)]
mod member;
#[cfg(unix)]
mod outage;
#[cfg(unix)]
mod pipeline;
#[cfg(unix)]
mod private;
#[cfg(unix)]
mod publishing;
#[cfg(unix)]
mod ranges;
#[cfg(unix)]
mod raw;
#[cfg(unix)]
mod rebalancing;
#[cfg(unix)]
mod receiving;
#[cfg(unix)]
mod server;
#[cfg(unix)]
mod suite;
#[cfg(unix)]
mod tools;
#[cfg(unix)]
mod topology;
#[cfg(unix)]
mod whole;

#[cfg(unix)]
fn main() {
    if pipeline::child() || crashes::child() {
        return;
    }
    let mut arguments = libtest_mimic::Arguments::from_args();
    // Brokers and clients share few cores: more at once only makes deadlines tight.
    arguments.test_threads.get_or_insert(2);
    let mut suite = suite::Suite::new();
    publishing::add(&mut suite);
    connecting::add(&mut suite);
    closing::add(&mut suite);
    outage::add(&mut suite);
    topology::add(&mut suite);
    groups::add(&mut suite);
    ranges::add(&mut suite);
    binding::add(&mut suite);
    receiving::add(&mut suite);
    rebalancing::add(&mut suite);
    handover::add(&mut suite);
    limits::add(&mut suite);
    crashes::add(&mut suite);
    private::add(&mut suite);
    dead_letters::add(&mut suite);
    pipeline::add(&mut suite);
    fatal::add(&mut suite);
    tools::add(&mut suite);
    whole::add(&mut suite);
    let (trials, missing) = suite.finish();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !missing.is_empty() {
        println!("NOT TESTED, because it is not there: {}", missing.join(", "));
    }
    conclusion.exit();
}

#[cfg(not(unix))]
fn main() {}
