//! Questions and declarations, one after the other on a channel of the admin connection.
//!
//! What the broker refuses ends its channel; the next call opens another one.

use lapin::options::{
    ExchangeBindOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, ExchangeKind};
use posthaste_core::{Difference, Error, Result};

use crate::arguments;
use crate::error;
use crate::hub::Hub;
use crate::outgoing::short;

/// How many messages a queue has ready, and how many consumers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueState {
    pub(crate) ready: u64,
    pub(crate) consumers: u32,
}

/// A conversation with the broker about topology.
pub(crate) struct Desk<'a> {
    hub: &'a Hub,
    channel: Option<Channel>,
}

impl<'a> Desk<'a> {
    pub(crate) fn new(hub: &'a Hub) -> Self {
        Self { hub, channel: None }
    }

    /// Asks. The inner error is a refusal that ended no more than the channel.
    async fn ask<T>(
        &mut self,
        what: &'static str,
        call: impl AsyncFnOnce(&Channel) -> lapin::Result<T>,
    ) -> Result<std::result::Result<T, lapin::Error>> {
        let until = self.hub.until();
        let channel = match self.channel.take().filter(|channel| channel.status().connected()) {
            Some(channel) => channel,
            None => self.hub.admin.channel(until).await?.0,
        };
        let answer = tokio::time::timeout_at(until, call(&channel)).await;
        match answer {
            Ok(Ok(answer)) => {
                self.channel = Some(channel);
                Ok(Ok(answer))
            }
            Ok(Err(native)) if error::reply(&native).is_some() && !error::is_lost(&native) => {
                Ok(Err(native))
            }
            Ok(Err(native)) => Err(error::native(native)),
            Err(_) => {
                self.hub.admin.suspect();
                Err(error::timed_out(what))
            }
        }
    }

    /// Whether the exchange exists.
    pub(crate) async fn has_exchange(&mut self, name: &str) -> Result<bool> {
        let name = short("exchange", name)?;
        let passive = ExchangeDeclareOptions { passive: true, ..Default::default() };
        let asked = self.ask("an exchange", async |channel| {
            let kind = ExchangeKind::Topic;
            channel.exchange_declare(name, kind, passive, FieldTable::default()).await
        });
        match asked.await? {
            Ok(()) => Ok(true),
            Err(native) if error::is_not_found(&native) => Ok(false),
            Err(native) => Err(error::native(native)),
        }
    }

    /// The queue's state; `None` if it does not exist.
    pub(crate) async fn queue_state(&mut self, name: &str) -> Result<Option<QueueState>> {
        let name = short("queue", name)?;
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let asked = self.ask("a queue", async |channel| {
            channel.queue_declare(name, passive, FieldTable::default()).await
        });
        match asked.await? {
            Ok(queue) => Ok(Some(QueueState {
                ready: u64::from(queue.message_count()),
                consumers: queue.consumer_count(),
            })),
            Err(native) if error::is_not_found(&native) => Ok(None),
            Err(native) => Err(error::native(native)),
        }
    }

    /// Declares a durable exchange; says how the one that exists differs.
    pub(crate) async fn exchange(
        &mut self,
        name: &str,
        kind: ExchangeKind,
        arguments: FieldTable,
    ) -> Result<Option<Difference>> {
        let name = short("exchange", name)?;
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let asked = self.ask("an exchange", async |channel| {
            channel.exchange_declare(name, kind, options, arguments).await
        });
        differs(asked.await?)
    }

    /// Declares a durable queue; says how the one that exists differs.
    pub(crate) async fn queue(
        &mut self,
        name: &str,
        arguments: FieldTable,
    ) -> Result<Option<Difference>> {
        let name = short("queue", name)?;
        let options = QueueDeclareOptions::durable();
        let asked = self.ask("a queue", async |channel| {
            channel.queue_declare(name, options, arguments).await.map(drop)
        });
        differs(asked.await?)
    }

    /// Keeps a word at the broker under a name: an exchange that nobody uses, whose alternate
    /// exchange is the word. The first who says one is heard; returns what is kept.
    pub(crate) async fn mark(&mut self, name: &str, word: &str) -> Result<String> {
        let declared =
            self.exchange(name, ExchangeKind::Fanout, arguments::alternate(word)).await?;
        Ok(declared.map_or_else(|| word.to_owned(), |difference| difference.found))
    }

