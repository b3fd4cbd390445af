//! The native client, as another program uses it.

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisResult, Value};

/// A connection without this library.
#[derive(Clone)]
pub(crate) struct Raw(MultiplexedConnection);

impl Raw {
    pub(crate) async fn connect(url: &str) -> Self {
        Self::try_connect(url).await.expect("the server is there")
    }

    pub(crate) async fn try_connect(url: &str) -> RedisResult<Self> {
        let client = redis::Client::open(url)?;
        let mut raw = Self(client.get_multiplexed_async_connection().await?);
        raw.try_do(redis::cmd("PING")).await.map(|_| raw)
    }

    pub(crate) async fn try_do(&mut self, command: Cmd) -> RedisResult<Value> {
        command.query_async(&mut self.0).await
    }

    /// A command as it is typed.
    pub(crate) async fn run(&mut self, words: &[&str]) -> Value {
        let mut command = Cmd::new();
        command.arg(words);
        self.try_do(command).await.unwrap_or_else(|error| unreachable!("{words:?}: {error}"))
    }

    /// A number that a command answers.
    pub(crate) async fn number(&mut self, words: &[&str]) -> i64 {
        match self.run(words).await {
            Value::Int(number) => number,
            other => unreachable!("{words:?}: {other:?}"),
        }
    }

    /// Calls a script of the adapter, as it is in its folder.
    pub(crate) async fn script(&mut self, name: &str, keys: &[&str], args: &[&str]) -> Value {
        let read = |name: &str| {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/scripts");
            std::fs::read_to_string(format!("{folder}/{name}.lua")).expect("a script")
        };
        let mut command = redis::cmd("EVAL");
        command.arg(format!("{}{}", read("common"), read(name)));
        command.arg(keys.len()).arg(keys).arg(args);
        self.try_do(command).await.unwrap_or_else(|error| unreachable!("{name}: {error}"))
    }
}

/// All texts and numbers of an answer, one after the other.
pub(crate) fn flat(value: &Value) -> Vec<String> {
    match value {
        Value::Array(parts) => parts.iter().flat_map(flat).collect(),
        Value::BulkString(bytes) => vec![String::from_utf8_lossy(bytes).into_owned()],
        Value::SimpleString(text) => vec![text.clone()],
        Value::Int(number) => vec![number.to_string()],
        Value::Nil => Vec::new(),
        other => vec![format!("{other:?}")],
    }
}
