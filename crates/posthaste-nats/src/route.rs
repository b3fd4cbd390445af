//! Where a topic is at the server: by its own names, or by those it is bound to.

use std::sync::Arc;

use async_nats::Subject;
use posthaste_core::{Error, GroupName, Layout, Result, TopicName};

use crate::binding::Binding;
use crate::error::BROKER;
use crate::names;

/// The names of one topic at the server.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) topic: TopicName,
    pub(crate) binding: Option<Arc<Binding>>,
}

impl Route {
    /// The stream that holds the messages.
    pub(crate) fn stream(&self) -> String {
        match &self.binding {
            Some(binding) => binding.stream.clone(),
            None => names::stream(&self.topic),
        }
    }

    /// Whether the stream is somebody else's: read and written, never created or deleted.
    pub(crate) const fn is_bound(&self) -> bool {
        self.binding.is_some()
    }

    /// What a group reads; `None` is everything in the stream.
    pub(crate) fn filter(&self, layout: Layout) -> Option<String> {
        match &self.binding {
            Some(binding) => binding.subject.clone(),
            None => Some(names::data_filter(&self.topic, layout)),
        }
    }

    /// Where a message goes.
    ///
    /// # Errors
    /// `Invalid` if the topic is bound to a wildcard alone.
    pub(crate) fn target(&self, layout: Layout, partition: Option<u16>) -> Result<Subject> {
        if let Some(binding) = &self.binding {
            return binding.target().map(Subject::from).ok_or_else(|| {
                Error::invalid("the topic is bound without a subject that can be published to")
                    .with_context("stream", &binding.stream)
                    .with_broker(BROKER)
            });
        }
        Ok(match (layout.partitions(), partition) {
            (Some(n), Some(partition)) => names::lane_subject(&self.topic, n, partition).into(),
            _ => Subject::from(self.topic.as_str()),
        })
    }

    /// The stream that holds the private channels.
    pub(crate) fn private_stream(&self) -> String {
        match self.binding {
            Some(_) => names::private_stream(&self.topic),
            None => names::stream(&self.topic),
        }
    }

    /// The consumer of a group on a plain topic.
    pub(crate) fn consumer(&self, group: &GroupName) -> String {
        let bound = self.binding.as_ref().and_then(|binding| binding.consumers.get(group.as_str()));
        bound.cloned().unwrap_or_else(|| names::consumer(group))
    }

    /// Whether the group's consumer is somebody else's: used, never created, changed or deleted.
    pub(crate) fn is_consumer_bound(&self, group: &GroupName) -> bool {
        let bound = |binding: &Arc<Binding>| binding.consumers.contains_key(group.as_str());
        self.binding.as_ref().is_some_and(bound)
    }
}
