//! The cases, by the raw client at its best: pipelined publishes, batched pulls.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::header::HeaderMap;
use async_nats::jetstream::{self, consumer, context::PublishAckFuture, stream};
use bytes::Bytes;
use futures_util::StreamExt;
use posthaste::{ErrorKind, Result, Timestamp};

use crate::{Case, timed};

/// How many publishes the pipelined client keeps in flight.
const WINDOW: usize = 256;
/// How many messages one pull asks for.
const PULL: usize = 200;

/// Runs a case on a fresh stream; how long it took.
pub(crate) async fn run(url: &str, case: Case, messages: u32) -> Result<Duration> {
    let client = async_nats::connect(url).await.map_err(failed)?;
    let jetstream = jetstream::new(client.clone());
    let name = format!("bench-{}", uuid::Uuid::now_v7().simple());
    let mut stream = jetstream
        .create_stream(stream::Config {
            name: name.clone(),
            subjects: vec![name.clone()],
            allow_direct: true,
            ..Default::default()
        })
        .await
        .map_err(failed)?;
    // As on our side, a group waits for what is published: it costs the server something.
    let group = stream
        .create_consumer(consumer::pull::Config {
            durable_name: Some("readers".to_owned()),
            ..Default::default()
        })
        .await
        .map_err(failed)?;
    send(&jetstream, &name).await?.await.map_err(failed)?;
    let took = match case {
        Case::PublishAwaited => {
            timed(async {
                for _ in 0..messages {
                    send(&jetstream, &name).await?.await.map_err(failed)?;
                }
                Ok(())
            })
            .await?
        }
        Case::PublishTasks => timed(pipelined(&jetstream, &name, messages, WINDOW)).await?,
        Case::PublishTasksAt64 => timed(pipelined(&jetstream, &name, messages, 64)).await?,
        Case::ConsumeAck => {
            pipelined(&jetstream, &name, messages, WINDOW).await?;
            let took = timed(consume(&group, messages + 1)).await?;
            client.flush().await.map_err(failed)?;
            took
        }
    };
    let stored = stream.info().await.map_err(failed)?.state.messages;
    assert_eq!(stored, u64::from(messages) + 1, "not everything is stored");
    jetstream.delete_stream(&name).await.map_err(failed)?;
    Ok(took)
}

/// The same bytes on the wire as ours: the attributes as headers, and 1 KiB.
async fn send(jetstream: &jetstream::Context, subject: &str) -> Result<PublishAckFuture> {
    static PAYLOAD: [u8; 1024] = [b'x'; 1024];
    let id = uuid::Uuid::now_v7().to_string();
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", id.as_str());
    headers.insert("ce-specversion", "1.0");
    headers.insert("ce-id", id.as_str());
    headers.insert("ce-source", "/benchmarks");
    headers.insert("ce-type", "bench.sent");
    headers.insert("ce-time", Timestamp::now().to_string().as_str());
    let payload = Bytes::from_static(&PAYLOAD);
    jetstream.publish_with_headers(subject.to_owned(), headers, payload).await.map_err(failed)
}

async fn pipelined(
    jetstream: &jetstream::Context,
    subject: &str,
    messages: u32,
    in_flight: usize,
) -> Result<()> {
    let mut window = VecDeque::with_capacity(in_flight);
    for _ in 0..messages {
        window.push_back(send(jetstream, subject).await?);
        if window.len() >= in_flight
            && let Some(oldest) = window.pop_front()
        {
            oldest.await.map_err(failed)?;
        }
    }
    for ack in window {
        ack.await.map_err(failed)?;
    }
    Ok(())
}

async fn consume(group: &consumer::Consumer<consumer::pull::Config>, messages: u32) -> Result<()> {
    let mut left = messages;
    while left > 0 {
        // Never more than there is: a pull that is not filled would wait for its end.
        let wanted = usize::try_from(left).unwrap_or(PULL).min(PULL);
        let pull = group.batch().max_messages(wanted).expires(Duration::from_secs(5));
        let mut batch = pull.messages().await.map_err(failed)?;
        while let Some(message) = batch.next().await {
            let message = message.map_err(boxed)?;
            // What both sides need of a message: its headers and its payload.
            assert!(message.headers.is_some() && message.payload.len() == 1024);
            message.ack().await.map_err(boxed)?;
            left -= 1;
        }
    }
    Ok(())
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> posthaste::Error {
    posthaste::Error::new(ErrorKind::Fatal, "the raw client failed").with_source(error)
}

fn boxed(error: async_nats::Error) -> posthaste::Error {
    posthaste::Error::new(ErrorKind::Fatal, "the raw client failed").with_source(error)
}
