//! Brokers behind a network: ours against the raw client, case by case.

pub(crate) mod consume;
mod drain;
mod latency;
mod publish;
mod sweep;

use posthaste::{Error, Result};

use crate::address;
use crate::allocations;
use crate::case::Case;
use crate::clock::Sample;
use crate::message::payload;
use crate::options::Options;
use crate::pairs::{Column, interleave, ratios};
use crate::raw::{self, Load, Raw};
use crate::report::Report;
use crate::row::Row;
use crate::runtime::Flavour;
use crate::statistics::{interval95, median};
use sweep::{Budget, Tuned};

/// What our processor time may be at most, relative to the tuned raw client's.
const CPU_RATIO: f64 = 1.25;
/// The payload for which goals are set, in bytes.
const GOALS_AT: usize = 1_024;
/// How many messages a run has whose allocations are counted.
const COUNTED: u32 = 5_000;

/// One broker with all that its cases need.
struct Bench<'a> {
    raw: &'a dyn Raw,
    server: String,
    options: &'a Options,
    budget: Budget,
}

/// Runs the cases on the broker of that name.
pub(crate) fn run(broker: &str, options: &Options, report: &mut Report) -> Result<()> {
    let raw = raw::named(broker).ok_or_else(|| Error::invalid("there is no such broker here"))?;
    let url = address::find(broker, options.url.as_deref())?;
    let server = Flavour::CurrentThread.run(raw.server(&url))?;
    let url = raw.url(url)?;
    report.say(&format!("{broker} {server}; {} pairs; ratios: more is better", options.pairs));
    if let Some(conditions) = raw.conditions() {
        report.say(conditions);
    }
    let bench = Bench { raw, server, options, budget: Budget::new(options.quick) };
    if bench.wants(Case::Drain) {
        report.add(bench.drain(&url, report)?)?;
    }
    if options.cases.iter().all(|case| *case == Case::Drain) {
        return Ok(());
    }
    for bytes in &options.payloads {
        let load = Load { url: url.clone(), messages: 2, payload: payload(*bytes) };
        let wire = Flavour::CurrentThread.run(raw.wire(&load))?;
        wire.check()?;
        report.say(&format!(
            "\npayload {bytes} B; on the wire ours {} B, raw {} B, the same {} headers",
            wire.ours.bytes(),
            wire.raw.bytes(),
            wire.ours.headers.len(),
        ));
        bench.publish(&load, report)?;
        if bench.wants(Case::ConsumeAck) {
            report.add(bench.consume(&load, report)?)?;
        }
        if bench.wants(Case::ConsumeHandlers) {
            report.add(bench.handlers(&load, report)?)?;
        }
    }
    Ok(())
}

/// One run of one column.
#[derive(Debug, Clone, Copy)]
struct Reading {
    /// Messages a second, or the median latency in microseconds.
    value: f64,
    p99: f64,
    cpu: f64,
}

impl From<Sample> for Reading {
    fn from(sample: Sample) -> Self {
        Self { value: sample.rate(), p99: 0.0, cpu: sample.cpu_micros() }
    }
}

/// The columns of a case. Ours and tuned raw come first, next to each other.
struct Columns<'a> {
    ours: Column<'a, Reading>,
    tuned: Column<'a, Reading>,
    bare: Column<'a, Reading>,
    naive: Option<Column<'a, Reading>>,
}

impl Bench<'_> {
    fn wants(&self, case: Case) -> bool {
        self.options.cases.contains(&case)
    }

    /// An empty line for a case of this broker.
    fn blank(&self, case: Case, unit: &'static str) -> Row {
        let mut row = Row::new(self.raw.broker(), case, unit);
        row.server = Some(self.server.clone());
        row.conditions = self.raw.conditions();
        row.quick = self.options.quick;
        row
    }

    /// Takes the pairs and compares them.
    fn compare(&self, load: &Load, case: Case, columns: Columns<'_>) -> Result<Row> {
        let latency = case == Case::LatencyHalfLoad;
        let mut row = self.blank(case, if latency { "us" } else { "messages/s" });
        row.payload_bytes = Some(load.payload.len());
        row.pairs = self.options.pairs;
        let Columns { ours, tuned, bare, naive } = columns;
        let mut all: Vec<_> = [ours, tuned, bare].into_iter().chain(naive).collect();
        let taken = interleave(row.pairs, &mut all)?;
        let of = |column: usize, value: fn(&Reading) -> f64| {
            taken.get(column).map(|readings| readings.iter().map(value).collect::<Vec<_>>())
        };
        let values = |column| of(column, |reading| reading.value);
        let middle = |values: Option<Vec<f64>>| values.map(|values| round(median(&values)));
        // More is better: what is small for a latency stands below.
        let ratios_to = |column| {
            let (ours, theirs) = (values(0)?, values(column)?);
            Some(if latency { ratios(&theirs, &ours) } else { ratios(&ours, &theirs) })
        };
        row.posthaste = middle(values(0));
        row.raw_tuned = middle(values(1));
        row.raw_bare = middle(values(2));
        row.raw_naive = middle(values(3));
        row.ratio_tuned = middle(ratios_to(1));
        row.ratio_bare = middle(ratios_to(2));
        row.ratio_naive = middle(ratios_to(3));
        row.ci95 = ratios_to(1).and_then(|ratios| interval95(&ratios)).map(|ends| ends.map(round));
        let cpu = |column| of(column, |reading| reading.cpu);
        row.cpu_us_posthaste = middle(cpu(0));
        row.cpu_us_raw = middle(cpu(1));
        let both = cpu(0).zip(cpu(1));
        row.cpu_ratio = both.as_ref().map(|(ours, raw)| round(median(&ratios(ours, raw))));
        row.cpu_us_per_message = both.map(|(ours, raw)| {
            let more: Vec<_> = ours.iter().zip(&raw).map(|(ours, raw)| ours - raw).collect();
            round(median(&more))
        });
        if latency {
            (row.p50_us, row.raw_p50_us) = (row.posthaste, row.raw_tuned);
            row.p99_us = middle(of(0, |reading| reading.p99));
            row.raw_p99_us = middle(of(1, |reading| reading.p99));
        }
        if let Some(wanted) = case.wanted_ratio()
            && load.payload.len() == GOALS_AT
        {
            row.wants_at_least("ratio_tuned", row.ratio_tuned, wanted);
            row.wants_at_most("cpu_ratio", row.cpu_ratio, CPU_RATIO);
        }
        Ok(row)
    }

    /// Counts allocations, in a run of each side that nobody times.
    fn count(
        row: &mut Row,
        load: &Load,
        ours: impl Fn(&Load) -> Result<Sample>,
        raw: impl Fn(&Load) -> Result<Sample>,
    ) -> Result<()> {
        let few = Load { messages: COUNTED, ..load.clone() };
        allocations::count(true);
        let counted = ours(&few).and_then(|ours| Ok((ours, raw(&few)?)));
        allocations::count(false);
        let (ours, raw) = counted?;
        row.allocs_posthaste = Some(round(ours.allocations()));
        row.allocs_raw = Some(round(raw.allocations()));
        row.allocs_per_message = Some(round(ours.allocations() - raw.allocations()));
        Ok(())
    }
}

/// Says who ran how.
fn took_part(row: &mut Row, flavour: Flavour, tuned: &Tuned) {
    row.runtime = Some(flavour);
    row.raw_runtime = Some(tuned.flavour);
    row.raw_window = Some(tuned.window);
    row.sweep.clone_from(&tuned.tried);
}

/// Figures have no more than four digits behind the point.
fn round(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}
