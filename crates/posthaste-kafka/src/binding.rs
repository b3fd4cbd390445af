//! Existing topics and consumer groups, instead of those of the default names.

use std::collections::{BTreeMap, HashMap};

use posthaste_core::{BoundName, Error, ErrorKind, GroupName, Layout, Result, TopicName};

use crate::error::BROKER;
use crate::names;

/// The longest name that Kafka takes for a topic.
const TOPIC_LIMIT: usize = 249;

/// An existing Kafka topic that holds a topic.
///
/// It is never created, changed, purged or deleted. Private channels and dead letters of its
/// groups have topics of their own, of the default names. Groups have their default ids unless
/// they are named here.
///
/// Such a topic is plain, and never a queue: no order is promised on it unless the application
/// vouches for it with [`ordered`](Self::ordered).
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a binding does nothing until `KafkaConfig::bind`"]
pub struct Binding {
    pub(crate) name: String,
    pub(crate) is_ordered: bool,
    groups: BTreeMap<String, String>,
}

impl Binding {
    /// The Kafka topic of that name: letters, digits, `.`, `_` and `-`, at most 249 of them.
    pub fn topic(name: impl Into<String>) -> Self {
        Self { name: name.into(), is_ordered: false, groups: BTreeMap::new() }
    }

    /// Order per key, over as many partitions as the topic has: at most 1024.
    ///
    /// Here the application promises what the library cannot see. Every producer of the topic
    /// places keys as the Java client does, by murmur2: other partitioners do not, such as the
    /// random one, or the one by crc32 that librdkafka and its descendants use unless they are told
    /// otherwise. And partitions are not added while messages of before are still to be handled, or
    /// while a publisher runs that knows the old number.
    pub const fn ordered(mut self) -> Self {
        self.is_ordered = true;
        self
    }

    /// The consumer group of a group. It is used, made where it has no offsets, and moved when
    /// asked to, but not deleted: it may read other topics too.
    pub fn group(mut self, group: impl Into<String>, id: impl Into<String>) -> Self {
        self.groups.insert(group.into(), id.into());
        self
    }

    /// How the topic orders, if it has so many partitions.
    ///
    /// # Errors
    /// `Unsupported` if these are too many; `Connection` while they are being made.
    pub(crate) fn layout(&self, partitions: i32) -> Result<Layout> {
        if !self.is_ordered {
            return Ok(Layout::Plain);
        }
        if partitions == 0 {
            return Err(Error::new(ErrorKind::Connection, "the topic has no partitions yet")
                .with_context("name", &self.name)
                .with_broker(BROKER));
        }
        let layout = u16::try_from(partitions).ok().map(Layout::Ordered);
        layout.and_then(|layout| layout.check().ok()).ok_or_else(|| {
            Error::unsupported("an ordered topic has at most 1024 partitions")
                .with_context("name", &self.name)
                .with_context("found", partitions)
                .with_broker(BROKER)
        })
    }

    /// # Errors
    /// `Invalid` names what Kafka does not take, and an id that two groups would have.
    fn check(&self, topic: &TopicName) -> Result<()> {
        check_topic(&self.name)?;
        let mut taken: HashMap<&str, &str> = HashMap::with_capacity(self.groups.len());
        for (group, id) in &self.groups {
            GroupName::new(group)?;
            BoundName::new(id)?;
            let other = taken.insert(id, group).map(str::to_owned).or_else(|| {
                let (of, default) = names::parse_group_id(id)?;
                (of == *topic && default.as_str() != group).then(|| default.to_string())
            });
            if let Some(other) = other {
                return Err(refuse("two groups of a topic would be one", "group id", id)
                    .with_context("groups", format!("{other}, {group}")));
            }
        }
        Ok(())
    }
}

/// What is bound on one connection. Everything else has its default names.
#[derive(Debug, Default)]
pub(crate) struct Bindings(HashMap<TopicName, Binding>);

impl Bindings {
    /// # Errors
    /// `Invalid` names the topic, and what is wrong with it or with what it is bound to.
    pub(crate) fn new(given: &HashMap<String, Binding>) -> Result<Self> {
        let mut bindings = HashMap::with_capacity(given.len());
        for (topic, binding) in given {
            let topic = TopicName::new(topic)?;
            binding.check(&topic).map_err(|error| error.with_topic(&topic))?;
            bindings.insert(topic, binding.clone());
        }
        Ok(Self(bindings))
    }

