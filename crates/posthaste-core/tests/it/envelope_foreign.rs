//! Messages that this library did not write, or that are not quite sound.

use posthaste_core::envelope::FOREIGN_TYPE;
use posthaste_core::wire::{self, ForeignContext, HeaderStyle};
use posthaste_core::{Bytes, Envelope, Timestamp};

use crate::envelope_arbitrary::{STYLES, context};
use crate::envelope_samples::{headers, order, read, read_text, round_trip};

#[test]
fn a_message_that_tells_nothing_is_foreign() {
    let headers = [("tenant", "acme"), ("content-type", "text/plain"), ("Nats-Msg-Id", "9")];
    for style in STYLES {
        let envelope = read_text(style, &headers);
        assert!(envelope.is_foreign());
        assert_eq!(envelope.id(), "orders/3/81");
        assert_eq!(envelope.source(), "kafka:orders");
        assert_eq!(envelope.event_type(), FOREIGN_TYPE);
        assert_eq!(envelope.time(), Some(Timestamp::from_micros(1_000_000)));
        assert_eq!(envelope.content_type(), Some("text/plain"));
        assert_eq!(envelope.header("tenant"), Some(&b"acme"[..]));
        assert_eq!(envelope.header("Nats-Msg-Id"), Some(&b"9"[..]));
        assert_eq!(envelope.payload().as_ref(), b"p");
        assert_eq!(envelope.key(), None);
    }
}

#[test]
fn what_a_foreign_message_names_is_believed() {
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let envelope = read_text(
        HeaderStyle::Colon,
        &[
            ("cloudEvents:id", "message-id"),
            ("cloudEvents:type", "their.type"),
            ("traceparent", trace),
            ("tracestate", "a=b"),
            ("correlation-id", "theirs"),
        ],
    );
    assert!(envelope.is_foreign());
    assert_eq!(envelope.id(), "message-id");
    assert_eq!(envelope.event_type(), "their.type");
    assert_eq!(envelope.source(), "kafka:orders");
    assert_eq!(envelope.trace_parent(), Some(trace));
    assert_eq!(envelope.trace_state(), Some("a=b"));
    assert_eq!(envelope.header("traceparent"), Some(trace.as_bytes()));
    assert_eq!(envelope.header("correlation-id"), Some(&b"theirs"[..]));
}

#[test]
fn one_odd_attribute_does_not_cost_the_others() {
    let sound = [
        ("ce_specversion", "1.0"),
        ("ce_id", "7"),
        ("ce_source", "/s"),
        ("ce_type", "t"),
        ("ce_subject", "s"),
    ];
    for (name, value) in [
        ("ce_time", "yesterday"),
        ("ce_sequence", "first"),
        ("ce_schemaversion", "-1"),
        ("ce_expirytime", ""),
        ("ce_traceparent", "00"),
        ("ce_dataschema", "no scheme"),
        ("ce_partitionkey", ""),
        ("ce_partitionkeybase64", "*"),
        ("ce_Bad_Name", "x"),
        ("ce_", "x"),
        ("ce_data", "x"),
        ("ce_ext", "line\nbreak"),
        ("content-type", "nonsense"),
    ] {
        let mut headers = sound.to_vec();
        headers.push((name, value));
        let envelope = read_text(HeaderStyle::Underscore, &headers);
        assert_eq!(envelope.header(name), Some(value.as_bytes()), "{name}");
        assert_eq!((envelope.id(), envelope.subject()), ("7", Some("s")), "{name}");
        assert!(!envelope.is_foreign(), "{name}");
        for style in STYLES {
            assert_eq!(round_trip(&envelope, style), envelope, "{name} {style:?}");
        }
    }
    for (missing, _) in &sound[..4] {
        let headers: Vec<_> = sound.iter().copied().filter(|(name, _)| name != missing).collect();
        let envelope = read_text(HeaderStyle::Underscore, &headers);
        assert!(envelope.is_foreign(), "{missing}");
        assert_eq!(envelope.subject(), Some("s"), "{missing}");
    }
    for bad in ["0.3", "2.0", "", "one"] {
        let mut headers = sound.to_vec();
        headers[0].1 = bad;
        let envelope = read_text(HeaderStyle::Underscore, &headers);
        assert!(envelope.is_foreign(), "{bad}");
        assert_eq!(envelope.header("ce_specversion"), Some(bad.as_bytes()));
    }
}

