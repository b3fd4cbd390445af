//! What another program sees and does at the broker: the native client, without this library.

use std::time::Duration;

use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions,
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer,
    ExchangeKind,
};
use tokio::time::timeout;

/// A channel of another program.
pub(crate) struct Raw {
    connection: Connection,
    channel: Channel,
}

fn short(text: &str) -> ShortString {
    ShortString::try_new(text).expect("a short text")
}

/// Whether somebody can log in.
pub(crate) async fn answers(url: &str) -> bool {
    let connecting = Connection::connect(url, ConnectionProperties::default());
    match timeout(Duration::from_secs(5), connecting).await {
        Ok(Ok(connection)) => connection.close(200, short("done")).await.is_ok(),
        _ => false,
    }
}

impl Raw {
    pub(crate) async fn connect(url: &str) -> Self {
        let connecting = Connection::connect(url, ConnectionProperties::default());
        let connection = connecting.await.expect("a connection");
        let channel = connection.create_channel().await.expect("a channel");
        Self { connection, channel }
    }

    /// A durable exchange of that type.
    pub(crate) async fn exchange(&self, name: &str, kind: ExchangeKind) {
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let declaring =
            self.channel.exchange_declare(short(name), kind, options, FieldTable::default());
        declaring.await.expect("an exchange");
    }

    /// A queue with these arguments; `exclusive` to this connection or not.
    pub(crate) async fn queue(&self, name: &str, exclusive: bool, arguments: &[(&str, AMQPValue)]) {
        let mut table = FieldTable::default();
        for (name, value) in arguments {
            table.insert(short(name), value.clone());
        }
        let options = QueueDeclareOptions { durable: !exclusive, exclusive, ..Default::default() };
        let declaring = self.channel.queue_declare(short(name), options, table);
        declaring.await.expect("a queue");
    }

    pub(crate) async fn bind(&self, queue: &str, exchange: &str, key: &str) {
        let options = QueueBindOptions::default();
        let (queue, exchange, none) = (short(queue), short(exchange), FieldTable::default());
        let binding = self.channel.queue_bind(queue, exchange, short(key), options, none);
        binding.await.expect("a binding");
    }

    pub(crate) async fn unbind(&self, queue: &str, exchange: &str, key: &str) {
        let (queue, exchange, none) = (short(queue), short(exchange), FieldTable::default());
        let unbinding = self.channel.queue_unbind(queue, exchange, short(key), none);
        unbinding.await.expect("no binding");
    }

    pub(crate) async fn delete_queue(&self, name: &str) {
        let deleting = self.channel.queue_delete(short(name), QueueDeleteOptions::default());
        deleting.await.expect("no queue");
    }

    /// How many messages are ready in a queue.
    pub(crate) async fn ready(&self, name: &str) -> u32 {
        let options = QueueDeclareOptions { passive: true, ..Default::default() };
        let asking = self.channel.queue_declare(short(name), options, FieldTable::default());
        asking.await.expect("a queue").message_count()
    }

    /// Takes the next message out of a queue, if there is one: its payload.
    pub(crate) async fn get(&self, name: &str) -> Option<Vec<u8>> {
        let got = self.channel.basic_get(short(name), BasicGetOptions { no_ack: true }).await;
        got.expect("an answer").map(|message| message.delivery.data)
    }

    /// The payloads of the messages in a queue that have such routing keys. They stay there.
    pub(crate) async fn look(&self, name: &str, is_wanted: impl Fn(&str) -> bool) -> Vec<Vec<u8>> {
        let channel = self.connection.create_channel().await.expect("a channel");
        let (mut found, options) = (Vec::new(), BasicGetOptions::default());
        while let Some(message) = channel.basic_get(short(name), options).await.expect("an answer")
        {
            if is_wanted(message.delivery.routing_key.as_str()) {
                found.push(message.delivery.data);
            }
        }
        // What is not settled goes back.
        channel.close(200, short("done")).await.expect("an end");
        found
    }

    /// Publishes what some queue takes.
    pub(crate) async fn publish(
        &self,
        exchange: &str,
        key: &str,
        properties: BasicProperties,
        body: &[u8],
    ) {
        let channel = self.connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirmations");
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let sent =
            channel.basic_publish(short(exchange), short(key), options, body, properties).await;
        let confirmed = sent.expect("it is sent").await.expect("an answer");
        assert_eq!(confirmed, Confirmation::Ack(None), "no queue takes it");
        channel.close(200, short("done")).await.expect("an end");
    }

    /// The only consumer of a queue.
    pub(crate) async fn consume_alone(&self, name: &str) -> Consumer {
        let options = BasicConsumeOptions { exclusive: true, ..Default::default() };
        let none = FieldTable::default();
        let consuming = self.channel.basic_consume(short(name), short("alone"), options, none);
        consuming.await.expect("a consumer")
    }

    pub(crate) async fn close(self) {
        self.channel.close(200, short("done")).await.expect("an end");
        self.connection.close(200, short("done")).await.expect("an end");
    }
}
