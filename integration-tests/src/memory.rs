//! The in-process broker: the reference, and the only one that is always there.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use posthaste_conformance::{Foreign, Harness, Instance, Link, Mistake, Need};
use posthaste_core::broker::{Destination, Publish, SendOptions};
use posthaste_core::{Broker, EnvelopeBuilder, ErrorKind, Result, TopicName};
use posthaste_memory::{MemoryBroker, MemoryConfig};

/// So that the cases about large messages are quick.
const LARGEST: usize = 1 << 20;

/// Real time, one broker for all ordinary cases.
pub(crate) fn harness() -> std::result::Result<Arc<dyn Harness>, String> {
    Memory::new().map(|memory| Arc::new(memory) as Arc<dyn Harness>).map_err(|e| e.to_string())
}

#[derive(Debug)]
struct Memory {
    broker: MemoryBroker,
}

impl Memory {
    fn new() -> Result<Self> {
        let config = MemoryConfig::new().max_message_bytes(LARGEST);
        Ok(Self { broker: MemoryBroker::with_config(config)? })
    }
}

#[async_trait]
impl Harness for Memory {
    fn name(&self) -> &str {
        "memory"
    }

    fn offers(&self) -> &[Need] {
        &[
            Need::Restart,
            Need::Kill,
            Need::Pause,
            Need::Cut,
            Need::BlackHole,
            Need::Foreign,
            Need::Native,
            Need::Mistakes,
        ]
    }

    async fn private(&self) -> Result<Arc<dyn Instance>> {
        Ok(Arc::new(Self::new()?))
    }
}

#[async_trait]
impl Instance for Memory {
    async fn connect(&self) -> Result<Arc<dyn Broker>> {
        // A clone is a connection of its own.
        Ok(Arc::new(self.broker.clone()))
    }

    async fn connect_through(&self) -> Result<(Arc<dyn Broker>, Arc<dyn Link>)> {
        let broker = self.broker.clone();
        Ok((Arc::new(broker.clone()), Arc::new(MemoryLink(broker))))
    }

    async fn make_foreign(&self, topic: &TopicName, message: &Foreign) -> Result<()> {
        // There is no other program: what another one would write is built as adapters read it.
        let mut builder = EnvelopeBuilder::lenient().foreign(true).payload(message.payload.clone());
        for (name, value) in &message.headers {
            builder = builder.header(name, value);
        }
        let found = self.broker.admin().describe(topic).await?;
        let to = Destination::new(topic.clone(), found.layout, found.queue);
        let mut batch = [builder.build_lenient()];
        let outcomes = self.broker.publish(&to, &mut batch, &SendOptions::default()).await?;
        outcomes.into_iter().try_for_each(|outcome| outcome.map(drop))
    }

    async fn stop(&self) -> Result<()> {
        self.broker.down();
        Ok(())
    }

    async fn kill(&self) -> Result<()> {
        self.broker.down();
        Ok(())
    }

    async fn start(&self) -> Result<()> {
        self.broker.restart();
        self.broker.up();
        Ok(())
    }

    async fn pause(&self) -> Result<()> {
        self.broker.black_hole();
        Ok(())
    }

    async fn resume(&self) -> Result<()> {
        self.broker.up();
        Ok(())
    }

    fn mistakes(&self) -> Vec<Mistake> {
        let urls = [
            ("another scheme", "nats://localhost"),
            ("no URL", "memory"),
            ("a login", "memory://user:hunter2@name"),
            ("an unknown parameter", "memory://name?password=hunter2"),
            ("a parameter that is no number", "memory://name?max_messages=hunter2x"),
        ];
        urls.into_iter()
            .map(|(what, url)| Mistake {
                what,
                kinds: &[ErrorKind::Invalid],
                within: Duration::from_secs(5),
                secrets: if url.contains("hunter2x") { vec![] } else { vec!["hunter2".to_owned()] },
                connect: Box::new(move || {
                    Box::pin(async move {
                        let broker = MemoryBroker::with_config(MemoryConfig::from_url(url)?)?;
                        Ok(Arc::new(broker) as Arc<dyn Broker>)
                    })
                }),
            })
            .collect()
    }
}

/// The network of a broker that has none: what its own faults make of it.
#[derive(Debug)]
struct MemoryLink(MemoryBroker);

#[async_trait]
impl Link for MemoryLink {
    async fn cut(&self) {
        // Connections are dropped and leases end; nothing that was confirmed goes.
        self.0.restart();
    }

    async fn refuse(&self) {
        self.0.down();
    }

    async fn black_hole(&self) {
        self.0.black_hole();
    }

    async fn heal(&self) -> Result<()> {
        self.0.up();
        Ok(())
    }
}
