//! Envelopes to records and back. The mapping itself is core's `wire`.

use std::borrow::Cow;

use bytes::Bytes;
use posthaste_core::wire::{self, ForeignContext, HeaderStyle};
use posthaste_core::{DeadLetter, Envelope, Error, ErrorKind, Result, Timestamp};
use rdkafka::message::{BorrowedHeaders, Header, Headers, OwnedHeaders};
use smallvec::SmallVec;

use crate::error::BROKER;
use crate::private::Copy;

/// The extension that a record without a value has as an envelope; its payload is empty then. In a
/// compacted topic such a record deletes its key, which an empty value does not, so consumers have
/// to tell them apart. An extension, because copies keep it and every application sees it.
///
/// ```
/// use posthaste_core::Envelope;
/// # fn is_deleted(envelope: &Envelope) -> bool {
/// envelope.extension(posthaste_kafka::TOMBSTONE).is_some()
/// # }
/// ```
pub const TOMBSTONE: &str = "kafkatombstone";

/// The header of that extension.
const TOMBSTONE_HEADER: &str = "ce_kafkatombstone";

/// All attributes and headers of an envelope. Its key is the record's and not among them.
pub(crate) fn headers(envelope: &Envelope) -> OwnedHeaders {
    /// As many as most messages have.
    const USUAL: usize = 8;
    let mut all = Adding(Some(OwnedHeaders::new_with_capacity(USUAL)));
    wire::write(envelope, HeaderStyle::Underscore, |name, value| all.add(name, value.as_bytes()));
    all.0.unwrap_or_default()
}

/// All headers of a dead letter: those of its message, and the record. The key of the message is
/// among them, because the record's own names the letter.
pub(crate) fn letter_headers(letter: &DeadLetter) -> OwnedHeaders {
    let mut all = Adding(Some(headers(&letter.envelope)));
    let mut name = String::new();
    // The style in which the key is a header, as text or as base64.
    wire::write(&letter.envelope, HeaderStyle::Colon, |colon, value| {
        if let Some(form) = colon.strip_prefix("cloudEvents:partitionkey") {
            name.clear();
            name.push_str("ce_partitionkey");
            name.push_str(form);
            all.add(&name, value.as_bytes());
        }
    });
    wire::write_letter(letter, HeaderStyle::Underscore, |name, text| {
        all.add(name, text.as_bytes());
    });
    all.0.unwrap_or_default()
}

/// All headers of a copy that waits: those of its message, and how it is to be delivered.
pub(crate) fn copy_headers(copy: &Copy<'_>) -> OwnedHeaders {
    let mut all = Adding(Some(headers(copy.envelope)));
    if copy.attempts > 0 {
        all.add(wire::ATTEMPT, copy.attempts.to_string().as_bytes());
    }
    if let Some(due) = copy.due {
        all.add(wire::DELIVER_AT, due.to_string().as_bytes());
    }
    all.0.unwrap_or_default()
}

/// What the headers of a copy say: the deliveries before it, and when it is due.
pub(crate) fn waits(headers: Option<&BorrowedHeaders>) -> (u32, Option<Timestamp>) {
    let text = |name| std::str::from_utf8(header(headers, name)?).ok();
    let attempts = text(wire::ATTEMPT).and_then(|text| text.parse().ok());
    let due = text(wire::DELIVER_AT).and_then(|text| text.parse().ok());
    (attempts.unwrap_or(0), due)
}

/// Headers that are being written; the client's type is given away and taken back for each.
struct Adding(Option<OwnedHeaders>);

impl Adding {
    fn add(&mut self, name: &str, value: &[u8]) {
        let added = self.0.take().map(|all| all.insert(Header { key: name, value: Some(value) }));
        self.0 = added;
    }
}

/// The bytes of a record, at most: what the client compares with its limit, and a batch of one
/// with its frame.
pub(crate) fn size(envelope: &Envelope) -> usize {
    // Two lengths before each header, of five bytes at most.
    const LINE: usize = 10;
    let mut size = FRAME + envelope.key().map_or(0, <[u8]>::len) + envelope.payload().len();
    wire::write(envelope, HeaderStyle::Underscore, |name, value| {
        size += name.len() + value.as_bytes().len() + LINE;
    });
    size
}

