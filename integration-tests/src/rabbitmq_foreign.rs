//! What another program does at RabbitMQ: the native client, without this library.

use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind,
};
use posthaste_conformance::Foreign;
use posthaste_core::{Error, ErrorKind, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// By when all that another program does is done.
const DONE: Duration = Duration::from_secs(20);
/// What a client says first, and the kind of frame that the broker answers with.
const HELLO: &[u8; 8] = b"AMQP\0\0\x09\x01";
const METHOD: u8 = 1;

/// Stores a message in an exchange, by a routing key of the writer's own.
pub(crate) async fn publish(
    url: &str,
    exchange: &str,
    routing_key: &str,
    message: &Foreign,
) -> Result<()> {
    let properties = properties(message)?;
    let (exchange, routing_key) = (short(exchange)?, short(routing_key)?);
    in_channel(url, async |channel| {
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        // Mandatory: what no queue takes is not stored.
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let sent =
            channel.basic_publish(exchange, routing_key, options, &message.payload, properties);
        sent.await?.await
    })
    .await
    .and_then(|confirmation| match confirmation {
        Confirmation::Ack(None) => Ok(()),
        other => Err(Error::new(ErrorKind::Fatal, "the message was not stored")
            .with_context("confirmation", format!("{other:?}"))),
    })
}

/// Makes a durable exchange of the kind that topics have.
pub(crate) async fn create(url: &str, exchange: &str) -> Result<()> {
    let exchange = short(exchange)?;
    in_channel(url, async |channel| {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        channel
            .exchange_declare(exchange, ExchangeKind::Topic, options, FieldTable::default())
            .await
    })
    .await
}

/// Whether a broker that listens is one that answers. It listens only once it can be used.
pub(crate) async fn answers(addr: std::net::SocketAddr) -> Result<()> {
    let ask = async {
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(HELLO).await?;
        stream.read_u8().await
    };
    let silent = |_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut));
    match timeout(Duration::from_secs(2), ask).await.unwrap_or_else(silent) {
        Ok(METHOD) => Ok(()),
        Ok(_) => Err(Error::new(ErrorKind::Connection, "it does not speak AMQP 0-9-1")),
        Err(error) => Err(Error::new(ErrorKind::Connection, "nothing answers").with_source(error)),
    }
}

/// Does something on a channel of a connection of its own, and closes both.
async fn in_channel<T>(
    url: &str,
    work: impl AsyncFnOnce(&Channel) -> lapin::Result<T>,
) -> Result<T> {
    let doing = async {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let done = work(&channel).await?;
        channel.close(200, "done".into()).await?;
        connection.close(200, "done".into()).await?;
        Ok(done)
    };
    let late = |_| Error::new(ErrorKind::Timeout, "the native client does not end");
    timeout(DONE, doing).await.map_err(late)?.map_err(failed)
}

/// Neither properties nor headers unless there are some, as the simplest of programs writes.
fn properties(message: &Foreign) -> Result<BasicProperties> {
    if message.headers.is_empty() {
        return Ok(BasicProperties::default());
    }
    let mut headers = FieldTable::default();
    for (name, value) in &message.headers {
        headers.insert(short(name)?, AMQPValue::LongString(LongString::from(value.as_str())));
    }
    Ok(BasicProperties::default().with_headers(headers))
}

fn short(text: &str) -> Result<ShortString> {
    ShortString::try_new(text).map_err(|_| {
        Error::invalid("the text is longer than 255 bytes").with_context("bytes", text.len())
    })
}

#[cold]
fn failed(error: lapin::Error) -> Error {
    Error::new(ErrorKind::Fatal, "the native client failed").with_source(error)
}
