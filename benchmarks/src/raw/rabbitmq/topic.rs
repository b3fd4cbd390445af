//! A topic of a run: made, counted, deleted. Nothing of that is measured.

use std::time::Duration;

use lapin::options::{
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use posthaste::Result;
use tokio::time::Instant;

use super::{GROUP, PATIENCE, failed, miscounted};
use crate::message::fresh_topic;
use crate::raw::Load;

/// The pause after a count that was not complete yet.
const PAUSE: Duration = Duration::from_millis(10);

/// An exchange with one queue, on a connection of its own.
pub(super) struct Topic {
    url: String,
    name: String,
    connection: Connection,
    channel: Channel,
}

impl Topic {
    /// A new one, which can be used.
    pub(super) async fn create(load: &Load) -> Result<Self> {
        let name = fresh_topic();
        let connection = connect(&load.url).await?;
        let channel = connection.create_channel().await.map_err(failed)?;
        let topic = Self { url: load.url.clone(), name, connection, channel };
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let (exchange, none) = (topic.exchange()?, FieldTable::default());
        let declaring =
            topic.channel.exchange_declare(exchange, ExchangeKind::Topic, durable, none);
        declaring.await.map_err(failed)?;
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        let mut quorum = FieldTable::default();
        quorum.insert(short("x-queue-type")?, AMQPValue::LongString(LongString::from("quorum")));
        let queue = short(&topic.queue())?;
        let declaring = topic.channel.queue_declare(queue.clone(), durable, quorum);
        declaring.await.map_err(failed)?;
        let (exchange, everything) = (topic.exchange()?, short("#")?);
        let options = QueueBindOptions::default();
        let binding =
            topic.channel.queue_bind(queue, exchange, everything, options, FieldTable::default());
        binding.await.map_err(failed)?;
        Ok(topic)
    }

    /// What the exchange is called.
    pub(super) fn exchange(&self) -> Result<ShortString> {
        short(&self.name)
    }

    /// What the queue is called.
    pub(super) fn queue(&self) -> String {
        format!("{}__{GROUP}", self.name)
    }

    /// A further connection, as applications have one for each direction.
    pub(super) async fn connect(&self) -> Result<Connection> {
        connect(&self.url).await
    }

    /// Reads the count back.
    pub(super) async fn all_stored(&self, messages: u32) -> Result<()> {
        self.counted("messages that are stored", messages).await
    }

    /// Nobody consumes any more, so that what was not acknowledged is ready again. There is nothing
    /// of that.
    pub(super) async fn all_settled(&self) -> Result<()> {
        self.counted("messages that are not acknowledged", 0).await
    }

    async fn counted(&self, what: &'static str, wanted: u32) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let look = QueueDeclareOptions { passive: true, ..Default::default() };
            let looking =
                self.channel.queue_declare(short(&self.queue())?, look, FieldTable::default());
            let queue = looking.await.map_err(failed)?;
            if queue.consumer_count() == 0 && queue.message_count() == wanted {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(miscounted(what, queue.message_count().into(), wanted.into()));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The queue and the exchange go, and the connection ends.
    pub(super) async fn delete(self) -> Result<()> {
        let (queue, exchange) = (short(&self.queue())?, self.exchange()?);
        let deleting = self.channel.queue_delete(queue, QueueDeleteOptions::default());
        deleting.await.map_err(failed)?;
        let deleting = self.channel.exchange_delete(exchange, ExchangeDeleteOptions::default());
        deleting.await.map_err(failed)?;
        end(&self.channel, &self.connection).await
    }
}

/// A connection of the kind that everybody has.
pub(super) async fn connect(url: &str) -> Result<Connection> {
    Connection::connect(url, ConnectionProperties::default()).await.map_err(failed)
}

/// Closes both, the channel first.
pub(super) async fn end(channel: &Channel, connection: &Connection) -> Result<()> {
    channel.close(200, short("done")?).await.map_err(failed)?;
    connection.close(200, short("done")?).await.map_err(failed)
}

pub(super) fn short(text: &str) -> Result<ShortString> {
    ShortString::try_new(text).map_err(|_| failed("a name of more than 255 bytes"))
}
