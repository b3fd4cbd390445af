//! The cases by this library, on any broker that a URL names.
//!
//! Each run connects, makes a fresh topic with one group, sends one message to be warm, and is
//! measured from there. What it claims to have done is read back from the broker.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use posthaste::{Bus, Consumer, Envelope, Error, ErrorKind, Publisher, Result, TopicConfig};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::clock::{Sample, timed};
use crate::message::{SOURCE, envelope, fresh_topic};
use crate::pace::{Pace, open_loop};
use crate::raw::Load;

/// The group that every topic has: it costs the server something.
pub(crate) const GROUP: &str = "readers";
/// How many receipts are kept before the oldest is awaited. The window's own size.
const RECEIPTS: usize = 1_000;
/// How many handlers may run at once.
const HANDLERS: usize = 64;
/// How long a broker may take to count what it has confirmed.
const COUNTED: Duration = Duration::from_secs(5);

/// How an application publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// One task that enqueues and awaits the oldest receipt once it has a thousand. This is what
    /// one writes for throughput: a stream of messages, without gathering them first.
    Enqueue,
    /// 64 tasks, each of which awaits its message before the next.
    Tasks,
    /// One task, each message awaited before the next.
    Awaited,
    /// A thousand messages by one call, and then the next thousand.
    All,
}

/// A topic of its own, on a bus of its own.
struct Scene {
    bus: Bus,
    topic: String,
    publisher: Publisher,
}

impl Scene {
    async fn open(load: &Load) -> Result<Self> {
        let bus = posthaste::builder(&load.url).await?.source(SOURCE).build()?;
        let topic = fresh_topic();
        bus.ensure(TopicConfig::new(&topic).group(GROUP)).await?;
        let publisher = bus.publisher(&topic)?;
        publisher.publish_envelope(envelope(&publisher, &load.payload)?).await?;
        Ok(Self { bus, topic, publisher })
    }

