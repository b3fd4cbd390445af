//! What the tests of envelopes share: samples, golden fixtures, and short ways to read and write.

use std::path::Path;

use posthaste_core::envelope::EnvelopeFormat::{self, CloudEvents, Plain};
use posthaste_core::wire::{self, HeaderStyle};
use posthaste_core::{Bytes, Envelope, Error, ErrorKind};

use crate::envelope_arbitrary::context;

/// Every attribute, headers that are text, a JSON payload.
pub(crate) fn order() -> Envelope {
    Envelope::builder("order.placed")
        .id("01936f2e-8a00-7000-8000-000000000007")
        .source("/shop/eu")
        .subject("order 7, caf\u{e9} \u{20ac}")
        .time("2026-11-21T09:30:00.25Z".parse().unwrap())
        .content_type("application/json")
        .data_schema("https://example.org/order/1.json")
        .key("order-7")
        .correlation_id("checkout-42")
        .causation_id("01936f2e-8a00-7000-8000-000000000001")
        .reply_to("order-answers")
        .trace_parent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .trace_state("vendor=opaque")
        .sequence(81)
        .expires_at("2026-11-22T09:30:00Z".parse().unwrap())
        .data_ref("/blobs/7")
        .schema_version(2)
        .header("tenant", "acme")
        .header("hop", "edge")
        .header("hop", "core")
        .extension("comexamplezone", "eu")
        .payload(r#"{"order":"7", "total":12.50}"#)
        .build()
        .unwrap()
}

/// What text cannot carry: the key, values of headers, the payload.
pub(crate) fn binary() -> Envelope {
    Envelope::builder("image.scanned")
        .id("scan 1")
        .source("urn:scanner:1")
        .time("2026-11-21T09:30:00Z".parse().unwrap())
        .content_type("image/png")
        .key(&[0xFF, 0x00, 0x07][..])
        .header("raw", [0x00, 0xFF, b'\n'])
        .header("mixed", "text")
        .header("mixed", "caf\u{e9}")
        .header("edges", " kept ")
        .header("empty", "")
        .payload(&[0x89, b'P', b'N', b'G', 0x0D, 0x0A][..])
        .build()
        .unwrap()
}

/// A message of another program, as a retry or a dead letter carries it on.
pub(crate) fn foreign() -> Envelope {
    let headers: [(&str, &[u8]); 4] = [
        ("Nats-Msg-Id", b"77"),
        ("ph-level", b"7.4"),
        ("content-type", b"text/plain"),
        ("user", b"u-1"),
    ];
    wire::read(HeaderStyle::Underscore, headers, None, "hello".into(), &context())
}

/// Compares with a fixture byte for byte. `POSTHASTE_BLESS=1` writes it instead, for a look at
/// the difference.
pub(crate) fn check_golden(name: &str, actual: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/wire").join(name);
    if std::env::var_os("POSTHASTE_BLESS").is_some() {
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read(&path).unwrap();
    assert!(expected == actual, "{name} differs. Found:\n{}", String::from_utf8_lossy(actual));
}

/// The bytes of a fixture.
pub(crate) fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/wire").join(name);
    std::fs::read(path).unwrap()
}

pub(crate) const FORMATS: [EnvelopeFormat; 2] = [CloudEvents, Plain];

/// A sound event with `members` added.
pub(crate) fn event(members: &str) -> String {
    format!(r#"{{"specversion":"1.0","id":"7","source":"/shop","type":"order.placed"{members}}}"#)
}

pub(crate) fn read_event(members: &str) -> Envelope {
    Envelope::from_json(event(members)).unwrap()
}

pub(crate) fn part(error: &Error) -> Option<&str> {
    error.context().find_map(|(name, value)| (name == "part").then_some(value))
}

pub(crate) fn check_bad(format: EnvelopeFormat, document: impl Into<Bytes>, wanted: &str) {
    let document = document.into();
    let shown = String::from_utf8_lossy(&document).chars().take(200).collect::<String>();
    match format.read(document) {
        Ok(envelope) => panic!("{shown} was read: {envelope:?}"),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Decode, "{shown}: {error}");
            assert_eq!(part(&error), Some(wanted), "{shown}: {error}");
        }
    }
}

pub(crate) type Headers = Vec<(String, Vec<u8>)>;

pub(crate) fn headers(envelope: &Envelope, style: HeaderStyle) -> Headers {
    let mut headers = Vec::new();
    wire::write(envelope, style, |name, value| {
        headers.push((name.to_owned(), value.as_bytes().to_vec()));
    });
    headers
}

/// What the broker carries outside of the headers.
pub(crate) fn record_key(envelope: &Envelope, style: HeaderStyle) -> Option<&[u8]> {
    if style == HeaderStyle::Underscore { envelope.key() } else { None }
}

pub(crate) fn read(
    style: HeaderStyle,
    headers: &Headers,
    key: Option<&[u8]>,
    payload: &Bytes,
) -> Envelope {
    let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
    wire::read(style, headers, key, payload.clone(), &context())
}

pub(crate) fn read_text(style: HeaderStyle, headers: &[(&str, &str)]) -> Envelope {
    let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
    wire::read(style, headers, None, "p".into(), &context())
}

pub(crate) fn round_trip(envelope: &Envelope, style: HeaderStyle) -> Envelope {
    let headers = headers(envelope, style);
    read(style, &headers, record_key(envelope, style), envelope.payload())
}
