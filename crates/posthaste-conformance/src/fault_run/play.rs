//! A run from its beginning to its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use posthaste_core::{Error, Result};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::audit::{Audit, Wrong};
use super::clock::Millis;
use super::closing;
use super::deploy::Crew;
use super::fate::Fates;
use super::inject::inject;
use super::plan::{Fault, FaultKind, Plan, Schedule};
use super::publish::Publishers;
use super::report::{FaultReport, Report};
use super::stage::{Stage, Way};
use super::watch::{Stalled, Watch};
use crate::harness::{Harness, Need};

/// How long it may be silent in the end before dead letters are looked at.
const SILENCE: Millis = 2_000;
/// How long all members together may take to stop.
const ENDING: Duration = Duration::from_secs(120);

/// Runs the plan on a private instance of the harness.
///
/// `tell` gets a line about each fault. When `interrupt` is ready before the end, the report is
/// that of what was done so far.
///
/// # Errors
/// Those of the harness and of the first connections: the run did not begin. What goes wrong later
/// is in the report.
///
/// # Cancel safety
/// When dropped, the tasks are ended, and the private instance with them.
pub async fn run(
    harness: &Arc<dyn Harness>,
    plan: &Plan,
    tell: impl Fn(&str),
    interrupt: impl Future<Output = ()>,
) -> Result<Report> {
    let (kinds, not_offered) = plan.offered(harness.offers());
    let schedule = Schedule::new(plan, kinds.clone()).ok_or_else(|| {
        let chosen: Vec<&str> = not_offered.iter().map(|kind| kind.as_str()).collect();
        Error::unsupported("this harness can break nothing of what was asked for")
            .with_context("asked for", chosen.join(", "))
    })?;
    let instance = harness.private().await?;
    let probe = instance.connect().await?;
    let can = probe.capabilities(None);
    let has_links = harness.offers().contains(&Need::Cut);
    let stage = Arc::new(Stage::new(instance, can, has_links, plan.partitions));
    stage.prepare().await?;
    let audit = Arc::new(Audit::new(stage.shape(), stage.topics.len(), plan.backlog));
    let mut play = Play {
        watch: Watch::new(&audit, plan.stall, plan.partitions),
        has_children: harness.offers().contains(&Need::Child),
        counts_kills: kinds.contains(&FaultKind::Kill),
        faults: BTreeMap::new(),
        standings: Vec::new(),
        stored: None,
        plan,
        stage,
        audit,
        tell,
    };
    let interrupted = {
        let playing = play.play(schedule);
        tokio::pin!(playing, interrupt);
        tokio::select! {
            played = playing => played.map(|()| false)?,
            () = interrupt => true,
        }
    };
    play.audit.close(!interrupted);
    let mut report = play.report();
    (report.harness, report.not_offered) = (harness.name().to_owned(), not_offered);
    report.interrupted = interrupted;
    Ok(report)
}

struct Play<'a, T> {
    plan: &'a Plan,
    stage: Arc<Stage>,
    audit: Arc<Audit>,
    watch: Watch,
    has_children: bool,
    counts_kills: bool,
    faults: BTreeMap<FaultKind, FaultReport>,
    standings: Vec<String>,
    stored: Option<usize>,
    tell: T,
}

