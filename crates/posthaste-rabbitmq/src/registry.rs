//! The records of a topic's groups: one message each in a queue beside the topic, because the
//! protocol lists nothing.
//!
//! Who reads takes all messages out and gives them back by closing the channel. Meanwhile others
//! would see fewer, so one reads at a time: who has the lock, a queue that belongs to a connection
//! and goes with it.

use std::time::Duration;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicGetOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use posthaste_core::{Error, ErrorKind, GroupName, Result, TopicName};
use tokio::time::Instant;

use crate::error::{self, BROKER};
use crate::hub::Hub;
use crate::names;
use crate::outgoing::{Outgoing, short};

/// A group of the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) group: GroupName,
    /// It was deleted, and its dead letters are still there.
    pub(crate) gone: bool,
}

/// How long to wait before the lock is tried again.
const PAUSE: Duration = Duration::from_millis(20);

/// Adds the record of a group.
///
/// # Errors
/// Those of a publish; `NotFound` if the topic has no records, because it is gone.
pub(crate) async fn add(hub: &Hub, topic: &TopicName, group: &GroupName) -> Result<()> {
    if hub.binding(topic).is_some() {
        return Ok(());
    }
    send(hub, topic, &Record { group: group.clone(), gone: false }).await
}

async fn send(hub: &Hub, topic: &TopicName, record: &Record) -> Result<()> {
    let mark = if record.gone { "-" } else { "+" };
    let message = Outgoing {
        exchange: short("exchange", "")?,
        routing_key: short("routing key", names::registry(topic))?,
        properties: BasicProperties::default().with_delivery_mode(2),
        body: Bytes::from(format!("{mark}{}", record.group)),
    };
    let sent = hub.pool.send(vec![message]).await.pop();
    match sent {
        Some(Err(error)) if error.kind() == ErrorKind::Unroutable => Err(error::no_topic()),
        Some(outcome) => outcome,
        None => Ok(()),
    }
}

/// All groups that there are or were; `None` if there are no records.
///
/// # Errors
/// `Conflict` if somebody else reads them for too long.
pub(crate) async fn list(hub: &Hub, topic: &TopicName) -> Result<Option<Vec<Record>>> {
    with_records(hub, topic, None).await
}

/// Notes that a group is gone.
///
/// # Errors
/// As [`list`].
pub(crate) async fn note_gone(hub: &Hub, topic: &TopicName, group: &GroupName) -> Result<()> {
    send(hub, topic, &Record { group: group.clone(), gone: true }).await?;
    with_records(hub, topic, Some(group)).await.map(drop)
}

/// Reads the records. Those of `compact` are made one.
async fn with_records(
    hub: &Hub,
    topic: &TopicName,
    compact: Option<&GroupName>,
) -> Result<Option<Vec<Record>>> {
    let _looking = hub.looking.lock().await;
    let until = hub.until();
    let lock = names::registry_lock(topic);
    let channel = lock_up(hub, &lock, until).await?;
    let read = read(&channel, topic, compact);
    let records = tokio::time::timeout_at(until, read).await;
    let unlocking = async {
        if channel.status().connected() {
            let lock = short("queue", &*lock)?;
            drop(channel.queue_delete(lock, QueueDeleteOptions::default()).await);
            drop(channel.close(200, "done".into()).await);
        }
        Ok::<_, Error>(())
    };
    drop(tokio::time::timeout_at(hub.until(), unlocking).await);
    records.unwrap_or_else(|_| Err(error::timed_out("the records of a topic")))
}

/// Has the lock, on a channel of its own.
async fn lock_up(hub: &Hub, lock: &str, until: Instant) -> Result<Channel> {
    let name = short("queue", lock)?;
    loop {
        let (channel, _) = hub.admin.channel(until).await?;
        let options = QueueDeclareOptions::exclusive().auto_delete();
        let declaring = channel.queue_declare(name.clone(), options, FieldTable::default());
        match tokio::time::timeout_at(until, declaring).await {
            Ok(Ok(_)) => return Ok(channel),
            Ok(Err(native)) if error::is_locked(&native) => {}
            Ok(Err(native)) => return Err(error::native(native)),
            Err(_) => return Err(error::timed_out("the lock of a topic's records")),
        }
        if Instant::now() >= until {
            return Err(Error::new(
                ErrorKind::Conflict,
                "somebody else reads the records of the topic",
            )
            .with_broker(BROKER));
        }
        tokio::time::sleep(PAUSE.mul_f64(0.5 + fastrand::f64())).await;
    }
}

async fn read(
    channel: &Channel,
    topic: &TopicName,
    compact: Option<&GroupName>,
) -> Result<Option<Vec<Record>>> {
    let name = short("queue", names::registry(topic))?;
    let mut records: Vec<Record> = Vec::new();
    let mut tags = Vec::new();
    loop {
        let taken = channel.basic_get(name.clone(), BasicGetOptions::default()).await;
        let message = match taken {
            Ok(Some(message)) => message,
            Ok(None) => break,
            Err(native) if error::is_not_found(&native) => return Ok(None),
            Err(native) => return Err(error::native(native)),
        };
        let Some(record) = parse(&message.data) else { continue };
        if compact == Some(&record.group) {
            tags.push(message.delivery_tag);
        }
        // Later records win.
        match records.iter_mut().find(|known| known.group == record.group) {
            Some(known) => *known = record,
            None => records.push(record),
        }
    }
    // All but the last one of that group.
    tags.pop();
    for tag in tags {
        channel.basic_ack(tag, BasicAckOptions::default()).await.map_err(error::native)?;
    }
    Ok(Some(records))
}

fn parse(text: &[u8]) -> Option<Record> {
    let text = std::str::from_utf8(text).ok()?;
    let (gone, group) = match text.split_at_checked(1)? {
        ("+", group) => (false, group),
        ("-", group) => (true, group),
        _ => return None,
    };
    Some(Record { group: GroupName::new(group).ok()?, gone })
}
