//! Existing exchanges and queues for a topic, instead of those of the default names.

use std::collections::BTreeMap;

use posthaste_core::{BoundName, Error, GroupName, Result};

/// An existing exchange that takes the messages of a topic.
///
/// Such a topic is plain: order is not promised on it. Its exchange is never created, changed or
/// deleted, and has no alternate exchange of ours: a message that no queue takes is
/// [`Unroutable`](posthaste_core::ErrorKind::Unroutable). A group has a queue of the default name,
/// bound to the exchange, unless one that exists is named here; that one is only read.
///
/// ```
/// use posthaste_rabbitmq::{Binding, RabbitmqConfig};
/// let config = RabbitmqConfig::new("localhost").bind(
///     "orders",
///     Binding::exchange("Legacy.Orders").routing_key("order.placed").queue("billing", "BILLING"),
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a binding does nothing until `RabbitmqConfig::bind`"]
pub struct Binding {
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) pattern: Option<String>,
    pub(crate) queues: BTreeMap<String, String>,
}

impl Binding {
    /// The exchange of that name, of any type. Messages are published with an empty routing key
    /// unless [`routing_key`](Self::routing_key) says otherwise.
    pub fn exchange(name: impl Into<String>) -> Self {
        Self {
            exchange: name.into(),
            routing_key: String::new(),
            pattern: None,
            queues: BTreeMap::new(),
        }
    }

    /// What messages are published with, and queues of groups are bound by.
    pub fn routing_key(mut self, key: impl Into<String>) -> Self {
        self.routing_key = key.into();
        self
    }

    /// What queues of groups are bound by, where it is not the routing key: a topic exchange takes
    /// `*` for a word and `#` for any number of them.
    pub fn pattern(mut self, pattern: impl Into<String>) -> Self {
        self.pattern = Some(pattern.into());
        self
    }

    /// The existing queue of a group. It is not created, bound, compared or deleted.
    pub fn queue(mut self, group: impl Into<String>, name: impl Into<String>) -> Self {
        self.queues.insert(group.into(), name.into());
        self
    }

    /// What queues are bound by.
    pub(crate) fn binding_key(&self) -> &str {
        self.pattern.as_deref().unwrap_or(&self.routing_key)
    }

    pub(crate) fn check(&self) -> Result<()> {
        check_name("exchange", &self.exchange)?;
        for (what, key) in [("routing_key", &*self.routing_key), ("pattern", self.binding_key())] {
            if key.len() > 255 {
                return Err(refuse("a key has at most 255 bytes", what, key));
            }
        }
        for (group, queue) in &self.queues {
            GroupName::new(group)?;
            check_name("queue", queue)?;
        }
        Ok(())
    }
}

fn check_name(what: &'static str, name: &str) -> Result<()> {
    BoundName::new(name)?;
    if name.starts_with("amq.") && what == "queue" {
        return Err(refuse("names that begin with amq. are the broker's", what, name));
    }
    Ok(())
}

#[cold]
fn refuse(why: &'static str, what: &'static str, found: &str) -> Error {
    let shown: String = found.chars().take(120).flat_map(char::escape_debug).collect();
    Error::invalid(why).with_context(what, shown)
}

#[cfg(test)]
mod tests {
    use posthaste_core::ErrorKind;

    use super::*;

    #[test]
    fn accepts_what_brokers_accept() {
        for binding in [
            Binding::exchange("Legacy.Orders"),
            Binding::exchange("amq.topic").routing_key("a.b").pattern("a.#"),
            Binding::exchange("two words").queue("billing", "BILLING V1"),
        ] {
            binding.check().unwrap();
        }
    }

    #[test]
    fn refuses_what_brokers_refuse() {
        let long = "x".repeat(256);
        for binding in [
            Binding::exchange(""),
            Binding::exchange(&long),
            Binding::exchange("two\nlines"),
            Binding::exchange("e").routing_key(&long),
            Binding::exchange("e").pattern(&long),
            Binding::exchange("e").queue("no good", "q"),
            Binding::exchange("e").queue("g", ""),
            Binding::exchange("e").queue("g", "amq.gen-1"),
        ] {
            let error = binding.check().expect_err(&format!("{binding:?}"));
            assert_eq!(error.kind(), ErrorKind::Invalid, "{binding:?}");
        }
    }

    #[test]
    fn queues_are_bound_by_the_key_unless_by_a_pattern() {
        assert_eq!(Binding::exchange("e").routing_key("k").binding_key(), "k");
        assert_eq!(Binding::exchange("e").routing_key("k").pattern("#").binding_key(), "#");
    }
}
