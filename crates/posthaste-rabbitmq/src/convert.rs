//! Envelopes to messages and back. The mapping itself is core's `wire`.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable, ShortString};
use posthaste_core::broker::Attempt;
use posthaste_core::wire::{self, ForeignContext, HeaderStyle};
use posthaste_core::{
    DeadLetter, Envelope, Error, ErrorKind, GroupName, Reason, Result, Timestamp, TopicName,
};
use smallvec::SmallVec;

use crate::error::{self, BROKER};
use crate::outgoing::short;
use crate::table;

/// What the header table leaves free of a frame, so that the message can still become a dead
/// letter: the record with its causes.
const RESERVE: usize = 16 << 10;
/// The smallest frame that brokers agree on unless they are told otherwise.
const FRAME: usize = 131_072;
/// Longer than that no short text is in the protocol.
const SHORT: usize = 255;

/// The properties of a message.
///
/// # Errors
/// `TooLarge` for a header name beyond 255 bytes, or headers that do not fit a frame.
pub(crate) fn properties(envelope: &Envelope) -> Result<BasicProperties> {
    let mut writer = Writer::default();
    wire::write(envelope, HeaderStyle::Colon, |name, value| writer.put(name, value.as_bytes()));
    if let Some(time) = envelope.time() {
        writer.timestamp(time);
    }
    writer.finish(FRAME - RESERVE)
}

/// The properties of a copy that comes again to its group.
///
/// # Errors
/// As [`properties`].
pub(crate) fn retried(envelope: &Envelope, attempt: u32) -> Result<BasicProperties> {
    let mut writer = Writer::default();
    wire::write(envelope, HeaderStyle::Colon, |name, value| writer.put(name, value.as_bytes()));
    if let Some(time) = envelope.time() {
        writer.timestamp(time);
    }
    writer.put(wire::ATTEMPT, attempt.to_string().as_bytes());
    writer.finish(FRAME)
}

/// The properties of a dead letter: those of its message, and the record.
///
/// # Errors
/// As [`properties`].
pub(crate) fn letter_properties(letter: &DeadLetter, id: &str) -> Result<BasicProperties> {
    let mut writer = Writer::default();
    let envelope = &letter.envelope;
    wire::write(envelope, HeaderStyle::Colon, |name, value| writer.put(name, value.as_bytes()));
    if let Some(time) = envelope.time() {
        writer.timestamp(time);
    }
    wire::write_letter(letter, HeaderStyle::Colon, |name, text| writer.put(name, text.as_bytes()));
    writer.put(wire::DEAD_LETTER_ID, id.as_bytes());
    writer.finish(FRAME)
}

/// Collects headers and properties.
#[derive(Default)]
struct Writer {
    headers: FieldTable,
    message_id: Option<ShortString>,
    kind: Option<ShortString>,
    content_type: Option<ShortString>,
    correlation_id: Option<ShortString>,
    reply_to: Option<ShortString>,
    timestamp: Option<u64>,
    refused: Option<Error>,
}

impl Writer {
    fn put(&mut self, name: &str, value: &[u8]) {
        let slot = match name {
            "cloudEvents:id" => &mut self.message_id,
            "cloudEvents:type" => &mut self.kind,
            "content-type" => &mut self.content_type,
            "cloudEvents:correlationid" => &mut self.correlation_id,
            "cloudEvents:replyto" => &mut self.reply_to,
            name => return self.header(name, value),
        };
        // Attributes are text.
        match std::str::from_utf8(value).ok().filter(|text| text.len() <= SHORT) {
            Some(text) => *slot = ShortString::try_new(text).ok(),
            None if name == "content-type" => self.header("cloudEvents:datacontenttype", value),
            None => self.header(name, value),
        }
    }

    fn header(&mut self, name: &str, value: &[u8]) {
        let name = match short("header name", name) {
            Ok(name) => name,
            Err(error) => {
                self.refused.get_or_insert(error);
                return;
            }
        };
        let value = AMQPValue::LongString(value.to_vec().into());
        let value = match self.headers.inner().get(name.as_str()) {
            None => value,
            // A table has each name once: the values of a repeated one are an array.
            Some(AMQPValue::FieldArray(before)) => {
                let mut all = before.clone();
                all.push(value);
                AMQPValue::FieldArray(all)
            }
            Some(first) => AMQPValue::FieldArray(FieldArray::from(vec![first.clone(), value])),
        };
        self.headers.insert(name, value);
    }

    fn timestamp(&mut self, time: Timestamp) {
        self.timestamp = u64::try_from(time.as_micros() / 1_000_000).ok();
    }

