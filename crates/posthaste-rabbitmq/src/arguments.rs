//! What queues are declared with. Arguments cannot be changed later: what operators tune belongs
//! into policies, and is not here.

use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::config::QueueType;

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
pub(crate) fn group(kind: QueueType, dead_letters: &str, single: bool, wish: Wish) -> FieldTable {
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
