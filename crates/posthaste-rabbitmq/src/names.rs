//! What topics and groups are called at the broker.
//!
//! Portable names hold no `__`, so nothing derived collides with a topic, and no two derived names
//! are equal. All fit the 255 bytes of the protocol.

use posthaste_core::{GroupName, Layout, TopicName};

/// What a queue's only group is called.
pub(crate) const QUEUE_GROUP: &str = "queue";
/// The number of words that say how long a message waits: see [`delay`](crate::delay).
pub(crate) const LEVELS: usize = 22;

/// Where messages of a topic are published to, and those of other programs come in.
pub(crate) fn exchange(topic: &TopicName) -> String {
    topic.to_string()
}

/// Where messages of an ordered topic are published to. The number of partitions is in the name: a
/// publisher that believes in another number finds no exchange.
pub(crate) fn lanes_exchange(topic: &TopicName, n: u16) -> String {
    format!("{topic}__of{n}")
}

/// The alternate exchange: what no group gets goes there.
pub(crate) fn unrouted_exchange(topic: &TopicName) -> String {
    format!("{topic}__unrouted")
}

/// The mark that keeps how a topic is laid out.
pub(crate) fn layout_mark(topic: &TopicName) -> String {
    mark(format!("{topic}__layout"))
}

/// The word for a layout.
pub(crate) fn layout_word(layout: Layout) -> String {
    match layout.partitions() {
        Some(n) => format!("of{n}"),
        None => "plain".to_owned(),
    }
}

/// The layout of that word; `None` if it is none of ours.
pub(crate) fn layout_of(word: &str) -> Option<Layout> {
    if word == "plain" {
        return Some(Layout::Plain);
    }
    let layout = Layout::Ordered(word.strip_prefix("of")?.parse().ok()?);
    (layout.check().is_ok() && layout_word(layout) == word).then_some(layout)
}

/// The longest name of a mark: the broker cuts the text of a refusal at 255 bytes, and that holds
/// the name, the virtual host and the word.
const MARK: usize = 30;
/// The longest name of a virtual host with which the word is not cut.
pub(crate) const VHOST: usize = 36;

/// A name that is too long is cut, and ends in a hash of the whole.
fn mark(name: String) -> String {
    if name.len() <= MARK {
        return name;
    }
    // FNV-1a, because the name may not change with the standard library. Names are ASCII.
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, mix);
    format!("{}~{hash:016x}", &name[..MARK - 17])
}

/// Keeps what no group gets, until the first one comes.
pub(crate) fn unrouted_queue(topic: &TopicName) -> String {
    format!("{topic}__unrouted")
}

/// Holds a record of each group of the topic. No group is called `unrouted`.
pub(crate) fn registry(topic: &TopicName) -> String {
    format!("{topic}__unrouted__groups")
}

/// Whoever has it reads or changes the records.
pub(crate) fn registry_lock(topic: &TopicName) -> String {
    format!("{topic}__unrouted__lock")
}

/// The key of a message in the exchange of its topic.
pub(crate) fn routing_key(topic: &TopicName, partition: Option<u16>) -> String {
    match partition {
        Some(partition) => format!("p{partition}"),
        None => topic.to_string(),
    }
}

/// The queue of a group, and its private channel.
pub(crate) fn queue(topic: &TopicName, group: &GroupName, is_queue: bool) -> String {
    if is_queue { topic.to_string() } else { group.derived(topic, None) }
}

/// The queue of a group for one partition.
pub(crate) fn lane_queue(topic: &TopicName, group: &GroupName, n: u16, partition: u16) -> String {
    group.derived(topic, Some(&format!("p{partition}of{n}")))
}

/// The queue that holds the dead letters of a group.
pub(crate) fn dead_letters(topic: &TopicName, group: &GroupName) -> String {
    group.derived(topic, Some("dlq"))
}

/// The mark that keeps the lease of a group.
pub(crate) fn lease_mark(topic: &TopicName, group: &GroupName) -> String {
    mark(group.derived(topic, Some("lease")))
}

/// The mark that keeps which life of a group this is.
pub(crate) fn life_mark(topic: &TopicName, group: &GroupName) -> String {
    mark(group.derived(topic, Some("life")))
}

