//! What topics and groups are called at the broker.
//!
//! Portable names hold no `__`, so every name made here is the name of one thing only. The longest
//! is 149 bytes; Kafka takes 249.
//!
//! Kafka itself refuses two topics whose names differ only in `.` and `_`, because its metrics
//! cannot tell them apart: `orders.eu` and `orders_eu` do not exist in one cluster. That is the
//! broker's error, and no name here gets around it.

use posthaste_core::{GroupName, Layout, TopicName};

/// What a queue's only group is called.
pub(crate) const QUEUE_GROUP: &str = "queue";

/// The topic at the broker. The number of partitions of an ordered one is part of its name, so that
/// a publisher with another number, or none, meets no topic.
pub(crate) fn topic(topic: &TopicName, layout: Layout, queue: bool) -> String {
    match (layout.partitions(), queue) {
        (None, false) => topic.as_str().to_owned(),
        (None, true) => format!("{topic}__queue"),
        (Some(n), false) => format!("{topic}__of{n}"),
        (Some(n), true) => format!("{topic}__of{n}__queue"),
    }
}

/// The topic in a name of [`topic`](fn@topic), and what it is. `None` for all other names.
pub(crate) fn parse(kafka_name: &str) -> Option<(TopicName, Layout, bool)> {
    let mut parts = kafka_name.split("__");
    let name = TopicName::new(parts.next()?).ok()?;
    let (layout, queue) = match (parts.next(), parts.next()) {
        (None, _) => (Layout::Plain, false),
        (Some("queue"), None) => (Layout::Plain, true),
        (Some(of), None) => (ordered(of)?, false),
        (Some(of), Some("queue")) => (ordered(of)?, true),
        _ => return None,
    };
    // Numbers can be written in other ways than ours.
    (topic(&name, layout, queue) == kafka_name).then_some((name, layout, queue))
}

/// What the topic is, if the name is one of its own.
pub(crate) fn layout_of(topic: &TopicName, kafka_name: &str) -> Option<(Layout, bool)> {
    let (name, layout, queue) = parse(kafka_name)?;
    (name == *topic).then_some((layout, queue))
}

/// The id of a group: groups of different topics have nothing in common.
pub(crate) fn group_id(topic: &TopicName, group: &GroupName) -> String {
    group.derived(topic, None)
}

/// The topic and the group in an id of [`group_id`].
pub(crate) fn parse_group_id(id: &str) -> Option<(TopicName, GroupName)> {
    let (topic, group) = id.split_once("__")?;
    Some((TopicName::new(topic).ok()?, GroupName::new(group).ok()?))
}

/// The private channel of a group: copies that wait, and replays, for this group alone.
pub(crate) fn retry_topic(topic: &TopicName, group: &GroupName) -> String {
    group.derived(topic, Some("retry"))
}

/// Where the dead letters of a group are.
pub(crate) fn dead_letter_topic(topic: &TopicName, group: &GroupName) -> String {
    group.derived(topic, Some("dlq"))
}

fn ordered(part: &str) -> Option<Layout> {
    Layout::Ordered(part.strip_prefix("of")?.parse().ok()?).check().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 249;

    fn topics() -> impl Strategy<Value = TopicName> {
        "(of8|queue|retry|[a-c][-_]?[a-c0](\\.[a-c]([-_][a-c])?){0,3})"
            .prop_filter_map("a legal name", |text| TopicName::new(text).ok())
    }

    fn groups() -> impl Strategy<Value = GroupName> {
        "(of[1-3]|queue|retry|dlq|[a-c]([-_][a-c0])?)"
            .prop_filter_map("a legal name", |text| GroupName::new(text).ok())
    }

    /// Every name that a topic with a group has at the broker, with what it stands for. Topics and
    /// groups are apart there.
    fn all(name: &TopicName, group: &GroupName, n: u16) -> Vec<(String, String)> {
        let mut all = vec![
            (group_id(name, group), format!("group id {name} {group}")),
            (retry_topic(name, group), format!("retry {name} {group}")),
            (dead_letter_topic(name, group), format!("letters {name} {group}")),
        ];
        all[0].0.insert_str(0, "group ");
        for (layout, queue) in shapes(n) {
            all.push((topic(name, layout, queue), format!("topic {name} {layout:?} {queue}")));
        }
        all
    }

    fn shapes(n: u16) -> [(Layout, bool); 4] {
        let ordered = Layout::Ordered(n);
        [(Layout::Plain, false), (Layout::Plain, true), (ordered, false), (ordered, true)]
    }

    fn legal(name: &str) -> bool {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        !name.is_empty()
            && name.len() <= LIMIT
            && name.bytes().all(legal)
            && name != "."
            && name != ".."
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
        fn names_are_read_back(name in topics(), other in topics(), group in groups(), n in 1_u16..1025) {
            for (layout, queue) in shapes(n) {
                let made = topic(&name, layout, queue);
                prop_assert!(legal(&made), "{made}");
                prop_assert_eq!(parse(&made), Some((name.clone(), layout, queue)));
                prop_assert_eq!(layout_of(&name, &made), Some((layout, queue)));
                prop_assert_eq!(layout_of(&other, &made).is_some(), other == name);
            }
            prop_assert_eq!(parse_group_id(&group_id(&name, &group)), Some((name.clone(), group.clone())));
            for made in [retry_topic(&name, &group), dead_letter_topic(&name, &group)] {
                prop_assert!(legal(&made), "{made}");
                prop_assert_eq!(parse(&made), None, "{}", made);
                prop_assert_eq!(parse_group_id(&made), None, "{}", made);
            }
        }

        #[test]
        fn any_name_is_read_or_not(text in "\\PC{0,40}", parts in "(of|__|queue|[0-9]|a|\\.){0,8}") {
            for text in [text, parts] {
                if let Some((name, layout, queue)) = parse(&text) {
                    prop_assert_eq!(topic(&name, layout, queue), text);
                }
            }
        }
    }

    #[test]
    fn the_longest_names_fit() {
        let name = TopicName::new("t".repeat(100)).unwrap();
        let group = GroupName::new("g".repeat(40)).unwrap();
        for made in all(&name, &group, Layout::MAX_PARTITIONS).into_iter().map(|(made, _)| made) {
            assert!(made.len() <= 149 && legal(made.trim_start_matches("group ")), "{made}");
        }
    }

    #[test]
    fn what_is_not_ours_is_not_read_as_ours() {
        for name in [
            "",
            "__consumer_offsets",
            "_schemas",
            "my__topic",
            "orders__of0",
            "orders__of08",
            "orders__of+8",
            "orders__of2000",
            "orders__of99999",
            "orders__of",
            "orders__of8__",
            "orders__of8__dlq",
            "orders__of8__queue__x",
            "orders__queue__queue",
            "orders__queue__",
            "orders__billing",
            "orders__billing__retry",
            "orders___queue",
            "queue__of8__of8",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
        for id in ["orders", "console-consumer-1", "orders__", "__x", "orders__a__b", "a b__c"] {
            assert_eq!(parse_group_id(id), None, "{id}");
        }
    }
}
