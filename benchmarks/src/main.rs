//! Posthaste against the raw client; see the library of this package.

use std::process::ExitCode;

fn main() -> ExitCode {
    benchmarks::run(std::env::args_os().skip(1))
}
