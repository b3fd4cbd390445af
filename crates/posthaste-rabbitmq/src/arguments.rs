//! What queues are declared with. Arguments cannot be changed later: what operators tune belongs
//! into policies, and is not here.

use std::collections::BTreeMap;

use lapin::types::{AMQPValue, FieldTable, ShortString};
use posthaste_core::{Error, Result};

use crate::config::QueueType;

/// The value of an argument that the queues of new groups are declared with:
/// [`RabbitmqConfig::queue_argument`](crate::RabbitmqConfig::queue_argument).
///
/// ```
/// use posthaste_rabbitmq::QueueArgument;
/// assert_eq!(QueueArgument::from(10), QueueArgument::Number(10));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueArgument {
    /// A text.
    Text(String),
    /// A whole number.
    Number(i64),
    /// Yes or no.
    Flag(bool),
}

impl From<&str> for QueueArgument {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for QueueArgument {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for QueueArgument {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl QueueArgument {
    fn native(&self) -> AMQPValue {
        match self {
            Self::Text(value) => text(value),
            Self::Number(value) => AMQPValue::LongLongInt(*value),
            Self::Flag(value) => AMQPValue::Boolean(*value),
        }
    }
}

/// What an application says of the queues of its groups, by name.
pub(crate) type Said = BTreeMap<String, QueueArgument>;

/// What the promises rest on: it is this library's to say.
const OURS: &[&str] = &[
    "x-queue-type",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-delivery-limit",
    "x-overflow",
    "x-quorum-initial-group-size",
    "x-single-active-consumer",
];

/// Refuses what would break a promise.
///
/// # Errors
/// `Invalid` names the argument.
pub(crate) fn check(said: &Said) -> Result<()> {
    for name in said.keys() {
        let why = if OURS.contains(&name.as_str()) {
            "this argument is set by the library"
        } else if name == "x-expires" {
            "a queue that deletes itself loses what it holds"
        } else if !name.starts_with("x-") || name.len() > 255 || name.contains(char::is_control) {
            "the name of an argument begins with x- and has at most 255 bytes"
        } else {
            continue;
        };
        let shown: String = name.chars().take(120).flat_map(char::escape_debug).collect();
        return Err(Error::invalid(why).with_context("argument", shown));
    }
    Ok(())
}

/// How often a message may be delivered before the broker gives it up by itself. A net far above
/// any policy: a queue without it has one of 20 from 4.0 on, which releases and deploys use up.
const DELIVERY_LIMIT: i64 = 1_000_000;

/// A table from pairs.
pub(crate) fn table<const N: usize>(pairs: [(&'static str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        table.insert(ShortString::from(name), value);
    }
    table
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn insert(table: &mut FieldTable, name: &'static str, value: AMQPValue) {
    table.insert(ShortString::from(name), value);
}

const fn name_of(kind: QueueType) -> &'static str {
    match kind {
        QueueType::Quorum => "quorum",
        QueueType::Classic => "classic",
    }
}

/// Settings that a topic says for its queues.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wish {
    pub(crate) replicas: Option<u8>,
}

/// The queue of a group, or of one partition of it.
pub(crate) fn group(
    kind: QueueType,
    dead_letters: &str,
    single: bool,
    wish: Wish,
    said: &Said,
) -> FieldTable {
    let mut table = table([
        ("x-queue-type", text(name_of(kind))),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(dead_letters)),
    ]);
    if kind == QueueType::Quorum {
        insert(&mut table, "x-delivery-limit", AMQPValue::LongLongInt(DELIVERY_LIMIT));
        insert(&mut table, "x-dead-letter-strategy", text("at-least-once"));
        // Asked for by the strategy; the queue has no limit by itself.
        insert(&mut table, "x-overflow", text("reject-publish"));
        replicas(&mut table, wish);
    }
    if single {
        insert(&mut table, "x-single-active-consumer", AMQPValue::Boolean(true));
    }
    for (name, value) in said {
        // Their length was checked with the configuration.
        table.insert(ShortString::try_new(name.as_str()).unwrap_or_default(), value.native());
    }
    table
}

/// A queue that is read by looking and giving back: dead letters, records.
pub(crate) fn kept(wish: Wish) -> FieldTable {
    let mut table = table([
        ("x-queue-type", text("quorum")),
        ("x-delivery-limit", AMQPValue::LongLongInt(i64::from(i32::MAX))),
    ]);
    replicas(&mut table, wish);
    table
}

/// The queue for what no group gets yet.
pub(crate) fn unrouted(bytes: u64) -> FieldTable {
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    let mut table = kept(Wish::default());
    insert(&mut table, "x-max-length-bytes", AMQPValue::LongLongInt(bytes));
    insert(&mut table, "x-overflow", text("reject-publish"));
    table
}

/// The queue of a level of delay.
pub(crate) fn delay(millis: i64, next: &str) -> FieldTable {
    let mut table = kept(Wish::default());
    insert(&mut table, "x-message-ttl", AMQPValue::LongLongInt(millis));
    insert(&mut table, "x-dead-letter-exchange", text(next));
    insert(&mut table, "x-dead-letter-strategy", text("at-least-once"));
    insert(&mut table, "x-overflow", text("reject-publish"));
    table
}

/// What has waited and has nowhere to go: the oldest goes when there is too much.
pub(crate) fn strays() -> FieldTable {
    let mut table = kept(Wish::default());
    insert(&mut table, "x-max-length-bytes", AMQPValue::LongLongInt(64 << 20));
    table
}

/// The exchange that takes what no queue takes.
pub(crate) fn alternate(exchange: &str) -> FieldTable {
    table([("alternate-exchange", text(exchange))])
}

fn replicas(table: &mut FieldTable, wish: Wish) {
    if let Some(replicas) = wish.replicas {
        let replicas = AMQPValue::LongLongInt(i64::from(replicas));
        insert(table, "x-quorum-initial-group-size", replicas);
    }
}

#[cfg(test)]
mod tests {
    use posthaste_core::ErrorKind;

    use super::*;

    fn said(name: &str, value: impl Into<QueueArgument>) -> Said {
        Said::from([(name.to_owned(), value.into())])
    }

    #[test]
    fn what_is_said_is_declared_beside_what_the_library_says() {
        let said = said("x-message-ttl", 30_000);
        check(&said).unwrap();
        let table = group(QueueType::Quorum, "t__g__dlq", true, Wish::default(), &said);
        let ttl = table.inner().get("x-message-ttl");
        assert_eq!(ttl, Some(&AMQPValue::LongLongInt(30_000)));
        assert_eq!(table.inner().get("x-dead-letter-routing-key"), Some(&text("t__g__dlq")));
    }

    /// A message that only waited is no dead letter, unless somebody asked for that.
    #[test]
    fn no_queue_of_a_group_has_a_time_to_live_by_itself() {
        for kind in [QueueType::Quorum, QueueType::Classic] {
            let table = group(kind, "t__g__dlq", false, Wish::default(), &Said::new());
            assert!(!table.inner().contains_key("x-message-ttl"));
        }
        assert!(!kept(Wish::default()).inner().contains_key("x-message-ttl"));
    }

    #[test]
    fn what_promises_rest_on_is_not_said() {
        let long = format!("x-{}", "y".repeat(254));
        for name in OURS.iter().copied().chain(["x-expires", "priority", "", &long, "x-\n"]) {
            let refused = check(&said(name, true)).expect_err(name);
            assert_eq!(refused.kind(), ErrorKind::Invalid, "{name}");
        }
    }
}
