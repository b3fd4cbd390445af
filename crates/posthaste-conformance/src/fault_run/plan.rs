//! What a fault run does: how long, which faults, how hard; and the faults in their order.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use fastrand::Rng;
use posthaste_core::{Error, Result};

use crate::fault::Direction;
use crate::harness::Need;

/// One way to break things, for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// SIGKILL of the server, which is started again after up to 2 s.
    Kill,
    /// An orderly stop of the server, which is started again after up to 2 s.
    Restart,
    /// A server that stands still with its sockets open.
    Pause,
    /// Connections that are closed, and half of the time refused for a while.
    Cut,
    /// Connections that lose every byte.
    BlackHole,
    /// Connections that lose every byte of one direction.
    HalfOpen,
}

impl FaultKind {
    /// All of them.
    pub const ALL: &'static [Self] =
        &[Self::Kill, Self::Restart, Self::Pause, Self::Cut, Self::BlackHole, Self::HalfOpen];

    /// What a harness has to offer for it.
    #[must_use]
    pub const fn need(self) -> Need {
        match self {
            Self::Kill => Need::Kill,
            Self::Restart => Need::Restart,
            Self::Pause => Need::Pause,
            Self::Cut => Need::Cut,
            Self::BlackHole => Need::BlackHole,
            Self::HalfOpen => Need::HalfOpen,
        }
    }

    /// Its name on a command line, for example `black-hole`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Restart => "restart",
            Self::Pause => "pause",
            Self::Cut => "cut",
            Self::BlackHole => "black-hole",
            Self::HalfOpen => "half-open",
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for FaultKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == name).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|kind| kind.as_str()).collect();
            Error::invalid("no such fault")
                .with_context("found", name)
                .with_context("known", known.join(", "))
        })
    }
}

/// What a fault run does. The default is the full length: at least 5 minutes, 40 kills and a
/// million confirmed messages.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(super) seed: u64,
    pub(super) at_least: Duration,
    pub(super) kills: u32,
    pub(super) messages: u64,
    pub(super) only: Vec<FaultKind>,
    pub(super) gap: (Duration, Duration),
    pub(super) longest_outage: Duration,
    pub(super) partitions: u16,
    pub(super) rate: u32,
    pub(super) backlog: u32,
    pub(super) lease: Duration,
    pub(super) stall: Duration,
    pub(super) clumsiness: u32,
}

impl Plan {
    /// A run of full length, with all chance from this seed.
    #[must_use]
    pub const fn full(seed: u64) -> Self {
        Self {
            seed,
            at_least: Duration::from_secs(300),
            kills: 40,
            messages: 1_000_000,
            only: Vec::new(),
            gap: (Duration::from_secs(2), Duration::from_secs(6)),
            longest_outage: Duration::from_secs(8),
            partitions: 8,
            rate: 8_000,
            backlog: 20_000,
            lease: Duration::from_secs(5),
            stall: Duration::from_secs(15),
            clumsiness: 1,
        }
    }

    /// A run of some seconds, for tests: three faults soon after each other, few messages, and
    /// handlers that fail more often.
    #[must_use]
    pub fn short(seed: u64) -> Self {
        Self {
            at_least: Duration::from_secs(3),
            kills: 2,
            messages: 5_000,
            gap: (Duration::from_millis(700), Duration::from_millis(1_200)),
            longest_outage: Duration::from_millis(500),
            rate: 2_000,
            backlog: 2_000,
            lease: Duration::from_secs(1),
            stall: Duration::from_secs(5),
            clumsiness: 20,
            ..Self::full(seed)
        }
    }

    /// It breaks things for at least so long.
    #[must_use]
    pub const fn at_least(mut self, time: Duration) -> Self {
        self.at_least = time;
        self
    }

    /// It kills the server at least so often. Where kills are not offered, or not among the chosen
    /// faults, it is the least number of faults of any kind.
    #[must_use]
    pub const fn kills(mut self, count: u32) -> Self {
        self.kills = count;
        self
    }

    /// At least so many messages are confirmed.
    #[must_use]
    pub const fn messages(mut self, count: u64) -> Self {
        self.messages = count;
        self
    }

    /// Only these faults; all if there are none.
    #[must_use]
    pub fn only(mut self, kinds: impl IntoIterator<Item = FaultKind>) -> Self {
        self.only = kinds.into_iter().collect();
        self
    }

    /// How long things go well between faults, from when throughput is back: 2 to 6 s.
    #[must_use]
    pub const fn gap(mut self, shortest: Duration, longest: Duration) -> Self {
        self.gap = (shortest, longest);
        self
    }

    /// How long a pause or a fault of the network lasts at most: 8 s. Servers that were killed or
    /// stopped are started again sooner.
    #[must_use]
    pub const fn longest_outage(mut self, length: Duration) -> Self {
        self.longest_outage = length;
        self
    }

    /// How many partitions the ordered topic has: 8.
    #[must_use]
    pub const fn partitions(mut self, count: u16) -> Self {
        self.partitions = count;
        self
    }

    /// How many messages are published in a second at most, by all publishers together: 8,000.
    /// What remains of the machine is the broker's.
    #[must_use]
    pub const fn rate(mut self, messages: u32) -> Self {
        self.rate = messages;
        self
    }

