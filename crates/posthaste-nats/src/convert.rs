//! Envelopes to messages and back. The mapping itself is core's `wire`.

use std::str::FromStr;

use async_nats::header::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use posthaste_core::wire::{self, ForeignContext, HeaderStyle};
use posthaste_core::{DeadLetter, Envelope, Error, ErrorKind, Result, Timestamp};
use smallvec::SmallVec;

use crate::error::BROKER;

/// All attributes and headers of an envelope.
///
/// # Errors
/// `Invalid` for a header that cannot stand in a message of NATS, which core refuses before.
pub(crate) fn headers(envelope: &Envelope) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    let mut refused = None;
    wire::write(envelope, HeaderStyle::Dash, |name, value| {
        let text = value.as_text().unwrap_or_default();
        if append(&mut headers, name, text).is_err() {
            refused.get_or_insert_with(|| name.to_owned());
        }
    });
    match refused {
        None => Ok(headers),
        Some(name) => Err(Error::invalid("a header cannot stand in a NATS message")
            .with_context("header", name.escape_debug())
            .with_broker(BROKER)),
    }
}

/// All headers of a dead letter: those of its message, and the record.
pub(crate) fn letter_headers(letter: &DeadLetter) -> Result<HeaderMap> {
    let mut all = headers(&letter.envelope)?;
    wire::write_letter(letter, HeaderStyle::Dash, |name, text| {
        // Names and values of the record are printable ASCII.
        let _ = append(&mut all, name, text);
    });
    Ok(all)
}

fn append(headers: &mut HeaderMap, name: &str, text: &str) -> std::result::Result<(), ()> {
    let value = HeaderValue::from_str(text).map_err(|_| ())?;
    match well_known(name) {
        // An attribute is there once.
        Some(name) => headers.insert(name, value),
        None => headers.append(HeaderName::from_str(name).map_err(|_| ())?, value),
    }
    Ok(())
}

/// Names that nearly every message has need no allocation.
fn well_known(name: &str) -> Option<HeaderName> {
    macro_rules! known {
        ($($text:literal)*) => {
            match name { $($text => Some(const { HeaderName::from_static($text) }),)* _ => None }
        };
    }
    known!("ce-specversion" "ce-id" "ce-source" "ce-type" "ce-time" "ce-datacontenttype"
           "ce-subject" "ce-partitionkey" "ce-schemaversion" "ce-correlationid" "ce-causationid"
           "ce-traceparent" "ce-tracestate" "ce-replyto" "ce-expirytime" "ce-sequence"
           "ce-dataschema" "ce-partitionkeybase64" "ce-dataref")
}

/// The bytes that headers and payload count for at the server.
pub(crate) fn wire_size(headers: &HeaderMap, payload: &Bytes) -> usize {
    const FRAME: usize = "NATS/1.0\r\n\r\n".len();
    const LINE: usize = ": \r\n".len();
    let lines = headers.iter().flat_map(|(name, values)| {
        let name: &str = name.as_ref();
        values.iter().map(move |value| name.len() + value.as_str().len() + LINE)
    });
    FRAME + lines.sum::<usize>() + payload.len()
}

/// Whether the exact size has to be looked at: percent-encoding makes three bytes of one, and
/// names and the headers of the server come in addition.
pub(crate) fn may_exceed(envelope: &Envelope, limit: usize) -> bool {
    let head = envelope.size() - envelope.payload().len();
    const REST: usize = 8_192;
    envelope.payload().len().saturating_add(4 * head).saturating_add(REST) > limit
}

/// What a publish leaves free of the server's limit, so that the message can still become a dead
/// letter: the record's headers without the causes.
pub(crate) const RESERVE: usize = 2_048;

/// Refuses what the server would not take.
pub(crate) fn check_size(size: usize, limit: usize) -> Result<()> {
    if size <= limit {
        return Ok(());
    }
    Err(Error::new(ErrorKind::TooLarge, "the message is larger than the server takes")
        .with_context("bytes", size)
        .with_context("limit in bytes", limit)
        .with_broker(BROKER))
}

