//! Producers: one that keeps a window full and counts, and one that awaits each message.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use posthaste::{Result, Timestamp};
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, FutureProducer, FutureRecord, ProducerContext};
use rdkafka::producer::{Producer as _, ThreadedProducer};
use tokio::sync::Notify;

use super::topic::{Topic, blocking};
use super::{PATIENCE, failed};
use crate::clock::{Sample, timed};
use crate::message::{SOURCE, TYPE};
use crate::raw::Load;

/// Sends without waiting, and waits for the window only: nothing is allocated for a confirmation,
/// and nobody is woken for one. What is sent is numbered, because one partition confirms in order.
pub(super) struct Pipelined {
    client: ThreadedProducer<Counting>,
    confirmed: Arc<Confirmed>,
    topic: String,
    payload: Bytes,
    envelope: bool,
    sent: usize,
}

impl Pipelined {
    /// Connects, and has the first message stored.
    pub(super) async fn start(topic: &Topic, load: &Load, envelope: bool) -> Result<Self> {
        let confirmed = Arc::new(Confirmed::default());
        let context = Counting(Arc::clone(&confirmed));
        let client = ThreadedProducer::from_config_and_context(&config(topic), context);
        let mut started = Self {
            client: client.map_err(failed)?,
            confirmed,
            topic: topic.name().to_owned(),
            payload: load.payload.clone(),
            envelope,
            sent: 0,
        };
        let first = started.send()?;
        started.confirmed.reach(first).await?;
        Ok(started)
    }

    /// Sends one message. It is stored once as many are confirmed as is returned.
    pub(super) fn send(&mut self) -> Result<usize> {
        let record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(&self.topic, self.sent);
        let record = record.payload(&self.payload);
        let record = if self.envelope { record.headers(headers()) } else { record };
        self.client.send(record).map_err(|(error, _)| failed(error))?;
        self.sent += 1;
        Ok(self.sent)
    }

    /// Sends that many, with at most a window of them in flight.
    pub(super) async fn send_all(&mut self, messages: u32, window: usize) -> Result<()> {
        let mut known = self.sent;
        for _ in 0..messages {
            if self.sent - known == window {
                // For one place in the window alone, both threads would wake each other all the
                // time.
                self.confirmed.reach(known + window.div_ceil(2)).await?;
                known = self.confirmed.so_far();
            }
            self.send()?;
        }
        self.confirmed.reach(self.sent).await
    }

    pub(super) fn confirmed(&self) -> Arc<Confirmed> {
        Arc::clone(&self.confirmed)
    }

    pub(super) async fn close(self) -> Result<()> {
        blocking(move || self.client.flush(PATIENCE).map_err(failed)).await
    }
}

/// How many messages are confirmed, all from the first. One task waits at a time.
#[derive(Debug, Default)]
pub(super) struct Confirmed {
    count: AtomicUsize,
    wanted: AtomicUsize,
    reached: Notify,
    failure: OnceLock<String>,
}

impl Confirmed {
    fn so_far(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Waits until that many are confirmed. Fails if any message has failed.
    pub(super) async fn reach(&self, wanted: usize) -> Result<()> {
        // Either this is seen by whoever counts, or the count is seen here: neither may move before
        // the other.
        self.wanted.store(wanted, Ordering::SeqCst);
        while self.count.load(Ordering::SeqCst) < wanted {
            self.reached.notified().await;
        }
        match self.failure.get() {
            Some(failure) => Err(failed(failure.as_str())),
            None => Ok(()),
        }
    }

    /// One more, on the client's thread.
    fn one_more(&self, number: usize, failure: Option<String>) {
        let count = self.count.load(Ordering::Relaxed);
        let failure = failure.or_else(|| {
            (number != count).then(|| format!("message {number} was confirmed as number {count}"))
        });
        if let Some(failure) = failure {
            // The first one says it.
            let _ = self.failure.set(failure);
        }
        self.count.store(count + 1, Ordering::SeqCst);
        if self.wanted.load(Ordering::SeqCst) == count + 1 {
            self.reached.notify_one();
        }
    }
}

/// Counts on the client's thread.
struct Counting(Arc<Confirmed>);

impl ClientContext for Counting {}

impl ProducerContext for Counting {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        self.0.one_more(number, result.as_ref().err().map(|(error, _)| error.to_string()));
    }
}

/// One task that awaits each message before the next, as the client's documentation begins.
pub(super) async fn publish_one_by_one(
    topic: &Topic,
    load: &Load,
    envelope: bool,
) -> Result<Sample> {
    let producer: FutureProducer = config(topic).create().map_err(failed)?;
    let send = async || {
        let record = FutureRecord::<[u8], [u8]>::to(topic.name()).payload(&load.payload);
        let record = if envelope { record.headers(headers()) } else { record };
        producer.send(record, PATIENCE).await.map(drop).map_err(|(error, _)| failed(error))
    };
    send().await?;
    let sample = timed(load.messages, async {
        for _ in 0..load.messages {
            send().await?;
        }
        Ok(())
    })
    .await?;
    blocking(move || producer.flush(PATIENCE).map_err(failed)).await?;
    Ok(sample)
}

/// A producer that loses nothing and stores nothing twice, as ours is set.
fn config(topic: &Topic) -> ClientConfig {
    let mut config = topic.client();
    config.set("acks", "all");
    config.set("enable.idempotence", "true");
    config.set("linger.ms", "0");
    config.set("compression.type", "lz4");
    config.set("queue.buffering.max.messages", "100000");
    config.set("queue.buffering.max.kbytes", "262144");
    config
}

/// The attributes that an envelope of ours has.
fn headers() -> OwnedHeaders {
    let (id, time) = (uuid::Uuid::now_v7(), Timestamp::now().to_string());
    let mut buffer = uuid::Uuid::encode_buffer();
    let id: &str = id.hyphenated().encode_lower(&mut buffer);
    [
        ("ce_specversion", "1.0"),
        ("ce_id", id),
        ("ce_source", SOURCE),
        ("ce_type", TYPE),
        ("ce_time", &time),
    ]
    .into_iter()
    .fold(OwnedHeaders::new_with_capacity(5), |headers, (key, value)| {
        headers.insert(Header { key, value: Some(value) })
    })
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_wait_ends_when_its_count_is_reached_and_tells_what_failed() {
        let confirmed = Confirmed::default();
        let mut waiting = Box::pin(confirmed.reach(2));
        assert!(waiting.as_mut().now_or_never().is_none());
        confirmed.one_more(0, None);
        assert!(waiting.as_mut().now_or_never().is_none());
        confirmed.one_more(1, None);
        waiting.now_or_never().unwrap().unwrap();
        confirmed.one_more(2, Some("refused".to_owned()));
        let error = confirmed.reach(3).now_or_never().unwrap().unwrap_err();
        assert!(format!("{error:?}").contains("refused"), "{error:?}");
    }

    #[test]
    fn confirmations_out_of_order_are_not_taken_for_others() {
        let confirmed = Confirmed::default();
        confirmed.one_more(1, None);
        assert!(confirmed.reach(1).now_or_never().unwrap().is_err());
    }
}
