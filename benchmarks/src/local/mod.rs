//! Brokers in this process, where there is no raw client to compare with: what the core costs.

mod decorators;
mod memory;
mod null;

use posthaste::Result;

pub(crate) use memory::run as memory;
pub(crate) use null::run as null;

use crate::allocations;
use crate::clock::Sample;
use crate::options::Options;
use crate::row::Row;
use crate::statistics::{interval95, median};

/// How often each case runs, and how many messages a run has.
#[derive(Debug, Clone, Copy)]
struct Rounds {
    count: usize,
    messages: u32,
}

impl Rounds {
    const fn new(options: &Options) -> Self {
        Self { count: options.pairs, messages: if options.quick { 50_000 } else { 200_000 } }
    }

    /// Runs the case, and once more to count allocations, which is not timed.
    fn measure(self, row: &mut Row, run: impl Fn(u32) -> Result<Sample>) -> Result<()> {
        let samples = (0..self.count).map(|_| run(self.messages)).collect::<Result<Vec<_>>>()?;
        let of = |value: fn(&Sample) -> f64| samples.iter().map(value).collect::<Vec<_>>();
        let rates = of(Sample::rate);
        row.pairs = self.count;
        row.posthaste = Some(median(&rates).round());
        row.ns_per_message = Some(tenth(median(&of(Sample::cpu_nanos))));
        row.cpu_us_posthaste = Some(thousandth(median(&of(Sample::cpu_micros))));
        row.cpu_us_per_message = row.cpu_us_posthaste;
        let spread = interval95(&of(Sample::cpu_nanos));
        row.remark = spread.map(|[low, high]| format!("median between {low:.1} and {high:.1} ns"));
        allocations::count(true);
        let counted = run(self.messages);
        allocations::count(false);
        row.allocs_posthaste = Some(thousandth(counted?.allocations()));
        row.allocs_per_message = row.allocs_posthaste;
        Ok(())
    }
}

fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn thousandth(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