/// The queue of a subscription without a group.
pub(crate) fn ephemeral(topic: &TopicName, unique: &str) -> String {
    format!("{topic}__tmp__{unique}")
}

/// Instead of the life of a group: the queue itself is there once.
pub(crate) const EPHEMERAL_LIFE: &str = "tmp";

/// The exchange before a level of delay, and the queue behind it.
pub(crate) fn delay_level(level: usize) -> String {
    format!("posthaste__delay_{level:02}")
}

/// Where messages come out that have waited.
pub(crate) const DELIVER: &str = "posthaste__deliver";
/// Keeps messages that have waited and whose place is gone.
pub(crate) const STRAYS: &str = "posthaste__strays";
/// Made last: where it is, all of the above is.
pub(crate) const DELAYS_MADE: &str = "posthaste__delays_v1";

/// The end of a key that leads to a topic's exchange after waiting.
pub(crate) fn to_topic(topic: &TopicName, partition: Option<u16>) -> String {
    match partition {
        Some(partition) => format!("t.{topic}.p{partition}"),
        None => format!("t.{topic}"),
    }
}

/// The end of a key that leads to the queue of a group, in that life of it.
pub(crate) fn to_queue(queue: &str, life: &str) -> String {
    format!("q.{life}.{queue}")
}

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

    proptest! {
        #[test]
        fn no_name_stands_for_two_things(
            names in prop::collection::vec((topics(), groups(), 1_u16..4), 1..12)
        ) {
            let mut seen: HashMap<String, String> = HashMap::new();
            for (topic, group, n) in &names {
                let (topic, n) = (topic, *n);
                let all = [
                    (exchange(topic), format!("exchange of {topic}")),
                    (lanes_exchange(topic, n), format!("exchange of {topic} {n}")),
                    (layout_mark(topic), format!("layout {topic}")),
                    (unrouted_queue(topic), format!("unrouted {topic}")),
                    (registry(topic), format!("groups {topic}")),
                    (registry_lock(topic), format!("lock {topic}")),
                    (queue(topic, group, false), format!("queue {topic} {group}")),
                    (lane_queue(topic, group, n, 0), format!("lane {topic} {group} {n}")),
                    (dead_letters(topic, group), format!("letters {topic} {group}")),
                    (lease_mark(topic, group), format!("lease {topic} {group}")),
                    (life_mark(topic, group), format!("life {topic} {group}")),
                    (ephemeral(topic, "1"), format!("ephemeral {topic}")),
                ];
                for (name, meaning) in all {
                    let before = seen.insert(name.clone(), meaning.clone());
                    prop_assert!(
                        before.as_ref().is_none_or(|before| *before == meaning),
                        "{name} stands for {before:?} and {meaning}"
                    );
                }
            }
        }

        #[test]
        fn layouts_are_read_back(n in 1_u16..=1024) {
            for layout in [Layout::Plain, Layout::Ordered(n)] {
                prop_assert_eq!(layout_of(&layout_word(layout)), Some(layout));
            }
        }
    }

    #[test]
    fn what_is_not_ours_is_no_layout() {
        for word in ["", "orders", "of0", "of08", "of2000", "plainly", "?"] {
            assert_eq!(layout_of(word), None, "{word}");
        }
    }

    #[test]
    fn the_longest_names_fit() {
        let topic = TopicName::new("t".repeat(100)).unwrap();
        let group = GroupName::new("g".repeat(40)).unwrap();
        assert!(lane_queue(&topic, &group, 1024, 1023).len() <= 255);
        for mark in [layout_mark(&topic), lease_mark(&topic, &group), life_mark(&topic, &group)] {
            assert_eq!(mark.len(), MARK);
            let text = format!(
                "PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for exchange '{mark}' \
                 in vhost '{}': received the value '{}' of type 'longstr' but current is the \
                 value '{}' of type 'longstr'",
                "v".repeat(VHOST),
                "86400000ms",
                "86400000ms",
            );
            assert!(text.rfind("longstr'").is_some_and(|end| end <= 252), "{text}");
        }
        let key = to_queue(&queue(&topic, &group, false), &"f".repeat(16));
        assert!(LEVELS * 2 + key.len() <= 255);
    }
}
