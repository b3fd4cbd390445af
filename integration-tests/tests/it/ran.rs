//! Which brokers were tested, for the last line.

use std::collections::BTreeSet;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};

use integration_tests::brokers::Missing;
use integration_tests::record;

/// The brokers of which at least one case ran to its end, by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ran(Arc<Mutex<BTreeSet<String>>>);

impl Ran {
    /// A case ran on this broker.
    pub(crate) fn note(&self, broker: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(broker.to_owned());
    }

    /// Prints the last line, and leaves it for `cargo xtask test`.
    pub(crate) fn tell(&self, missing: &[Missing]) {
        let tested = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let line = line(&tested, missing);
        let dir = record::dir();
        let written = fs::create_dir_all(&dir)
            .and_then(|()| fs::write(dir.join("ran.txt"), format!("{line}\n")));
        if let Err(error) = written {
            eprintln!("{}: {error}", dir.join("ran.txt").display());
        }
        println!("{line}");
    }
}

fn line(tested: &BTreeSet<String>, missing: &[Missing]) -> String {
    let names: Vec<&str> = tested.iter().map(String::as_str).collect();
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let absent: Vec<String> =
        missing.iter().map(|missing| format!("{} ({})", missing.id, missing.why)).collect();
    let mut line = format!("brokers tested: {names}");
    if !absent.is_empty() {
        line.push_str(&format!("; not tested: {}", absent.join(", ")));
    }
    if tested.iter().all(|name| name == "memory") {
        line = format!("NETWORK BROKERS NOT TESTED; {line}");
    }
    line
}
