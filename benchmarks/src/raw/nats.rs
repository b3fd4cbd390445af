//! The raw client of NATS JetStream, `async-nats`: pipelined publishes, batched pulls.
//!
//! Its streams are as small as a user without this library would make them: one subject, one
//! consumer. Storage, age, and the time for which ids are remembered are those of our topics.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::Client;
use async_nats::header::{HeaderMap, HeaderName, NATS_MESSAGE_ID};
use async_nats::jetstream::{self, Context, consumer, context::PublishAckFuture, stream};
use async_trait::async_trait;
use futures_util::StreamExt;
use posthaste::{Result, Timestamp};

use super::{How, Load, PATIENCE, Raw, Seen, Wire, failed, miscounted};
use crate::clock::{Sample, timed};
use crate::message::{SOURCE, TYPE, fresh_topic};
use crate::ours::{self, GROUP};
use crate::pace::{Pace, open_loop};

type Group = consumer::Consumer<consumer::pull::Config>;

pub(super) struct Nats;

#[async_trait(?Send)]
impl Raw for Nats {
    fn broker(&self) -> &'static str {
        "nats"
    }

    fn windows(&self) -> &'static [usize] {
        // The client lets 5,000 be in flight.
        &[64, 256, 1_000, 4_000]
    }

    fn pulls(&self) -> &'static [usize] {
        &[200, 1_000, 4_000]
    }

    async fn server(&self, url: &str) -> Result<String> {
        Ok(async_nats::connect(url).await.map_err(failed)?.server_info().version)
    }

    async fn wire(&self, load: &Load) -> Result<Wire> {
        let client = async_nats::connect(&load.url).await.map_err(failed)?;
        let ours = {
            let topic = fresh_topic();
            tap(&client, topic.clone(), Box::pin(ours::send_one(load, &topic, async || Ok(()))))
                .await?
        };
        let scene = Scene::open(load, true).await?;
        let raw = tap(&client, scene.name.clone(), async {
            scene.send(load, true).await?.await.map(drop).map_err(failed)
        })
        .await?;
        scene.close().await?;
        Ok(Wire { ours, raw })
    }

    async fn publish(&self, load: &Load, how: How) -> Result<Sample> {
        let scene = Scene::open(load, how.envelope).await?;
        let sample = timed(load.messages, scene.pipelined(load, how, load.messages)).await?;
        scene.all_stored(load.messages + 1).await?;
        scene.close().await?;
        Ok(sample)
    }

    async fn consume(&self, load: &Load, how: How) -> Result<Sample> {
        let scene = Scene::open(load, how.envelope).await?;
        let filling = How { window: 1_000, ..how };
        scene.pipelined(load, filling, load.messages - 1).await?;
        scene.consume(load, how, 1).await?;
        let left = load.messages - 1;
        let sample = timed(left, scene.consume(load, how, left)).await?;
        scene.client.flush().await.map_err(failed)?;
        scene.all_settled().await?;
        scene.close().await?;
        Ok(sample)
    }

    async fn latency(&self, load: &Load, how: How, pace: Pace) -> Result<(Sample, Vec<f64>)> {
        let scene = Scene::open(load, how.envelope).await?;
        let mut micros = Vec::new();
        let sample = timed(pace.messages(), async {
            micros = open_loop(pace, async || {
                let confirmation = scene.send(load, how.envelope).await?;
                Ok(async { confirmation.await.map(drop).map_err(failed) })
            })
            .await?;
            Ok(())
        })
        .await?;
        scene.all_stored(pace.messages() + 1).await?;
        scene.close().await?;
        Ok((sample, micros))
    }
}

/// A stream of its own, on a connection of its own.
struct Scene {
    client: Client,
    jetstream: Context,
    name: String,
    group: Group,
}

impl Scene {
    async fn open(load: &Load, envelope: bool) -> Result<Self> {
        let client = async_nats::connect(&load.url).await.map_err(failed)?;
        let jetstream = jetstream::new(client.clone());
        let name = fresh_topic();
        let stream = jetstream
            .create_stream(stream::Config {
                name: name.clone(),
                subjects: vec![name.clone()],
                max_age: Duration::from_secs(7 * 24 * 3600),
                duplicate_window: Duration::from_secs(120),
                allow_direct: true,
                ..Default::default()
            })
            .await
            .map_err(failed)?;
        let group = stream
            .create_consumer(consumer::pull::Config {
                durable_name: Some(GROUP.to_owned()),
                ack_wait: Duration::from_secs(30),
                max_ack_pending: 65_536,
                ..Default::default()
            })
            .await
            .map_err(failed)?;
        let scene = Self { client, jetstream, name, group };
        scene.send(load, envelope).await?.await.map_err(failed)?;
        Ok(scene)
    }