    /// The word that is kept under that name; `None` if there is none.
    pub(crate) async fn word(&mut self, name: &str) -> Result<Option<String>> {
        if !self.has_exchange(name).await? {
            return Ok(None);
        }
        // Nobody keeps this one: the refusal tells the true one.
        let declared = self.exchange(name, ExchangeKind::Fanout, arguments::alternate("?")).await?;
        if declared.is_none() {
            // It was deleted in between, and is there again by this very question.
            self.delete_exchange(name).await?;
        }
        Ok(declared.map(|difference| difference.found))
    }

    pub(crate) async fn bind(&mut self, queue: &str, exchange: &str, key: &str) -> Result<()> {
        self.bind_with(queue, exchange, key, FieldTable::default()).await
    }

    pub(crate) async fn bind_with(
        &mut self,
        queue: &str,
        exchange: &str,
        key: &str,
        arguments: FieldTable,
    ) -> Result<()> {
        let (queue, exchange) = (short("queue", queue)?, short("exchange", exchange)?);
        let key = short("routing key", key)?;
        let asked = self.ask("a binding", async |channel| {
            let options = QueueBindOptions::default();
            channel.queue_bind(queue, exchange, key, options, arguments).await
        });
        asked.await?.map_err(error::native)
    }

    /// Unbinding nothing is no error.
    pub(crate) async fn unbind(&mut self, queue: &str, exchange: &str, key: &str) -> Result<()> {
        let (queue, exchange) = (short("queue", queue)?, short("exchange", exchange)?);
        let key = short("routing key", key)?;
        let asked = self.ask("a binding's end", async |channel| {
            channel.queue_unbind(queue, exchange, key, FieldTable::default()).await
        });
        gone(asked.await?)
    }

    pub(crate) async fn bind_exchange(&mut self, to: &str, from: &str, key: &str) -> Result<()> {
        let (to, from) = (short("exchange", to)?, short("exchange", from)?);
        let key = short("routing key", key)?;
        let asked = self.ask("a binding", async |channel| {
            let options = ExchangeBindOptions::default();
            channel.exchange_bind(to, from, key, options, FieldTable::default()).await
        });
        asked.await?.map_err(error::native)
    }

    /// Deleting nothing is no error.
    pub(crate) async fn delete_exchange(&mut self, name: &str) -> Result<()> {
        let name = short("exchange", name)?;
        let options = ExchangeDeleteOptions::default();
        let asked =
            self.ask("a deletion", async |channel| channel.exchange_delete(name, options).await);
        gone(asked.await?)
    }

    /// Deleting nothing is no error.
    pub(crate) async fn delete_queue(&mut self, name: &str) -> Result<()> {
        let name = short("queue", name)?;
        let options = QueueDeleteOptions::default();
        let asked = self
            .ask("a deletion", async |channel| channel.queue_delete(name, options).await.map(drop));
        gone(asked.await?)
    }

    /// Removes what is ready. Purging nothing is no error.
    pub(crate) async fn purge(&mut self, name: &str) -> Result<()> {
        let name = short("queue", name)?;
        let asked = self.ask("a purge", async |channel| {
            channel.queue_purge(name, QueuePurgeOptions::default()).await.map(drop)
        });
        gone(asked.await?)
    }

    /// Gives the channel back. What is not called is done by its drop.
    pub(crate) async fn close(mut self) {
        if let Some(channel) = self.channel.take() {
            let closing = channel.close(200, "done".into());
            drop(tokio::time::timeout_at(self.hub.until(), closing).await);
        }
    }
}

fn differs(asked: std::result::Result<(), lapin::Error>) -> Result<Option<Difference>> {
    match asked {
        Ok(()) => Ok(None),
        Err(native) => match error::mismatch(&native) {
            Some(mismatch) => Ok(Some(mismatch.difference())),
            None => Err(error::native(native)),
        },
    }
}

fn gone(asked: std::result::Result<(), lapin::Error>) -> Result<()> {
    match asked {
        Err(native) if !error::is_not_found(&native) => Err(error::native(native)),
        _ => Ok(()),
    }
}

/// The difference as the error of a call that does not go on with it.
pub(crate) fn refuse(difference: Option<Difference>) -> Result<()> {
    match difference {
        None => Ok(()),
        Some(difference) => Difference::refuse(&[difference])
            .map_err(|refused: Error| refused.with_broker(error::BROKER)),
    }
}
