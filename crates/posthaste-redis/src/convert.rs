//! Envelopes to entries and back. The mapping itself is core's `wire`.

use bytes::Bytes;
use posthaste_core::wire::{self, ForeignContext, HeaderStyle};
use posthaste_core::{
    DeadLetter, Envelope, Error, ErrorKind, GroupName, Reason, Result, Timestamp, TopicName,
};
use redis::{Cmd, Value};

use crate::error::BROKER;
use crate::{id, value};

/// The attributes of a message, packed.
pub(crate) const HEAD: &str = "h";
/// The payload.
pub(crate) const BODY: &str = "b";
/// How often a copy was delivered before.
const ATTEMPTS: &[u8] = b"a";
/// Where the message of a copy was.
const ORIGIN: &[u8] = b"o";
/// What other programs call their payload, the likeliest first.
const PAYLOADS: [&[u8]; 6] = [b"b", b"payload", b"data", b"body", b"message", b"value"];

/// Adds the fields of a message to a command.
///
/// # Errors
/// `TooLarge`.
pub(crate) fn fields(envelope: &Envelope, limit: usize, command: &mut Cmd) -> Result<()> {
    let head = wire::pack(envelope);
    check_size(envelope, head.len(), limit)?;
    command.arg(HEAD).arg(head).arg(BODY).arg(&**envelope.payload());
    Ok(())
}

/// Adds the fields of a dead letter to a command.
pub(crate) fn letter_fields(letter: &DeadLetter, command: &mut Cmd) {
    let envelope = &letter.envelope;
    command.arg(HEAD).arg(wire::pack(envelope)).arg(BODY).arg(&**envelope.payload());
    wire::write_letter(letter, HeaderStyle::Underscore, |name, text| {
        command.arg(name).arg(text);
    });
}

fn check_size(envelope: &Envelope, head: usize, limit: usize) -> Result<()> {
    let size = envelope.payload().len() + head;
    if size <= limit {
        return Ok(());
    }
    Err(Error::new(ErrorKind::TooLarge, "the message is larger than the adapter sends")
        .with_context("size in bytes", size)
        .with_context("limit in bytes", limit)
        .with_broker(BROKER))
}

/// An entry as it was read.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) envelope: Envelope,
    /// How often it was delivered before it came into the private channel.
    pub(crate) before: u32,
    /// The offset of the message, which a copy has from its original.
    pub(crate) offset: u64,
}

/// Where an entry is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) topic: &'a TopicName,
    pub(crate) offset: u64,
    /// In the private channel of a group, where entries have fields of ours besides.
    pub(crate) private: bool,
}

/// Reads an entry, whoever wrote it.
pub(crate) fn entry(fields: Vec<Value>, place: Place<'_>) -> Entry {
    let mut head = None;
    let mut body = None;
    let mut rest: Vec<(Value, Value)> = Vec::new();
    let (mut before, mut offset) = (0, place.offset);
    let mut pairs = fields.into_iter();
    while let (Some(name), Some(value)) = (pairs.next(), pairs.next()) {
        match value::bytes(&name) {
            Some(b"h") if head.is_none() => head = Some(value),
            Some(b"b") if body.is_none() => body = Some(value),
            Some(ATTEMPTS) if place.private => {
                before = value::count(&value).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
            }
            Some(ORIGIN) if place.private => {
                offset = value::bytes(&value).and_then(id::parse).unwrap_or(offset);
            }
            _ => rest.push((name, value)),
        }
    }
    let envelope = match (head, body) {
        (Some(head), Some(body)) => {
            let body = value::into_bytes(body).unwrap_or_default();
            match value::text(&head).map(|head| wire::unpack(head, body.clone())) {
                Some(Ok(envelope)) => envelope,
                // Fields of another program that are called as ours are.
                _ => {
                    rest.push((Value::BulkString(HEAD.into()), head));
                    rest.push((Value::BulkString(BODY.into()), Value::BulkString(body.into())));
                    foreign(rest, place.topic, offset)
                }
            }
        }
        (head, body) => {
            let named = |name: &str, value| (Value::BulkString(name.into()), value);
            rest.extend(head.map(|value| named(HEAD, value)));
            rest.extend(body.map(|value| named(BODY, value)));
            foreign(rest, place.topic, offset)
        }
    };
    Entry { envelope, before, offset }
}