/// The frame of a record is 41 bytes at most, that of the batch around it 61.
const FRAME: usize = 128;

/// Refuses what the client or the broker would not take. So much of the limit stays free that the
/// message can still become a dead letter.
pub(crate) fn check_size(envelope: &Envelope, limit: usize) -> Result<()> {
    /// The headers of a dead letter without its causes.
    const RESERVE: usize = 2_048;
    /// The names of all attributes there are, and the frame.
    const NAMES: usize = 1_024;
    let limit = limit.saturating_sub(RESERVE);
    // Most messages are far from the limit, and need not be counted exactly: names of headers are
    // in the size of the envelope, and base64 makes at most four bytes of three and three of one.
    let head = envelope.size() - envelope.payload().len();
    if envelope.payload().len().saturating_add(8 * head).saturating_add(NAMES) <= limit {
        return Ok(());
    }
    let size = size(envelope);
    if size <= limit {
        return Ok(());
    }
    Err(Error::new(ErrorKind::TooLarge, "the message is larger than the client sends")
        .with_context("bytes", size)
        .with_context("limit in bytes", limit)
        .with_broker(BROKER))
}

/// Where a record came from, for what it does not say itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) stored_at: Option<Timestamp>,
}

/// The envelope of any record. `payload` is `None` if the record has no value.
pub(crate) fn envelope(
    headers: Option<&BorrowedHeaders>,
    key: Option<&[u8]>,
    payload: Option<Bytes>,
    origin: &Origin<'_>,
) -> Envelope {
    let pairs = pairs(headers);
    let tombstone = payload.is_none().then_some((TOMBSTONE_HEADER, &b"1"[..]));
    let context = ForeignContext {
        id: &format_args!("{}/{}/{}", origin.topic, origin.partition, origin.offset),
        source: &format_args!("kafka:{}", origin.topic),
        time: origin.stored_at,
    };
    wire::read(
        HeaderStyle::Underscore,
        borrowed(&pairs).chain(tombstone),
        key,
        payload.unwrap_or_default(),
        &context,
    )
}

/// The dead letter in a record; `None` if it is none. The record's key is not that of the message.
pub(crate) fn letter(
    headers: Option<&BorrowedHeaders>,
    payload: Option<Bytes>,
    origin: &Origin<'_>,
) -> Option<DeadLetter> {
    let envelope = envelope(headers, None, payload, origin);
    let pairs = pairs(headers);
    wire::read_letter(HeaderStyle::Underscore, borrowed(&pairs), envelope)
}

/// The last header of that name, as for the marks that copies of this library carry.
fn header<'a>(headers: Option<&'a BorrowedHeaders>, name: &str) -> Option<&'a [u8]> {
    let headers = headers?;
    (0..headers.count()).rev().find_map(|at| {
        let (found, value) = raw(headers, at)?;
        (found == name.as_bytes()).then_some(value)
    })
}

/// When the record was written, as its topic counts it: by its producer's clock or the broker's.
pub(crate) fn stored_at(time: rdkafka::Timestamp) -> Option<Timestamp> {
    let millis = time.to_millis()?;
    Some(Timestamp::from_micros(millis.saturating_mul(1_000)))
}

type Pairs<'a> = SmallVec<[(Cow<'a, str>, &'a [u8]); 8]>;

/// The headers as `wire` reads them. What is no text in a name is replaced, because an envelope
/// has no other names.
fn pairs(headers: Option<&BorrowedHeaders>) -> Pairs<'_> {
    let mut pairs = Pairs::new();
    let Some(headers) = headers else { return pairs };
    for (name, value) in (0..headers.count()).filter_map(|at| raw(headers, at)) {
        // Nearly all names are text, and to be lossy is slow also where nothing is lost.
        let text = str::from_utf8(name);
        pairs.push((text.map_or_else(|_| String::from_utf8_lossy(name), Cow::Borrowed), value));
    }
    pairs
}

fn borrowed<'a>(pairs: &'a Pairs<'_>) -> impl Iterator<Item = (&'a str, &'a [u8])> {
    pairs.iter().map(|(name, value)| (&**name, *value))
}

