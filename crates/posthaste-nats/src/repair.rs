//! What became of a consumer that does not answer, and bringing it back.

use std::sync::Arc;

use async_nats::jetstream::consumer::Info;
use posthaste_core::broker::Start;
use posthaste_core::{Error, ErrorKind, Retry, TopicName, TopicSpec, Topology};

use crate::groups::{self, ConsumerSpec, Kind};
use crate::hub::Hub;
use crate::{beside, topology};

/// What was found of a consumer.
pub(crate) enum Checked {
    /// It is there; the trouble was passing.
    Fine(Box<Info>),
    /// It was gone and was created again. What removed it, if that may have cost messages.
    Recreated(Box<Info>, Option<&'static str>),
    /// It cannot be told now.
    Later,
    /// It is gone and will not be created, or cannot be used.
    Gone(Error),
}

/// A consumer to look at.
pub(crate) struct Suspect {
    pub(crate) hub: Arc<Hub>,
    pub(crate) topic: TopicName,
    pub(crate) spec: ConsumerSpec,
    pub(crate) topology: Topology,
    /// The last place that was delivered.
    pub(crate) last_sequence: u64,
}

pub(crate) async fn check(suspect: Suspect) -> Checked {
    let Suspect { hub, topic, spec, topology, last_sequence } = suspect;
    let error = match groups::info(&hub, &spec.stream, &spec.name).await {
        Ok(info) => return Checked::Fine(Box::new(info)),
        Err(error) => error,
    };
    if error.kind() != ErrorKind::NotFound {
        return or_later(error);
    }
    let error = error.with_topic(&topic).with_context("consumer", &spec.name);
    let route = hub.route(&topic);
    let may_create = topology == Topology::Create && !spec.bound;
    let known = hub.known(&topic);
    let queue = known.as_ref().is_some_and(|known| known.queue);
    let mut wanted = spec;
    let reason = match topology::info(&hub, &wanted.stream).await {
        Ok(_) => {
            // Our own consumer without a group: the server removes it after a long outage.
            let own = wanted.kind == Kind::Ephemeral;
            if !own && !may_create {
                return Checked::Gone(error);
            }
            if last_sequence > 0 && wanted.kind != Kind::Private {
                let offset = last_sequence + 1;
                wanted.start = Start::AtOffset { partition: wanted.partition, offset };
            }
            (!own).then_some("the group was deleted at the server")
        }
        Err(missing) if missing.kind() == ErrorKind::NotFound => {
            if !may_create || route.is_bound() && wanted.kind != Kind::Private {
                return Checked::Gone(error);
            }
            let recreated = if route.is_bound() {
                beside::ensure_private(&hub, &topic).await
            } else {
                let spec = known.map(|known| match known.spec {
                    Some(spec) => TopicSpec::clone(&spec),
                    None => {
                        let mut spec = TopicSpec::plain(topic.clone());
                        (spec.layout, spec.queue) = (known.layout, known.queue);
                        spec
                    }
                });
                let spec = spec.unwrap_or_else(|| TopicSpec::plain(topic.clone()));
                topology::ensure(&hub, &spec).await.map(drop)
            };
            if let Err(error) = recreated {
                return or_later(error);
            }
            wanted.start = Start::Earliest;
            Some("the stream was deleted at the server")
        }
        Err(error) => return or_later(error),
    };
    let told = wanted.kind != Kind::Private;
    match groups::ensure(&hub, &wanted, Topology::Create, queue).await {
        Ok(found) => {
            Checked::Recreated(Box::new(found.info), reason.filter(|_| found.created && told))
        }
        Err(error) => or_later(error),
    }
}

fn or_later(error: Error) -> Checked {
    if error.retry() == Retry::Transient { Checked::Later } else { Checked::Gone(error) }
}
