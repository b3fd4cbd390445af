//! The publishers: each in its own style, over a bus of its own, until they are told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use posthaste_core::{Confirmed, PublishOptions, Publisher, Receipt, Result};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior};

use super::audit::{Audit, Published, Wrong};
use super::message::Tag;
use super::plan::Plan;
use super::stage::{Connected, PublisherSpec, Stage, Style};

/// How often a publisher publishes.
const BEAT: Duration = Duration::from_millis(10);
/// How many outcomes are looked at in order: more than a window has.
const RECEIPTS: usize = 2_000;
/// How many tasks await one message each: more than may be in flight, so that some wait in line
/// when the broker goes away.
const TASKS: u32 = 64;
/// With deduplication, one of so many messages is published once more.
const REPEATED_ONE_OF: u32 = 50;
/// By when an impatient one gives up.
const SHORT: Duration = Duration::from_secs(1);

/// All publishers of a run.
#[derive(Debug)]
pub(super) struct Publishers {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
}

impl Publishers {
    /// Connects them, and begins.
    pub(super) async fn start(stage: &Stage, audit: &Arc<Audit>, plan: &Plan) -> Result<Self> {
        let (mut tasks, stop) = (JoinSet::new(), Arc::new(AtomicBool::new(false)));
        let share = plan.rate / u32::try_from(stage.publishers.len()).unwrap_or(1).max(1);
        for (number, spec) in stage.publishers.iter().enumerate() {
            let connected = stage.bus(spec.way, plan.patience()).await?;
            let one = One {
                handle: connected.bus.publisher(&stage.topics[spec.topic].name)?,
                audit: Arc::clone(audit),
                number,
                keyed: stage.topics[spec.topic].ordered,
                deduplicates: spec.deduplicates,
                stop: Arc::clone(&stop),
            };
            tasks.spawn(run(one, spec.clone(), connected, share));
        }
        Ok(Self { tasks, stop })
    }

    /// Begins nothing new, and waits for what is on its way. Whether all ended in time.
    pub(super) async fn stop(&mut self, within: Duration) -> bool {
        self.stop.store(true, Ordering::Release);
        let joined = async { while self.tasks.join_next().await.is_some() {} };
        tokio::time::timeout(within, joined).await.is_ok()
    }
}

/// What a publisher's tasks need.
#[derive(Debug, Clone)]
struct One {
    handle: Publisher,
    audit: Arc<Audit>,
    number: usize,
    keyed: bool,
    deduplicates: bool,
    stop: Arc<AtomicBool>,
}

async fn run(one: One, spec: PublisherSpec, connected: Connected, share: u32) {
    // So many at each beat make the share of a second.
    let at_a_time = (share * u32::try_from(BEAT.as_millis()).unwrap_or(1) / 1_000).max(1);
    match spec.style {
        Style::Window => window(&one, at_a_time).await,
        Style::Batch => batches(&one, at_a_time).await,
        Style::Awaited => many(&one, at_a_time, None).await,
        Style::Impatient => many(&one, at_a_time, Some(SHORT)).await,
    }
    // All that it had to say is said; whoever closes late is told so by the outcomes.
    let _ = connected.bus.close(SHORT).await;
}

fn beat(pause: Duration) -> Interval {
    let mut beat = tokio::time::interval(pause);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat
}

impl One {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Acquire)
    }

    fn options(&self, deadline: Option<Duration>) -> PublishOptions {
        let options = PublishOptions::new();
        let options = if self.deduplicates { options.deduplicate() } else { options };
        match deadline {
            Some(deadline) => options.deadline(deadline),
            None => options,
        }
    }

    /// Tells the books. Who can wait has no reason to fail.
    fn outcome(&self, tag: Tag, outcome: &Result<Confirmed>, is_patient: bool) -> Published {
        let published = match outcome {
            Ok(confirmed) => Published::Confirmed { duplicate: confirmed.duplicate() },
            Err(error) if error.may_be_stored() => Published::Unknown,
            Err(_) => Published::NotStored,
        };
        if let Err(error) = outcome
            && is_patient
        {
            self.audit.find(Wrong::GaveUp, format!("{tag}: {error:?}"));
        }
        self.audit.published(tag, published);
        published
    }
}

/// Keeps the window full, while another part of it looks at the outcomes, in order.
async fn window(one: &One, at_a_time: u32) {
    let (sender, mut receipts) = mpsc::channel::<(Tag, Receipt)>(RECEIPTS);
    let publishing = async move {
        let mut beat = beat(BEAT);
        while one.goes_on() {
            beat.tick().await;
            for tag in one.audit.attempt(one.number, at_a_time).await {
                let receipt = match tag.envelope(one.keyed) {
                    Ok(envelope) => one.handle.enqueue_envelope(envelope).await,
                    Err(error) => Err(error),
                };
                match receipt {
                    // The other part is there as long as this one is.
                    Ok(receipt) => drop(sender.send((tag, receipt)).await),
                    Err(error) => drop(one.outcome(tag, &Err(error), true)),
                }
            }
        }
    };
    let looking = async {
        while let Some((tag, receipt)) = receipts.recv().await {
            one.outcome(tag, &receipt.await, true);
        }
    };
    tokio::join!(publishing, looking);
}

/// Native batches, one after the other.
async fn batches(one: &One, at_a_time: u32) {
    // Larger ones, less often.
    let mut beat = beat(BEAT * 10);
    while one.goes_on() {
        beat.tick().await;
        let tags = one.audit.attempt(one.number, at_a_time * 10).await;
        let built: Result<Vec<_>> = tags.iter().map(|tag| tag.envelope(one.keyed)).collect();
        match built {
            Ok(envelopes) => {
                let report = one.handle.publish_all_envelopes(envelopes).await;
                for (tag, outcome) in tags.iter().zip(report.outcomes()) {
                    one.outcome(*tag, outcome, true);
                }
            }
            Err(error) => {
                for tag in tags {
                    one.outcome(tag, &Err(error.duplicate()), true);
                }
            }
        }
    }
}

/// Several tasks that await each message.
async fn many(one: &One, at_a_time: u32, deadline: Option<Duration>) {
    let mut tasks = JoinSet::new();
    // Together they publish so many at a beat.
    let pause = BEAT * TASKS / at_a_time.max(1);
    for _ in 0..TASKS {
        tasks.spawn(awaiting(one.clone(), pause, deadline));
    }
    while tasks.join_next().await.is_some() {}
}

async fn awaiting(one: One, pause: Duration, deadline: Option<Duration>) {
    let mut beat = beat(pause);
    while one.goes_on() {
        beat.tick().await;
        for tag in one.audit.attempt(one.number, 1).await {
            publish(&one, tag, deadline).await;
        }
    }
}

/// Publishes, and again with the same id as long as it is not known whether it is stored: with
/// deduplication that is safe. Some are published again in any case.
async fn publish(one: &One, tag: Tag, deadline: Option<Duration>) {
    let mut repeated = false;
    loop {
        let outcome = match tag.envelope(one.keyed) {
            Ok(envelope) => one.handle.publish_envelope_with(envelope, one.options(deadline)).await,
            Err(error) => Err(error),
        };
        let published = one.outcome(tag, &outcome, deadline.is_none());
        let unknown = published == Published::Unknown && deadline.is_some();
        let repeats = tag.number.is_multiple_of(REPEATED_ONE_OF) && !repeated;
        if !one.deduplicates || !(unknown || repeats) || !one.goes_on() {
            return;
        }
        repeated |= published != Published::Unknown;
    }
}
