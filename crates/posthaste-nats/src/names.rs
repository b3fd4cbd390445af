//! What topics and groups are called at the server.
//!
//! Portable names hold neither `__` nor `+`, so every name made here is the name of one thing
//! only. Names of bound things are not made here: see [`binding`](crate::binding).

use async_nats::Subject;
use posthaste_core::{GroupName, Layout, TopicName};

/// The stream of a topic. Stream names must not hold dots.
pub(crate) fn stream(topic: &TopicName) -> String {
    topic.as_str().replace('.', "+")
}

/// Where the stream of a topic listens for messages: one subject for a plain topic, one for each
/// partition of an ordered one. The number of partitions is part of them, so that a publisher with
/// another number, or none, meets no stream. What other programs send beside the partitions is
/// taken too, by [`beside`].
pub(crate) fn data_subjects(topic: &TopicName, layout: Layout) -> Vec<String> {
    match layout.partitions() {
        Some(n) => {
            let lanes = (0..n).map(|partition| lane_subject(topic, n, partition));
            lanes.chain([beside(topic, n)]).collect()
        }
        None => vec![topic.as_str().to_owned()],
    }
}

/// All messages of a topic.
pub(crate) fn data_filter(topic: &TopicName, layout: Layout) -> String {
    match layout.partitions() {
        Some(n) => format!("{topic}.__of{n}.>"),
        None => topic.as_str().to_owned(),
    }
}

/// Where messages of one partition go.
pub(crate) fn lane_subject(topic: &TopicName, n: u16, partition: u16) -> String {
    format!("{topic}.__of{n}.p.{partition}")
}

/// Messages of an ordered topic that are in no partition: only other programs send such.
pub(crate) fn beside(topic: &TopicName, n: u16) -> String {
    format!("{topic}.__of{n}.*")
}

/// The layout of a topic, if the subject is one of [`data_subjects`] that tells it.
pub(crate) fn layout_of(topic: &TopicName, subject: &str) -> Option<Layout> {
    if subject == topic.as_str() {
        return Some(Layout::Plain);
    }
    let rest = subject.strip_prefix(topic.as_str())?.strip_prefix(".__of")?;
    let n = rest.strip_suffix(".*")?.parse().ok()?;
    Layout::Ordered(n).check().ok()
}

/// The partition in a subject of [`lane_subject`].
pub(crate) fn partition_of(topic: &TopicName, subject: &str) -> Option<u32> {
    let rest = subject.strip_prefix(topic.as_str())?.strip_prefix(".__of")?;
    rest.split_once(".p.")?.1.parse().ok()
}

/// Where the members of a group answer who asks for them.
pub(crate) fn presence_subject(topic: &TopicName, group: &GroupName) -> String {
    format!("{topic}.__who.{group}")
}

/// The private channels of all groups.
pub(crate) fn private_filter(topic: &TopicName) -> String {
    format!("{topic}.__g.*")
}

/// The private channel of a group: copies for this group alone.
pub(crate) fn private_subject(topic: &TopicName, group: &GroupName) -> String {
    format!("{topic}.__g.{group}")
}

/// Messages that wait for their time.
pub(crate) fn schedule_filter(topic: &TopicName) -> String {
    format!("{topic}.__at.*")
}

/// Where one waiting message is: every one has a subject of its own.
pub(crate) fn schedule_subject(topic: &TopicName, unique: &str) -> Subject {
    format!("{topic}.__at.{unique}").into()
}

/// The stream that holds the dead letters of a group.
pub(crate) fn dead_letter_stream(topic: &TopicName, group: &GroupName) -> String {
    format!("{}__{group}__dlq", stream(topic))
}

/// Where dead letters of a group go.
pub(crate) fn dead_letter_subject(topic: &TopicName, group: &GroupName) -> String {
    format!("{topic}.__dlq.{group}")
}

/// The stream beside a bound one, for the private channels of its groups.
pub(crate) fn private_stream(topic: &TopicName) -> String {
    format!("{}__private", stream(topic))
}

/// The stream that holds who owns the lanes of an ordered topic.
pub(crate) fn lanes_stream(topic: &TopicName) -> String {
    format!("{}__lanes", stream(topic))
}

/// What that stream listens on.
pub(crate) fn lanes_filter(topic: &TopicName) -> String {
    format!("{topic}.__lane.>")
}

/// What the records of a group begin with.
pub(crate) fn lanes_prefix(topic: &TopicName, group: &GroupName) -> String {
    format!("{topic}.__lane.{group}")
}

/// The consumer of a group on a plain topic.
pub(crate) fn consumer(group: &GroupName) -> String {
    group.as_str().to_owned()
}

/// The consumer of a group for one partition.
pub(crate) fn lane_consumer(group: &GroupName, n: u16, partition: u16) -> String {
    format!("{group}__p{partition}of{n}")
}

