//! Existing exchanges and queues for a topic, instead of those of the default names.

use std::collections::BTreeMap;

use lapin::ExchangeKind;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use posthaste_core::{BoundName, Error, GroupName, Result};

/// An existing exchange that takes the messages of a topic.
///
/// Such a topic is plain: order is not promised on it. Its exchange is never changed or deleted, is
/// created only where its [type](Self::kind) is named, and has no alternate exchange of ours: a
/// message that no queue takes is [`Unroutable`](posthaste_core::ErrorKind::Unroutable). A group
/// has a queue of the default name, bound to the exchange, unless one that exists is named here;
/// that one is only read.
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
    pub(crate) kind: Option<ExchangeType>,
    pub(crate) headers: BTreeMap<String, String>,
    any_header: bool,
}

/// How an exchange finds the queues of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExchangeType {
    /// By an equal routing key.
    Direct,
    /// All of them.
    Fanout,
    /// By a pattern of words.
    Topic,
    /// By headers.
    Headers,
}

impl ExchangeType {
    pub(crate) const fn native(self) -> ExchangeKind {
        match self {
            Self::Direct => ExchangeKind::Direct,
            Self::Fanout => ExchangeKind::Fanout,
            Self::Topic => ExchangeKind::Topic,
            Self::Headers => ExchangeKind::Headers,
        }
    }
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
            kind: None,
            headers: BTreeMap::new(),
            any_header: false,
        }
    }

    /// The type that the exchange has, or gets: under
    /// [`Topology::Create`](posthaste_core::Topology) it is created where it does not exist.
    pub fn kind(mut self, kind: ExchangeType) -> Self {
        self.kind = Some(kind);
        self
    }

    /// What a message needs to have as a header, at an exchange of the type
    /// [`Headers`](ExchangeType::Headers). Several are all needed.
    ///
    /// ```
    /// use posthaste_rabbitmq::{Binding, ExchangeType};
    /// let eu_orders = Binding::exchange("events")
    ///     .kind(ExchangeType::Headers)
    ///     .header("region", "eu")
    ///     .header("kind", "order");
    /// ```
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// One of the headers is enough.
    pub fn any_header(mut self) -> Self {
        self.any_header = true;
        self
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

    /// The arguments that queues are bound with.
    pub(crate) fn arguments(&self) -> FieldTable {
        let mut table = FieldTable::default();
        if self.headers.is_empty() {
            return table;
        }
        let text = |text: &str| AMQPValue::LongString(text.into());
        for (name, value) in &self.headers {
            // Their length was checked with the rest.
            table.insert(ShortString::try_new(name.as_str()).unwrap_or_default(), text(value));
        }
        table.insert("x-match".into(), text(if self.any_header { "any" } else { "all" }));
        table
    }

    pub(crate) fn check(&self) -> Result<()> {
        check_name("exchange", &self.exchange)?;
        for name in self.headers.keys() {
            if name.is_empty() || name.len() > 255 || name.starts_with("x-") {
                let why = "a header's name is 1 to 255 bytes and does not begin with x-";
                return Err(refuse(why, "header", name));
            }
        }
        if self.kind.is_some() && self.exchange.starts_with("amq.") {
            let why = "names that begin with amq. are the broker's: they have a type";
            return Err(refuse(why, "exchange", &self.exchange));
        }
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
            Binding::exchange("e").header("x-match", "all"),
            Binding::exchange("e").header("", "all"),
            Binding::exchange("amq.topic").kind(ExchangeType::Topic),
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
