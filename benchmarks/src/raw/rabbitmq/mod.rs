//! The raw client of RabbitMQ, `lapin`: publishes that go out together and are confirmed behind, and
//! a consumer that acknowledges many at once.
//!
//! Its topics are as small as a user without this library would make them: a topic exchange, and one
//! quorum queue behind it.

mod consume;
mod publish;
mod topic;

use async_trait::async_trait;
use posthaste::{Error, Result};

use super::{How, Load, PATIENCE, Raw, Wire, failed, miscounted};
use crate::address;
use crate::clock::{Sample, timed};
use crate::message::fresh_topic;
use crate::ours::{self, GROUP};
use crate::pace::{Pace, open_loop};
use publish::Publisher;
use topic::Topic;

pub(super) struct Rabbitmq;

#[async_trait(?Send)]
impl Raw for Rabbitmq {
    fn broker(&self) -> &'static str {
        "rabbitmq"
    }

    fn conditions(&self) -> Option<&'static str> {
        Some(
            "a topic exchange and one quorum queue; persistent messages, publisher confirms; all \
             that on both sides",
        )
    }

    fn windows(&self) -> &'static [usize] {
        // Ours has a thousand in flight.
        &[256, 1_000, 4_000]
    }

    fn pulls(&self) -> &'static [usize] {
        // What may be unacknowledged; ours is tried with the same.
        &[256, 1_000, 4_000]
    }

    fn url(&self, url: String) -> Result<String> {
        let servers = url.strip_prefix("amqp://").unwrap_or("");
        if servers.is_empty() || servers.contains(['?', ',']) {
            return Err(Error::invalid(
                "the benchmarks take amqp://user:password@host:port/vhost, without TLS and options: \
                 whatever is set there would have to be set for the raw client, too",
            ));
        }
        Ok(url)
    }

    async fn server(&self, url: &str) -> Result<String> {
        // The client shows no answer of a broker that has it.
        let version = address::version(self.broker(), url);
        Ok(version.unwrap_or_else(|| "of unknown version".to_owned()))
    }

    async fn wire(&self, load: &Load) -> Result<Wire> {
        let name = fresh_topic();
        let ours = ours::send_one(load, &name, async || {
            consume::first(load, &format!("{name}__{GROUP}")).await
        });
        let ours = Box::pin(ours).await?;
        let topic = Topic::create(load).await?;
        Publisher::start(&topic, load, true).await?.close().await?;
        let raw = consume::first(load, &topic.queue()).await?;
        topic.delete().await?;
        Ok(Wire { ours, raw })
    }

    async fn publish(&self, load: &Load, how: How) -> Result<Sample> {
        let topic = Topic::create(load).await?;
        let publisher = Publisher::start(&topic, load, how.envelope).await?;
        let sample = timed(load.messages, publisher.send_all(load.messages, how.window)).await?;
        publisher.close().await?;
        topic.all_stored(load.messages + 1).await?;
        topic.delete().await?;
        Ok(sample)
    }

    async fn consume(&self, load: &Load, how: How) -> Result<Sample> {
        /// For filling a queue, which is not measured.
        const WINDOW: usize = 1_000;
        let topic = Topic::create(load).await?;
        let publisher = Publisher::start(&topic, load, how.envelope).await?;
        publisher.send_all(load.messages - 1, WINDOW).await?;
        publisher.close().await?;
        let sample = consume::all(&topic, load, how).await?;
        topic.all_settled().await?;
        topic.delete().await?;
        Ok(sample)
    }

    async fn latency(&self, load: &Load, how: How, pace: Pace) -> Result<(Sample, Vec<f64>)> {
        let topic = Topic::create(load).await?;
        let publisher = Publisher::start(&topic, load, how.envelope).await?;
        let mut micros = Vec::new();
        let sample = timed(pace.messages(), async {
            micros = open_loop(pace, async || publisher.begin()).await?;
            Ok(())
        })
        .await?;
        publisher.close().await?;
        topic.all_stored(pace.messages() + 1).await?;
        topic.delete().await?;
        Ok((sample, micros))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_get_the_same_login_and_virtual_host() {
        let url = |url: &str| Rabbitmq.url(url.to_owned());
        let given = "amqp://guest:guest@127.0.0.1:5672/%2f";
        assert_eq!(url(given).unwrap(), given);
        for given in ["amqp://u:SECRET@a:1,b:2", "amqp://a:1/?heartbeat=1", "amqps://a:1", ""] {
            let error = url(given).unwrap_err().to_string();
            assert!(error.contains("amqp://user") && !error.contains("SECRET"), "{error}");
        }
    }
}
