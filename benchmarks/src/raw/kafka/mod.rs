//! The raw client of Kafka, `rdkafka`: a producer on its own thread that counts what is confirmed,
//! a consumer on a thread that stores offsets.
//!
//! Both sides have librdkafka below them, with the same durability, compression and linger, and
//! topics of one partition. What librdkafka allocates is counted on neither side.

mod consume;
mod publish;
mod topic;

use std::sync::Arc;

use async_trait::async_trait;
use posthaste::{Error, Result};

use super::{How, Load, PATIENCE, Raw, Wire, failed, miscounted};
use crate::address;
use crate::clock::{Sample, timed};
use crate::message::fresh_topic;
use crate::ours;
use crate::pace::{Pace, open_loop};
use publish::{Pipelined, publish_one_by_one};
use topic::Topic;

/// The option by which plain topics of ours get one partition, whatever the broker's default is.
const ONE_PARTITION: &str = "/?partitions=1";

pub(super) struct Kafka;

#[async_trait(?Send)]
impl Raw for Kafka {
    fn broker(&self) -> &'static str {
        "kafka"
    }

    fn conditions(&self) -> Option<&'static str> {
        Some(
            "topics of one partition; acks=all, idempotence, no linger, and lz4, which makes almost \
             nothing of these payloads; all that on both sides",
        )
    }

    fn windows(&self) -> &'static [usize] {
        // Ours has a thousand in flight.
        &[256, 1_000, 4_000, 16_000]
    }

    fn pulls(&self) -> &'static [usize] {
        &[200, 1_000, 4_000]
    }

    fn url(&self, url: String) -> Result<String> {
        let servers = url.strip_prefix("kafka://").unwrap_or("");
        let servers = servers.strip_suffix('/').unwrap_or(servers);
        if servers.is_empty() || servers.contains(['@', '/', '?']) {
            return Err(Error::invalid(
                "the benchmarks take kafka://host:port,host:port, without TLS, login and options: \
                 whatever is set there would have to be set for the raw client, too",
            ));
        }
        Ok(format!("kafka://{servers}{ONE_PARTITION}"))
    }

    async fn server(&self, url: &str) -> Result<String> {
        // The client shows no answer of a broker that has it.
        let version = address::version(self.broker(), url);
        Ok(version.unwrap_or_else(|| "of unknown version".to_owned()))
    }

    async fn wire(&self, load: &Load) -> Result<Wire> {
        let name = fresh_topic();
        let ours = ours::send_one(load, &name, async || consume::first(load, &name).await);
        let ours = Box::pin(ours).await?;
        let topic = Topic::create(load).await?;
        Pipelined::start(&topic, load, true).await?.close().await?;
        let raw = consume::first(load, topic.name()).await?;
        topic.delete().await?;
        Ok(Wire { ours, raw })
    }

    async fn publish(&self, load: &Load, how: How) -> Result<Sample> {
        let topic = Topic::create(load).await?;
        let sample = if how.window == 1 {
            publish_one_by_one(&topic, load, how.envelope).await?
        } else {
            let mut producer = Pipelined::start(&topic, load, how.envelope).await?;
            let sample = timed(load.messages, producer.send_all(load.messages, how.window)).await?;
            producer.close().await?;
            sample
        };
        topic.all_stored(load.messages + 1).await?;
        topic.delete().await?;
        Ok(sample)
    }

    async fn consume(&self, load: &Load, how: How) -> Result<Sample> {
        /// For filling a topic, which is not measured.
        const WINDOW: usize = 4_000;
        let topic = Topic::create(load).await?;
        let mut producer = Pipelined::start(&topic, load, how.envelope).await?;
        producer.send_all(load.messages - 1, WINDOW).await?;
        producer.close().await?;
        let sample = if how.window == 1 {
            consume::one_by_one(&topic, load, how.envelope).await?
        } else {
            consume::in_batches(&topic, load, how).await?
        };
        topic.all_committed(load.messages).await?;
        topic.delete().await?;
        Ok(sample)
    }

    async fn latency(&self, load: &Load, how: How, pace: Pace) -> Result<(Sample, Vec<f64>)> {
        let topic = Topic::create(load).await?;
        let mut producer = Pipelined::start(&topic, load, how.envelope).await?;
        let mut micros = Vec::new();
        let sample = timed(pace.messages(), async {
            let confirmed = producer.confirmed();
            micros = open_loop(pace, async || {
                let sent = producer.send()?;
                let confirmed = Arc::clone(&confirmed);
                Ok(async move { confirmed.reach(sent).await })
            })
            .await?;
            Ok(())
        })
        .await?;
        producer.close().await?;
        topic.all_stored(pace.messages() + 1).await?;
        topic.delete().await?;
        Ok((sample, micros))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_get_the_same_servers_and_one_partition() {
        let url = |url: &str| Kafka.url(url.to_owned());
        for given in ["kafka://a:1,b:2", "kafka://a:1,b:2/"] {
            let url = url(given).unwrap();
            assert_eq!(url, "kafka://a:1,b:2/?partitions=1");
            assert_eq!(topic::servers(&url), "a:1,b:2");
        }
        for given in ["kafka://u:SECRET@a:1", "kafka://a:1/?linger=5ms", "kafkas://a:1", ""] {
            let error = url(given).unwrap_err().to_string();
            assert!(error.contains("kafka://host") && !error.contains("SECRET"), "{error}");
        }
    }
}
