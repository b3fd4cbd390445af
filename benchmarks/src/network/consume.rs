//! Consuming: what was published before, read and acknowledged.

use posthaste::Result;

use super::{Bench, Columns, took_part};
use crate::case::Case;
use crate::ours;
use crate::raw::{How, Load};
use crate::report::Report;
use crate::row::Row;
use crate::runtime::Flavour;

/// One is asked for, handled, and then the next.
const ONE: How = How { window: 1, envelope: true };
/// How many unsettled deliveries ours may hold; the first is the default. Raw's is what it pulls.
const PREFETCH: [usize; 3] = [256, 1_000, 4_000];

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
}
