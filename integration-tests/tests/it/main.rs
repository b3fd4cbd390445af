//! Every broker that is there × every conformance case, with faults, in one binary.
//!
//! A trial is called `<broker>::<promise>::<case>`. Besides these there are, for each broker,
//! `<broker>::sabotage::<mutant>`: the cases notice a broker with that defect; and for the
//! in-process broker `memory::refused::<promise>::<case>`: each denial case, on the broker without
//! that feature; and `memory::fault_run::…`: short fault runs, with and without a defect. On Kafka
//! mutants are ignored, by name, unless `--ignored` asks for them: a hunt takes minutes there.
//!
//! | variable | meaning |
//! |---|---|
//! | `POSTHASTE_ONLY` | one broker: `memory`, `nats`, `nats@2.9`, `kafka`, `rabbitmq`, `rabbitmq@3.10`, `redis`, `redis@7.0`, `valkey` |
//! | `POSTHASTE_REQUIRE_BROKERS` | those that must not be missing, by name: `memory,nats,kafka` |
//! | `POSTHASTE_NATS_URL`, `POSTHASTE_KAFKA_URL`, `POSTHASTE_RABBITMQ_URL`, `POSTHASTE_REDIS_URL` | a server that is already there; else what was started by `cargo xtask brokers up` |
//! | `POSTHASTE_SEED` | what all chance comes from, to repeat a run |
//!
//! The last line, also in `target/brokers/ran.txt`, says which brokers were tested.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test binary talks to a person")]

mod fault_runs;
mod ran;
mod trials;

use std::process::ExitCode;

use integration_tests::{brokers, roles};
use libtest_mimic::Arguments;
use posthaste_conformance::fault;

use self::ran::Ran;

/// Most of a case is waiting, so more run at once than there are processors.
const AT_ONCE: usize = 8;

fn main() -> ExitCode {
    if let Some(role) = fault::role() {
        return roles::play(&role);
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_ONCE);
    let ran = Ran::default();
    let (found, missing) = brokers::find();
    let trials = trials::all(&found, &missing, &ran);
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        ran.tell(&missing);
    }
    conclusion.exit_code()
}
