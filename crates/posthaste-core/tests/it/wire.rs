//! Envelopes as headers, and packed.

use std::collections::HashMap;

use posthaste_core::wire::{self, HeaderStyle, HeaderValue};
use posthaste_core::{Bytes, Envelope, ErrorKind};
use proptest::prelude::*;

use crate::envelope_arbitrary::{STYLES, built, envelope, odd_headers};
use crate::envelope_samples::{
    Headers, binary, check_golden, foreign, golden, headers, order, read, read_text, record_key,
    round_trip,
};

/// A message as its fixture shows it: one header a line, a blank line, the payload.
fn show(envelope: &Envelope, style: HeaderStyle) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(key) = record_key(envelope, style) {
        out.extend_from_slice(format!("(key): {}\n", key.escape_ascii()).as_bytes());
    }
    for (name, value) in headers(envelope, style) {
        out.extend_from_slice(format!("{name}: {}\n", value.escape_ascii()).as_bytes());
    }
    out.push(b'\n');
    out.extend_from_slice(envelope.payload());
    out
}

/// The inverse of `show`.
fn parse(fixture: &[u8]) -> (Option<Vec<u8>>, Headers, Bytes) {
    let end = fixture.windows(2).position(|pair| pair == b"\n\n").unwrap();
    let head = std::str::from_utf8(&fixture[..end]).unwrap();
    let mut key = None;
    let mut headers = Vec::new();
    for line in head.lines() {
        let (name, value) = line.split_once(": ").unwrap();
        let value = unescape(value);
        if name == "(key)" {
            key = Some(value);
        } else {
            headers.push((name.to_owned(), value));
        }
    }
    (key, headers, Bytes::copy_from_slice(&fixture[end + 2..]))
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match bytes.next().unwrap() {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'x' => {
                let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            other => other,
        });
    }
    out
}

type Sample = fn() -> Envelope;

const GOLDEN: [(&str, HeaderStyle, Sample); 9] = [
    ("nats.txt", HeaderStyle::Dash, order),
    ("nats-binary.txt", HeaderStyle::Dash, binary),
    ("nats-foreign.txt", HeaderStyle::Dash, foreign),
    ("kafka.txt", HeaderStyle::Underscore, order),
    ("kafka-binary.txt", HeaderStyle::Underscore, binary),
    ("kafka-foreign.txt", HeaderStyle::Underscore, foreign),
    ("amqp.txt", HeaderStyle::Colon, order),
    ("amqp-binary.txt", HeaderStyle::Colon, binary),
    ("amqp-foreign.txt", HeaderStyle::Colon, foreign),
];

#[test]
fn headers_are_the_golden_ones() {
    for (name, style, envelope) in GOLDEN {
        check_golden(name, &show(&envelope(), style));
    }
}

#[test]
fn the_golden_headers_are_read_as_what_was_written() {
    for (name, style, envelope) in GOLDEN {
        let (key, headers, payload) = parse(&golden(name));
        assert_eq!(read(style, &headers, key.as_deref(), &payload), envelope(), "{name}");
    }
}

#[test]
fn packed_envelopes_are_the_golden_ones() {
    for (name, envelope) in [("packed.json", order()), ("packed-binary.json", binary())] {
        check_golden(name, wire::pack(&envelope).as_bytes());
        let packed = String::from_utf8(golden(name)).unwrap();
        assert_eq!(wire::unpack(&packed, envelope.payload().clone()).unwrap(), envelope);
    }
    let envelope = binary();
    let (head, body) = wire::pack_text(&envelope);
    check_golden("packed-text.txt", format!("{head}\n\n{body}").as_bytes());
    let fixture = String::from_utf8(golden("packed-text.txt")).unwrap();
    let (head, body) = fixture.split_once("\n\n").unwrap();
    assert_eq!(wire::unpack(head, body.to_owned()).unwrap(), envelope);
}

