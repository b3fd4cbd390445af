//! A consumer that acknowledges many at once, or each message by itself.

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicQosOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Consumer};
use posthaste::Result;
use tokio::time::timeout;

use super::topic::{Topic, connect, end, short};
use super::{PATIENCE, failed};
use crate::clock::{Sample, timed};
use crate::raw::{How, Load, Seen};

/// How many deliveries one acknowledgement is for.
const TOGETHER: usize = 64;
/// How many headers a message with an envelope has, beside its properties.
const HEADERS: usize = 3;
const TAG: &str = "bench";

/// Reads and acknowledges everything; the first message before the clock starts.
pub(super) async fn all(topic: &Topic, load: &Load, how: How) -> Result<Sample> {
    let connection = topic.connect().await?;
    let channel = connection.create_channel().await.map_err(failed)?;
    let prefetch = u16::try_from(how.window).map_err(failed)?;
    channel.basic_qos(prefetch, BasicQosOptions::default()).await.map_err(failed)?;
    let (queue, tag, none) = (short(&topic.queue())?, short(TAG)?, FieldTable::default());
    let consuming = channel.basic_consume(queue, tag, BasicConsumeOptions::default(), none);
    let consumer = consuming.await.map_err(failed)?;
    let mut reader = Reader { channel: &channel, consumer, expected: Expected::of(load, &how) };
    reader.each(1).await?;
    let left = load.messages - 1;
    let sample = timed(left, async {
        if how.window == 1 {
            reader.each(left).await
        } else {
            reader.together(left, TOGETHER.min(how.window / 2)).await
        }
    })
    .await?;
    channel.basic_cancel(short(TAG)?, BasicCancelOptions::default()).await.map_err(failed)?;
    end(&channel, &connection).await?;
    Ok(sample)
}

/// One consumer.
struct Reader<'a> {
    channel: &'a Channel,
    consumer: Consumer,
    expected: Expected,
}

impl Reader<'_> {
    /// Acknowledges each delivery before the next is taken, as the client's documentation begins.
    async fn each(&mut self, messages: u32) -> Result<()> {
        for _ in 0..messages {
            let delivery = self.next().await?;
            delivery.acker.ack(BasicAckOptions::default()).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Acknowledges so many by one word.
    async fn together(&mut self, messages: u32, at_once: usize) -> Result<()> {
        let mut open = 0;
        for number in 1..=messages {
            let delivery = self.next().await?;
            open += 1;
            if open == at_once || number == messages {
                let multiple = BasicAckOptions { multiple: true };
                let acknowledging = self.channel.basic_ack(delivery.delivery_tag, multiple);
                acknowledging.await.map_err(failed)?;
                open = 0;
            }
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Delivery> {
        let delivery = self.consumer.next().await;
        let delivery = delivery.ok_or_else(|| failed("the consumer ended"))?.map_err(failed)?;
        self.expected.check(&delivery)?;
        Ok(delivery)
    }
}

/// The first message of a queue, as anybody reads it; it is put back.
pub(super) async fn first(load: &Load, queue: &str) -> Result<Seen> {
    let connection = connect(&load.url).await?;
    let channel = connection.create_channel().await.map_err(failed)?;
    let looking = async {
        loop {
            let get = channel.basic_get(short(queue)?, BasicGetOptions::default());
            if let Some(message) = get.await.map_err(failed)? {
                return Ok(message);
            }
        }
    };
    let message = timeout(PATIENCE, looking).await.map_err(failed)??;
    let seen = seen(&message.delivery.properties, message.delivery.data.len());
    end(&channel, &connection).await?;
    Ok(seen)
}

/// Properties have names of their own in what is compared.
fn seen(properties: &BasicProperties, payload: usize) -> Seen {
    let mut headers = Vec::new();
    let texts = [
        ("content_type", properties.content_type()),
        ("content_encoding", properties.content_encoding()),
        ("correlation_id", properties.correlation_id()),
        ("reply_to", properties.reply_to()),
        ("expiration", properties.expiration()),
        ("message_id", properties.message_id()),
        ("type", properties.kind()),
        ("user_id", properties.user_id()),
        ("app_id", properties.app_id()),
    ];
    for (name, text) in texts {
        headers.extend(text.as_ref().map(|text| (format!("property {name}"), text.as_str().len())));
    }
    let numbers = [
        ("delivery_mode", properties.delivery_mode().map(|_| 1)),
        ("priority", properties.priority().map(|_| 1)),
        ("timestamp", properties.timestamp().map(|_| 8)),
    ];
    for (name, bytes) in numbers {
        headers.extend(bytes.map(|bytes| (format!("property {name}"), bytes)));
    }
    for (name, value) in properties.headers().iter().flat_map(FieldTable::inner) {
        let bytes = match value {
            AMQPValue::LongString(text) => text.as_bytes().len(),
            other => format!("{other:?}").len(),
        };
        headers.push((name.as_str().to_owned(), bytes));
    }
    headers.sort();
    Seen { headers, payload }
}

/// What has to come.
#[derive(Debug, Clone, Copy)]
struct Expected {
    payload: usize,
    headers: usize,
}

impl Expected {
    const fn of(load: &Load, how: &How) -> Self {
        Self { payload: load.payload.len(), headers: if how.envelope { HEADERS } else { 0 } }
    }

    /// Reads what both sides need of a message: its payload, and each header.
    fn check(&self, delivery: &Delivery) -> Result<()> {
        let headers = delivery.properties.headers().as_ref().map_or(0, |headers| {
            let texts = headers.inner().values();
            texts.filter(|value| matches!(value, AMQPValue::LongString(_))).count()
        });
        // The broker may add its own count of deliveries.
        if headers == self.headers && delivery.data.len() == self.payload {
            return Ok(());
        }
        Err(failed("a message came that was not sent"))
    }
}
