//! What a fault run has to say in the end.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::audit::{Findings, GroupReport};
use super::plan::FaultKind;

/// What one kind of fault did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FaultReport {
    /// How often it was done.
    pub count: u64,
    /// The longest time from when nothing was broken any more until all went on.
    pub longest_recovery: Duration,
    /// The longest time that a publisher or a group stood still, from when nothing was broken any
    /// more.
    pub longest_stall: Duration,
    /// Who that was.
    pub who_stalled: String,
}

/// How a run came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Everything was done, and nothing is wrong.
    Passed,
    /// Something is wrong.
    Failed,
    /// It was ended early; so far nothing is wrong.
    Interrupted,
}

impl Verdict {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Interrupted => "interrupted",
        }
    }
}

/// What a fault run has to say in the end, or when it was interrupted.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Report {
    /// The broker.
    pub harness: String,
    /// What all chance came from.
    pub seed: u64,
    /// How long it took, with the end.
    pub elapsed: Duration,
    /// What was broken, and what came of it.
    pub faults: BTreeMap<FaultKind, FaultReport>,
    /// What was to be broken and cannot be here.
    pub not_offered: Vec<FaultKind>,
    /// How many messages were given to publishers.
    pub attempted: u64,
    /// How many of these were confirmed.
    pub confirmed: u64,
    /// How many were confirmed as known before.
    pub duplicates: u64,
    /// How many failed, and are certainly not stored.
    pub not_stored: u64,
    /// How many failed, and may be stored.
    pub unknown: u64,
    /// How often a publish failed so; with deduplication the message was then published again.
    pub doubts: u64,
    /// How many different messages a reader found in the topics, where it can read them.
    pub stored: Option<usize>,
    /// How many second copies of messages groups got, each group for itself.
    pub copies: u64,
    /// What each group did.
    pub groups: Vec<GroupReport>,
    /// How many members were started.
    pub members: usize,
    /// How many of them were dropped without a goodbye.
    pub dropped: usize,
    /// How many processes were killed with deliveries in hand.
    pub processes: usize,
    /// The longest time that a publisher or a group stood still while nothing was broken, before
    /// the first fault and after the last.
    pub longest_stall_without_a_fault: Duration,
    /// The longest time that a key of the ordered topic waited with a confirmed message to handle,
    /// outages and handlers included; none without an ordered topic, or if none ever waited.
    pub longest_wait_of_a_key: Option<Duration>,
    /// Confirmed messages in a second: the median, outages included.
    pub median_rate: u64,
    /// Resident memory of this process at the start, at the end and at most, in bytes, where the
    /// system tells.
    pub memory: Option<(u64, u64, u64)>,
    /// How much of that are the auditor's books, in bytes.
    pub books: usize,
    /// Everything that is wrong.
    pub findings: Findings,
    /// Where everybody stood at a stall, a line for each.
    pub standings: Vec<String>,
    /// Whether it was ended early.
    pub interrupted: bool,
}

impl Report {
    /// How it came out.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match (self.findings.is_empty(), self.interrupted) {
            (false, _) => Verdict::Failed,
            (true, true) => Verdict::Interrupted,
            (true, false) => Verdict::Passed,
        }
    }

    /// How often the server was killed, or another fault was done.
    #[must_use]
    pub fn count(&self, kind: FaultKind) -> u64 {
        self.faults.get(&kind).map_or(0, |fault| fault.count)
    }

    /// The longest time that a publisher or a group stood still after any fault.
    #[must_use]
    pub fn longest_stall(&self) -> Duration {
        let stalls = self.faults.values().map(|fault| fault.longest_stall);
        stalls.max().unwrap_or_default().max(self.longest_stall_without_a_fault)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "fault run on {}, seed {}, {:.0?}", self.harness, self.seed, self.elapsed)?;
        writeln!(f, "  {:<12}{:>6}{:>18}{:>16}", "fault", "count", "longest recovery", "stall")?;
        for (kind, fault) in &self.faults {
            let (count, recovery, stall) = (
                fault.count,
                format!("{:.2?}", fault.longest_recovery),
                format!("{:.2?}", fault.longest_stall),
            );
            writeln!(f, "  {kind:<12}{count:>6}{recovery:>18}{stall:>16}  {}", fault.who_stalled)?;
        }
        if !self.not_offered.is_empty() {
            let names: Vec<&str> = self.not_offered.iter().map(|kind| kind.as_str()).collect();
            writeln!(f, "  not offered by this harness: {}", names.join(", "))?;
        }
        writeln!(f, "  longest stall       {:.2?}", self.longest_stall())?;
        if let Some(wait) = self.longest_wait_of_a_key {
            writeln!(f, "  longest key wait    {wait:.0?} (outages included)")?;
        }
        writeln!(
            f,
            "  published           {} attempted, {} confirmed, {} not stored, {} unknown; {} doubts \
             in between, {} confirmed as known before",
            self.attempted,
            self.confirmed,
            self.not_stored,
            self.unknown,
            self.doubts,
            self.duplicates
        )?;
        if let Some(stored) = self.stored {
            writeln!(f, "  stored              {stored}")?;
        }
        writeln!(f, "  second copies       {} (each group counts)", self.copies)?;
        for group in &self.groups {
            writeln!(
                f,
                "  group {:<14}  {} handled, {} of them dead letters, {} pending; {} redelivered, of \
                 these {} after they were settled",
                group.name,
                group.handled,
                group.dead_lettered,
                group.pending,
                group.redelivered,
                group.again
            )?;
        }
        writeln!(
            f,
            "  members             {} started, {} dropped; {} processes killed",
            self.members, self.dropped, self.processes
        )?;
        writeln!(f, "  median rate         {} messages/s", self.median_rate)?;
        if let Some((first, last, most)) = self.memory {
            let mib = |bytes: u64| bytes >> 20;
            writeln!(
                f,
                "  memory              {} MiB at first, {} MiB at last, {} MiB at most; the books \
                 are {} MiB of it",
                mib(first),
                mib(last),
                mib(most),
                self.books >> 20
            )?;
        }
        for (wrong, count, words) in self.findings.iter() {
            writeln!(f, "  WRONG: {wrong}: {count}")?;
            for words in words {
                writeln!(f, "    {words}")?;
            }
        }
        if !self.standings.is_empty() {
            writeln!(f, "  where all stood at the stall:")?;
            for line in &self.standings {
                writeln!(f, "    {line}")?;
            }
        }
        write!(f, "  verdict             {}", self.verdict().as_str())
    }
}
