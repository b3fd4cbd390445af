//! The chores of the workspace, as one plain program: `cargo xtask <command>`.
//!
//! It starts brokers for development, runs the tests and the examples on them, checks the house
//! rules and keeps generated tables up to date. It holds no code of the library, and no library
//! crate depends on it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the command line")]

mod args;
mod brokers;
mod examples;
mod failure;
mod faults;
mod features;
mod interrupt;
mod tables;
mod test;
mod tidy;
mod wait;
mod workspace;

use std::process::ExitCode;

use args::Command;

fn main() -> ExitCode {
    let command = match args::parse(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(wrong) => {
            eprintln!("xtask: {wrong}\n\n{}", args::USAGE);
            return ExitCode::from(2);
        }
    };
    let outcome = match command {
        Command::Help => {
            println!("{}", args::USAGE);
            Ok(ExitCode::SUCCESS)
        }
        Command::Brokers(options) => brokers::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Tables { check } => tables::run(check),
        Command::Features => features::run(),
        Command::Tidy => tidy::run(),
        Command::Examples(options) => examples::run(&options),
        Command::Faults(options) => faults::run(&options),
    };
    outcome.unwrap_or_else(|failure| {
        eprintln!("xtask: {failure}");
        ExitCode::FAILURE
    })
}
