//! `cargo xtask faults`: a long fault run on one broker.
//!
//! The broker is brought up as for the tests, so that the program knows how to start a private one
//! of the same version: that one is broken, never the one that is up. The program is
//! `integration-tests/src/bin/faults`; what it is about is in `posthaste_conformance::fault_run`.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use crate::args::FaultsOptions;
use crate::brokers::{self, Session};
use crate::failure::{Result, fail};
use crate::interrupt::Interrupt;
use crate::workspace;

/// The package and its program.
const PACKAGE: &str = "integration-tests";
const PROGRAM: &str = "faults";

/// Does `faults …`. Its exit code is that of the program.
pub(crate) fn run(options: &FaultsOptions) -> Result<ExitCode> {
    let entry = brokers::breakable(&options.broker)?;
    let interrupt = Interrupt::install()?;
    let program = build(&interrupt)?;
    let may_install = options.install || workspace::is_ci();
    let session = Session::start(&entry.into_iter().collect::<Vec<_>>(), may_install)?;
    if let Some(entry) = entry
        && let Some(reason) = session.missing(entry.id)
    {
        return fail(format!("{} is not available: {reason}", entry.id));
    }
    let id = entry.map_or(options.broker.as_str(), |entry| entry.id);
    let mut command = Command::new(program);
    command.current_dir(workspace::root()).stdin(Stdio::null()).arg(id).args(&options.rest);
    for broker in session.running() {
        if let Ok(entry) = brokers::find(broker.id) {
            command.env(entry.variable(), &broker.url);
        }
    }
    let code = interrupt.code(&mut command)?;
    // A program that was killed has no code.
    Ok(code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Builds the program, and says where it is.
fn build(interrupt: &Interrupt) -> Result<PathBuf> {
    let mut command = workspace::cargo();
    // What is measured and broken here is what users run.
    command.args(["build", "--release", "--package", PACKAGE, "--bin", PROGRAM]);
    if !interrupt.status(&mut command)? {
        return fail(format!("{PROGRAM} could not be built"));
    }
    let metadata = workspace::metadata()?;
    match metadata["target_directory"].as_str() {
        Some(target) => Ok(PathBuf::from(target).join("release").join(PROGRAM)),
        None => fail("cargo metadata names no target directory"),
    }
}