#[test]
fn attributes_are_percent_encoded_as_the_binding_says() {
    let envelope = Envelope::builder("t")
        .id("7")
        .source("/s")
        .subject("Euro \u{20ac} \u{1f600}")
        .correlation_id("100% \"sure\"")
        .build()
        .unwrap();
    let headers = headers(&envelope, HeaderStyle::Dash);
    let value = |name: &str| {
        let found = headers.iter().find(|(found, _)| found == name);
        std::str::from_utf8(&found.unwrap().1).unwrap()
    };
    assert_eq!(value("ce-subject"), "Euro%20%E2%82%AC%20%F0%9F%98%80");
    assert_eq!(value("ce-correlationid"), "100%25%20%22sure%22");
    for (sent, subject) in [
        ("Euro%20%E2%82%AC", Some("Euro \u{20ac}")),
        ("%e2%82%ac", Some("\u{20ac}")),
        ("%41unneeded", Some("Aunneeded")),
        ("\"quoted \\\"text\\\" \\\\\"", Some("quoted \"text\" \\")),
        ("\"%41\"", Some("A")),
        ("100%", Some("100%")),
        ("%4", Some("%4")),
        ("%zz", Some("%zz")),
        ("%2541", Some("%41")),
        ("caf\u{e9}", Some("caf\u{e9}")),
        ("%C0%A0", None),
        ("%FF", None),
        ("%0A", None),
    ] {
        let envelope = read_text(
            HeaderStyle::Dash,
            &[
                ("ce-specversion", "1.0"),
                ("ce-id", "7"),
                ("ce-source", "/s"),
                ("ce-type", "t"),
                ("ce-subject", sent),
            ],
        );
        assert_eq!(envelope.subject(), subject, "{sent}");
        let kept = envelope.header("ce-subject");
        assert_eq!(kept.is_some(), subject.is_none(), "{sent}");
        assert!(!envelope.is_foreign(), "{sent}");
    }
}

#[test]
fn headers_that_brokers_and_this_library_add_are_not_the_applications() {
    for style in STYLES {
        let mut headers = headers(&order(), style);
        for name in ["Nats-Msg-Id", "x-death", "x-delivery-count", "AWS.Trace", wire::ATTEMPT] {
            headers.push((name.to_owned(), b"1".to_vec()));
        }
        let key = record_key(&order(), style).map(<[u8]>::to_vec);
        let envelope = read(style, &headers, key.as_deref(), order().payload());
        assert_eq!(envelope, order(), "{style:?}");
    }
}

#[test]
fn values_of_headers_do_not_show() {
    let shown = format!("{:?} {:?}", HeaderValue::Text("hunter2"), HeaderValue::Bytes(b"hunter2"));
    assert!(!shown.contains("hunter2"));
    assert_eq!(HeaderValue::Text("a").as_text(), Some("a"));
    assert_eq!(HeaderValue::Bytes(b"a").as_text(), None);
}

#[test]
fn own_names_are_refused_as_application_headers() {
    for name in wire::OWN_HEADERS.into_iter().chain([wire::BASE64_PREFIX]) {
        let error = Envelope::builder("t").source("/s").header(name, "").build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{name}");
    }
}

#[test]
fn an_empty_body_is_not_empty_on_brokers_of_text() {
    let empty = order().with_payload(Bytes::new());
    let (head, body) = wire::pack_text(&empty);
    assert_eq!(body, "-");
    assert_eq!(wire::unpack(&head, body.into_owned()).unwrap(), empty);
    let odd = order().with_payload("\u{0}\u{fffe}");
    let (head, body) = wire::pack_text(&odd);
    assert!(body.is_ascii());
    assert_eq!(wire::unpack(&head, body.into_owned()).unwrap(), odd);
    let text = order();
    let (_, body) = wire::pack_text(&text);
    assert_eq!(body.as_bytes(), text.payload());
}