/// The consumer of a group for what is in no partition.
pub(crate) fn beside_consumer(group: &GroupName) -> String {
    format!("{group}__beside")
}

/// The consumer of a group's private channel.
pub(crate) fn private_consumer(group: &GroupName) -> String {
    format!("{group}__private")
}

/// The group that a consumer belongs to, if it is one of ours.
pub(crate) fn group_of_consumer(consumer: &str) -> Option<GroupName> {
    let name = consumer.split_once("__").map_or(consumer, |(group, _)| group);
    GroupName::new(name).ok()
}

/// What a queue's only group is called.
pub(crate) const QUEUE_GROUP: &str = "queue";

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn topics() -> impl Strategy<Value = TopicName> {
        "[a-c][-_]?[a-c0](\\.[a-c]([-_][a-c])?){0,3}"
            .prop_filter_map("a legal name", |text| TopicName::new(text).ok())
    }

    fn groups() -> impl Strategy<Value = GroupName> {
        "[a-c]([-_][a-c0])?".prop_filter_map("a legal name", |text| GroupName::new(text).ok())
    }

    /// Every name that a topic with a group has at the server, with what it stands for.
    fn all(topic: &TopicName, group: &GroupName, n: u16) -> Vec<(String, String)> {
        let p = n - 1;
        let named = |what: &str, name: String| (name, format!("{what} of {topic} {group} {n}"));
        let once = |what: &str, name: String| (name, format!("{what} of {topic}"));
        let per_group = |what: &str, name: String| (name, format!("{what} of {topic} {group}"));
        let per_n = |what: &str, name: String| (name, format!("{what} of {topic} {n}"));
        vec![
            once("stream", format!("stream {}", stream(topic))),
            per_group("letters", format!("stream {}", dead_letter_stream(topic, group))),
            once("private stream", format!("stream {}", private_stream(topic))),
            once("lanes stream", format!("stream {}", lanes_stream(topic))),
            once("lanes filter", lanes_filter(topic)),
            per_group("lanes", lanes_prefix(topic, group)),
            once("data", data_filter(topic, Layout::Plain)),
            per_n("lane", lane_subject(topic, n, p)),
            per_n("lanes", data_filter(topic, Layout::Ordered(n))),
            per_n("beside", beside(topic, n)),
            per_group("presence", presence_subject(topic, group)),
            per_group("beside", format!("consumer {topic} {}", beside_consumer(group))),
            per_group("private", private_subject(topic, group)),
            once("privates", private_filter(topic)),
            once("schedules", schedule_filter(topic)),
            per_group("letters", dead_letter_subject(topic, group)),
            per_group("consumer", format!("consumer {topic} {}", consumer(group))),
            per_group("private", format!("consumer {topic} {}", private_consumer(group))),
            named("lane", format!("consumer {topic} {}", lane_consumer(group, n, p))),
        ]
    }

    proptest! {
        #[test]
        fn no_name_stands_for_two_things(
            names in prop::collection::vec((topics(), groups(), 1_u16..4), 1..12)
        ) {
            let mut seen: HashMap<String, String> = HashMap::new();
            for (topic, group, n) in &names {
                for (name, meaning) in all(topic, group, *n) {
                    let before = seen.insert(name.clone(), meaning.clone());
                    prop_assert!(
                        before.as_ref().is_none_or(|before| *before == meaning),
                        "{name} stands for {before:?} and {meaning}"
                    );
                }
            }
        }

        #[test]
        fn names_are_read_back(topic in topics(), group in groups(), n in 1_u16..1025) {
            let p = n - 1;
            for layout in [Layout::Plain, Layout::Ordered(n)] {
                let subjects = data_subjects(&topic, layout);
                let layouts: Vec<_> =
                    subjects.iter().filter_map(|subject| layout_of(&topic, subject)).collect();
                prop_assert_eq!(layouts, [layout]);
            }
            prop_assert_eq!(partition_of(&topic, &lane_subject(&topic, n, p)), Some(u32::from(p)));
            prop_assert_eq!(partition_of(&topic, topic.as_str()), None);
            for name in [
                consumer(&group),
                lane_consumer(&group, n, p),
                beside_consumer(&group),
                private_consumer(&group),
            ] {
                prop_assert_eq!(group_of_consumer(&name), Some(group.clone()));
            }
        }
    }

    #[test]
    fn what_is_not_ours_is_not_read_as_ours() {
        let orders = TopicName::new("orders").unwrap();
        for subject in [
            "orders.eu",
            "orders.__of0.*",
            "orders.__of8.3",
            "orders.__of2000.*",
            "orders.__of8.>",
            "x",
        ] {
            assert_eq!(layout_of(&orders, subject), None, "{subject}");
        }
    }
}