/// A message that this library did not write: one field is the payload, the others are headers.
fn foreign(mut fields: Vec<(Value, Value)>, topic: &TopicName, offset: u64) -> Envelope {
    let named =
        |wanted: &[u8]| fields.iter().position(|(name, _)| value::bytes(name) == Some(wanted));
    let only = || (fields.len() == 1).then_some(0);
    let at = PAYLOADS.iter().find_map(|name| named(name)).or_else(only);
    let payload = at.map(|at| fields.swap_remove(at).1).and_then(value::into_bytes);
    let headers =
        fields.iter().filter_map(|(name, value)| Some((value::text(name)?, value::bytes(value)?)));
    let millis = i64::try_from(id::unpack(offset).0).ok();
    let context = ForeignContext {
        id: &format_args!("{topic}/{}", id::text(offset)),
        source: &format_args!("redis:{topic}"),
        time: millis.map(stored_at),
    };
    wire::read(HeaderStyle::Dash, headers, None, payload.unwrap_or_else(Bytes::new), &context)
}

/// When the entry was stored.
pub(crate) fn time_of(offset: u64) -> Option<Timestamp> {
    i64::try_from(id::unpack(offset).0).ok().map(stored_at)
}

fn stored_at(millis: i64) -> Timestamp {
    Timestamp::from_micros(millis.saturating_mul(1_000))
}

/// Reads a dead letter, whoever wrote it.
pub(crate) fn letter(
    fields: &[Value],
    envelope: Envelope,
    topic: &TopicName,
    group: &GroupName,
) -> DeadLetter {
    let headers = fields
        .chunks_exact(2)
        .filter_map(|pair| Some((value::text(&pair[0])?, value::bytes(&pair[1])?)));
    wire::read_letter(HeaderStyle::Underscore, headers, envelope.clone()).unwrap_or_else(|| {
        let reason = Reason::Other("unknown".into());
        DeadLetter::new(envelope, reason, topic.clone(), group.clone())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values(command: &Cmd) -> Vec<Value> {
        let args = command.args_iter().map(|arg| match arg {
            redis::Arg::Simple(bytes) => Value::BulkString(bytes.to_vec()),
            _ => Value::Nil,
        });
        args.collect()
    }

    fn place(topic: &TopicName, private: bool) -> Place<'_> {
        Place { topic, offset: id::pack(1_700_000_000_000, 4), private }
    }

    proptest! {
        #[test]
        fn messages_come_back_as_they_were(
            key in prop::option::of(prop::collection::vec(any::<u8>(), 1..20)),
            payload in prop::collection::vec(any::<u8>(), 0..64),
            header in prop::collection::vec(any::<u8>(), 0..16),
        ) {
            let topic = TopicName::new("orders").unwrap();
            let mut builder = Envelope::builder("order.placed")
                .source("/shop")
                .payload(payload)
                .header("tenant", header)
                .header("tenant", "b");
            if let Some(key) = key {
                builder = builder.key(key);
            }
            let sent = builder.build().unwrap();
            let mut command = Cmd::new();
            fields(&sent, 1 << 20, &mut command).unwrap();
            let read = entry(values(&command), place(&topic, false));
            prop_assert_eq!(&read.envelope, &sent);
            // A copy carries more.
            command.arg("o").arg("7-1").arg("a").arg(3);
            let read = entry(values(&command), place(&topic, true));
            prop_assert_eq!(&read.envelope, &sent);
            prop_assert_eq!((read.before, read.offset), (3, id::pack(7, 1)));
        }

        #[test]
        fn any_fields_are_a_message(
            fields in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..8), 0..12),
        ) {
            let topic = TopicName::new("orders").unwrap();
            let fields: Vec<Value> = fields.into_iter().map(Value::BulkString).collect();
            let read = entry(fields, place(&topic, false));
            prop_assert!(read.envelope.is_foreign());
            prop_assert_eq!(read.envelope.id(), "orders/1700000000000-4");
        }
    }

    #[test]
    fn what_others_write_has_a_payload() {
        let topic = TopicName::new("orders").unwrap();
        let fields = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().flat_map(|(name, value)| [name, value]);
            pairs.map(|text| Value::BulkString(text.as_bytes().to_vec())).collect::<Vec<_>>()
        };
        let read = entry(fields(&[("tenant", "acme"), ("data", "7")]), place(&topic, false));
        assert_eq!(&**read.envelope.payload(), b"7");
        assert_eq!(read.envelope.header("tenant"), Some(&b"acme"[..]));
        let read = entry(fields(&[("amount", "7")]), place(&topic, false));
        assert_eq!(&**read.envelope.payload(), b"7");
        let read = entry(fields(&[("h", "no JSON"), ("b", "7")]), place(&topic, false));
        assert_eq!(&**read.envelope.payload(), b"7");
        assert!(read.envelope.is_foreign());
    }
}
