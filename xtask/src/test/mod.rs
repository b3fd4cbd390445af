//! `cargo xtask test`: every test of the workspace, on every broker that can be had.
//!
//! First the unit, doc and public API tests of all crates, which need nothing; then the
//! integration suite, one binary that runs each case on each broker. Brokers that this command
//! started are stopped at its end, also after a failure or Ctrl-C.

mod suite;

use std::fs;
use std::process::{Command, ExitCode};

use self::suite::Tally;
use crate::args::TestOptions;
use crate::brokers::{self, Session, TABLE};
use crate::failure::{Context, Result, fail};
use crate::interrupt::Interrupt;
use crate::workspace;

/// The package and the test target that hold the integration suite.
const PACKAGE: &str = "integration-tests";
const TARGET: &str = "it";

/// Does `test …`. The last line of standard output says which brokers were tested.
pub(crate) fn run(options: &TestOptions) -> Result<ExitCode> {
    let required = required()?;
    let only = options.only.as_deref().map(choose).transpose()?;
    let interrupt = Interrupt::install()?;
    let may_install = options.install || workspace::is_ci();

    // A list says what there is; it needs no broker.
    let wanted = if options.list { Vec::new() } else { wanted(only.as_ref()) };
    let mut session = Session::start(&wanted, may_install)?;
    check_required(&session, &required, only.as_ref())?;
    if interrupt.came() {
        return Ok(interrupted());
    }

    let suite_alone = only.is_some()
        || options.filter.is_some()
        || options.repeat.is_some()
        || options.list
        || !options.rest.is_empty();
    let mut passed = true;
    if !suite_alone {
        println!("== unit, doc and public API tests");
        for mut tests in unit_tests() {
            passed &= interrupt.status(&mut tests)?;
            if interrupt.came() {
                return Ok(interrupted());
            }
        }
    }

    let ran_file = workspace::brokers_dir().join("ran.txt");
    forget(&ran_file)?;
    println!("== integration suite");
    let suite = suite_command(options, only.as_ref(), &session);
    passed &= match options.repeat {
        None => interrupt.status(&mut copy_of(&suite))?,
        Some(times) => repeat(times, &suite, &interrupt)?,
    };
    if !passed {
        session.keep_data();
    }
    drop(session);
    if interrupt.came() {
        return Ok(interrupted());
    }
    if !options.list {
        let line = fs::read_to_string(&ran_file).context(|| {
            format!("the suite did not say which brokers it tested, in {}", ran_file.display())
        })?;
        println!("{}", line.trim_end());
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The brokers that must not be missing: `POSTHASTE_REQUIRE_BROKERS`, by name. One without an
/// adapter is refused: it would be required, and not tested.
pub(crate) fn required() -> Result<Vec<String>> {
    let text = workspace::env_text("POSTHASTE_REQUIRE_BROKERS").unwrap_or_default();
    let names: Vec<String> =
        text.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect();
    for name in &names {
        brokers::testable(name).context(|| "POSTHASTE_REQUIRE_BROKERS".to_owned())?;
    }
    Ok(names)
}

/// The broker of `--only`.
#[derive(Debug, PartialEq, Eq)]
struct Only {
    /// As the suite knows it: `memory`, `nats`, `nats@2.9`, `kafka`, `rabbitmq`, `rabbitmq@3.10`,
    /// `redis`, `redis@7.0`, `valkey`.
    id: String,
}

fn choose(spec: &str) -> Result<Only> {
    let entry = brokers::testable(spec)?;
    Ok(Only { id: entry.map_or(spec, |entry| entry.id).to_owned() })
}

/// The brokers to bring up: all that the suite tests, or the chosen one and those beside it.
fn wanted(only: Option<&Only>) -> Vec<&'static brokers::Entry> {
    TABLE
        .iter()
        .filter(|entry| entry.in_suite)
        .filter(|entry| match only {
            None => !entry.only_asked,
            Some(only) => entry.id == only.id || entry.beside == Some(only.id.as_str()),
        })
        .collect()
}

/// Fails when a broker is missing that was named as required, or as the only one.
fn check_required(session: &Session, required: &[String], only: Option<&Only>) -> Result<()> {
    let ids = required.iter().chain(only.map(|only| &only.id));
    for id in ids {
        let id = brokers::find(id).map_or(id.as_str(), |entry| entry.id);
        if let Some(reason) = session.missing(id) {
            return fail(format!("{id} is required, but not available: {reason}"));
        }
    }
    Ok(())
}

/// All features but those of the Kafka adapter: they link libraries that a machine may not have.
fn unit_tests() -> [Command; 2] {
    const NATIVE: &str = "posthaste-kafka";
    let (mut most, mut native) = (workspace::cargo(), workspace::cargo());
    most.args(["test", "--workspace", "--exclude", PACKAGE, "--exclude", NATIVE]);
    most.arg("--all-features");
    native.args(["test", "--package", NATIVE]);
    [most, native]
}

fn suite_command(options: &TestOptions, only: Option<&Only>, session: &Session) -> Command {
    let mut command = workspace::cargo();
    command.args(["test", "--package", PACKAGE, "--all-features", "--test", TARGET]);
    command.arg("--");
    command.args(options.filter.iter());
    if options.list {
        command.arg("--list");
    }
    command.args(&options.rest);
    for broker in session.running() {
        if let Ok(entry) = brokers::find(broker.id) {
            command.env(entry.variable(), &broker.url);
        }
    }
    match only {
        Some(only) => command.env("POSTHASTE_ONLY", &only.id),
        None => command.env_remove("POSTHASTE_ONLY"),
    };
    command
}

/// Runs the suite `times` times, each to its end, and says what failed in which run.
fn repeat(times: u32, suite: &Command, interrupt: &Interrupt) -> Result<bool> {
    let mut total = suite::Repeated::default();
    for run in 1..=times {
        println!("-- run {run} of {times}");
        let mut tally = Tally::default();
        let fine = interrupt.lines(&mut copy_of(suite), |line| {
            // What went well is counted, not printed, n times over.
            if tally.read(line) {
                println!("{line}");
            }
        })?;
        if interrupt.came() {
            break;
        }
        total.add(run, fine, tally);
    }
    println!("{total}");
    Ok(total.is_fine())
}

/// A command of its own for each run.
fn copy_of(command: &Command) -> Command {
    let mut copy = Command::new(command.get_program());
    copy.args(command.get_args()).stdin(std::process::Stdio::null());
    if let Some(folder) = command.get_current_dir() {
        copy.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => copy.env(name, value),
            None => copy.env_remove(name),
        };
    }
    copy
}

