//! Dead letters, looked at by taking them out and giving them back.
//!
//! The protocol cannot look into a queue. While a channel holds letters, nobody else sees them: one
//! call looks at a time on a bus, and what is not settled goes back, in its order, when the channel
//! closes.

use std::collections::HashMap;

use bytes::Bytes;
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicGetOptions};
use posthaste_core::broker::{DeadLetterPage, DeadLetterQuery, StoredLetter};
use posthaste_core::{Error, ErrorKind, GroupName, Layout, LetterId, Result, TopicName};
use uuid::Uuid;

use crate::convert::{self, Origin};
use crate::error::{self, BROKER};
use crate::groups::{self, Queues};
use crate::hub::Hub;
use crate::outgoing::{Outgoing, short};
use crate::{names, topology};

/// The name of a new letter.
pub(crate) fn new_id() -> String {
    Uuid::now_v7().to_string()
}

/// A letter that is out, to be settled or given back.
struct Taken {
    tag: u64,
    stored: StoredLetter,
}

/// The letters of a group, one after the other.
struct Reader<'a> {
    hub: &'a Hub,
    channel: Channel,
    topic: &'a TopicName,
    group: &'a GroupName,
}

impl<'a> Reader<'a> {
    async fn open(hub: &'a Hub, topic: &'a TopicName, group: &'a GroupName) -> Result<Self> {
        let (channel, _) = hub.admin.channel(hub.until()).await?;
        Ok(Self { hub, channel, topic, group })
    }

    /// The next one; `None` if there is no more.
    async fn next(&self) -> Result<Option<Taken>> {
        let queue = short("queue", names::dead_letters(self.topic, self.group))?;
        let get = self.channel.basic_get(queue, BasicGetOptions::default());
        let Some(message) = self.hub.admin.answer(self.hub.until(), "a dead letter", get).await?
        else {
            return Ok(None);
        };
        let mut delivery = message.delivery;
        let body = Bytes::from(std::mem::take(&mut delivery.data));
        let origin = Origin {
            exchange: delivery.exchange.as_str(),
            routing_key: delivery.routing_key.as_str(),
        };
        let id = LetterId::new(convert::letter_id(&delivery.properties, &body, &origin));
        let letter = convert::letter(&delivery.properties, body, &origin, self.topic, self.group);
        Ok(Some(Taken { tag: delivery.delivery_tag, stored: StoredLetter::new(id, letter) }))
    }

    async fn remove(&self, tag: u64) -> Result<()> {
        let ack = self.channel.basic_ack(tag, BasicAckOptions::default());
        self.hub.admin.answer(self.hub.until(), "the end of a dead letter", ack).await
    }

    /// Gives back what is out.
    async fn close(self) {
        let closing = self.channel.close(200, "done".into());
        drop(tokio::time::timeout_at(self.hub.until(), closing).await);
    }
}

/// Lists letters.
///
/// # Errors
/// `NotFound` for a group that never was.
pub(crate) async fn list(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
    query: &DeadLetterQuery,
) -> Result<DeadLetterPage> {
    let _looking = hub.looking.lock().await;
    let reader = Reader::open(hub, topic, group).await?;
    let found = page(&reader, query).await;
    reader.close().await;
    Ok(DeadLetterPage::new(found.map_err(named)?, false))
}

async fn page(reader: &Reader<'_>, query: &DeadLetterQuery) -> Result<Vec<StoredLetter>> {
    let mut letters = Vec::new();
    let mut skipping = query.after.is_some();
    while letters.len() < query.limit {
        let Some(taken) = reader.next().await? else { break };
        if skipping {
            skipping = query.after.as_ref() != Some(&taken.stored.id);
            continue;
        }
        letters.push(taken.stored);
    }
    Ok(letters)
}

/// Without the queue there is no group, or never was one.
fn named(error: Error) -> Error {
    if error.kind() == ErrorKind::NotFound { error::no_group() } else { error }
}

/// Sends letters back to their group. One outcome for each.
pub(crate) async fn replay(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
    letters: &[LetterId],
) -> Result<Vec<Result<()>>> {
    let info = topology::describe(hub, topic).await?;
    let queues = groups::queues(hub, topic, group, info.layout, info.queue);
    each(hub, topic, group, letters, Act::Replay(&queues, info.layout)).await
}

/// Removes letters for good. One outcome for each.
pub(crate) async fn discard(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
    letters: &[LetterId],
) -> Result<Vec<Result<()>>> {
    each(hub, topic, group, letters, Act::Discard).await
}

/// What becomes of a letter.
#[derive(Clone, Copy)]
enum Act<'a> {
    Discard,
    Replay(&'a Queues, Layout),
}

impl Act<'_> {
    async fn on(self, reader: &Reader<'_>, taken: &Taken) -> Result<()> {
        if let Self::Replay(queues, layout) = self {
            let envelope = &taken.stored.letter.envelope;
            let lane = layout.partition(envelope).filter(|_| !envelope.is_foreign());
            let queue = lane.and_then(|lane| queues.lanes.get(usize::from(lane)));
            let message = Outgoing {
                exchange: short("exchange", "")?,
                routing_key: short("routing key", queue.unwrap_or(&queues.own).as_str())?,
                properties: convert::properties(envelope)?,
                body: envelope.payload().clone(),
            };
            match reader.hub.pool.send(vec![message]).await.pop() {
                Some(Err(error)) if error.kind() == ErrorKind::Unroutable => {
                    return Err(error::no_group());
                }
                Some(Err(error)) => return Err(error),
                _ => {}
            }
        }
        reader.remove(taken.tag).await
    }
}

async fn each(
    hub: &Hub,
    topic: &TopicName,
    group: &GroupName,
    letters: &[LetterId],
    act: Act<'_>,
) -> Result<Vec<Result<()>>> {
    let _looking = hub.looking.lock().await;
    let reader = Reader::open(hub, topic, group).await?;
    let mut outcomes: Vec<Option<Result<()>>> = letters.iter().map(|_| None).collect();
    let mut wanted: HashMap<&LetterId, usize> = HashMap::new();
    for (at, id) in letters.iter().enumerate() {
        // One that is named twice is there once.
        wanted.entry(id).or_insert(at);
    }
    let mut failed = None;
    while !wanted.is_empty() && failed.is_none() {
        match reader.next().await.map_err(named) {
            Ok(Some(taken)) => {
                if let Some(at) = wanted.remove(&taken.stored.id) {
                    outcomes[at] = Some(act.on(&reader, &taken).await);
                }
            }
            Ok(None) => break,
            Err(error) => failed = Some(error),
        }
    }
    if failed.is_none() && outcomes.iter().flatten().any(Result::is_ok) {
        // What was removed is gone before the channel is: it answers in order.
        let asked = reader.channel.basic_qos(1, lapin::options::BasicQosOptions::default());
        drop(hub.admin.answer(hub.until(), "a barrier", asked).await);
    }
    reader.close().await;
    let missing = |id: &LetterId| match &failed {
        Some(error) => error.duplicate(),
        None => Error::new(ErrorKind::NotFound, "there is no such dead letter")
            .with_context("letter", id.as_str().escape_debug())
            .with_broker(BROKER),
    };
    let outcomes = outcomes.into_iter().zip(letters);
    Ok(outcomes.map(|(outcome, id)| outcome.unwrap_or_else(|| Err(missing(id)))).collect())
}