    pub(crate) fn get(&self, topic: &TopicName) -> Option<&Binding> {
        self.0.get(topic)
    }

    /// What the topic is called at the broker.
    pub(crate) fn native_name(&self, topic: &TopicName, layout: Layout, queue: bool) -> String {
        match self.get(topic) {
            Some(binding) => binding.name.clone(),
            None => names::topic(topic, layout, queue),
        }
    }

    /// The id of a group of the topic.
    pub(crate) fn group_id(&self, topic: &TopicName, group: &GroupName) -> String {
        let bound = self.bound_id(topic, group);
        bound.map_or_else(|| names::group_id(topic, group), str::to_owned)
    }

    /// The id that a group is bound to.
    pub(crate) fn bound_id(&self, topic: &TopicName, group: &GroupName) -> Option<&str> {
        self.get(topic)?.groups.get(group.as_str()).map(String::as_str)
    }

    /// The group of the topic that has this id. One id may stand for groups of several topics.
    pub(crate) fn group_of_id(&self, topic: &TopicName, id: &str) -> Option<GroupName> {
        let bound = self.get(topic).and_then(|binding| {
            binding.groups.iter().find(|(_, bound)| *bound == id).map(|(group, _)| group)
        });
        if let Some(group) = bound {
            return GroupName::new(group).ok();
        }
        let (of, group) = names::parse_group_id(id)?;
        // The default id of a group that is bound is nobody's.
        (of == *topic && self.bound_id(topic, &group).is_none()).then_some(group)
    }
}

fn check_topic(name: &str) -> Result<()> {
    BoundName::new(name)?;
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let why = if name.len() > TOPIC_LIMIT {
        "a topic of Kafka has a name of at most 249 bytes"
    } else if !name.bytes().all(legal) {
        "a topic of Kafka has a name of letters, digits and . _ -"
    } else if name == "." || name == ".." {
        "Kafka takes . and .. for no topic"
    } else {
        return Ok(());
    };
    Err(refuse(why, "name", name))
}

