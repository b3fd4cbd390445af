//! What another program does at Redis: the native client, without this library.

use std::net::SocketAddr;
use std::time::Duration;

use posthaste_conformance::Foreign;
use posthaste_core::{Error, ErrorKind, Result};
use redis::Cmd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// By when all that another program does is done.
const DONE: Duration = Duration::from_secs(20);

/// Stores a message in a stream, with fields of the writer's own.
pub(crate) async fn publish(url: &str, stream: &str, message: &Foreign) -> Result<()> {
    let mut command = redis::cmd("XADD");
    command.arg(stream).arg("*");
    for (name, value) in &message.headers {
        command.arg(name).arg(value);
    }
    command.arg("payload").arg(&*message.payload);
    run(url, command).await
}

/// Makes a stream by its first entry, which is removed again.
pub(crate) async fn create(url: &str, stream: &str) -> Result<()> {
    let mut command = redis::cmd("XADD");
    command.arg(stream).arg("*").arg("made").arg("1");
    run(url, command).await?;
    let mut command = redis::cmd("XTRIM");
    command.arg(stream).arg("MAXLEN").arg(0);
    run(url, command).await
}

/// Makes a user with these rules.
pub(crate) fn user(
    url: &str,
    name: &str,
    password: &str,
    rules: &[&str],
) -> std::result::Result<(), String> {
    let made = || -> redis::RedisResult<()> {
        let mut connection = redis::Client::open(url)?.get_connection()?;
        let mut command = redis::cmd("ACL");
        command.arg("SETUSER").arg(name).arg("reset").arg("on").arg(format!(">{password}"));
        command.arg(rules).query(&mut connection)
    };
    made().map_err(|error| format!("no user could be made: {error}"))
}

/// Whether a server that listens can be used.
pub(crate) async fn answers(addr: SocketAddr) -> Result<()> {
    let ask = async {
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(b"PING\r\n").await?;
        stream.read_u8().await
    };
    let silent = |_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut));
    match timeout(Duration::from_secs(2), ask).await.unwrap_or_else(silent) {
        Ok(b'+') => Ok(()),
        Ok(_) => Err(Error::new(ErrorKind::Connection, "it is not ready")),
        Err(error) => Err(Error::new(ErrorKind::Connection, "nothing answers").with_source(error)),
    }
}

async fn run(url: &str, command: Cmd) -> Result<()> {
    let doing = async {
        let client = redis::Client::open(url)?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        command.query_async::<redis::Value>(&mut connection).await
    };
    let late = |_| Error::new(ErrorKind::Timeout, "the native client does not end");
    timeout(DONE, doing).await.map_err(late)?.map(drop).map_err(|error| {
        Error::new(ErrorKind::Fatal, "the native client failed").with_source(error)
    })
}
