//! Publishing: pipelined, by many tasks, and one message after the other.

use posthaste::Result;

use super::sweep::Tuned;
use super::{Bench, Columns, took_part};
use crate::case::Case;
use crate::ours::{self, Manner};
use crate::raw::{How, Load};
use crate::report::Report;
use crate::row::Row;
use crate::runtime::Flavour;

/// How many times the naive rate the tuned raw client has to reach: else it is not tuned, or
/// something else is the bottleneck, and nothing can be compared.
const TUNED_ENOUGH: f64 = 10.0;
/// One after the other.
const ONE: How = How { window: 1, envelope: true };

impl Bench<'_> {
    /// All cases that publish.
    pub(super) fn publish(&self, load: &Load, report: &mut Report) -> Result<()> {
        let pipelined = [Case::PublishPipelined, Case::Publish64Tasks, Case::LatencyHalfLoad];
        if pipelined.iter().any(|case| self.wants(*case)) {
            let tuned = self.budget.sweep(load, self.raw.windows(), |flavour, window, load| {
                flavour.run(self.raw.publish(load, How { window, envelope: true }))
            })?;
            report.say(&tuned.describe("tuned raw, publish"));
            if self.wants(Case::PublishPipelined) || self.wants(Case::LatencyHalfLoad) {
                let ours = self.best_of_ours(load, Manner::Enqueue)?;
                report.say(&ours.describe_runtimes("ours, publish_pipelined"));
                if self.wants(Case::PublishPipelined) {
                    let row = self.pipelined(load, Case::PublishPipelined, &ours, &tuned)?;
                    report.add(tuned_enough(row))?;
                }
                if self.wants(Case::LatencyHalfLoad) {
                    report.add(self.latency(load, ours.flavour, &tuned)?)?;
                }
            }
            if self.wants(Case::Publish64Tasks) {
                let ours = self.best_of_ours(load, Manner::Tasks)?;
                report.say(&ours.describe_runtimes("ours, publish_64_tasks"));
                report.add(self.pipelined(load, Case::Publish64Tasks, &ours, &tuned)?)?;
            }
        }
        if self.wants(Case::PublishAwaited) {
            for flavour in Flavour::ALL {
                report.add(self.awaited(load, flavour)?)?;
            }
        }
        Ok(())
    }

    /// Our best runtime; there is nothing else to tune.
    fn best_of_ours(&self, load: &Load, manner: Manner) -> Result<Tuned> {
        self.budget.sweep(load, &[1], |flavour, _, load| flavour.run(ours::publish(load, manner)))
    }

    /// Our publishing against a raw client that keeps its window full.
    fn pipelined(&self, load: &Load, case: Case, own: &Tuned, tuned: &Tuned) -> Result<Row> {
        let raw = self.raw;
        let manner = if case == Case::Publish64Tasks { Manner::Tasks } else { Manner::Enqueue };
        let naive =
            self.budget.sweep_of(load, &[Flavour::MultiThread], &[1], |flavour, _, load| {
                flavour.run(raw.publish(load, ONE))
            })?;
        let (run, few) = (self.budget.load(load, tuned.rate), self.budget.load(load, naive.rate));
        let ours = |load: &Load| own.flavour.run(ours::publish(load, manner));
        let theirs =
            |load: &Load, envelope| tuned.flavour.run(raw.publish(load, tuned.how(envelope)));
        let mut row = self.compare(
            load,
            case,
            Columns {
                ours: Box::new(|| Ok(ours(&run)?.into())),
                tuned: Box::new(|| Ok(theirs(&run, true)?.into())),
                bare: Box::new(|| Ok(theirs(&run, false)?.into())),
                naive: Some(Box::new(|| Ok(naive.flavour.run(raw.publish(&few, ONE))?.into()))),
            },
        )?;
        took_part(&mut row, own.flavour, tuned);
        Self::count(&mut row, load, ours, |load| theirs(load, true))?;
        Ok(row)
    }

    /// One task that awaits each message, on both sides, on the same runtime.
    fn awaited(&self, load: &Load, flavour: Flavour) -> Result<Row> {
        let raw = self.raw;
        let tuned = self.budget.sweep_of(load, &[flavour], &[1], |flavour, _, load| {
            flavour.run(raw.publish(load, ONE))
        })?;
        let run = self.budget.load(load, tuned.rate);
        let ours = |load: &Load| flavour.run(ours::publish(load, Manner::Awaited));
        let theirs = |load: &Load, envelope| flavour.run(raw.publish(load, tuned.how(envelope)));
        let mut row = self.compare(
            load,
            Case::PublishAwaited,
            Columns {
                ours: Box::new(|| Ok(ours(&run)?.into())),
                tuned: Box::new(|| Ok(theirs(&run, true)?.into())),
                bare: Box::new(|| Ok(theirs(&run, false)?.into())),
                naive: None,
            },
        )?;
        // One after the other is all that either of them can do.
        (row.raw_naive, row.ratio_naive) = (row.raw_tuned, row.ratio_tuned);
        took_part(&mut row, flavour, &tuned);
        Self::count(&mut row, load, ours, |load| theirs(load, true))?;
        Ok(row)
    }
}

/// A raw client that is hardly faster than a naive one is no measure.
fn tuned_enough(mut row: Row) -> Row {
    if let (Some(tuned), Some(naive)) = (row.raw_tuned, row.raw_naive)
        && tuned < TUNED_ENOUGH * naive
    {
        row.valid = false;
        let times = tuned / naive;
        row.remark = Some(format!(
            "tuned raw is only {times:.1} times as fast as naive raw; {TUNED_ENOUGH} are needed"
        ));
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raw_client_that_is_not_tuned_makes_the_run_invalid() {
        let row = |tuned, naive| {
            let mut row = Row::new("nats", Case::PublishPipelined, "messages/s");
            (row.raw_tuned, row.raw_naive) = (Some(tuned), Some(naive));
            tuned_enough(row)
        };
        assert!(row(100_000.0, 10_000.0).valid);
        let invalid = row(99_000.0, 10_000.0);
        assert!(!invalid.valid);
        assert!(invalid.remark.unwrap().contains("9.9"));
    }
}