#[test]
fn names_of_attributes_are_read_in_any_case() {
    let envelope = read_text(
        HeaderStyle::Dash,
        &[("Ce-Specversion", "1.0"), ("CE-ID", "7"), ("Ce-Source", "/s"), ("ce-TYPE", "t")],
    );
    assert!(!envelope.is_foreign());
    assert_eq!((envelope.id(), envelope.event_type()), ("7", "t"));
}

#[test]
fn a_foreign_message_stays_foreign_and_whole_when_it_is_carried_on() {
    let headers = [
        ("x-death", "1"),
        ("ce-", "x"),
        ("ph-b64-x", "not base64"),
        ("two words", "x"),
        ("a:b%c\"d\"", "x"),
        ("", "nameless"),
        ("caf\u{e9}", "\u{e9}"),
    ];
    let envelope = read_text(HeaderStyle::Colon, &headers);
    assert_eq!(envelope.headers().count(), headers.len());
    for style in STYLES {
        let carried = round_trip(&envelope, style);
        assert!(carried.is_foreign());
        assert_eq!(carried, envelope, "{style:?}");
    }
}

#[test]
fn the_key_of_the_record_wins() {
    let headers = headers(&order(), HeaderStyle::Underscore);
    assert!(!headers.iter().any(|(name, _)| name.contains("partitionkey")));
    let with = |key: Option<&[u8]>, header: Option<&str>| {
        let mut headers = headers.clone();
        if let Some(value) = header {
            headers.push(("ce_partitionkey".to_owned(), value.as_bytes().to_vec()));
        }
        read(HeaderStyle::Underscore, &headers, key, &Bytes::new())
    };
    assert_eq!(with(Some(b"a"), None).key(), Some(&b"a"[..]));
    assert_eq!(with(None, Some("b")).key(), Some(&b"b"[..]));
    assert_eq!(with(Some(b""), Some("b")).key(), Some(&b"b"[..]));
    assert_eq!(with(Some(b""), None).key(), None);
    let both = with(Some(b"a"), Some("b"));
    assert_eq!(both.key(), Some(&b"a"[..]));
    assert_eq!(both.header("ce_partitionkey"), Some(&b"b"[..]));
    assert_eq!(with(Some(b"a"), Some("a")).header("ce_partitionkey"), None);
}

#[test]
fn an_event_in_structured_mode_is_taken_apart() {
    for (style, name) in [
        (HeaderStyle::Dash, "Content-Type"),
        (HeaderStyle::Underscore, "content-type"),
        (HeaderStyle::Colon, "content-type"),
    ] {
        let media = b"application/cloudevents+json; charset=UTF-8";
        let headers: [(&str, &[u8]); 2] = [(name, media), ("tenant", b"beside")];
        let document = Bytes::from(order().to_json());
        let envelope = wire::read(style, headers, Some(b"record"), document, &context());
        let expected = order().to_builder().header("tenant", "beside").key("record").build();
        assert_eq!(envelope, expected.unwrap(), "{style:?}");
        let broken = wire::read(style, headers, None, "{".into(), &context());
        assert!(broken.is_foreign());
        assert_eq!(broken.payload().as_ref(), b"{");
        assert_eq!(broken.content_type(), Some("application/cloudevents+json; charset=UTF-8"));
    }
    for (media, taken) in [
        ("application/cloudevents", true),
        ("APPLICATION/CloudEvents+JSON", true),
        ("application/cloudevents-batch+json", false),
        ("application/cloudeventsish", false),
    ] {
        let headers = [("content-type", media.as_bytes())];
        let document = Bytes::from(order().to_json());
        let style = HeaderStyle::Underscore;
        let envelope = wire::read(style, headers, None, document, &context());
        assert_eq!(envelope.is_foreign(), !taken, "{media}");
    }
}

#[test]
fn a_payload_that_is_an_event_itself_is_not_taken_apart() {
    let inner = Envelope::builder("wrapped")
        .id("8")
        .source("/gateway")
        .content_type(Envelope::JSON)
        .payload(order().to_json())
        .build()
        .unwrap();
    for style in STYLES {
        assert_eq!(round_trip(&inner, style), inner, "{style:?}");
    }
}

#[test]
fn the_context_of_a_foreign_message_need_not_be_sound() {
    let long = "x".repeat(2000);
    let context = ForeignContext { id: &long, source: &"queue:my orders/\u{e9}", time: None };
    let envelope = wire::read(HeaderStyle::Dash, [], None, Bytes::new(), &context);
    assert_eq!(envelope.source(), "queue:my%20orders/%C3%A9");
    assert_eq!(envelope.id().len(), 36, "an id is made up");
    assert_eq!(envelope.time(), None);
    assert!(!format!("{context:?}").is_empty());
}
