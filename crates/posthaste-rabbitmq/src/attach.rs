//! A channel with the consumers of a subscription.

use std::sync::Arc;
use std::time::Duration;

use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Consumer};
use posthaste_core::broker::{Lane, Start};
use posthaste_core::{Error, ErrorKind, Result, Topology};
use tokio::time::Instant;

use crate::config::QueueType;
use crate::line::Line;
use crate::outgoing::short;
use crate::subscribe::TopicPlan;
use crate::{delay, error, groups, names, topology};

/// The first pause before a channel is opened again, and the longest.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long the broker may take to send nothing more.
const CANCEL: Duration = Duration::from_secs(5);

/// An open channel.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) channel: Channel,
    pub(crate) generation: u32,
    pub(crate) sources: Vec<Source>,
    /// Topics whose queue was gone and was made again.
    pub(crate) lost: Vec<usize>,
}

/// One consumer.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) consumer: Consumer,
    pub(crate) lane: Arc<Lane>,
    pub(crate) number: u32,
    /// Whether its queue counts deliveries.
    pub(crate) counted: bool,
    /// Of an ordered lane: it was said that it is ours.
    pub(crate) assigned: bool,
    pub(crate) ended: bool,
}

/// Opens a channel, however long that takes.
///
/// # Errors
/// `Closed`; `NotFound` where the group is gone and is not to be created.
///
/// # Cancel safety
/// Cancel safe: what was opened is closed by its drop.
pub(crate) async fn attach_again(line: Arc<Line>, first: Duration) -> Result<Attached> {
    let mut pause = first;
    loop {
        tokio::time::sleep(pause).await;
        match attach(&line, true).await {
            Ok(attached) => return Ok(attached),
            Err(error) if is_final(&error) => return Err(error),
            Err(error) => tracing::debug!(%error, "a channel could not be opened"),
        }
        pause = (pause * 2).clamp(PAUSE, LONGEST_PAUSE);
    }
}

fn is_final(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Closed | ErrorKind::NotFound | ErrorKind::Unsupported | ErrorKind::Invalid
    )
}

/// Opens a channel, once.
///
/// # Errors
/// `NotFound` where a queue is not there, `Connection`, `Timeout`, `Auth`, `Conflict`.
///
/// # Cancel safety
/// As [`attach_again`].
pub(crate) async fn attach(line: &Line, again: bool) -> Result<Attached> {
    let mut lost = Vec::new();
    loop {
        let missing = match open(line).await {
            Ok(mut attached) => {
                attached.lost = lost;
                if again {
                    // Without a group there is nothing that keeps what comes meanwhile.
                    let topics = line.plan.topics.iter().enumerate();
                    let ephemeral = topics.filter(|(_, topic)| topic.group.is_none());
                    attached.lost.extend(ephemeral.map(|(at, _)| at));
                }
                return Ok(attached);
            }
            Err((at, error)) if error.kind() == ErrorKind::NotFound && again => (at, error),
            Err((_, error)) => return Err(error),
        };
        let (at, error) = missing;
        let planned = at.and_then(|at| Some((at, line.plan.topics.get(at)?)));
        match planned {
            Some((at, planned))
                if line.plan.topology == Topology::Create && !lost.contains(&at) =>
            {
                create_again(line, planned).await?;
                lost.push(at);
            }
            _ => return Err(error),
        }
    }
}

/// The group's queue is gone: it is made again, with its topic.
async fn create_again(line: &Line, planned: &TopicPlan) -> Result<()> {
    let hub = &line.hub;
    let mut spec = posthaste_core::TopicSpec::plain(planned.topic.clone());
    spec.layout = planned.layout;
    spec.queue = planned.queue;
    spec.groups.extend(planned.group.clone());
    if let Some(asked) = hub.known(&planned.topic).and_then(|known| known.spec) {
        spec.replicas = asked.replicas;
    }
    topology::ensure(hub, &spec).await?;
    if let Some(group) = &planned.group {
        let (topic, layout) = (&planned.topic, planned.layout);
        groups::ensure(hub, topic, group, layout, planned.queue, Topology::Create, false).await?;
        groups::lease(hub, topic, group, line.plan.lease, Topology::Create).await?;
    }
    Ok(())
}

/// A channel that is being opened. If it does not come to that, it is closed in good order.
struct Fresh<'a> {
    line: &'a Line,
    channel: Option<Channel>,
    consumers: Vec<Consumer>,
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        if let Some(channel) = self.channel.take() {
            self.line.retire(channel, std::mem::take(&mut self.consumers));
        }
    }
}

type Failed = (Option<usize>, Error);

