//! Watching that things go on: who stands still although nothing is broken, and for how long.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior};

use super::audit::{Audit, Standing, Waiting, Wrong};
use super::clock::{Millis, millis};
use super::memory;
use super::plan::FaultKind;

/// How often it looks.
const LOOK: Duration = Duration::from_millis(50);
/// How many confirmed messages show that publishing goes on.
const ENOUGH: u64 = 100;

/// After which fault something was measured; `None` is before the first one.
pub(super) type After = Option<FaultKind>;

/// Somebody who stood still for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stalled {
    /// Publishers first, then groups.
    pub(super) who: usize,
    pub(super) for_millis: Millis,
}

#[derive(Debug, Clone, Copy)]
struct Line {
    progress: u64,
    /// Since when it stands still, while there is something to do.
    since: Millis,
}

/// What stood still for how long, without the audit: fed with times and standings.
#[derive(Debug)]
pub(super) struct Pulse {
    lines: Vec<Line>,
    limit: Millis,
    broken: bool,
    after: After,
    /// What each had done when things were whole again.
    at_repair: Vec<u64>,
    longest: BTreeMap<After, Stalled>,
}

impl Pulse {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            lines: Vec::new(),
            limit: millis(limit),
            broken: false,
            after: None,
            at_repair: Vec::new(),
            longest: BTreeMap::new(),
        }
    }

    /// From now on nobody can be expected to go on.
    pub(super) fn breaks(&mut self, kind: FaultKind) {
        (self.broken, self.after) = (true, Some(kind));
    }

    /// Nothing is broken any more: everybody is expected to go on.
    pub(super) fn repaired(&mut self, standings: &[Standing], now: Millis) {
        self.broken = false;
        self.at_repair = standings.iter().map(|standing| standing.progress).collect();
        let line = |standing: &Standing| Line { progress: standing.progress, since: now };
        self.lines = standings.iter().map(line).collect();
    }

    /// Whether all who have something to do went on since then, and publishing as a whole did.
    pub(super) fn is_back(&self, standings: &[Standing], confirmed_since: u64) -> bool {
        let went_on = standings.iter().zip(&self.at_repair);
        confirmed_since >= ENOUGH
            && went_on.into_iter().all(|(now, then)| !now.busy || now.progress > *then)
    }

    /// A look. Whoever stood still for too long is stalled.
    pub(super) fn look(&mut self, standings: &[Standing], now: Millis) -> Result<(), Stalled> {
        let new = |standing: &Standing| Line { progress: standing.progress, since: now };
        self.lines.extend(standings.iter().skip(self.lines.len()).map(new));
        let mut stalled = Ok(());
        for (who, (line, standing)) in self.lines.iter_mut().zip(standings).enumerate() {
            let found = Stalled { who, for_millis: now.saturating_sub(line.since) };
            let moved = line.progress != standing.progress;
            if !self.broken && (standing.busy || moved) {
                let longest = self.longest.entry(self.after).or_insert(found);
                if longest.for_millis < found.for_millis {
                    *longest = found;
                }
                if !moved && found.for_millis > self.limit {
                    stalled = Err(found);
                }
            }
            if moved || !standing.busy || self.broken {
                *line = Line { progress: standing.progress, since: now };
            }
        }
        stalled
    }

    /// The longest time that anybody stood still, by what was broken before.
    pub(super) const fn longest(&self) -> &BTreeMap<After, Stalled> {
        &self.longest
    }
}

/// Looks at the books at a steady pace.
#[derive(Debug)]
pub(super) struct Watch {
    audit: Arc<Audit>,
    /// How many lanes the ordered topic has.
    partitions: u16,
    pub(super) pulse: Pulse,
    /// Nothing is published any more.
    little_is_left: bool,
    beat: Interval,
    second: Millis,
    confirmed: u64,
    /// Confirmed messages in each second.
    rates: Vec<u64>,
    pub(super) memory: memory::Peak,
    idle: Vec<String>,
    idle_limit: Millis,
    /// The longest wait of a key, outages included, and the group.
    pub(super) longest_wait: Option<(Waiting, String)>,
    wait_limit: Millis,
    someone_waits: bool,
}

