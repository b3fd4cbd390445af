//! Posthaste against the raw client of a broker, on the same server, in the same run.
//!
//! ```text
//! cargo run --release -p benchmarks -- --broker nats [--case c] [--payload n] [--quick] [--json]
//! ```
//!
//! Four columns: *ours*; the *tuned raw* client, which is the best of a printed sweep over what it
//! has in flight and over runtimes; the *naive raw* client, one task that awaits one message after
//! the other; and the *bare raw* client, tuned, with the payload alone, which shows the price of
//! the envelope. Ours and tuned raw put the same headers on the wire, which is looked at before
//! anything is measured, wait for the same confirmations, and every count is read back. They run
//! in turn, in pairs; what is printed is the median of the pairs' ratios with its 95 % interval.
//!
//! A broker is one file or folder in `raw/`, and an entry in the table there. `--broker null` shows
//! the cost of the core alone, `--broker memory` the in-process broker.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the command line")]

mod address;
pub mod allocations;
mod case;
mod clock;
mod local;
mod message;
mod network;
pub mod null;
mod options;
mod ours;
mod pace;
mod pairs;
mod raw;
mod report;
mod row;
mod runtime;
mod statistics;

use std::error::Error as _;
use std::ffi::OsString;
use std::process::ExitCode;

use options::{Options, Target, USAGE};
use report::Report;

/// Runs what the command line asks for. Fails if a run failed, or if its results say nothing.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let options = match options::parse(arguments) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(wrong) => {
            eprintln!("benchmarks: {wrong}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match measure(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("benchmarks: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and all that it comes from.
fn with_causes(error: &posthaste::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    std::iter::once(error.to_string())
        .chain(causes.map(ToString::to_string))
        .collect::<Vec<_>>()
        .join(": ")
}

/// Whether the results can be used.
fn measure(options: &Options) -> posthaste::Result<bool> {
    let mut report = Report::new(options.json);
    if cfg!(debug_assertions) {
        report.say("NOT A RELEASE BUILD: these figures say nothing about speed");
    }
    if options.quick {
        report.say("quick: short runs of one payload; cite figures of a full run only");
    }
    match options.target {
        Target::Network(broker) => network::run(broker, options, &mut report)?,
        Target::Null => local::null(options, &mut report)?,
        Target::Memory => local::memory(options, &mut report)?,
    }
    Ok(report.finish())
}