fn forget(file: &std::path::Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context(|| format!("deleting {}", file.display()))
        }
        _ => Ok(()),
    }
}

/// What a shell expects of a program that Ctrl-C ended.
fn interrupted() -> ExitCode {
    eprintln!("interrupted");
    ExitCode::from(130)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broker_brings_its_companions_but_not_its_other_versions() {
        let ids = |only: &str| -> Vec<&str> {
            wanted(Some(&choose(only).unwrap())).iter().map(|entry| entry.id).collect()
        };
        assert_eq!(ids("nats"), ["nats", "nats-tls", "nats-creds", "nats-token"]);
        assert_eq!(ids("nats@2.9"), ["nats@2.9"]);
        assert_eq!(ids("kafka"), ["kafka", "kafka-tls"]);
        assert_eq!(ids("rabbitmq"), ["rabbitmq", "rabbitmq-tls"]);
        assert_eq!(ids("rabbitmq@3"), ["rabbitmq@3.10"]);
        assert!(ids("memory").is_empty());
        let all = wanted(None);
        assert!(all.iter().all(|entry| entry.in_suite) && all.len() > 1, "{}", all.len());
        assert!(!all.iter().any(|entry| entry.id == "rabbitmq@3.10"), "it takes long");
        assert_eq!(ids("redis"), ["redis", "redis-tls"]);
        assert_eq!(ids("valkey"), ["valkey"]);
        assert!(choose("sqs").unwrap_err().to_string().contains("no adapter"));
        assert!(choose("nats@1").unwrap_err().to_string().contains("memory"));
    }

    #[test]
    fn a_copy_of_a_command_is_the_same_command() {
        let mut command = Command::new("program");
        command.args(["a", "b"]).current_dir("/").env("X", "1").env_remove("Y");
        assert_eq!(format!("{command:?}"), format!("{:?}", copy_of(&command)));
    }
}