#[cold]
fn refuse(why: &'static str, what: &'static str, found: &str) -> Error {
    Error::invalid(why).with_context(what, found.escape_debug())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn orders() -> TopicName {
        TopicName::new("orders").unwrap()
    }

    fn bound(topic: &str, binding: Binding) -> Result<Bindings> {
        Bindings::new(&HashMap::from([(topic.to_owned(), binding)]))
    }

    #[test]
    fn accepts_what_brokers_accept() {
        for binding in [
            Binding::topic("legacy.orders"),
            Binding::topic("__Orders_v1-").ordered(),
            Binding::topic("..."),
            Binding::topic("x".repeat(249)),
            Binding::topic("o").group("billing", "Billing / consumer (v3)"),
            Binding::topic("o").group("billing", "orders__billing").group("b", "other__c"),
            Binding::topic("o").group("billing", "x".repeat(255)),
        ] {
            bound("orders", binding).unwrap();
        }
    }

    #[test]
    fn refuses_what_brokers_refuse() {
        for (binding, says) in [
            (Binding::topic(""), "empty"),
            (Binding::topic("."), "no topic"),
            (Binding::topic(".."), "no topic"),
            (Binding::topic("two words"), "letters"),
            (Binding::topic("a/b"), "letters"),
            (Binding::topic("\u{fc}"), "letters"),
            (Binding::topic("x".repeat(250)), "249"),
            (Binding::topic("x".repeat(256)), "255"),
            (Binding::topic("o").group("no good", "c"), "no good"),
            (Binding::topic("o").group("g", ""), "empty"),
            (Binding::topic("o").group("g", "a\nb"), "control"),
            (Binding::topic("o").group("g", "x".repeat(256)), "255"),
            (Binding::topic("o").group("a", "same").group("b", "same"), "groups: a, b"),
            (Binding::topic("o").group("a", "orders__b"), "groups: b, a"),
        ] {
            let error = bound("orders", binding.clone()).expect_err(&format!("{binding:?}"));
            assert_eq!(error.kind(), ErrorKind::Invalid, "{binding:?}");
            assert!(error.to_string().contains(says), "{says}: {error}");
        }
        assert_eq!(bound("a b", Binding::topic("o")).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn a_bound_topic_has_one_name_whatever_is_asked_for() {
        let bindings = bound("orders", Binding::topic("Legacy")).unwrap();
        let other = TopicName::new("other").unwrap();
        for (layout, queue) in [(Layout::Plain, false), (Layout::Ordered(8), true)] {
            assert_eq!(bindings.native_name(&orders(), layout, queue), "Legacy");
            let default = names::topic(&other, layout, queue);
            assert_eq!(bindings.native_name(&other, layout, queue), default);
        }
    }

    #[test]
    fn an_ordered_topic_is_so_over_the_partitions_that_it_has() {
        let (plain, ordered) = (Binding::topic("o"), Binding::topic("o").ordered());
        assert_eq!(plain.layout(4).unwrap(), Layout::Plain);
        assert_eq!(plain.layout(9_000).unwrap(), Layout::Plain);
        assert_eq!(ordered.layout(1_024).unwrap(), Layout::Ordered(1_024));
        for (partitions, kind) in [
            (0, ErrorKind::Connection),
            (1_025, ErrorKind::Unsupported),
            (i32::MAX, ErrorKind::Unsupported),
        ] {
            assert_eq!(ordered.layout(partitions).unwrap_err().kind(), kind, "{partitions}");
        }
    }

    #[test]
    fn one_id_may_be_that_of_groups_of_several_topics() {
        let both = ["orders", "payments"]
            .map(|topic| (topic.to_owned(), Binding::topic(topic).group(&topic[..3], "legacy")));
        let bindings = Bindings::new(&HashMap::from(both)).unwrap();
        let group = |topic: &str| {
            let topic = TopicName::new(topic).unwrap();
            bindings.group_of_id(&topic, "legacy").map(|group| group.to_string())
        };
        assert_eq!(group("orders").as_deref(), Some("ord"));
        assert_eq!(group("payments").as_deref(), Some("pay"));
        assert_eq!(group("other"), None);
        // Whoever is bound is not found by the default id.
        assert_eq!(bindings.group_of_id(&orders(), "orders__ord"), None);
        assert!(bindings.group_of_id(&orders(), "orders__free").is_some());
    }

    fn group_names() -> impl Strategy<Value = String> {
        "[a-c]([-_][a-c])?"
    }

    /// Ids of any kind, default ones of this topic and of another among them.
    fn ids() -> impl Strategy<Value = String> {
        "(orders__[a-c]([-_][a-c])?|other__[a-c]|\\PC{1,20}|legacy-[0-3])"
    }

    proptest! {
        #[test]
        fn a_name_is_taken_if_kafka_takes_it(name in "([a-zA-Z0-9._-]{1,260}|\\.{1,3}|\\PC{0,20})") {
            let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            let expected = (1..=249).contains(&name.len())
                && name.chars().all(legal)
                && ![".", ".."].contains(&&*name);
            prop_assert_eq!(bound("orders", Binding::topic(&name)).is_ok(), expected, "{}", name);
        }

        #[test]
        fn groups_are_told_apart_and_found_by_their_ids(
            given in prop::collection::btree_map(group_names(), ids(), 0..4),
            more in prop::collection::vec(group_names(), 1..6),
        ) {
            let binding = given.iter().fold(Binding::topic("o"), |binding, (group, id)| {
                binding.group(group, id)
            });
            // What is refused is the business of other tests.
            let Ok(bindings) = bound("orders", binding) else { return Ok(()) };
            let mut seen: HashMap<String, GroupName> = HashMap::new();
            for group in given.keys().chain(&more) {
                let group = GroupName::new(group).unwrap();
                let id = bindings.group_id(&orders(), &group);
                let found = bindings.group_of_id(&orders(), &id);
                prop_assert_eq!(found, Some(group.clone()));
                let before = seen.insert(id.clone(), group.clone());
                prop_assert!(before.is_none_or(|before| before == group), "{}", id);
            }
        }
    }
}