impl Watch {
    pub(super) fn new(audit: &Arc<Audit>, stall: Duration, partitions: u16) -> Self {
        let mut beat = tokio::time::interval(LOOK);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            audit: Arc::clone(audit),
            partitions,
            pulse: Pulse::new(stall),
            little_is_left: false,
            beat,
            second: 0,
            confirmed: 0,
            rates: Vec::new(),
            memory: memory::Peak::default(),
            idle: Vec::new(),
            idle_limit: millis(stall * 2),
            longest_wait: None,
            wait_limit: millis(stall * 4),
            someone_waits: false,
        }
    }

    /// From now on nothing is published any more, and nothing is broken.
    pub(super) fn last_ones(&mut self) {
        self.little_is_left = true;
        self.repaired();
    }

    /// From now on nothing is broken any more.
    pub(super) fn repaired(&mut self) {
        let standings = self.audit.standings(self.little_is_left);
        self.pulse.repaired(&standings, self.audit.clock.now());
    }

    /// Whether all who have something to do went on since then, and publishing as a whole did.
    pub(super) fn is_back(&self, confirmed_since: u64) -> bool {
        self.pulse.is_back(&self.audit.standings(self.little_is_left), confirmed_since)
    }

    /// Waits for the next look, and looks.
    pub(super) async fn look(&mut self) -> Result<(), Stalled> {
        self.beat.tick().await;
        let (now, standings) = (self.audit.clock.now(), self.audit.standings(self.little_is_left));
        if now / 1_000 != self.second {
            self.second = now / 1_000;
            let confirmed = self.audit.totals().confirmed;
            self.rates.push(confirmed - self.confirmed);
            self.confirmed = confirmed;
            self.memory.look();
            if !self.little_is_left {
                self.look_at_members();
                self.look_at_keys();
            }
        }
        self.pulse.look(&standings, now)
    }

    /// A member may have nothing to do while others of its group have, but not for so long.
    fn look_at_members(&mut self) {
        for member in self.audit.idle_members(self.idle_limit) {
            if !self.idle.contains(&member) {
                let (limit, now) = (self.idle_limit, self.audit.clock.now());
                let words = format!("{member} got nothing for {limit} ms, at {now} ms");
                self.audit.find(Wrong::Stalled, words);
                self.someone_waits = true;
                self.idle.push(member);
            }
        }
    }

    /// Faults that come again and again excuse much, but not that a key stands still for good.
    fn look_at_keys(&mut self) {
        let (waits, limit) = (self.audit.longest_wait(), self.wait_limit);
        let is_over = |wait: &Option<(Waiting, String)>| {
            wait.as_ref().is_some_and(|(waiting, _)| waiting.millis > limit)
        };
        if is_over(&waits) && !is_over(&self.longest_wait) {
            self.someone_waits = true;
            let lane = waits.as_ref().and_then(|(waiting, _)| waiting.next.lane(self.partitions));
            let words = format!(
                "a key in lane {lane:?} for more than {limit} ms, outages included: {waits:?}"
            );
            self.audit.find(Wrong::Stalled, words);
        }
        self.longest_wait = self.longest_wait.take().max(waits);
    }

    /// Whether a member or a key was found to have waited too long.
    pub(super) const fn someone_waits(&self) -> bool {
        self.someone_waits
    }

    /// Messages per second: the median of all seconds, those of outages too.
    pub(super) fn median_rate(&self) -> u64 {
        let mut rates = self.rates.clone();
        rates.sort_unstable();
        rates.get(rates.len() / 2).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Millis = 15_000;

    fn one(busy: bool, progress: u64) -> [Standing; 1] {
        [Standing { busy, progress }]
    }

    fn pulse() -> Pulse {
        Pulse::new(Duration::from_millis(LIMIT.into()))
    }

    #[test]
    fn whoever_stands_still_with_work_to_do_is_stalled() {
        let mut pulse = pulse();
        assert_eq!(pulse.look(&one(true, 5), 1_000), Ok(()));
        assert_eq!(pulse.look(&one(true, 5), 16_000), Ok(()));
        let stalled = Stalled { who: 0, for_millis: LIMIT + 1 };
        assert_eq!(pulse.look(&one(true, 5), 16_001), Err(stalled));
        assert_eq!(pulse.longest()[&None], stalled);
    }

    #[test]
    fn whoever_moves_or_has_nothing_to_do_is_not() {
        let mut pulse = pulse();
        for second in 0..60 {
            let moves = one(true, u64::from(second / 10));
            assert_eq!(pulse.look(&moves, second * 1_000), Ok(()), "{second}");
        }
        let mut pulse = self::pulse();
        for second in 0..60 {
            assert_eq!(pulse.look(&one(false, 5), second * 1_000), Ok(()), "{second}");
        }
        assert_eq!(pulse.look(&one(true, 5), 60_000), Ok(()));
        assert_eq!(pulse.look(&one(true, 5), 74_000), Ok(()), "busy since 59 s");
    }

    #[test]
    fn an_outage_does_not_count_and_its_end_does() {
        let mut pulse = pulse();
        assert_eq!(pulse.look(&one(true, 5), 1_000), Ok(()));
        pulse.breaks(FaultKind::Kill);
        assert_eq!(pulse.look(&one(true, 5), 40_000), Ok(()));
        pulse.repaired(&one(true, 5), 41_000);
        assert!(!pulse.is_back(&one(true, 5), 500));
        assert_eq!(pulse.look(&one(true, 5), 44_000), Ok(()));
        assert_eq!(pulse.look(&one(true, 6), 45_000), Ok(()));
        assert!(pulse.is_back(&one(true, 6), 500));
        assert!(!pulse.is_back(&one(true, 6), 5), "publishing is not");
        assert_eq!(pulse.longest()[&Some(FaultKind::Kill)].for_millis, 4_000);
        assert!(pulse.look(&one(true, 6), 61_000).is_err());
    }

    #[test]
    fn one_that_stands_still_among_many_is_named() {
        let mut pulse = pulse();
        let all =
            |progress| [Standing { busy: true, progress }, Standing { busy: true, progress: 7 }];
        for second in 0..15 {
            assert_eq!(pulse.look(&all(second.into()), second * 1_000), Ok(()));
        }
        assert_eq!(pulse.look(&all(99), 16_000).unwrap_err().who, 1);
    }
}