    /// How long nothing may move, once nothing is broken any more: 15 s.
    #[must_use]
    pub const fn stall(mut self, longest: Duration) -> Self {
        self.stall = longest;
        self
    }

    /// The same with another seed.
    #[must_use]
    pub const fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The seed.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// Which of the chosen faults this harness can have, and which it cannot.
    #[must_use]
    pub fn offered(&self, offers: &[Need]) -> (Vec<FaultKind>, Vec<FaultKind>) {
        let chosen = if self.only.is_empty() { FaultKind::ALL } else { &self.only };
        chosen.iter().partition(|kind| offers.contains(&kind.need()))
    }

    /// By when a publish ends that can wait: after any outage and the longest stall.
    pub(super) fn patience(&self) -> Duration {
        self.longest_outage + self.stall * 2
    }
}

/// One fault that will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) kind: FaultKind,
    /// How long things go well before.
    pub(super) gap: Duration,
    pub(super) length: Duration,
    /// Which links, by turns, for faults of the network.
    pub(super) pick: usize,
    pub(super) lost: Direction,
}

/// The faults in their order. They depend on the seed and on the kinds alone, not on what happens.
#[derive(Debug)]
pub(super) struct Schedule {
    chance: Rng,
    kinds: Vec<FaultKind>,
    gap: (Duration, Duration),
    longest: Duration,
}

/// The longest time for which a server is not started again.
const LONGEST_DOWN: Duration = Duration::from_secs(2);

impl Schedule {
    /// None without a kind.
    pub(super) fn new(plan: &Plan, kinds: Vec<FaultKind>) -> Option<Self> {
        let (gap, longest) = (plan.gap, plan.longest_outage);
        let chance = Rng::with_seed(plan.seed);
        (!kinds.is_empty()).then_some(Self { chance, kinds, gap, longest })
    }

    pub(super) fn next(&mut self) -> Fault {
        let chance = &mut self.chance;
        // Every number is drawn, whatever it is for, so that the order is easy to see through.
        let (kill, other, gap) = (chance.bool(), chance.usize(..), chance.f64());
        let (length, briefly, pick) = (chance.f64(), chance.bool(), chance.usize(..));
        let lost =
            if chance.bool() { Direction::ClientToServer } else { Direction::ServerToClient };
        // Half of them are kills: nothing else takes so much from a broker.
        let kind = match kill && self.kinds.contains(&FaultKind::Kill) {
            true => FaultKind::Kill,
            false => self.kinds[other % self.kinds.len()],
        };
        let longest = match kind {
            FaultKind::Kill | FaultKind::Restart => self.longest.min(LONGEST_DOWN),
            FaultKind::Cut if briefly => Duration::ZERO,
            _ => self.longest,
        };
        let (shortest_gap, longest_gap) = self.gap;
        Fault {
            kind,
            gap: shortest_gap + longest_gap.saturating_sub(shortest_gap).mul_f64(gap),
            length: longest.mul_f64(length),
            pick,
            lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(seed: u64, kinds: &[FaultKind]) -> Vec<Fault> {
        let mut schedule = Schedule::new(&Plan::full(seed), kinds.to_vec()).unwrap();
        (0..200).map(|_| schedule.next()).collect()
    }

    #[test]
    fn a_seed_gives_the_same_faults_again() {
        assert_eq!(first(7, FaultKind::ALL), first(7, FaultKind::ALL));
        assert_ne!(first(7, FaultKind::ALL), first(8, FaultKind::ALL));
    }

    #[test]
    fn all_kinds_come_and_half_of_them_are_kills() {
        let faults = first(1, FaultKind::ALL);
        for kind in FaultKind::ALL {
            assert!(faults.iter().any(|fault| fault.kind == *kind), "{kind}");
        }
        let kills = faults.iter().filter(|fault| fault.kind == FaultKind::Kill).count();
        assert!((90..150).contains(&kills), "{kills}");
    }

    #[test]
    fn gaps_and_lengths_are_within_their_limits() {
        for fault in first(3, FaultKind::ALL) {
            let gap = fault.gap.as_secs_f64();
            assert!((2.0..=6.0).contains(&gap), "{gap}");
            let most = if fault.kind == FaultKind::Kill { 2 } else { 8 };
            assert!(fault.length <= Duration::from_secs(most), "{fault:?}");
        }
    }

    #[test]
    fn only_what_was_chosen_comes() {
        let kinds = [FaultKind::Cut, FaultKind::HalfOpen];
        assert!(first(5, &kinds).iter().all(|fault| kinds.contains(&fault.kind)));
        assert!(Schedule::new(&Plan::full(1), Vec::new()).is_none());
        let plan = Plan::full(1).only(kinds);
        let (can, cannot) = plan.offered(&[Need::Cut, Need::Kill]);
        assert_eq!((can, cannot), (vec![FaultKind::Cut], vec![FaultKind::HalfOpen]));
    }

    #[test]
    fn faults_have_names() {
        for kind in FaultKind::ALL {
            assert_eq!(kind.as_str().parse::<FaultKind>().unwrap(), *kind);
        }
        assert!("flood".parse::<FaultKind>().is_err());
    }
}
