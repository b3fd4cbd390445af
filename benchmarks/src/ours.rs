//! The cases, by this library.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use posthaste::{Bus, Envelope, Publisher, Result, TopicConfig};

use crate::{Case, timed};

/// Runs a case on a fresh topic; how long it took.
pub(crate) async fn run(url: &str, case: Case, messages: u32) -> Result<Duration> {
    let bus = posthaste::connect(url).await?;
    let topic = format!("bench-{}", uuid::Uuid::now_v7().simple());
    bus.ensure(TopicConfig::new(&topic).group("readers")).await?;
    let publisher = bus.publisher(&topic)?;
    publisher.publish_envelope(message(&publisher)?).await?;
    let took = match case {
        Case::PublishAwaited => timed(one_by_one(&publisher, messages)).await?,
        Case::PublishTasks | Case::PublishTasksAt64 => timed(tasks(&publisher, messages)).await?,
        Case::ConsumeAck => {
            let batch = (0..messages).map(|_| message(&publisher)).collect::<Result<_>>()?;
            publisher.publish_all_envelopes(batch).await.into_result()?;
            consume(&bus, &topic, messages + 1).await?
        }
    };
    if case != Case::ConsumeAck {
        all_stored(&bus, &topic, u64::from(messages) + 1).await?;
    }
    bus.admin().delete_topic(&topic).await?;
    bus.close(Duration::from_secs(10)).await?;
    Ok(took)
}

/// Reads the count back. The server counts for a consumer a moment after it has confirmed.
async fn all_stored(bus: &Bus, topic: &str, expected: u64) -> Result<()> {
    let end = tokio::time::Instant::now() + Duration::from_secs(5);
    loop {
        let ready = bus.admin().lag(topic, "readers").await?.ready;
        if ready == Some(expected) {
            return Ok(());
        }
        assert!(tokio::time::Instant::now() < end, "{ready:?} of {expected} are stored");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn message(publisher: &Publisher) -> Result<Envelope> {
    static PAYLOAD: [u8; 1024] = [b'x'; 1024];
    publisher.envelope(Envelope::builder("bench.sent").payload(Bytes::from_static(&PAYLOAD)))
}

async fn one_by_one(publisher: &Publisher, messages: u32) -> Result<()> {
    for _ in 0..messages {
        publisher.publish_envelope(message(publisher)?).await?;
    }
    Ok(())
}

async fn tasks(publisher: &Publisher, messages: u32) -> Result<()> {
    let each = messages / 64;
    let rest = messages % 64;
    let tasks = (0..64).map(|task| {
        let publisher = publisher.clone();
        let count = each + u32::from(task < rest);
        tokio::spawn(async move { one_by_one(&publisher, count).await })
    });
    for outcome in try_join_all(tasks).await.map_err(crate::failed)? {
        outcome?;
    }
    Ok(())
}

async fn consume(bus: &Bus, topic: &str, messages: u32) -> Result<Duration> {
    let mut inbox = bus.subscribe(topic).group("readers").start().await?;
    let took = timed(async {
        for _ in 0..messages {
            let Some(delivery) = inbox.next().await else { break };
            delivery?.ack().await?;
        }
        Ok(())
    })
    .await?;
    assert_eq!(inbox.stats().acked, u64::from(messages), "not everything was acknowledged");
    inbox.stop(Duration::from_secs(10)).await?;
    let lag = bus.admin().lag(topic, "readers").await?;
    assert_eq!((lag.ready, lag.in_flight), (Some(0), Some(0)), "acknowledgements are missing");
    Ok(took)
}