/// A header as the bytes that it is. A value that is absent counts as empty, because an envelope
/// has no others. The client's own reading panics on a name that is not UTF-8, and anybody who may
/// write to the topic can send one.
#[expect(unsafe_code, reason = "the client has no reading of names as bytes")]
fn raw(headers: &BorrowedHeaders, at: usize) -> Option<(&[u8], &[u8])> {
    use std::ffi::CStr;
    use std::ptr;

    use rdkafka::bindings::{rd_kafka_header_get_all, rd_kafka_headers_t};
    use rdkafka::types::RDKafkaRespErr;

    let list = ptr::from_ref(headers).cast::<rd_kafka_headers_t>();
    let (mut name, mut value, mut length) = (ptr::null(), ptr::null(), 0);
    // SAFETY: a `&BorrowedHeaders` is the pointer to librdkafka's list, in this version of the
    // client, and the list lives and stays as it is for as long as the reference. The call only
    // reads it, and checks the index.
    let answer = unsafe { rd_kafka_header_get_all(list, at, &mut name, &mut value, &mut length) };
    if answer != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
        return None;
    }
    // SAFETY: the name ends with a NUL and belongs to the list.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes();
    let value: &[u8] = if value.is_null() {
        &[]
    } else {
        // SAFETY: the value has that many bytes, and belongs to the list.
        unsafe { std::slice::from_raw_parts(value.cast(), length) }
    };
    Some((name, value))
}

#[cfg(test)]
mod tests {
    use posthaste_core::{Cause, GroupName, Reason, TopicName};
    use proptest::prelude::*;

    use super::*;

