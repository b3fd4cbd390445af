//! The in-process broker: published, read and acknowledged in batches, all at the same time.

use std::time::Duration;

use bytes::Bytes;
use posthaste::{Bus, Error, ErrorKind, Result, TopicConfig};
use tokio::task::JoinSet;

use super::Rounds;
use crate::case::Case;
use crate::clock::{Sample, timed};
use crate::message::{SOURCE, fresh_topic, payload};
use crate::network::consume::against_the_loop;
use crate::options::Options;
use crate::ours::{GROUP, Manner, send};
use crate::raw::Load;
use crate::report::Report;
use crate::row::Row;
use crate::runtime::Flavour;

/// Messages a second that go all the way, on two cores.
const RATE: f64 = 1e6;
/// Messages a second that handlers take.
const HANDLED: f64 = 5e5;
/// How many unsettled deliveries handlers and the loop may hold.
const PREFETCH: usize = 1_000;
/// How many deliveries are taken at once.
const BATCH: usize = 1_000;

/// Runs the case on each runtime.
pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let rounds = Rounds::new(options);
    report.say(&format!(
        "in-process broker: publish_all, next_batch and ack; {} rounds of {} messages",
        rounds.count, rounds.messages
    ));
    for bytes in &options.payloads {
        let payload = payload(*bytes);
        for flavour in Flavour::ALL.into_iter().filter(|_| options.cases.contains(&Case::Batches)) {
            let mut row = Row::new("memory", Case::Batches, "messages/s");
            row.payload_bytes = Some(*bytes);
            row.quick = options.quick;
            row.runtime = Some(flavour);
            rounds.measure(&mut row, |messages| flavour.run(one(messages, payload.clone())))?;
            if flavour == Flavour::MultiThread {
                row.wants_at_least("messages/s", row.posthaste, RATE);
            }
            report.add(row)?;
        }
        for flavour in Flavour::ALL {
            if options.cases.contains(&Case::ConsumeHandlers) {
                report.add(handlers(options, flavour, rounds.messages, &payload)?)?;
            }
        }
    }
    Ok(())
}

/// Handlers that do nothing, against the loop that acknowledges.
fn handlers(options: &Options, flavour: Flavour, messages: u32, payload: &Bytes) -> Result<Row> {
    let mut row = Row::new("memory", Case::ConsumeHandlers, "messages/s");
    row.payload_bytes = Some(payload.len());
    row.quick = options.quick;
    row.runtime = Some(flavour);
    row.prefetch = Some(PREFETCH);
    let load = Load { url: "memory://".to_owned(), messages, payload: payload.clone() };
    against_the_loop(&mut row, flavour, &load, PREFETCH, options.pairs)?;
    if flavour == Flavour::MultiThread {
        row.wants_at_least("messages/s", row.posthaste, HANDLED);
    }
    Ok(row)
}

/// One task publishes, another one reads.
async fn one(messages: u32, payload: Bytes) -> Result<Sample> {
    let bus = posthaste::builder("memory://").await?.source(SOURCE).build()?;
    let topic = fresh_topic();
    bus.ensure(TopicConfig::new(&topic).group(GROUP)).await?;
    let sample = timed(messages, async {
        let mut tasks = JoinSet::new();
        let publisher = bus.publisher(&topic)?;
        tasks.spawn(async move { send(&publisher, Manner::All, messages, &payload).await });
        tasks.spawn(read(bus.clone(), topic.clone(), messages));
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|error| {
                Error::new(ErrorKind::Fatal, "a task of the benchmark ended").with_source(error)
            })??;
        }
        Ok(())
    })
    .await?;
    let lag = bus.admin().lag(&topic, GROUP).await?;
    if lag.total() != 0 {
        return Err(Error::new(ErrorKind::Fatal, "the count is wrong: messages are left")
            .with_context("found", lag.total()));
    }
    bus.close(Duration::from_secs(10)).await?;
    Ok(sample)
}

/// Reads everything; returns when all acknowledgements are with the broker.
async fn read(bus: Bus, topic: String, messages: u32) -> Result<()> {
    let mut inbox = bus.subscribe(&topic).group(GROUP).prefetch(4 * BATCH).start().await?;
    let mut left = messages as usize;
    while left > 0 {
        let Some(batch) = inbox.next_batch(BATCH).await else { break };
        for delivery in batch? {
            delivery.ack().await?;
            left -= 1;
        }
    }
    inbox.stop(Duration::from_secs(10)).await
}