    fn finish(self, limit: usize) -> Result<BasicProperties> {
        if let Some(refused) = self.refused {
            return Err(refused);
        }
        let texts = [
            &self.message_id,
            &self.kind,
            &self.content_type,
            &self.correlation_id,
            &self.reply_to,
        ];
        let texts = texts.into_iter().flatten().map(|text| 1 + text.as_str().len());
        let size = table::size(&self.headers) + texts.sum::<usize>() + 64;
        if size > limit {
            return Err(Error::new(ErrorKind::TooLarge, "the headers do not fit a frame")
                .with_context("bytes", size)
                .with_context("limit in bytes", limit)
                .with_broker(BROKER));
        }
        let mut properties =
            BasicProperties::default().with_delivery_mode(2).with_headers(self.headers);
        if let Some(id) = self.message_id {
            properties = properties.with_message_id(id);
        }
        if let Some(kind) = self.kind {
            properties = properties.with_type(kind);
        }
        if let Some(content_type) = self.content_type {
            properties = properties.with_content_type(content_type);
        }
        if let Some(id) = self.correlation_id {
            properties = properties.with_correlation_id(id);
        }
        if let Some(reply_to) = self.reply_to {
            properties = properties.with_reply_to(reply_to);
        }
        if let Some(timestamp) = self.timestamp {
            properties = properties.with_timestamp(timestamp);
        }
        Ok(properties)
    }
}

/// Refuses what the broker would not take.
pub(crate) fn check_size(body: &Bytes, limit: usize) -> Result<()> {
    if body.len() <= limit {
        return Ok(());
    }
    Err(Error::new(ErrorKind::TooLarge, "the message is larger than the broker takes")
        .with_context("bytes", body.len())
        .with_context("limit in bytes", limit)
        .with_broker(BROKER))
}

/// Where a message came from, for what it does not say itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub(crate) exchange: &'a str,
    pub(crate) routing_key: &'a str,
}

type Pairs<'a> = SmallVec<[(&'a str, Cow<'a, [u8]>); 16]>;

/// The properties and headers as `wire` reads them.
fn pairs(properties: &BasicProperties) -> Pairs<'_> {
    let mut pairs = Pairs::new();
    let texts = [
        ("cloudEvents:id", properties.message_id()),
        ("cloudEvents:type", properties.kind()),
        ("content-type", properties.content_type()),
        ("cloudEvents:correlationid", properties.correlation_id()),
        ("cloudEvents:replyto", properties.reply_to()),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            pairs.push((name, Cow::Borrowed(text.as_str().as_bytes())));
        }
    }
    for (name, value) in properties.headers().iter().flat_map(|table| table.inner()) {
        let name = name.as_str();
        if is_brokers(name) {
            continue;
        }
        match value {
            AMQPValue::LongString(text) => pairs.push((name, Cow::Borrowed(text.as_bytes()))),
            value => table::values(value, |value| pairs.push((name, value.into_owned().into()))),
        }
    }
    pairs
}

/// What the broker writes on its way, and changes from one delivery to the next.
pub(crate) fn is_brokers(name: &str) -> bool {
    name.starts_with("x-")
        && (matches!(name, "x-delivery-count" | "x-acquired-count" | "x-death")
            || name.starts_with("x-first-death-")
            || name.starts_with("x-last-death-"))
}

/// The envelope of any message.
pub(crate) fn envelope(properties: &BasicProperties, body: Bytes, origin: &Origin<'_>) -> Envelope {
    let pairs = pairs(properties);
    let seconds = properties.timestamp().and_then(|seconds| i64::try_from(seconds).ok());
    let fingerprint = Fingerprint { pairs: &pairs, body: &body.clone(), origin };
    let context = ForeignContext {
        id: &fingerprint,
        source: &format_args!("amqp:{}", origin.exchange),
        time: seconds
            .and_then(|seconds| Some(Timestamp::from_micros(seconds.checked_mul(1_000_000)?))),
    };
    let headers = pairs.iter().map(|(name, value)| (*name, &**value));
    wire::read(HeaderStyle::Colon, headers, None, body, &context)
}

/// The dead letter in a message: the record that this library wrote, or what the broker tells of a
/// message that it gave up by itself.
pub(crate) fn letter(
    properties: &BasicProperties,
    body: Bytes,
    origin: &Origin<'_>,
    topic: &TopicName,
    group: &GroupName,
) -> DeadLetter {
    let envelope = envelope(properties, body, origin);
    let pairs = pairs(properties);
    let headers = pairs.iter().map(|(name, value)| (*name, &**value));
    match wire::read_letter(HeaderStyle::Colon, headers, envelope.clone()) {
        Some(letter) => letter,
        None => from_death(properties, envelope, topic, group),
    }
}

