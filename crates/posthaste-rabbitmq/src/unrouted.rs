//! What no group got, for the first one that comes.

use bytes::Bytes;
use lapin::message::BasicGetMessage;
use lapin::options::{BasicAckOptions, BasicGetOptions};
use posthaste_core::{Layout, Result, TopicName};

use crate::convert::{self, Origin};
use crate::hub::Hub;
use crate::names;
use crate::outgoing::{Outgoing, short};

/// How many messages are moved at once.
const BATCH: usize = 128;

/// Moves everything to the queues of the group: each copy is confirmed before its original goes.
///
/// # Errors
/// `Connection`, `Timeout`, `Backpressure`.
///
/// # Cancel safety
/// When dropped, what was moved last may be in both places.
pub(crate) async fn drain(
    hub: &Hub,
    topic: &TopicName,
    layout: Layout,
    own: &str,
    lanes: &[String],
) -> Result<()> {
    let until = hub.until();
    let (channel, _) = hub.admin.channel(until).await?;
    let name = short("queue", names::unrouted_queue(topic))?;
    loop {
        let mut batch = Vec::new();
        let mut last = None;
        while batch.len() < BATCH {
            let get = channel.basic_get(name.clone(), BasicGetOptions::default());
            let taken = hub.admin.answer(hub.until(), "what no group got", get).await;
            let message = match taken {
                Ok(Some(message)) => message,
                Ok(None) => break,
                // Somebody deletes the topic.
                Err(error) if error.kind() == posthaste_core::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            };
            last = Some(message.delivery_tag);
            batch.push(copy(message, layout, own, lanes)?);
        }
        let Some(last) = last else { break };
        for outcome in hub.pool.send(batch).await {
            outcome?;
        }
        let ack = channel.basic_ack(last, BasicAckOptions { multiple: true });
        hub.admin.answer(hub.until(), "an acknowledgement", ack).await?;
    }
    let closing = channel.close(200, "done".into());
    drop(tokio::time::timeout_at(hub.until(), closing).await);
    Ok(())
}

fn copy(message: BasicGetMessage, layout: Layout, own: &str, lanes: &[String]) -> Result<Outgoing> {
    let mut delivery = message.delivery;
    let body = Bytes::from(std::mem::take(&mut delivery.data));
    let origin =
        Origin { exchange: delivery.exchange.as_str(), routing_key: delivery.routing_key.as_str() };
    // One of ours was meant for a partition; one of another program has none.
    let envelope = convert::envelope(&delivery.properties, body.clone(), &origin);
    let lane = layout.partition(&envelope).filter(|_| !envelope.is_foreign());
    let queue = lane.and_then(|lane| lanes.get(usize::from(lane))).map_or(own, |lane| lane);
    let properties = std::mem::take(&mut delivery.properties);
    Ok(Outgoing {
        exchange: short("exchange", "")?,
        routing_key: short("routing key", queue)?,
        properties: without_deaths(properties),
        body,
    })
}

/// The copy is a message of its own: it has not died anywhere.
fn without_deaths(properties: lapin::BasicProperties) -> lapin::BasicProperties {
    let Some(headers) = properties.headers() else { return properties };
    let mut kept = lapin::types::FieldTable::default();
    for (name, value) in headers.inner() {
        if !convert::is_brokers(name.as_str()) {
            kept.insert(name.clone(), value.clone());
        }
    }
    properties.with_headers(kept)
}
