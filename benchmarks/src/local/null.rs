//! The null broker: the core alone, in one thread.
//!
//! What is published is made up in the loop that publishes it: id, time and all. The case
//! `envelope` says how much of the cost that is. Time is that of the processor, because one thread
//! that waits for nothing takes no other, however busy the machine is.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use posthaste::{Bus, Error, ErrorKind, Result};

use super::{Rounds, decorators};
use crate::case::Case;
use crate::clock::{Sample, timed};
use crate::message::{SOURCE, envelope, payload};
use crate::null::NullBroker;
use crate::options::Options;
use crate::ours::{GROUP, Manner, send};
use crate::report::Report;
use crate::row::Row;
use crate::runtime::Flavour;

/// What a message may cost, each way.
const NANOS: f64 = 300.0;
const ALLOCATIONS: f64 = 2.0;
/// Messages before the clock starts, so that queues have grown to their size.
const WARM: u32 = 2_000;

/// Runs the cases of the null broker.
pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let rounds = Rounds::new(options);
    report.say(&format!(
        "null broker: the core alone, in one thread; {} rounds of {} messages",
        rounds.count, rounds.messages
    ));
    if options.cases.contains(&Case::Decorators) {
        decorators::run(options, rounds, report)?;
    }
    for bytes in &options.payloads {
        let payload = payload(*bytes);
        for case in options.cases.iter().filter(|case| **case != Case::Decorators) {
            let mut row = Row::new("null", *case, "messages/s");
            row.payload_bytes = Some(*bytes);
            row.quick = options.quick;
            row.runtime = Some(Flavour::CurrentThread);
            rounds.measure(&mut row, |messages| {
                Flavour::CurrentThread.run(one(*case, messages, payload.clone()))
            })?;
            if !matches!(case, Case::Envelope) {
                row.wants_at_most("ns_per_message", row.ns_per_message, NANOS);
                row.wants_at_most("allocs_per_message", row.allocs_per_message, ALLOCATIONS);
            }
            report.add(row)?;
        }
    }
    Ok(())
}

/// One run of a case.
async fn one(case: Case, messages: u32, payload: Bytes) -> Result<Sample> {
    let broker = NullBroker::default();
    let bus = Bus::builder(broker.clone()).source(SOURCE).build()?;
    let manner = match case {
        Case::Envelope => {
            let publisher = bus.publisher("null")?;
            return timed(messages, async {
                for _ in 0..messages {
                    black_box(envelope(&publisher, &payload)?);
                }
                Ok(())
            })
            .await;
        }
        Case::ConsumeAck => return consume(&bus, &broker, messages, payload).await,
        Case::PublishAll => Manner::All,
        Case::Publish64Tasks => Manner::Tasks,
        Case::PublishAwaited => Manner::Awaited,
        _ => Manner::Enqueue,
    };
    let publisher = bus.publisher("null")?;
    send(&publisher, manner, WARM, &payload).await?;
    let sample = timed(messages, send(&publisher, manner, messages, &payload)).await?;
    all_there("messages", broker.published(), messages)?;
    bus.close(Duration::from_secs(10)).await?;
    Ok(sample)
}

async fn consume(bus: &Bus, broker: &NullBroker, messages: u32, payload: Bytes) -> Result<Sample> {
    let message = envelope(&bus.publisher("null")?, &payload)?;
    let mut inbox = bus.subscribe("null").group(GROUP).start().await?;
    let mut read = async |count: u32| {
        broker.stock(message.clone(), count as usize);
        for _ in 0..count {
            let Some(delivery) = inbox.next().await else { break };
            delivery?.ack().await?;
        }
        Ok(())
    };
    read(WARM).await?;
    let sample = timed(messages, read(messages)).await?;
    inbox.stop(Duration::from_secs(10)).await?;
    all_there("settlements", broker.settled(), messages)?;
    Ok(sample)
}

fn all_there(what: &'static str, found: u64, messages: u32) -> Result<()> {
    let wanted = u64::from(WARM + messages);
    if found == wanted {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Fatal, "the count is wrong")
        .with_context("of", what)
        .with_context("found", found)
        .with_context("wanted", wanted))
}