/// What `x-death` says: the first entry is the last death.
fn from_death(
    properties: &BasicProperties,
    envelope: Envelope,
    topic: &TopicName,
    group: &GroupName,
) -> DeadLetter {
    let table = properties.headers().as_ref();
    let deaths = match table.and_then(|table| table.inner().get("x-death")) {
        Some(AMQPValue::FieldArray(deaths)) => deaths.as_slice(),
        _ => &[],
    };
    let death = deaths.iter().find_map(|death| match death {
        AMQPValue::FieldTable(death) => Some(death),
        _ => None,
    });
    let reason = match death.and_then(|death| table::text(death, "reason")) {
        Some("rejected") => Reason::Rejected,
        Some("expired") => Reason::Expired,
        Some(other) => Reason::Other(other.to_owned().into()),
        None => Reason::Other("unknown".into()),
    };
    let mut letter = DeadLetter::new(envelope, reason, topic.clone(), group.clone());
    letter.attempts = attempt(properties, false, true).count;
    if let Some(AMQPValue::Timestamp(seconds)) = death.and_then(|death| death.inner().get("time"))
        && let Some(micros) = i64::try_from(*seconds).ok().and_then(|s| s.checked_mul(1_000_000))
    {
        letter.failed_at = Timestamp::from_micros(micros);
    }
    letter
}

/// The name of a dead letter: that in its record, else the fingerprint of the message.
pub(crate) fn letter_id(properties: &BasicProperties, body: &Bytes, origin: &Origin<'_>) -> String {
    let table = properties.headers().as_ref();
    match table.and_then(|table| table::text(table, wire::DEAD_LETTER_ID)) {
        Some(id) => id.to_owned(),
        None => Fingerprint { pairs: &pairs(properties), body, origin }.to_string(),
    }
}

/// Which delivery to the group it is. `counted` says whether the queue counts deliveries.
pub(crate) fn attempt(properties: &BasicProperties, redelivered: bool, counted: bool) -> Attempt {
    let table = properties.headers().as_ref();
    let number = |name| table.and_then(|table| table::number(table, name)).unwrap_or_default();
    let before = number(wire::ATTEMPT);
    // From 4.3 on what was given back without fault is counted apart.
    let here = number("x-delivery-count").max(number("x-acquired-count"));
    let here = if counted { here } else { here.max(u64::from(redelivered)) };
    let count = u32::try_from(before.saturating_add(here).saturating_add(1)).unwrap_or(u32::MAX);
    if counted { Attempt::exact(count) } else { Attempt::approximate(count) }
}

/// Names a message by what it is, where it has no name: equal messages have one name.
struct Fingerprint<'a> {
    pairs: &'a [(&'a str, Cow<'a, [u8]>)],
    body: &'a Bytes,
    origin: &'a Origin<'a>,
}

impl fmt::Display for Fingerprint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // FNV-1a, because the value may not change with the standard library.
        let mut hash = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128;
        let mut mix = |bytes: &[u8]| {
            for byte in bytes.iter().chain(&[0xff]) {
                hash = (hash ^ u128::from(*byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b);
            }
        };
        mix(self.origin.exchange.as_bytes());
        mix(self.origin.routing_key.as_bytes());
        for (name, value) in self.pairs {
            mix(name.as_bytes());
            mix(value);
        }
        mix(self.body);
        write!(f, "amqp-{hash:032x}")
    }
}

/// The error for a verdict that is not known.
#[cold]
pub(crate) fn unknown_verdict() -> Error {
    Error::unsupported("this verdict is not known here").with_broker(error::BROKER)
}

#[cfg(test)]
mod tests {
    use posthaste_core::Cause;
    use proptest::prelude::*;

    use super::*;

    const ORIGIN: Origin<'_> = Origin { exchange: "orders", routing_key: "orders" };

    fn sample() -> Envelope {
        Envelope::builder("order.placed")
            .source("/shop")
            .key(&b"k\xff\n"[..])
            .subject("K\u{fc}che \u{1f373}")
            .header("tenant", "acme")
            .payload(&b"\x00\xff\r\n"[..])
            .build()
            .unwrap()
    }

    fn names() -> (TopicName, GroupName) {
        (TopicName::new("orders").unwrap(), GroupName::new("billing").unwrap())
    }

    #[test]
    fn native_properties_come_first() {
        let properties = properties(&sample()).unwrap();
        assert_eq!(properties.kind().as_ref().map(ShortString::as_str), Some("order.placed"));
        assert_eq!(properties.delivery_mode(), &Some(2));
        assert!(properties.timestamp().is_some() && properties.expiration().is_none());
        let headers = properties.headers().as_ref().unwrap();
        assert_eq!(table::text(headers, "tenant"), Some("acme"));
        assert!(!headers.inner().contains_key("cloudEvents:type"));
    }

    #[test]
    fn what_is_too_long_for_a_property_is_a_header() {
        let long = "x".repeat(300);
        let sent = Envelope::builder(long.as_str()).id(long.as_str()).source("/s").build().unwrap();
        let properties = properties(&sent).unwrap();
        assert!(properties.message_id().is_none() && properties.kind().is_none());
        let read = envelope(&properties, Bytes::new(), &ORIGIN);
        assert_eq!((read.id(), read.event_type()), (&*long, &*long));
    }

