//! What is made again: the connection of a reader, and topics and groups that are gone.

use std::sync::Arc;

use posthaste_core::broker::{DriverEvent, Start};
use posthaste_core::{Error, ErrorKind, Result, TopicSpec, Topology};

use crate::error::{self, BROKER};
use crate::line::Line;
use crate::read::{self, Reader};
use crate::{groups, topology};

/// Another connection for reading. What the last one got and nobody saw is given back first.
pub(crate) async fn open(line: Arc<Line>) -> Result<Reader> {
    let reader = line.hub.reader().await?;
    let reader = read::identify(Reader::new(reader)).await?;
    read::recover(Arc::clone(&line)).await?;
    Ok(reader)
}

/// Makes topics and groups again, where that may be done.
pub(crate) async fn renew(line: Arc<Line>) -> Result<()> {
    let hub = &line.hub;
    for planned in &line.plan.topics {
        let topic = &planned.topic;
        let create = line.plan.topology == Topology::Create;
        let found = match topology::look(hub, topic).await {
            Err(error) if error::is_gone(&error) && create => {
                let asked = hub.asked_for(topic);
                let mut spec =
                    asked.map_or_else(|| TopicSpec::plain(topic.clone()), |s| (*s).clone());
                spec.queue = planned.known.queue;
                spec.layout = planned.known.layout;
                topology::ensure(hub, &spec).await?;
                Arc::clone(&planned.known)
            }
            found => found?,
        };
        if found.layout != planned.known.layout {
            return Err(Error::new(
                ErrorKind::Conflict,
                "the topic is laid out in another way now",
            )
            .with_topic(topic)
            .with_broker(BROKER));
        }
        let group = &line.plan.name;
        let (lease, start) = match line.plan.group {
            Some(_) => (Some(line.plan.lease), Start::Created),
            None => (None, Start::Latest),
        };
        let how = if line.plan.group.is_none() { Topology::Create } else { line.plan.topology };
        groups::ensure(hub, &planned.known, group, lease, how, start).await?;
        line.state().tell(DriverEvent::Lost {
            topic: topic.clone(),
            count: None,
            reason: "the topic or its group was deleted, and is made again".to_owned(),
        });
    }
    Ok(())
}