#[test]
fn what_is_not_packed_is_refused_and_the_part_is_named() {
    let sound = r#""specversion":"1.0","id":"7","source":"/s","type":"t""#;
    for (packed, part) in [
        ("".to_owned(), "document"),
        ("{}".to_owned(), "specversion"),
        (format!(r#"{{{sound},"data":1}}"#), "data"),
        (format!(r#"{{{sound},"data_base64":"MQ=="}}"#), "data"),
        (format!(r#"{{{sound},"phbody":"hex"}}"#), "phbody"),
        (format!(r#"{{{sound},"phbody":"base64"}}"#), "phbody"),
        (format!(r#"{{{sound},"time":"now"}}"#), "time"),
    ] {
        let error = wire::unpack(&packed, "*").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Decode, "{packed}");
        assert!(error.context().any(|fact| fact == ("part", part)), "{packed}: {error}");
    }
}

/// A client that keeps headers in a map of lists, as several do on NATS: the order of values
/// under one name is kept, that of names is not.
fn through_map(headers: &Headers) -> Headers {
    let mut map: HashMap<&str, Vec<&Vec<u8>>> = HashMap::new();
    for (name, value) in headers {
        map.entry(name).or_default().push(value);
    }
    let flat = map.into_iter().flat_map(|(name, values)| {
        values.into_iter().map(move |value| (name.to_owned(), value.clone()))
    });
    flat.collect()
}

fn sorted(envelope: &Envelope) -> Vec<(&str, &[u8])> {
    let mut headers: Vec<_> = envelope.headers().collect();
    // Stable: values of one name keep their order.
    headers.sort_by_key(|(name, _)| *name);
    headers
}

proptest! {
    #[test]
    fn every_envelope_survives_every_style(envelope in envelope()) {
        for style in STYLES {
            prop_assert_eq!(&round_trip(&envelope, style), &envelope, "{:?}", style);
        }
    }

    #[test]
    fn text_headers_are_what_every_client_can_carry(envelope in envelope()) {
        let mut bad = None;
        wire::write(&envelope, HeaderStyle::Dash, |name, value| {
            let text = value.as_text().unwrap_or("\u{0}");
            let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            let named = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b':');
            if !printable || text.trim() != text || !named {
                bad = Some((name.to_owned(), text.to_owned()));
            }
        });
        prop_assert_eq!(bad, None);
    }

    #[test]
    fn values_of_one_name_keep_their_order_in_clients_with_maps(envelope in built()) {
        let headers = through_map(&headers(&envelope, HeaderStyle::Dash));
        let read = read(HeaderStyle::Dash, &headers, None, envelope.payload());
        prop_assert_eq!(sorted(&read), sorted(&envelope));
        prop_assert_eq!(read.key(), envelope.key());
        prop_assert_eq!(read.id(), envelope.id());
    }

    #[test]
    fn every_envelope_survives_packing(envelope in envelope()) {
        let packed = wire::pack(&envelope);
        prop_assert_eq!(&wire::unpack(&packed, envelope.payload().clone())?, &envelope);
        let (head, body) = wire::pack_text(&envelope);
        let xml = |text: &str| text.chars().all(|c| {
            c >= ' ' && c != '\u{fffe}' && c != '\u{ffff}' || c == '\t' || c == '\n' || c == '\r'
        });
        prop_assert!(xml(&head) && xml(&body) && !body.is_empty());
        prop_assert_eq!(&wire::unpack(&head, body.into_owned())?, &envelope);
    }

    #[test]
    fn any_headers_are_read(headers in odd_headers(), style in prop::sample::select(STYLES.to_vec())) {
        let envelope = read(style, &headers, None, &Bytes::from_static(b"p"));
        prop_assert!(!envelope.id().is_empty() && !envelope.source().is_empty());
        prop_assert!(!envelope.event_type().is_empty());
        prop_assert_eq!(envelope.payload().as_ref(), b"p");
    }

    #[test]
    fn any_text_is_unpacked_or_refused(packed in ".{0,80}") {
        if let Err(error) = wire::unpack(&packed, "p") {
            prop_assert!(error.context().any(|(name, _)| name == "part"));
        }
    }
}