async fn open(line: &Line) -> std::result::Result<Attached, Failed> {
    let hub = &line.hub;
    let until = hub.until();
    let (channel, _) = hub.consume.channel(until).await.map_err(|error| (None, error))?;
    let mut fresh = Fresh { line, channel: Some(channel.clone()), consumers: Vec::new() };
    let mut queues = Vec::new();
    for (at, planned) in line.plan.topics.iter().enumerate() {
        if planned.group.is_none() {
            let declared = declare_ephemeral(line, &channel, planned).await;
            declared.map_err(|error| (Some(at), error))?;
        }
        queues.push((at, None, planned.queues.own.as_str()));
        for (partition, lane) in (0_u32..).zip(&planned.queues.lanes) {
            queues.push((at, Some(partition), lane.as_str()));
        }
    }
    // Of several members that begin at the same time, each becomes the first of some lanes.
    let turn = fastrand::usize(..queues.len().max(1));
    queues.rotate_left(turn);
    let mut sources = Vec::with_capacity(queues.len());
    let (each, more) = shares(line.plan.prefetch, queues.len());
    let unique = uuid::Uuid::new_v4().simple().to_string();
    for (number, (at, partition, queue)) in (0_u32..).zip(queues) {
        let planned = &line.plan.topics[at];
        let prefetch = each + u16::from(usize::try_from(number).is_ok_and(|at| at < more));
        let tag = ShortString::from(format!("posthaste-{}-{number}", &unique[..12]));
        let consuming = async {
            channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
            let queue = ShortString::try_new(queue).unwrap_or_default();
            let options = BasicConsumeOptions::default();
            channel.basic_consume(queue, tag, options, FieldTable::default()).await
        };
        let consumer = hub.consume.answer(hub.until(), "a consumer", consuming).await;
        let consumer = consumer.map_err(|error| (Some(at), error.with_context("queue", queue)))?;
        fresh.consumers.push(consumer.clone());
        sources.push(Source {
            consumer,
            lane: Arc::new(Lane::new(planned.topic.clone(), partition)),
            number,
            counted: planned.group.is_some() && hub.settings.queue_type == QueueType::Quorum,
            assigned: false,
            ended: false,
        });
    }
    let lanes = sources.iter().map(|source| Arc::clone(&source.lane)).collect();
    fresh.channel = None;
    let generation = line.open(&channel, std::mem::take(&mut fresh.consumers), lanes);
    Ok(Attached { channel, generation, sources, lost: Vec::new() })
}

/// The prefetch over so many consumers: so much for each, and one more for the first ones. None
/// has nothing.
fn shares(prefetch: usize, consumers: usize) -> (u16, usize) {
    let consumers = consumers.max(1);
    let each = u16::try_from(prefetch / consumers).unwrap_or(u16::MAX - 1).min(u16::MAX - 1);
    if each == 0 { (1, 0) } else { (each, prefetch % consumers) }
}

/// The queue of a subscription without a group: it belongs to the connection and goes with it.
async fn declare_ephemeral(line: &Line, channel: &Channel, planned: &TopicPlan) -> Result<()> {
    let hub = &line.hub;
    delay::ensure(hub).await?;
    let own = || short("queue", &*planned.queues.own);
    let (exchange, key, arguments) = match hub.binding(&planned.topic) {
        Some(binding) => {
            (binding.exchange.clone(), binding.binding_key().to_owned(), binding.arguments())
        }
        None => (names::exchange(&planned.topic), "#".to_owned(), FieldTable::default()),
    };
    let arrival = delay::arrival(&names::to_queue(&planned.queues.own, names::EPHEMERAL_LIFE));
    let none = FieldTable::default;
    let mut bindings =
        vec![(exchange, key, arguments), (names::DELIVER.to_owned(), arrival, none())];
    if let Some(n) = planned.layout.partitions() {
        bindings.push((names::lanes_exchange(&planned.topic, n), "#".to_owned(), none()));
    }
    let queue = own()?;
    let declaring = async {
        let options = QueueDeclareOptions::exclusive().auto_delete();
        channel.queue_declare(queue.clone(), options, FieldTable::default()).await?;
        for (exchange, key, arguments) in bindings {
            let exchange = ShortString::try_new(exchange).unwrap_or_default();
            let key = ShortString::try_new(key).unwrap_or_default();
            let options = QueueBindOptions::default();
            channel.queue_bind(queue.clone(), exchange, key, options, arguments).await?;
        }
        Ok(())
    };
    hub.consume.answer(hub.until(), "a queue", declaring).await
}

/// Tells the broker to send nothing more. What it has sent can still be read.
pub(crate) async fn cancel(channel: Channel, tags: Vec<ShortString>) {
    let until = Instant::now() + CANCEL;
    for tag in tags {
        let cancelling = channel.basic_cancel(tag, BasicCancelOptions::default());
        if !matches!(tokio::time::timeout_at(until, cancelling).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// Whether a group may begin there.
///
/// # Errors
/// `Unsupported` for a place in what was stored before: a queue keeps nothing that is settled.
pub(crate) fn check_start(start: Start) -> Result<()> {
    match start {
        Start::Created | Start::Latest => Ok(()),
        _ => Err(Error::unsupported("a queue keeps nothing from before its group was made")
            .with_broker(error::BROKER)),
    }
}

#[cfg(test)]
mod tests {
    use super::shares;

    #[test]
    fn the_prefetch_is_shared_out() {
        assert_eq!(shares(256, 1), (256, 0));
        assert_eq!(shares(4, 3), (1, 1));
        assert_eq!(shares(2, 5), (1, 0));
        assert_eq!(shares(usize::MAX, 1), (u16::MAX - 1, 0));
    }
}