    /// Reads the count back. A server counts for a group a moment after it has confirmed.
    async fn all_stored(&self, expected: u64) -> Result<()> {
        let end = Instant::now() + COUNTED;
        loop {
            let ready = self.bus.admin().lag(&self.topic, GROUP).await?.ready;
            if ready == Some(expected) {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(miscounted("messages are stored", ready, expected));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn close(self) -> Result<()> {
        self.bus.admin().delete_topic(&self.topic).await?;
        self.bus.close(Duration::from_secs(10)).await
    }
}

/// Publishes on a fresh topic.
pub(crate) async fn publish(load: &Load, manner: Manner) -> Result<Sample> {
    let scene = Scene::open(load).await?;
    let work = send(&scene.publisher, manner, load.messages, &load.payload);
    let sample = timed(load.messages, work).await?;
    scene.all_stored(u64::from(load.messages) + 1).await?;
    scene.close().await?;
    Ok(sample)
}

/// Publishes that many messages.
pub(crate) async fn send(
    publisher: &Publisher,
    manner: Manner,
    messages: u32,
    payload: &Bytes,
) -> Result<()> {
    match manner {
        Manner::Enqueue => enqueue(publisher, messages, payload).await,
        Manner::Tasks => tasks(publisher, messages, payload).await,
        Manner::Awaited => one_by_one(publisher, messages, payload).await,
        Manner::All => all(publisher, messages, payload).await,
    }
}

async fn enqueue(publisher: &Publisher, messages: u32, payload: &Bytes) -> Result<()> {
    let mut receipts = VecDeque::with_capacity(RECEIPTS);
    for _ in 0..messages {
        if receipts.len() == RECEIPTS
            && let Some(oldest) = receipts.pop_front()
        {
            confirmed(oldest).await?;
        }
        receipts.push_back(publisher.enqueue_envelope(envelope(publisher, payload)?).await?);
    }
    for receipt in receipts {
        confirmed(receipt).await?;
    }
    Ok(())
}

async fn confirmed(receipt: posthaste::Receipt) -> Result<()> {
    receipt.await.map(drop)
}

async fn one_by_one(publisher: &Publisher, messages: u32, payload: &Bytes) -> Result<()> {
    for _ in 0..messages {
        publisher.publish_envelope(envelope(publisher, payload)?).await?;
    }
    Ok(())
}

async fn tasks(publisher: &Publisher, messages: u32, payload: &Bytes) -> Result<()> {
    let mut tasks = JoinSet::new();
    for task in 0..64 {
        let (publisher, payload) = (publisher.clone(), payload.clone());
        let count = messages / 64 + u32::from(task < messages % 64);
        tasks.spawn(async move { one_by_one(&publisher, count, &payload).await });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|error| {
            Error::new(ErrorKind::Fatal, "a task of the benchmark ended").with_source(error)
        })??;
    }
    Ok(())
}

async fn all(publisher: &Publisher, messages: u32, payload: &Bytes) -> Result<()> {
    let mut left = messages as usize;
    while left > 0 {
        let count = left.min(RECEIPTS);
        let batch = (0..count).map(|_| envelope(publisher, payload)).collect::<Result<_>>()?;
        publisher.publish_all_envelopes(batch).await.into_result()?;
        left -= count;
    }
    Ok(())
}

/// Reads and acknowledges what was published on a fresh topic before.
pub(crate) async fn consume(load: &Load, prefetch: usize) -> Result<Sample> {
    let scene = Scene::open(load).await?;
    all(&scene.publisher, load.messages - 1, &load.payload).await?;
    let subscribe = scene.bus.subscribe(&scene.topic).group(GROUP).prefetch(prefetch);
    let mut inbox = subscribe.start().await?;
    let mut read = async |messages: u32| {
        for _ in 0..messages {
            let Some(delivery) = inbox.next().await else { break };
            delivery?.ack().await?;
        }
        Ok(())
    };
    // To join a group takes longer than some runs.
    read(1).await?;
    let left = load.messages - 1;
    let sample = timed(left, read(left)).await?;
    let acked = inbox.stats().acked;
    if acked != u64::from(load.messages) {
        return Err(miscounted("are acknowledged", Some(acked), u64::from(load.messages)));
    }
    inbox.stop(Duration::from_secs(10)).await?;
    let lag = scene.bus.admin().lag(&scene.topic, GROUP).await?;
    // Not every broker tells what is in flight; then that is among what is ready.
    if lag.ready != Some(0) || lag.in_flight.unwrap_or(0) != 0 {
        return Err(miscounted("are left for the group", Some(lag.total()), 0));
    }
    scene.close().await?;
    Ok(sample)
}

/// The same by handlers that do nothing. They have joined the group and handled one message when
/// the others are published, and wait until all of them are there.
pub(crate) async fn handlers(load: &Load, prefetch: usize) -> Result<Sample> {
    let scene = Scene::open(load).await?;
    let consumer = Consumer::new(&scene.bus).group(GROUP).concurrency(HANDLERS).prefetch(prefetch);
    let running = consumer.on(&scene.topic, async |_: Envelope| {}).start().await?;
    let handled = async |messages: u64| {
        while running.report().handled < messages {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    };
    handled(1).await?;
    running.control().pause();
    all(&scene.publisher, load.messages - 1, &load.payload).await?;
    let sample = timed(load.messages - 1, async {
        running.control().resume();
        handled(u64::from(load.messages)).await
    })
    .await?;
    let report = running.stop().await?;
    if report.handled != u64::from(load.messages) {
        return Err(miscounted("are handled", Some(report.handled), u64::from(load.messages)));
    }
    let lag = scene.bus.admin().lag(&scene.topic, GROUP).await?;
    if lag.ready != Some(0) || lag.in_flight.unwrap_or(0) != 0 {
        return Err(miscounted("are left for the group", Some(lag.total()), 0));
    }
    scene.close().await?;
    Ok(sample)
}

/// The time from when each message was due to when it was confirmed, in microseconds.
pub(crate) async fn latency(load: &Load, pace: Pace) -> Result<(Sample, Vec<f64>)> {
    let scene = Scene::open(load).await?;
    let mut micros = Vec::new();
    let sample = timed(pace.messages(), async {
        micros = open_loop(pace, async || {
            let envelope = envelope(&scene.publisher, &load.payload)?;
            Ok(confirmed(scene.publisher.enqueue_envelope(envelope).await?))
        })
        .await?;
        Ok(())
    })
    .await?;
    scene.all_stored(u64::from(pace.messages()) + 1).await?;
    scene.close().await?;
    Ok((sample, micros))
}

/// Publishes one message on that topic, which has the group, and is deleted after `look`.
pub(crate) async fn send_one<T>(
    load: &Load,
    topic: &str,
    look: impl AsyncFnOnce() -> Result<T>,
) -> Result<T> {
    let bus = posthaste::builder(&load.url).await?.source(SOURCE).build()?;
    bus.ensure(TopicConfig::new(topic).group(GROUP)).await?;
    let publisher = bus.publisher(topic)?;
    publisher.publish_envelope(envelope(&publisher, &load.payload)?).await?;
    let seen = look().await?;
    bus.admin().delete_topic(topic).await?;
    bus.close(Duration::from_secs(10)).await?;
    Ok(seen)
}

#[cold]
fn miscounted(what: &'static str, found: Option<u64>, wanted: u64) -> Error {
    let found = found.map_or_else(|| "none that the broker tells".to_owned(), |n| n.to_string());
    Error::new(ErrorKind::Fatal, format!("the count is wrong: not all that were sent {what}"))
        .with_context("found", found)
        .with_context("wanted", wanted)
}
