//! How long a confirmation takes while there is something to do.

use posthaste::Result;

use super::sweep::Tuned;
use super::{Bench, Columns, Reading, round, took_part};
use crate::case::Case;
use crate::clock::Sample;
use crate::ours;
use crate::pace::Pace;
use crate::raw::Load;
use crate::row::Row;
use crate::runtime::Flavour;
use crate::statistics::percentile;

impl Bench<'_> {
    /// Publishing at half of what the tuned raw client can do at most: the same rate for all.
    pub(super) fn latency(&self, load: &Load, flavour: Flavour, tuned: &Tuned) -> Result<Row> {
        let raw = self.raw;
        let pace = Pace::new(tuned.rate / 2.0, self.budget.latency);
        let theirs =
            |envelope| tuned.flavour.run(raw.latency(load, tuned.how(envelope), pace)).map(read);
        let mut row = self.compare(
            load,
            Case::LatencyHalfLoad,
            Columns {
                ours: Box::new(|| flavour.run(ours::latency(load, pace)).map(read)),
                tuned: Box::new(|| theirs(true)),
                bare: Box::new(|| theirs(false)),
                // One after the other cannot carry the rate.
                naive: None,
            },
        )?;
        took_part(&mut row, flavour, tuned);
        row.messages_per_s = Some(round(pace.rate));
        row.remark = Some(format!("at {:.0}/s", pace.rate));
        Ok(row)
    }
}

fn read((sample, mut micros): (Sample, Vec<f64>)) -> Reading {
    let p50 = percentile(&mut micros, 0.5);
    Reading { value: p50, p99: percentile(&mut micros, 0.99), cpu: sample.cpu_micros() }
}
