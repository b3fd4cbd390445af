//! Reading what a test binary prints, and adding up several runs of it.

use std::fmt;

/// What one run of the suite printed about itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// The names of the cases that failed, in the order in which they ended.
    pub(crate) failing: Vec<String>,
    /// Whether the line with the totals came; without it the binary died, or was not built.
    pub(crate) complete: bool,
}

impl Tally {
    /// Takes in one line of output. `false` when it only says that one case went well.
    pub(crate) fn read(&mut self, line: &str) -> bool {
        if let Some(totals) = line.strip_prefix("test result:") {
            self.complete = true;
            self.passed += number_before(totals, " passed");
            self.failed += number_before(totals, " failed");
        } else if let Some(case) = line.strip_prefix("test ") {
            if let Some(name) = case.strip_suffix(" ... FAILED") {
                self.failing.push(name.trim_end().to_owned());
            }
            return !(case.ends_with(" ... ok") || case.contains(" ... ignored"));
        }
        true
    }
}

/// The number in front of `word`: 12 in ` ok. 12 passed; 0 failed`.
fn number_before(text: &str, word: &str) -> u64 {
    let before = text.split(';').find_map(|part| part.trim_end().strip_suffix(word.trim_end()));
    before.and_then(|part| part.split_whitespace().last()?.parse().ok()).unwrap_or(0)
}

/// Several runs of the suite.
#[derive(Debug, Default)]
pub(crate) struct Repeated {
    runs: u32,
    passed_runs: u32,
    passed_cases: u64,
    failed_cases: u64,
    /// Run and what went wrong in it.
    failures: Vec<(u32, String)>,
}

impl Repeated {
    /// Adds run number `run`; `fine` is whether the binary ended with success.
    pub(crate) fn add(&mut self, run: u32, fine: bool, tally: Tally) {
        self.runs += 1;
        self.passed_cases += tally.passed;
        self.failed_cases += tally.failed;
        if fine && tally.complete && tally.failed == 0 {
            self.passed_runs += 1;
            return;
        }
        if tally.failing.is_empty() {
            let reason = if tally.complete { "ended with an error" } else { "ended early" };
            self.failures.push((run, format!("the test binary {reason}")));
        }
        self.failures.extend(tally.failing.into_iter().map(|case| (run, case)));
    }

    /// Whether there were runs, and all of them passed.
    pub(crate) fn is_fine(&self) -> bool {
        self.runs > 0 && self.passed_runs == self.runs
    }
}

impl fmt::Display for Repeated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (run, what) in &self.failures {
            writeln!(f, "failed in run {run}: {what}")?;
        }
        write!(
            f,
            "repeat: {} runs, {} passed, {} failed; {} cases passed, {} failed",
            self.runs,
            self.passed_runs,
            self.runs - self.passed_runs,
            self.passed_cases,
            self.failed_cases
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Tally, Vec<&str>) {
        let mut tally = Tally::default();
        let printed = text.lines().filter(|line| tally.read(line)).collect();
        (tally, printed)
    }

    const FAILED: &str = "running 3 tests
test nats::p1::confirmed   ... ok
test nats::p9::out_of_order ... FAILED
test kafka::p1::confirmed  ... ignored

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out";

    #[test]
    fn totals_and_failing_cases_are_read() {
        let (tally, printed) = read(FAILED);
        assert_eq!((tally.passed, tally.failed, tally.complete), (1, 1, true));
        assert_eq!(tally.failing, ["nats::p9::out_of_order"]);
        assert_eq!(printed.len(), 4, "{printed:?}");
    }

    #[test]
    fn repeated_runs_name_what_failed_and_when() {
        let (good, _) = read("test result: ok. 2 passed; 0 failed; 0 ignored");
        let mut total = Repeated::default();
        assert!(!total.is_fine(), "no run is no success");
        total.add(1, true, good);
        assert!(total.is_fine());
        total.add(2, false, read(FAILED).0);
        total.add(3, false, Tally::default());
        assert!(!total.is_fine());
        let text = total.to_string();
        assert!(text.contains("failed in run 2: nats::p9::out_of_order"), "{text}");
        assert!(text.contains("failed in run 3: the test binary ended early"), "{text}");
        assert!(text.ends_with("3 runs, 1 passed, 2 failed; 3 cases passed, 1 failed"), "{text}");
    }

    #[test]
    fn a_run_that_ended_without_totals_did_not_pass() {
        let mut total = Repeated::default();
        total.add(1, true, Tally::default());
        assert!(!total.is_fine());
    }
}
