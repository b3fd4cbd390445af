//! Five layers around `Publish` that pass everything on: what a layer costs.

use std::sync::Arc;

use async_trait::async_trait;
use posthaste::broker::{Destination, Outcomes, Publish, SendOptions};
use posthaste::{Envelope, Layout, Result, TopicName};

use super::{Rounds, tenth};
use crate::case::Case;
use crate::clock::timed;
use crate::message::{SOURCE, TYPE, payload};
use crate::null::NullBroker;
use crate::options::Options;
use crate::pairs::interleave;
use crate::report::Report;
use crate::row::Row;
use crate::runtime::Flavour;
use crate::statistics::{as_float, interval95, median};

/// How many layers there are.
const LAYERS: usize = 5;
/// What they may cost together, for each message of a batch.
const NANOS: f64 = 20.0;
/// The batch of which that is said. What a window makes up is larger.
const BATCH: usize = 64;

/// Passes everything on, as a layer that counts or traces would.
#[derive(Debug)]
struct Through(Arc<dyn Publish>);

#[async_trait]
impl Publish for Through {
    async fn publish(
        &self,
        to: &Destination,
        batch: &mut [Envelope],
        options: &SendOptions,
    ) -> Result<Outcomes> {
        self.0.publish(to, batch, options).await
    }
}

/// Measures batches of several sizes; the goal is that of one of them.
pub(super) fn run(options: &Options, rounds: Rounds, report: &mut Report) -> Result<()> {
    let bare: Arc<dyn Publish> = Arc::new(NullBroker::default());
    let layered = (0..LAYERS).fold(Arc::clone(&bare), |inner, _| Arc::new(Through(inner)) as _);
    for size in [1, 8, BATCH, 250] {
        let mut taken = interleave(
            rounds.count,
            &mut [
                Box::new(|| nanos(&*layered, size, rounds.messages)),
                Box::new(|| nanos(&*bare, size, rounds.messages)),
            ],
        )?;
        let (without, with) = (taken.pop().unwrap_or_default(), taken.pop().unwrap_or_default());
        let cost: Vec<_> =
            with.iter().zip(&without).map(|(with, without)| with - without).collect();
        let mut row = Row::new("null", Case::Decorators, "messages/s");
        row.pairs = rounds.count;
        row.quick = options.quick;
        row.runtime = Some(Flavour::CurrentThread);
        row.posthaste = Some((1e9 / median(&with)).round());
        row.ns_per_message = Some(tenth(median(&cost)));
        let between = interval95(&cost)
            .map_or_else(String::new, |[low, high]| format!(", between {low:.1} and {high:.1} ns"));
        row.remark = Some(format!("{LAYERS} layers more, batches of {size}{between}"));
        if size == BATCH {
            row.wants_at_most("ns_per_message", row.ns_per_message, NANOS);
        }
        report.add(row)?;
    }
    Ok(())
}

/// Nanoseconds of processor time a message.
fn nanos(publish: &dyn Publish, size: usize, messages: u32) -> Result<f64> {
    let to = Destination::new(TopicName::new("null")?, Layout::Plain, false);
    let message = Envelope::builder(TYPE).source(SOURCE).payload(payload(100)).build()?;
    let mut batch = vec![message; size];
    let batches = messages as usize / size;
    let sample = Flavour::CurrentThread.run(timed(messages, async {
        for _ in 0..batches {
            publish.publish(&to, &mut batch, &SendOptions::default()).await?;
        }
        Ok(())
    }))?;
    Ok(sample.cpu.as_secs_f64() * 1e9 / as_float(batches * size))
}
