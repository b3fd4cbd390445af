//! The keys of a topic. All have one hash tag, so that scripts find them on one node of a cluster.
//!
//! No portable name holds a brace or a colon, so the mapping is injective.

use posthaste_core::{GroupName, TopicName};

use crate::binding::Binding;

/// The name of the one group of a queue.
pub(crate) const QUEUE_GROUP: &str = "queue";
/// Who has what was given back and nobody has taken yet. No member is called so.
pub(crate) const FREE: &str = "~free";
/// What the groups of subscriptions without a group begin with. No group is called so.
pub(crate) const EPHEMERAL: &str = "~";

/// The keys of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicKeys {
    /// The record of the topic; what all of its other keys begin with.
    pub(crate) record: String,
    /// The stream of a plain topic, and of what others write to an ordered one.
    pub(crate) stream: String,
}

impl TopicKeys {
    pub(crate) fn new(topic: &TopicName, binding: Option<&Binding>) -> Self {
        match binding {
            None => Self { record: format!("ph:{{{topic}}}"), stream: format!("ph:{{{topic}}}:s") },
            Some(Binding { stream }) => {
                // Several bound streams may have one tag, and a topic may be called like it.
                Self {
                    record: format!("ph:{{{}}}:b:{stream}", tag(stream)),
                    stream: stream.clone(),
                }
            }
        }
    }

    /// The stream of a partition.
    pub(crate) fn partition(&self, partition: u16, of: u16) -> String {
        format!("{}:p{partition}of{of}", self.record)
    }

    /// The times of what is published for later.
    pub(crate) fn later(&self) -> String {
        format!("{}:z", self.record)
    }

    /// What is published for later.
    pub(crate) fn later_entries(&self) -> String {
        format!("{}:h", self.record)
    }

    /// What remembers that an id was published.
    pub(crate) fn published(&self, id: &str) -> String {
        format!("{}:i:{id}", self.record)
    }

    /// The keys of a group.
    pub(crate) fn group(&self, group: &str) -> GroupKeys {
        GroupKeys { base: format!("{}:g:{group}", self.record) }
    }

    /// The dead letters of a group.
    pub(crate) fn letters(&self, group: &GroupName) -> String {
        self.group(group.as_str()).letters()
    }
}

/// The part of a key that decides on which node it is, else all of it.
fn tag(key: &str) -> &str {
    let tagged = key.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    match tagged {
        Some((tag, _)) if !tag.is_empty() => tag,
        _ => key,
    }
}

/// The keys of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupKeys {
    base: String,
}

impl GroupKeys {
    /// The private channel: what comes again, and what is replayed.
    pub(crate) fn private(&self) -> String {
        format!("{}:r", self.base)
    }

    /// The times of what waits.
    pub(crate) fn waiting(&self) -> String {
        format!("{}:z", self.base)
    }

    /// What waits.
    pub(crate) fn waiting_entries(&self) -> String {
        format!("{}:h", self.base)
    }

    pub(crate) fn letters(&self) -> String {
        format!("{}:d", self.base)
    }

    /// The members, with the time until which they are there.
    pub(crate) fn members(&self) -> String {
        format!("{}:m", self.base)
    }

    /// The owners of lanes.
    pub(crate) fn lanes(&self) -> String {
        format!("{}:l", self.base)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_keys_are_the_same() {
        let mut seen = HashSet::new();
        for topic in ["a", "a.b", "a-b", "g", "a.g"] {
            let keys = TopicKeys::new(&TopicName::new(topic).unwrap(), None);
            let mut all = vec![keys.record.clone(), keys.stream.clone(), keys.later()];
            all.extend([keys.later_entries(), keys.published("x"), keys.partition(1, 4)]);
            all.push(keys.partition(1, 14));
            for group in ["a", "r", "z", "g"] {
                let group = keys.group(group);
                all.extend([group.private(), group.waiting(), group.waiting_entries()]);
                all.extend([group.letters(), group.members(), group.lanes()]);
            }
            for key in all {
                assert_eq!(tag(&key), topic);
                assert!(seen.insert(key.clone()), "{key}");
            }
        }
    }

    #[test]
    fn what_is_bound_keeps_its_tag() {
        let topic = TopicName::new("orders").unwrap();
        let bound = |stream| TopicKeys::new(&topic, Some(&Binding::stream(stream)));
        assert_eq!(bound("legacy orders").record, "ph:{legacy orders}:b:legacy orders");
        assert_eq!(bound("x:{eu}:y").record, "ph:{eu}:b:x:{eu}:y");
        assert_eq!(tag(&bound("x:{eu}:y").stream), "eu");
    }
}
