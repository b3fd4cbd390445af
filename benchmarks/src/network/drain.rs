//! A full topic, read again and again: does it ever stand still?

use std::time::{Duration, Instant};

use posthaste::{Bus, Error, ErrorKind, Result, Start, Subscription, TopicConfig};

use super::{Bench, round};
use crate::case::Case;
use crate::message::{SOURCE, envelope, fresh_topic, payload};
use crate::report::Report;
use crate::row::Row;
use crate::runtime::Flavour;
use crate::statistics::median;

/// How many messages the topic has.
const MESSAGES: u32 = 400_000;
/// Their payload, unless one is asked for.
const PAYLOAD: usize = 100;
/// A gap between two deliveries that is longer is a stall.
const STALL: Duration = Duration::from_secs(5);
/// All drains together, and filling the topic, end within that.
const LIMIT: Duration = Duration::from_secs(3_600);

/// One drain.
struct Drained {
    took: Duration,
    longest_gap: Duration,
}

impl Bench<'_> {
    /// One group after the other reads the whole topic and acknowledges everything. A stall is an
    /// error.
    pub(super) fn drain(&self, url: &str, report: &Report) -> Result<Row> {
        let drains = self.options.drains;
        let bytes = match self.options.payloads.as_slice() {
            [bytes] => *bytes,
            _ => PAYLOAD,
        };
        report.say(&format!("drain: {drains} times {MESSAGES} messages of {bytes} B"));
        let drained = Flavour::MultiThread.run_within(LIMIT, async {
            let bus = posthaste::builder(url).await?.source(SOURCE).build()?;
            let topic = fresh_topic();
            let drained = fill_and_drain(&bus, &topic, bytes, drains, report).await;
            bus.admin().delete_topic(&topic).await?;
            bus.close(Duration::from_secs(10)).await?;
            drained
        })?;
        let rates: Vec<_> = drained
            .iter()
            .map(|drained| f64::from(MESSAGES) / drained.took.as_secs_f64())
            .collect();
        let longest = drained.iter().map(|drained| drained.longest_gap).max().unwrap_or_default();
        let mut row = self.blank(Case::Drain, "messages/s");
        row.payload_bytes = Some(bytes);
        row.runtime = Some(Flavour::MultiThread);
        row.drains = Some(drains);
        row.posthaste = Some(round(median(&rates)));
        row.longest_gap_ms = Some(round(longest.as_secs_f64() * 1e3));
        row.wants_at_most("longest_gap_ms", row.longest_gap_ms, STALL.as_secs_f64() * 1e3);
        Ok(row)
    }
}

async fn fill_and_drain(
    bus: &Bus,
    topic: &str,
    bytes: usize,
    drains: u32,
    report: &Report,
) -> Result<Vec<Drained>> {
    bus.ensure(TopicConfig::new(topic)).await?;
    let (publisher, payload) = (bus.publisher(topic)?, payload(bytes));
    for _ in 0..MESSAGES / 1_000 {
        let batch = (0..1_000).map(|_| envelope(&publisher, &payload)).collect::<Result<_>>()?;
        publisher.publish_all_envelopes(batch).await.into_result()?;
    }
    let mut all = Vec::new();
    for number in 1..=drains {
        let group = format!("drain-{number}");
        let subscribe = bus.subscribe(topic).group(&group).from(Start::Earliest);
        let mut inbox = subscribe.start().await?;
        let drained = drain(&mut inbox, number).await?;
        inbox.stop(Duration::from_secs(10)).await?;
        let lag = bus.admin().lag(topic, &group).await?;
        if lag.total() != 0 {
            return Err(Error::new(ErrorKind::Fatal, "a drain has left something")
                .with_context("drain", number)
                .with_context("messages", lag.total()));
        }
        bus.admin().delete_group(topic, &group).await?;
        report.say(&format!(
            "drain {number}: {:.2} s, longest gap {:.1} ms",
            drained.took.as_secs_f64(),
            drained.longest_gap.as_secs_f64() * 1e3,
        ));
        all.push(drained);
    }
    Ok(all)
}

async fn drain(inbox: &mut Subscription, number: u32) -> Result<Drained> {
    let start = Instant::now();
    let (mut last, mut longest_gap) = (start, Duration::ZERO);
    for message in 0..MESSAGES {
        let next = tokio::time::timeout(STALL, inbox.next()).await;
        let next = next.map_err(|_| {
            Error::new(ErrorKind::Timeout, "a drain has stalled")
                .with_context("drain", number)
                .with_context("deliveries before", message)
                .with_context("seconds", STALL.as_secs())
        })?;
        let Some(delivery) = next else { return Err(Error::closed("the subscription ended")) };
        delivery?.ack().await?;
        let now = Instant::now();
        longest_gap = longest_gap.max(now - last);
        last = now;
    }
    Ok(Drained { took: start.elapsed(), longest_gap })
}
