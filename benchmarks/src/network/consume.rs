//! Consuming: what was published before, read and acknowledged.

use posthaste::Result;

use super::{Bench, COUNTED, Columns, round, took_part};
use crate::allocations;
use crate::case::Case;
use crate::clock::Sample;
use crate::ours;
use crate::pairs::{interleave, ratios};
use crate::raw::{How, Load};
use crate::report::Report;
use crate::row::Row;
use crate::runtime::Flavour;
use crate::statistics::{interval95, median};

/// One is asked for, handled, and then the next.
const ONE: How = How { window: 1, envelope: true };
/// How many unsettled deliveries ours may hold; the first is the default. Raw's is what it pulls.
const PREFETCH: [usize; 3] = [256, 1_000, 4_000];

/// What handlers shall reach of the rate of the loop.
const LOW_LEVEL: f64 = 0.90;
/// What a message to a handler may allocate, the broker's client included.
const ALLOCATIONS: f64 = 4.0;

impl Bench<'_> {
    /// A loop that acknowledges each message, against a loop over the raw client's batches.
    pub(super) fn consume(&self, load: &Load, report: &Report) -> Result<Row> {
        let (raw, budget) = (self.raw, &self.budget);
        let tuned = budget.sweep(load, raw.pulls(), |flavour, window, load| {
            flavour.run(raw.consume(load, How { window, envelope: true }))
        })?;
        report.say(&tuned.describe("tuned raw, consume"));
        let own = budget.sweep(load, &PREFETCH, |flavour, prefetch, load| {
            flavour.run(ours::consume(load, prefetch))
        })?;
        report.say(&own.describe("ours, consume_ack"));
        let naive = budget.sweep_of(load, &[Flavour::MultiThread], &[1], |flavour, _, load| {
            flavour.run(raw.consume(load, ONE))
        })?;
        let (run, few) = (budget.load(load, tuned.rate), budget.load(load, naive.rate));
        let ours = |load: &Load| own.flavour.run(ours::consume(load, own.window));
        let theirs =
            |load: &Load, envelope| tuned.flavour.run(raw.consume(load, tuned.how(envelope)));
        let mut row = self.compare(
            load,
            Case::ConsumeAck,
            Columns {
                ours: Box::new(|| Ok(ours(&run)?.into())),
                tuned: Box::new(|| Ok(theirs(&run, true)?.into())),
                bare: Box::new(|| Ok(theirs(&run, false)?.into())),
                naive: Some(Box::new(|| Ok(naive.flavour.run(raw.consume(&few, ONE))?.into()))),
            },
        )?;
        took_part(&mut row, own.flavour, &tuned);
        row.prefetch = Some(own.window);
        Self::count(&mut row, load, ours, |load| theirs(load, true))?;
        Ok(row)
    }

    /// Handlers that do nothing, against our own loop. No raw client takes part.
    pub(super) fn handlers(&self, load: &Load, report: &Report) -> Result<Row> {
        let budget = &self.budget;
        let own = budget.sweep(load, &PREFETCH, |flavour, prefetch, load| {
            flavour.run(ours::consume(load, prefetch))
        })?;
        report.say(&own.describe("ours, consume_ack"));
        let mut row = self.blank(Case::ConsumeHandlers, "messages/s");
        row.payload_bytes = Some(load.payload.len());
        row.runtime = Some(own.flavour);
        row.prefetch = Some(own.window);
        let run = budget.load(load, own.rate);
        against_the_loop(&mut row, own.flavour, &run, own.window, self.options.pairs)?;
        Ok(row)
    }
}

/// Compares handlers with the loop, in pairs, and counts what they allocate.
pub(crate) fn against_the_loop(
    row: &mut Row,
    flavour: Flavour,
    load: &Load,
    prefetch: usize,
    pairs: usize,
) -> Result<()> {
    let rate = |sample: Sample| sample.rate();
    let taken = interleave(
        pairs,
        &mut [
            Box::new(|| flavour.run(ours::handlers(load, prefetch)).map(rate)),
            Box::new(|| flavour.run(ours::consume(load, prefetch)).map(rate)),
        ],
    )?;
    let ratios = ratios(&taken[0], &taken[1]);
    row.pairs = pairs;
    row.posthaste = Some(median(&taken[0]).round());
    row.ratio_low_level = Some(round(median(&ratios)));
    row.ci95 = interval95(&ratios).map(|ends| ends.map(round));
    row.wants_at_least("ratio_low_level", row.ratio_low_level, LOW_LEVEL);
    let few = Load { messages: COUNTED, ..load.clone() };
    allocations::count(true);
    let counted = flavour.run(ours::handlers(&few, prefetch));
    allocations::count(false);
    row.allocs_posthaste = Some(round(counted?.allocations()));
    row.wants_at_most("allocs_posthaste", row.allocs_posthaste, ALLOCATIONS);
    Ok(())
}