    /// Sends one message: what comes back resolves when it is stored.
    async fn send(&self, load: &Load, envelope: bool) -> Result<PublishAckFuture> {
        let (subject, payload) = (self.name.clone(), load.payload.clone());
        if envelope {
            self.jetstream.publish_with_headers(subject, headers(), payload).await.map_err(failed)
        } else {
            self.jetstream.publish(subject, payload).await.map_err(failed)
        }
    }

    async fn pipelined(&self, load: &Load, how: How, messages: u32) -> Result<()> {
        let mut window = VecDeque::with_capacity(how.window);
        for _ in 0..messages {
            if window.len() == how.window
                && let Some(oldest) = window.pop_front()
            {
                PublishAckFuture::into_future(oldest).await.map_err(failed)?;
            }
            window.push_back(self.send(load, how.envelope).await?);
        }
        for confirmation in window {
            confirmation.await.map_err(failed)?;
        }
        Ok(())
    }

    async fn consume(&self, load: &Load, how: How, messages: u32) -> Result<()> {
        let mut left = messages as usize;
        while left > 0 {
            // Never more than there is: a pull that is not filled would wait for its end.
            let pull = self.group.batch().max_messages(left.min(how.window));
            let mut batch = pull.expires(PATIENCE).messages().await.map_err(failed)?;
            while let Some(message) = batch.next().await {
                let message = message.map_err(failed)?;
                // What both sides need of a message: its headers and its payload.
                let whole = message.payload.len() == load.payload.len();
                if message.headers.is_some() != how.envelope || !whole {
                    return Err(failed("a message came that was not sent"));
                }
                message.ack().await.map_err(failed)?;
                left -= 1;
            }
        }
        Ok(())
    }

    async fn all_stored(&self, messages: u32) -> Result<()> {
        let mut stream = self.jetstream.get_stream(&self.name).await.map_err(failed)?;
        let stored = stream.info().await.map_err(failed)?.state.messages;
        if stored != u64::from(messages) {
            return Err(miscounted("messages that are stored", stored, messages.into()));
        }
        Ok(())
    }

    /// The server takes acknowledgements in without an answer: it is asked until it has them all.
    async fn all_settled(&self) -> Result<()> {
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let group = self.group.get_info().await.map_err(failed)?;
            let open = group.num_pending + u64::try_from(group.num_ack_pending).unwrap_or(u64::MAX);
            if open == 0 {
                return Ok(());
            }
            if tokio::time::Instant::now() >= end {
                return Err(miscounted("messages that are not acknowledged", open, 0));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn close(self) -> Result<()> {
        self.jetstream.delete_stream(&self.name).await.map_err(failed)?;
        Ok(())
    }
}

/// The attributes that an envelope of ours has, and an id by which the server knows a message that
/// is sent a second time. As cheap as they can be had: names are not copied, the id is counted.
fn headers() -> HeaderMap {
    const SPEC_VERSION: HeaderName = HeaderName::from_static("ce-specversion");
    const ID: HeaderName = HeaderName::from_static("ce-id");
    const FROM: HeaderName = HeaderName::from_static("ce-source");
    const KIND: HeaderName = HeaderName::from_static("ce-type");
    const TIME: HeaderName = HeaderName::from_static("ce-time");
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, format!("ph-{:011x}-{number:x}", std::process::id()));
    headers.insert(SPEC_VERSION, "1.0");
    headers.insert(ID, uuid::Uuid::now_v7().to_string());
    headers.insert(FROM, SOURCE);
    headers.insert(KIND, TYPE);
    headers.insert(TIME, Timestamp::now().to_string());
    headers
}

/// What somebody who listens on that subject sees while one message is sent to it.
async fn tap(
    client: &Client,
    subject: String,
    sending: impl Future<Output = Result<()>>,
) -> Result<Seen> {
    let mut heard = client.subscribe(subject).await.map_err(failed)?;
    // A flush has no answer. What is asked on the same connection is answered after the server has
    // seen that somebody listens.
    jetstream::new(client.clone()).query_account().await.map_err(failed)?;
    sending.await?;
    let message = tokio::time::timeout(PATIENCE, heard.next()).await.map_err(failed)?;
    let message = message.ok_or_else(|| failed("the connection ended"))?;
    let mut headers: Vec<_> = message
        .headers
        .iter()
        .flat_map(HeaderMap::iter)
        .map(|(name, values)| {
            let bytes = values.iter().map(|value| value.as_str().len()).sum();
            (AsRef::<str>::as_ref(name).to_owned(), bytes)
        })
        .collect();
    headers.sort();
    Ok(Seen { headers, payload: message.payload.len() })
}
