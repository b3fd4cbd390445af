//! A publisher: sixty-four at a time with a window of confirmations behind them, or one after the
//! other.

use std::collections::VecDeque;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::try_join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, PublisherConfirm};
use posthaste::{Result, Timestamp};

use super::failed;
use super::topic::{Topic, end, short};
use crate::message::{SOURCE, TYPE};
use crate::raw::Load;

/// How many publishes are begun together. Their frames are then written by one call; one after the
/// other, each is a call of its own and two changes of threads.
const TOGETHER: usize = 64;
/// Stored on disk.
const PERSISTENT: u8 = 2;

/// A channel with confirmations, on a connection of its own. One task uses it.
pub(super) struct Publisher {
    connection: Connection,
    channel: Channel,
    exchange: ShortString,
    routing_key: ShortString,
    payload: Bytes,
    envelope: bool,
}

/// A confirmation that somebody waits for.
type Confirming = Pin<Box<dyn Future<Output = Result<()>>>>;

impl Publisher {
    /// Connects, and has the first message stored.
    pub(super) async fn start(topic: &Topic, load: &Load, envelope: bool) -> Result<Self> {
        let connection = topic.connect().await?;
        let channel = connection.create_channel().await.map_err(failed)?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(failed)?;
        let exchange = topic.exchange()?;
        let (routing_key, payload) = (exchange.clone(), load.payload.clone());
        let started = Self { connection, channel, exchange, routing_key, payload, envelope };
        started.send_all(1, 1).await?;
        Ok(started)
    }

    /// Sends that many, with at most a window of them in flight. A window of 1 is one after the
    /// other.
    pub(super) async fn send_all(&self, messages: u32, window: usize) -> Result<()> {
        let mut left = messages as usize;
        let mut in_flight: VecDeque<PublisherConfirm> = VecDeque::with_capacity(window);
        while left > 0 {
            let together = left.min(TOGETHER).min(window);
            while in_flight.len() + together > window
                && let Some(oldest) = in_flight.pop_front()
            {
                confirmed(oldest).await?;
            }
            if together == 1 {
                in_flight.push_back(self.publish().await.map_err(failed)?);
            } else {
                let begun = try_join_all((0..together).map(|_| self.publish())).await;
                in_flight.extend(begun.map_err(failed)?);
            }
            left -= together;
        }
        for confirmation in in_flight {
            confirmed(confirmation).await?;
        }
        Ok(())
    }

    /// Begins to send one message, and does not wait until it is written.
    pub(super) fn begin(&self) -> Result<Confirming> {
        let (channel, payload) = (self.channel.clone(), self.payload.clone());
        let (exchange, routing_key) = (self.exchange.clone(), self.routing_key.clone());
        let properties = self.properties()?;
        let mut sending: Confirming = Box::pin(async move {
            let options = BasicPublishOptions::default();
            let sent =
                channel.basic_publish(exchange, routing_key, options, &payload, properties).await;
            confirmed(sent.map_err(failed)?).await
        });
        // The first look hands its frames over, in order.
        match (&mut sending).now_or_never() {
            None => Ok(sending),
            Some(done) => Ok(Box::pin(std::future::ready(done))),
        }
    }

    async fn publish(&self) -> lapin::Result<PublisherConfirm> {
        let (exchange, routing_key) = (self.exchange.clone(), self.routing_key.clone());
        let properties = self.properties().unwrap_or_default();
        let options = BasicPublishOptions::default();
        self.channel.basic_publish(exchange, routing_key, options, &self.payload, properties).await
    }

    /// What an envelope of ours puts beside the payload.
    fn properties(&self) -> Result<BasicProperties> {
        let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
        if !self.envelope {
            return Ok(properties);
        }
        let time = Timestamp::now();
        let text = |text: &str| AMQPValue::LongString(LongString::from(text));
        let mut headers = FieldTable::default();
        headers.insert(short("cloudEvents:specversion")?, text("1.0"));
        headers.insert(short("cloudEvents:source")?, text(SOURCE));
        headers.insert(short("cloudEvents:time")?, text(&time.to_string()));
        let mut buffer = uuid::Uuid::encode_buffer();
        let id: &str = uuid::Uuid::now_v7().hyphenated().encode_lower(&mut buffer);
        let seconds = u64::try_from(time.as_micros() / 1_000_000).unwrap_or_default();
        Ok(properties
            .with_message_id(short(id)?)
            .with_type(short(TYPE)?)
            .with_timestamp(seconds)
            .with_headers(headers))
    }

    pub(super) async fn close(self) -> Result<()> {
        end(&self.channel, &self.connection).await
    }
}

async fn confirmed(confirmation: PublisherConfirm) -> Result<()> {
    match confirmation.await.map_err(failed)? {
        Confirmation::Ack(None) => Ok(()),
        other => Err(failed(format!("a message was not stored: {other:?}"))),
    }
}