    #[test]
    fn headers_that_fit_no_frame_are_too_large() {
        let large = sample().to_builder().header("h", vec![b'x'; FRAME]).build().unwrap();
        assert_eq!(properties(&large).unwrap_err().kind(), ErrorKind::TooLarge);
    }

    #[test]
    fn a_message_that_says_nothing_is_foreign_and_has_a_lasting_id() {
        let read = |count: i64, body: &'static [u8]| {
            let mut headers = FieldTable::default();
            headers.insert("tenant".into(), AMQPValue::LongInt(7));
            headers.insert("x-delivery-count".into(), AMQPValue::LongLongInt(count));
            let properties = BasicProperties::default().with_headers(headers);
            envelope(&properties, Bytes::from_static(body), &ORIGIN)
        };
        let first = read(0, b"x");
        assert!(first.is_foreign());
        assert_eq!(first.header("tenant"), Some(&b"7"[..]));
        assert_eq!(first.source(), "amqp:orders");
        assert_eq!(first.id(), read(1, b"x").id());
        assert_ne!(first.id(), read(0, b"y").id());
    }

    #[test]
    fn attempts_are_those_before_and_those_here() {
        let mut headers = FieldTable::default();
        assert_eq!(attempt(&BasicProperties::default(), false, true), Attempt::exact(1));
        assert_eq!(attempt(&BasicProperties::default(), true, false), Attempt::approximate(2));
        headers.insert(wire::ATTEMPT.into(), AMQPValue::LongString("3".into()));
        headers.insert("x-delivery-count".into(), AMQPValue::LongLongInt(2));
        let counted = BasicProperties::default().with_headers(headers);
        assert_eq!(attempt(&counted, true, true), Attempt::exact(6));
    }

    #[test]
    fn a_dead_letter_comes_back_as_written() {
        let (topic, group) = names();
        let mut letter =
            DeadLetter::new(sample(), Reason::AttemptsExhausted, topic.clone(), group.clone());
        letter.cause = Some(Cause::new("no luck\nat all").handler("charge"));
        letter.attempts = 5;
        let properties = letter_properties(&letter, "letter-1").unwrap();
        let body = letter.envelope.payload().clone();
        assert_eq!(letter_id(&properties, &body, &ORIGIN), "letter-1");
        let read = super::letter(&properties, body, &ORIGIN, &topic, &group);
        assert_eq!(read.envelope, letter.envelope);
        assert_eq!((read.reason, read.attempts), (letter.reason, 5));
        assert_eq!(read.cause, letter.cause);
    }

    #[test]
    fn what_the_broker_gave_up_is_a_letter_too() {
        let (topic, group) = names();
        let mut death = FieldTable::default();
        death.insert("reason".into(), AMQPValue::LongString("expired".into()));
        death.insert("time".into(), AMQPValue::Timestamp(1_000_000));
        let mut headers = FieldTable::default();
        let deaths = FieldArray::from(vec![AMQPValue::FieldTable(death)]);
        headers.insert("x-death".into(), AMQPValue::FieldArray(deaths));
        let properties = BasicProperties::default().with_headers(headers);
        let read = super::letter(&properties, Bytes::new(), &ORIGIN, &topic, &group);
        assert_eq!(read.reason, Reason::Expired);
        assert_eq!(read.failed_at, Timestamp::from_micros(1_000_000_000_000));
        assert_eq!((read.topic, read.group), (topic, group));
    }

    proptest! {
        #[test]
        fn every_envelope_comes_back(
            values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..4),
            key in prop::collection::vec(any::<u8>(), 1..20),
            subject in "[^\\x00-\\x1f\\x7f-\\x9f]{1,20}",
            payload in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut builder = Envelope::builder("t").source("/s").key(key).subject(subject);
            for value in &values {
                builder = builder.header("one", value).header("two", value);
            }
            // Subjects that core refuses are not the matter here.
            let Ok(sent) = builder.payload(payload).build() else { return Ok(()) };
            let properties = properties(&sent).unwrap();
            let read = envelope(&properties, sent.payload().clone(), &ORIGIN);
            prop_assert!(!read.is_foreign());
            prop_assert_eq!((read.id(), read.key()), (sent.id(), sent.key()));
            prop_assert_eq!((read.time(), read.subject()), (sent.time(), sent.subject()));
            prop_assert_eq!(read.payload(), sent.payload());
            for name in ["one", "two"] {
                let (read, sent): (Vec<_>, Vec<_>) =
                    (read.header_all(name).collect(), sent.header_all(name).collect());
                prop_assert_eq!(read, sent);
            }
        }
    }
}