impl<T: Fn(&str)> Play<'_, T> {
    async fn play(&mut self, schedule: Schedule) -> Result<()> {
        // Dropped in this order: members last, since publishers wait for room.
        let (end, ended) = watch::channel(false);
        let mut crews = JoinSet::new();
        for group in 0..self.stage.groups.len() {
            crews.spawn(self.crew(group).run(ended.clone()));
        }
        let mut publishers = Publishers::start(&self.stage, &self.audit, self.plan).await?;
        let went_on = self.breaking(schedule).await;
        self.note(went_on);
        self.say("no more faults; what is on its way ends");
        self.ending(&mut publishers).await;
        end.send_replace(true);
        let joined = async { while crews.join_next().await.is_some() {} };
        if timeout(ENDING, joined).await.is_err() {
            self.audit.find(Wrong::Stalled, format!("members have not stopped in {ENDING:?}"));
        }
        self.say("all members have stopped; dead letters and topics are read");
        if let Err(error) = self.compare().await {
            self.audit.find(Wrong::Failed, format!("looking at the end: {error:?}"));
        }
        Ok(())
    }

    fn crew(&self, group: usize) -> Crew {
        let plan = self.plan.clone();
        let fates = Fates {
            seed: plan.seed,
            lease: plan.lease,
            clumsiness: plan.clumsiness,
            dead_letters: self.stage.can.dead_letters.is_kept(),
        };
        let (stage, audit) = (Arc::clone(&self.stage), Arc::clone(&self.audit));
        Crew { stage, audit, plan, group, fates, has_children: self.has_children }
    }

    /// Breaks one thing after the other until it was enough.
    async fn breaking(&mut self, mut schedule: Schedule) -> Result<(), Stalled> {
        // Nothing is broken yet, but nobody has begun either.
        self.back().await?;
        while !self.is_enough() {
            let fault = schedule.next();
            self.calm(fault.gap).await?;
            let Some(what) = self.inject(&fault).await else { return Ok(()) };
            self.recover(&fault, &what).await?;
        }
        Ok(())
    }

    fn is_enough(&self) -> bool {
        let counted = |kind: &FaultKind| !self.counts_kills || *kind == FaultKind::Kill;
        let faults = self.faults.iter().filter(|(kind, _)| counted(kind));
        let breaks: u64 = faults.map(|(_, fault)| fault.count).sum();
        breaks >= u64::from(self.plan.kills)
            && self.audit.clock.elapsed() >= self.plan.at_least
            && self.audit.totals().confirmed >= self.plan.messages
    }

    /// Lets things go well for a while.
    async fn calm(&mut self, length: Duration) -> Result<(), Stalled> {
        let calm = tokio::time::sleep(length);
        tokio::pin!(calm);
        loop {
            tokio::select! {
                () = &mut calm => return Ok(()),
                looked = self.watch.look() => looked?,
            }
            if self.watch.someone_waits() {
                self.keep_standings();
            }
        }
    }

    /// Remembers where all stand now, at the first stall.
    fn keep_standings(&mut self) {
        if self.standings.is_empty() {
            let names = self.stage.publishers.iter().map(|publisher| publisher.name.clone());
            self.standings = self.audit.where_all_stand(&names.collect::<Vec<_>>());
        }
    }

    /// Breaks something; what was broken. Nothing if it could not be repaired.
    async fn inject(&mut self, fault: &Fault) -> Option<String> {
        self.audit.outage_begins();
        self.watch.pulse.breaks(fault.kind);
        let stage = Arc::clone(&self.stage);
        let injecting = inject(&stage, fault);
        tokio::pin!(injecting);
        let injected = loop {
            tokio::select! {
                injected = &mut injecting => break injected,
                // While something is broken nobody is stalled.
                _ = self.watch.look() => {}
            }
        };
        match injected {
            Ok(what) => Some(what),
            Err(error) => {
                self.audit.find(Wrong::Failed, format!("{}: {error:?}", fault.kind));
                None
            }
        }
    }

    /// Waits until all go on.
    async fn recover(&mut self, fault: &Fault, what: &str) -> Result<(), Stalled> {
        let took = self.back().await?;
        self.audit.outage_ends();
        let report = self.faults.entry(fault.kind).or_default();
        report.count += 1;
        report.longest_recovery = report.longest_recovery.max(took);
        let (confirmed, seconds) = (self.audit.totals().confirmed, self.audit.clock.now() / 1_000);
        self.say(&format!(
            "{seconds:>4} s  {:<10} {:>5} ms ({what}), back after {took:.2?}; {confirmed} confirmed, \
             {} pending",
            fault.kind.as_str(),
            fault.length.as_millis(),
            self.audit.pending(),
        ));
        Ok(())
    }

    /// From now on nothing is broken. How long it takes until all go on.
    async fn back(&mut self) -> Result<Duration, Stalled> {
        let (begun, before) = (self.audit.clock.elapsed(), self.audit.totals().confirmed);
        self.watch.repaired();
        loop {
            self.watch.look().await?;
            let confirmed = self.audit.totals().confirmed - before;
            if self.watch.is_back(confirmed) {
                return Ok(self.audit.clock.elapsed() - begun);
            }
        }
    }

    /// Publishers end, and every group does what is left.
    async fn ending(&mut self, publishers: &mut Publishers) {
        let within = self.plan.patience() + self.plan.stall;
        let stopping = publishers.stop(within);
        tokio::pin!(stopping);
        let stopped = loop {
            tokio::select! {
                stopped = &mut stopping => break stopped,
                // Whoever stands still now is found by those who wait for it.
                _ = self.watch.look() => {}
            }
        };
        if !stopped {
            self.audit.find(Wrong::Stalled, format!("publishers have not ended in {within:?}"));
        }
        let drained = self.drain().await;
        self.note(drained);
    }

    /// Waits until no group has anything to do, or nothing moves any more.
    async fn drain(&mut self) -> Result<(), Stalled> {
        let mut asked = None;
        let (mut pending, mut since) = (self.audit.pending(), self.audit.clock.now());
        self.watch.last_ones();
        while self.audit.pending() > 0 {
            self.watch.look().await?;
            if self.audit.pending() != pending {
                (pending, since) = (self.audit.pending(), self.audit.clock.now());
            } else if self.audit.clock.now() - since > SILENCE && asked != Some(pending) {
                // Those behind a dead letter of their key come to no handler.
                asked = Some(pending);
                let noted = async {
                    let own = self.stage.bus(Way::Direct, self.plan.patience()).await?;
                    closing::note_followers(&own.bus, &self.stage, &self.audit).await
                };
                if let Err(error) = noted.await {
                    self.audit.find(Wrong::Failed, format!("looking at dead letters: {error:?}"));
                }
            }
        }
        Ok(())
    }

    async fn compare(&mut self) -> Result<()> {
        let own = self.stage.bus(Way::Direct, self.plan.patience()).await?;
        self.stored = closing::compare(&self.stage, &self.audit, &own.bus).await?;
        own.bus.close(self.plan.stall).await
    }

    /// A stall is a finding, with everybody's place at that moment.
    fn note(&mut self, went_on: Result<(), Stalled>) {
        let Err(Stalled { who, for_millis }) = went_on else { return };
        let words = format!("{} for {for_millis} ms", self.name(who));
        self.say(&format!("STALLED: {words}"));
        self.audit.find(Wrong::Stalled, words);
        self.keep_standings();
    }

    /// Publishers first, then groups.
    fn name(&self, who: usize) -> String {
        let publishers = &self.stage.publishers;
        match publishers.get(who) {
            Some(publisher) => format!("publisher {}", publisher.name),
            None => match self.stage.groups.get(who - publishers.len()) {
                Some(group) => format!("group {}", group.name),
                None => who.to_string(),
            },
        }
    }

    fn say(&self, line: &str) {
        (self.tell)(line);
    }

    fn report(&self) -> Report {
        let totals = self.audit.totals();
        let mut report = Report {
            seed: self.plan.seed,
            elapsed: self.audit.clock.elapsed(),
            faults: self.faults.clone(),
            attempted: totals.attempted,
            confirmed: totals.confirmed,
            duplicates: totals.duplicates,
            not_stored: totals.not_stored,
            unknown: totals.unknown,
            doubts: totals.doubts,
            stored: self.stored,
            copies: totals.copies,
            groups: self.audit.groups(),
            median_rate: self.watch.median_rate(),
            longest_wait_of_a_key: self
                .watch
                .longest_wait
                .as_ref()
                .map(|(waiting, _)| Duration::from_millis(waiting.millis.into())),
            memory: self.watch.memory.all(),
            books: totals.bytes,
            findings: self.audit.findings(),
            standings: self.standings.clone(),
            ..Report::default()
        };
        (report.members, report.dropped, report.processes) = self.audit.members();
        for (after, stalled) in self.watch.pulse.longest() {
            let length = Duration::from_millis(stalled.for_millis.into());
            match after {
                None => report.longest_stall_without_a_fault = length,
                Some(kind) => {
                    let fault = report.faults.entry(*kind).or_default();
                    (fault.longest_stall, fault.who_stalled) = (length, self.name(stalled.who));
                }
            }
        }
        report
    }
}
