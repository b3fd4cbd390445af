//! Reading retained messages without a group, for administration.

use std::time::Duration;

use async_nats::Message;
use async_nats::jetstream::consumer::{AckPolicy, Config, DeliverPolicy, Info};
use futures_util::StreamExt as _;
use posthaste_core::{Error, ErrorKind, Result};
use serde_json::json;
use tokio::time::Instant;

use crate::convert::Origin;
use crate::error::{self, BROKER};
use crate::hub::Hub;
use crate::reply::Delivered;

/// How many messages are asked for at a time.
const PAGE: usize = 1_000;
/// The server removes the consumer when it was not asked for that long, should we not do it.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// A message as it lies in a stream.
pub(crate) struct Fetched {
    pub(crate) message: Message,
    pub(crate) delivered: Delivered,
}

impl Fetched {
    pub(crate) fn origin<'a>(&'a self, stream: &'a str) -> Origin<'a> {
        Origin {
            stream,
            subject: &self.message.subject,
            sequence: self.delivered.stream_sequence,
            stored_at: Some(self.delivered.stored_at),
        }
    }
}

/// Which messages to read.
pub(crate) struct Query {
    /// `None` is all subjects.
    pub(crate) filter: Option<String>,
    pub(crate) from: DeliverPolicy,
    pub(crate) limit: usize,
    /// Nothing behind that place.
    pub(crate) up_to: Option<u64>,
    /// Without the payloads.
    pub(crate) headers_only: bool,
}

impl Query {
    /// Whole messages.
    pub(crate) const fn new(filter: Option<String>, from: DeliverPolicy, limit: usize) -> Self {
        Self { filter, from, limit, up_to: None, headers_only: false }
    }
}

/// Reads messages, oldest first.
///
/// # Errors
/// `NotFound`, `Connection`, `Timeout`.
pub(crate) async fn retained(hub: &Hub, stream: &str, query: Query) -> Result<Vec<Fetched>> {
    if query.limit == 0 {
        return Ok(Vec::new());
    }
    let config = Config {
        deliver_policy: query.from,
        ack_policy: AckPolicy::None,
        filter_subject: query.filter.unwrap_or_default(),
        headers_only: query.headers_only,
        inactive_threshold: FORGOTTEN,
        memory_storage: true,
        num_replicas: 1,
        ..Config::default()
    };
    let body = json!({ "stream_name": stream, "config": config });
    let info: Info = hub.api.ask(&format!("CONSUMER.CREATE.{stream}"), &body).await?;
    let limit = query.limit.min(pending(&info));
    let read = read(hub, stream, &info.name, limit, query.up_to.unwrap_or(u64::MAX)).await;
    let deleted: Result<serde_json::Value> =
        hub.api.ask(&format!("CONSUMER.DELETE.{stream}.{}", info.name), &json!({})).await;
    if let Err(error) = deleted {
        tracing::debug!(%error, "a consumer for reading was left to its time limit");
    }
    read
}

fn pending(info: &Info) -> usize {
    usize::try_from(info.num_pending).unwrap_or(usize::MAX)
}

async fn read(
    hub: &Hub,
    stream: &str,
    consumer: &str,
    limit: usize,
    up_to: u64,
) -> Result<Vec<Fetched>> {
    let mut found = Vec::with_capacity(limit.min(PAGE));
    let request = format!("{}.CONSUMER.MSG.NEXT.{stream}.{consumer}", hub.api.prefix);
    let inbox = hub.client.new_inbox();
    let mut messages = hub.client.subscribe(inbox.clone()).await.map_err(error::subscribe)?;
    let until = Instant::now() + hub.request_timeout;
    while found.len() < limit {
        let wanted = (limit - found.len()).min(PAGE);
        let body = json!({ "batch": wanted, "no_wait": true }).to_string();
        let sent = hub.client.publish_with_reply(request.clone(), inbox.clone(), body.into()).await;
        sent.map_err(error::send)?;
        let before = found.len();
        while found.len() - before < wanted {
            let next = tokio::time::timeout_at(until, messages.next()).await;
            let Ok(Some(message)) = next else {
                return Err(Error::new(ErrorKind::Timeout, "the stream could not be read in time")
                    .with_broker(BROKER));
            };
            match message.status.map(|status| status.as_u16()) {
                None => {
                    let delivered = message.reply.as_deref().and_then(Delivered::parse);
                    if let Some(delivered) = delivered {
                        if delivered.stream_sequence > up_to {
                            return Ok(found);
                        }
                        found.push(Fetched { message, delivered });
                    }
                }
                Some(100) => {}
                Some(404 | 408) => return Ok(found),
                Some(code) => {
                    return Err(Error::new(ErrorKind::Connection, "the stream cannot be read now")
                        .with_context("status", code)
                        .with_broker(BROKER));
                }
            }
        }
    }
    Ok(found)
}