/// The headers as `wire` reads them. The client keeps them in a map: attributes come in any
/// order, application headers are sorted by name, so that each delivery looks the same.
fn pairs(headers: Option<&HeaderMap>) -> SmallVec<[(&str, &[u8]); 16]> {
    let mut pairs: SmallVec<[(&str, &[u8]); 16]> = SmallVec::new();
    for (name, values) in headers.into_iter().flat_map(HeaderMap::iter) {
        for value in values {
            pairs.push((name.as_ref(), value.as_str().as_bytes()));
        }
    }
    let own = |name: &str| name.starts_with("ce-") || name.starts_with("Nats-");
    if pairs.iter().filter(|(name, _)| !own(name)).nth(1).is_some() {
        // Stable, because the values of one name have their order.
        pairs.sort_by_key(|(name, _)| *name);
    }
    pairs
}

/// Where a message came from, for what it does not say itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub(crate) stream: &'a str,
    pub(crate) subject: &'a str,
    pub(crate) sequence: u64,
    pub(crate) stored_at: Option<Timestamp>,
}

/// The envelope of any message.
pub(crate) fn envelope(
    headers: Option<&HeaderMap>,
    payload: Bytes,
    origin: &Origin<'_>,
) -> Envelope {
    let context = ForeignContext {
        id: &format_args!("{}/{}", origin.stream, origin.sequence),
        source: &format_args!("nats:{}", origin.subject),
        time: origin.stored_at,
    };
    wire::read(HeaderStyle::Dash, pairs(headers), None, payload, &context)
}

/// The dead letter in a message; `None` if it is none.
pub(crate) fn letter(
    headers: Option<&HeaderMap>,
    payload: Bytes,
    origin: &Origin<'_>,
) -> Option<DeadLetter> {
    let envelope = envelope(headers, payload, origin);
    wire::read_letter(HeaderStyle::Dash, pairs(headers), envelope)
}

#[cfg(test)]
mod tests {
    use posthaste_core::{Cause, GroupName, Reason, TopicName};
    use proptest::prelude::*;

    use super::*;

    const ORIGIN: Origin<'_> =
        Origin { stream: "orders", subject: "orders", sequence: 7, stored_at: None };

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

    #[test]
    fn a_message_that_says_nothing_is_foreign_and_has_a_lasting_id() {
        let read = envelope(None, Bytes::from_static(b"x"), &ORIGIN);
        assert!(read.is_foreign());
        assert_eq!((read.id(), read.source()), ("orders/7", "nats:orders"));
        assert_eq!(&read.payload()[..], b"x");
    }

    #[test]
    fn a_dead_letter_comes_back_as_written() {
        let (topic, group) = (TopicName::new("orders").unwrap(), GroupName::new("g").unwrap());
        let mut letter = DeadLetter::new(sample(), Reason::AttemptsExhausted, topic, group);
        letter.cause = Some(Cause::new("no luck\nat all").handler("charge"));
        letter.attempts = 5;
        let headers = letter_headers(&letter).unwrap();
        let payload = letter.envelope.payload().clone();
        let read = super::letter(Some(&headers), payload, &ORIGIN).unwrap();
        assert_eq!(read.envelope, letter.envelope);
        assert_eq!((read.reason, read.attempts), (letter.reason, 5));
        assert_eq!(read.cause, letter.cause);
        let plain = super::headers(&sample()).unwrap();
        assert!(super::letter(Some(&plain), Bytes::new(), &ORIGIN).is_none());
    }

    #[test]
    fn sizes_are_those_of_the_wire() {
        let mut headers = HeaderMap::new();
        headers.insert("a", "bc");
        let wire = "NATS/1.0\r\na: bc\r\n\r\n".len();
        assert_eq!(wire_size(&headers, &Bytes::from_static(b"xyz")), wire + 3);
        check_size(10, 10).unwrap();
        assert_eq!(check_size(11, 10).unwrap_err().kind(), ErrorKind::TooLarge);
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
            let headers = headers(&sent).unwrap();
            let read = envelope(Some(&headers), sent.payload().clone(), &ORIGIN);
            prop_assert!(!read.is_foreign());
            prop_assert_eq!((read.id(), read.key(), read.subject()), (sent.id(), sent.key(), sent.subject()));
            prop_assert_eq!((read.time(), read.payload()), (sent.time(), sent.payload()));
            for name in ["one", "two"] {
                let (read, sent): (Vec<_>, Vec<_>) =
                    (read.header_all(name).collect(), sent.header_all(name).collect());
                prop_assert_eq!(read, sent);
            }
        }
    }
}