    const ORIGIN: Origin<'_> = Origin {
        topic: "orders",
        partition: 3,
        offset: 81,
        stored_at: Some(Timestamp::from_micros(1_000_000)),
    };

    /// Reads a record back as a consumer does.
    fn read(headers: &OwnedHeaders, key: Option<&[u8]>, payload: &[u8]) -> Envelope {
        let payload = Some(Bytes::copy_from_slice(payload));
        envelope(Some(headers.as_borrowed()), key, payload, &ORIGIN)
    }

    fn listed(pairs: &[(&str, Option<&[u8]>)]) -> OwnedHeaders {
        let add = |all: OwnedHeaders, (key, value): &(&str, Option<&[u8]>)| {
            all.insert(Header { key, value: *value })
        };
        pairs.iter().fold(OwnedHeaders::new(), add)
    }

    /// A header whose name is not UTF-8, as another program can send it.
    #[expect(unsafe_code, reason = "the client writes only text as names")]
    fn odd_name(all: OwnedHeaders, name: &[u8]) -> OwnedHeaders {
        // SAFETY: the client hands the name to librdkafka as pointer and length, which takes any
        // bytes.
        let key = unsafe { std::str::from_utf8_unchecked(name) };
        all.insert(Header { key, value: Some("v") })
    }

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

    type Lines = Vec<(String, Vec<u8>)>;

    /// A fixture of core: key, headers, payload.
    fn fixture(name: &str) -> (Option<Vec<u8>>, Lines, Vec<u8>) {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../posthaste-core/tests/fixtures/wire/");
        let bytes = std::fs::read(format!("{folder}{name}")).unwrap();
        let end = bytes.windows(2).position(|pair| pair == b"\n\n").unwrap();
        let lines = std::str::from_utf8(&bytes[..end]).unwrap().lines();
        let mut headers: Lines = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_owned(), unescape(value)))
            .collect();
        let keyed = headers.first().is_some_and(|(name, _)| name == "(key)");
        let key = keyed.then(|| headers.remove(0).1);
        (key, headers, bytes[end + 2..].to_vec())
    }

    fn unescape(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once('\\') {
            out.extend_from_slice(before.as_bytes());
            let hex = behind.strip_prefix('x').map(|digits| digits.split_at(2));
            rest = match hex {
                Some((digits, rest)) => {
                    out.push(u8::from_str_radix(digits, 16).unwrap());
                    rest
                }
                None => {
                    out.push(if behind.starts_with('n') { b'\n' } else { b'\r' });
                    &behind[1..]
                }
            };
        }
        out.extend_from_slice(rest.as_bytes());
        out
    }

    #[test]
    fn records_are_those_of_the_fixtures() {
        for name in ["kafka.txt", "kafka-binary.txt", "kafka-foreign.txt"] {
            let (key, lines, payload) = fixture(name);
            let lines: Vec<_> =
                lines.iter().map(|(name, value)| (name.as_str(), Some(&value[..]))).collect();
            let read = read(&listed(&lines), key.as_deref(), &payload);
            assert_eq!(read.is_foreign(), name == "kafka-foreign.txt", "{name}");
            assert_eq!(read.key(), key.as_deref(), "{name}");
            assert_eq!(&read.payload()[..], &payload[..], "{name}");
            let written = headers(&read);
            let written: Vec<_> = pairs(Some(written.as_borrowed()))
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_vec()))
                .collect();
            let wanted: Vec<_> = lines
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.unwrap_or_default().to_vec()))
                .collect();
            assert_eq!(written, wanted, "{name}");
        }
    }

    #[test]
    fn a_record_that_says_nothing_is_foreign_and_has_a_lasting_id() {
        let read = envelope(None, Some(b""), Some(Bytes::from_static(b"x")), &ORIGIN);
        assert!(read.is_foreign());
        assert_eq!((read.id(), read.source()), ("orders/3/81", "kafka:orders"));
        assert_eq!(read.time(), ORIGIN.stored_at);
        assert_eq!((read.key(), &read.payload()[..]), (None, &b"x"[..]));
        assert_eq!(read.extension(TOMBSTONE), None);
    }

    #[test]
    fn a_record_without_a_value_says_so_and_so_do_its_copies() {
        let read_back = |sent: &Envelope| read(&headers(sent), sent.key(), sent.payload());
        for sent in [None, Some(headers(&sample()))] {
            let headers = sent.as_ref().map(OwnedHeaders::as_borrowed);
            let gone = envelope(headers, Some(b"k"), None, &ORIGIN);
            assert_eq!(gone.is_foreign(), sent.is_none());
            assert_eq!((gone.extension(TOMBSTONE), gone.key()), (Some("1"), Some(&b"k"[..])));
            assert!(gone.payload().is_empty());
            assert_eq!(read_back(&gone), gone);
        }
        let empty = read(&OwnedHeaders::new(), None, b"");
        assert_eq!(empty.extension(TOMBSTONE), None);
    }

    #[test]
    fn odd_names_and_absent_values_are_read() {
        let all = listed(&[("none", None), ("", Some(b"unnamed")), ("ce_subject", None)]);
        let all = odd_name(all, b"caf\xe9");
        let read = read(&all, None, b"x");
        assert_eq!(read.header("none"), Some(&b""[..]));
        assert_eq!(read.header(""), Some(&b"unnamed"[..]));
        assert_eq!(read.header("caf\u{fffd}"), Some(&b"v"[..]));
        assert_eq!((read.subject(), read.header("ce_subject")), (None, Some(&b""[..])));
        assert!(raw(all.as_borrowed(), 4).is_none());
    }

    #[test]
    fn the_last_header_of_a_name_counts() {
        let all = odd_name(listed(&[("a", Some(b"1")), ("a", Some(b"2")), ("b", None)]), b"\xff");
        let all = Some(all.as_borrowed());
        assert_eq!(header(all, "a"), Some(&b"2"[..]));
        assert_eq!((header(all, "b"), header(all, "c")), (Some(&b""[..]), None));
        assert_eq!(header(None, "a"), None);
    }

    #[test]
    fn a_dead_letter_comes_back_as_written() {
        let (topic, group) = (TopicName::new("orders").unwrap(), GroupName::new("g").unwrap());
        for key in [&b"k\xff\n"[..], b"order-7", b""] {
            let sample = Envelope::builder("t").source("/s").header("tenant", "acme");
            let mut envelope = sample.payload(&b"x"[..]);
            if !key.is_empty() {
                envelope = envelope.key(key);
            }
            let envelope = envelope.build().unwrap();
            let mut letter =
                DeadLetter::new(envelope, Reason::AttemptsExhausted, topic.clone(), group.clone());
            letter.cause = Some(Cause::new("no luck\nat all").handler("charge"));
            letter.attempts = 5;
            let headers = letter_headers(&letter);
            let payload = Some(letter.envelope.payload().clone());
            let read = super::letter(Some(headers.as_borrowed()), payload, &ORIGIN).unwrap();
            assert_eq!(read.envelope, letter.envelope);
            assert_eq!((read.reason, read.attempts), (letter.reason, 5));
            assert_eq!(read.cause, letter.cause);
        }
        let plain = headers(&sample());
        assert!(super::letter(Some(plain.as_borrowed()), Some(Bytes::new()), &ORIGIN).is_none());
        assert!(super::letter(None, None, &ORIGIN).is_none());
    }

    #[test]
    fn times_are_those_of_the_record() {
        use rdkafka::Timestamp::{CreateTime, LogAppendTime, NotAvailable};
        let second = Some(Timestamp::from_micros(1_000_000));
        assert_eq!(stored_at(CreateTime(1_000)), second);
        assert_eq!(stored_at(LogAppendTime(1_000)), second);
        assert_eq!(stored_at(NotAvailable), None);
        assert_eq!(stored_at(CreateTime(i64::MAX)), Some(Timestamp::MAX));
    }

    #[test]
    fn what_is_too_large_is_refused_near_the_limit_too() {
        let limit = 10_000;
        // One message: the time of another one may be written with more digits.
        let sample = sample();
        let of = |bytes: usize| sample.clone().with_payload(vec![0; bytes]);
        let least = size(&of(0));
        check_size(&of(limit - 2_048 - least), limit).unwrap();
        let error = check_size(&of(limit - 2_048 - least + 1), limit).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert!(!error.may_be_stored());
        assert_eq!(check_size(&of(0), 0).unwrap_err().kind(), ErrorKind::TooLarge);
    }

    proptest! {
        #[test]
        fn every_envelope_comes_back(
            values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..4),
            key in prop::collection::vec(any::<u8>(), 0..20),
            subject in "[^\\x00-\\x1f\\x7f-\\x9f]{1,20}",
            extension in "[a-z]{1,8}",
            payload in prop::collection::vec(any::<u8>(), 0..60),
            limit in 0_usize..6_000,
        ) {
            let mut builder = Envelope::builder("t").source("/s").subject(subject);
            if !key.is_empty() {
                builder = builder.key(key);
            }
            for value in &values {
                builder = builder.header("one", value).header("two", value);
            }
            let builder = builder.extension(&format!("x{extension}"), "v");
            // Subjects that core refuses are not the matter here.
            let Ok(sent) = builder.payload(payload).build() else { return Ok(()) };
            let written = headers(&sent);
            let read = read(&written, sent.key(), sent.payload());
            prop_assert!(!read.is_foreign());
            prop_assert_eq!(&read, &sent);
            let exact: usize = pairs(Some(written.as_borrowed()))
                .iter()
                .map(|(name, value)| name.len() + value.len())
                .sum();
            let counted = exact + sent.payload().len() + sent.key().map_or(0, <[u8]>::len);
            prop_assert!(size(&sent) >= counted + 102);
            // The quick look at sizes never says yes where the exact one says no.
            prop_assert_eq!(check_size(&sent, limit).is_ok(), size(&sent) + 2_048 <= limit);
        }

        #[test]
        fn any_record_is_read_and_its_copy_is_the_same(
            found in prop::collection::vec(
                (
                    "(ce_(id|type|source|time|specversion|subject|x)|content-type|ph-[a-z]{0,3}|\\PC{0,6})",
                    prop::option::of(prop::collection::vec(any::<u8>(), 0..12)),
                ),
                0..8,
            ),
            name in prop::collection::vec(1_u8..=255, 0..6),
            key in prop::option::of(prop::collection::vec(any::<u8>(), 0..6)),
            payload in prop::option::of(prop::collection::vec(any::<u8>(), 0..12)),
        ) {
            let found: Vec<_> =
                found.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
            let all = odd_name(listed(&found), &name);
            let payload = payload.map(Bytes::from);
            let first = envelope(Some(all.as_borrowed()), key.as_deref(), payload, &ORIGIN);
            let copy = headers(&first);
            prop_assert_eq!(read(&copy, first.key(), first.payload()), first);
        }
    }
}
