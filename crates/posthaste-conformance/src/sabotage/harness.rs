//! The harness whose connections all have the defect.

use std::sync::Arc;

use async_trait::async_trait;
use posthaste_core::{Broker, Result, TopicName};

use super::broker::Sabotage;
use super::mutant::Mutant;
use super::saboteur::Saboteur;
use crate::harness::{Foreign, Harness, Instance, Link, Mistake, Need};

/// A password that no harness has, for brokers without one.
const SECRET: &str = "hunter2-\u{fc}-correct-horse";

/// The harness with this defect in each connection.
#[must_use]
pub fn harness(inner: Arc<dyn Harness>, mutant: Mutant) -> Arc<dyn Harness> {
    let name = format!("{} with {mutant}", inner.name());
    let secret = inner.secrets().pop().unwrap_or_else(|| SECRET.to_owned());
    let shared = Arc::clone(&inner) as Arc<dyn Instance>;
    let instance = SabotagedInstance { inner: shared, saboteur: Saboteur::new(mutant, &secret) };
    Arc::new(SabotagedHarness { inner, instance, name })
}

#[derive(Debug)]
struct SabotagedHarness {
    inner: Arc<dyn Harness>,
    instance: SabotagedInstance,
    name: String,
}

#[derive(Debug)]
struct SabotagedInstance {
    inner: Arc<dyn Instance>,
    saboteur: Saboteur,
}

impl SabotagedInstance {
    fn sabotage(&self, broker: Arc<dyn Broker>) -> Arc<dyn Broker> {
        Sabotage::by(broker, self.saboteur.clone())
    }

    async fn bound(&self, topic: &TopicName) -> Result<(Arc<dyn Broker>, String)> {
        let (broker, native) = self.inner.bind(topic).await?;
        if self.saboteur.is(Mutant::IgnoreTheBinding) {
            return Ok((self.inner.connect().await?, native));
        }
        Ok((self.sabotage(broker), native))
    }

    fn taken(&self, mistake: Mistake) -> Mistake {
        if !self.saboteur.is(Mutant::TakeEveryLogin) {
            return mistake;
        }
        let inner = Arc::clone(&self.inner);
        let connect = Box::new(move || {
            let inner = Arc::clone(&inner);
            Box::pin(async move { inner.connect().await }) as _
        });
        Mistake { connect, ..mistake }
    }

    fn all_secrets(&self) -> Vec<String> {
        let mut secrets = self.inner.secrets();
        secrets.push(self.saboteur.secret().to_owned());
        secrets
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Harness for SabotagedHarness {
    fn name(&self) -> &str {
        &self.name
    }

    fn expected_version(&self) -> Option<&str> {
        self.inner.expected_version()
    }

    fn offers(&self) -> &[Need] {
        self.inner.offers()
    }

    async fn private(&self) -> Result<Arc<dyn Instance>> {
        Ok(Arc::new(SabotagedInstance {
            inner: self.inner.private().await?,
            saboteur: self.instance.saboteur.elsewhere(),
        }))
    }
}

/// The same calls, with the defect in each connection. For a harness, those of its shared
/// instance.
macro_rules! sabotaged {
    ($type:ty, $self:ident => $instance:expr) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl Instance for $type {
            async fn connect(&$self) -> Result<Arc<dyn Broker>> {
                Ok($instance.sabotage($instance.inner.connect().await?))
            }

            async fn connect_through(&$self) -> Result<(Arc<dyn Broker>, Arc<dyn Link>)> {
                let (broker, link) = $instance.inner.connect_through().await?;
                Ok(($instance.sabotage(broker), link))
            }

            async fn make_foreign(&$self, topic: &TopicName, message: &Foreign) -> Result<()> {
                $instance.inner.make_foreign(topic, message).await
            }

            async fn stop(&$self) -> Result<()> {
                $instance.inner.stop().await
            }

            async fn kill(&$self) -> Result<()> {
                $instance.inner.kill().await
            }

            async fn start(&$self) -> Result<()> {
                $instance.inner.start().await
            }

            async fn pause(&$self) -> Result<()> {
                $instance.inner.pause().await
            }

            async fn resume(&$self) -> Result<()> {
                $instance.inner.resume().await
            }

            fn hit(&$self) -> String {
                $instance.inner.hit()
            }

            fn child_env(&$self) -> Vec<(&'static str, String)> {
                $instance.inner.child_env()
            }

            async fn bind(&$self, topic: &TopicName) -> Result<(Arc<dyn Broker>, String)> {
                $instance.bound(topic).await
            }

            fn mistakes(&$self) -> Vec<Mistake> {
                let mistakes = $instance.inner.mistakes();
                mistakes.into_iter().map(|mistake| $instance.taken(mistake)).collect()
            }

            fn secrets(&$self) -> Vec<String> {
                $instance.all_secrets()
            }
        }
    };
}

sabotaged!(SabotagedInstance, self => self);
sabotaged!(SabotagedHarness, self => self.instance);
