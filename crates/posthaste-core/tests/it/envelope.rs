//! Building and reading envelopes.

use std::mem::size_of;

use posthaste_core::envelope::{FOREIGN_SOURCE, FOREIGN_TYPE};
use posthaste_core::{Envelope, EnvelopeBuilder, ErrorKind, Timestamp};
use proptest::prelude::*;

use crate::envelope_arbitrary::envelope;

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn minimal() -> EnvelopeBuilder<'static> {
    Envelope::builder("order.placed").id("7").source("/shop")
}

fn full() -> Envelope {
    minimal()
        .subject("order 7")
        .time(Timestamp::from_micros(1_234_567))
        .content_type("application/json; charset=utf-8")
        .data_schema("https://example.org/order.json")
        .key("order-7")
        .correlation_id("c-1")
        .causation_id("c-0")
        .reply_to("answers")
        .trace_parent(TRACE)
        .trace_state("vendor=1")
        .sequence(u64::MAX)
        .expires_at(Timestamp::MAX)
        .data_ref("/blobs/7")
        .schema_version(u32::MAX)
        .header("tenant", "acme")
        .header("hop", [0, 255])
        .header("hop", "")
        .extension("comexample", "ja \u{e4}")
        .payload(r#"{"total":12.5}"#)
        .build()
        .unwrap()
}

fn check_refused(what: &str, builder: EnvelopeBuilder<'_>, kind: ErrorKind) {
    match builder.build() {
        Ok(envelope) => panic!("{what}: built {envelope:?}"),
        Err(error) => assert_eq!(error.kind(), kind, "{what}: {error}"),
    }
}

#[test]
fn an_envelope_is_six_words() {
    assert_eq!(size_of::<Envelope>(), 48);
    assert_eq!(size_of::<Option<Envelope>>(), 48);
}

#[test]
fn every_attribute_is_given_back() {
    let envelope = full();
    assert_eq!(envelope.id(), "7");
    assert_eq!(envelope.source(), "/shop");
    assert_eq!(envelope.event_type(), "order.placed");
    assert_eq!(envelope.subject(), Some("order 7"));
    assert_eq!(envelope.time(), Some(Timestamp::from_micros(1_234_567)));
    assert_eq!(envelope.content_type(), Some("application/json; charset=utf-8"));
    assert_eq!(envelope.data_schema(), Some("https://example.org/order.json"));
    assert_eq!(envelope.key(), Some(&b"order-7"[..]));
    assert_eq!(envelope.correlation_id(), Some("c-1"));
    assert_eq!(envelope.causation_id(), Some("c-0"));
    assert_eq!(envelope.reply_to(), Some("answers"));
    assert_eq!(envelope.trace_parent(), Some(TRACE));
    assert_eq!(envelope.trace_state(), Some("vendor=1"));
    assert_eq!(envelope.sequence(), Some(u64::MAX));
    assert_eq!(envelope.expires_at(), Some(Timestamp::MAX));
    assert_eq!(envelope.data_ref(), Some("/blobs/7"));
    assert_eq!(envelope.schema_version(), Some(u32::MAX));
    assert_eq!(envelope.extension("comexample"), Some("ja \u{e4}"));
    assert_eq!(envelope.extensions().count(), 1);
    assert_eq!(envelope.payload().as_ref(), br#"{"total":12.5}"#);
    assert!(!envelope.is_foreign());
}

#[test]
fn what_is_not_set_is_absent() {
    let envelope = minimal().build().unwrap();
    assert_eq!(envelope.subject(), None);
    assert_eq!(envelope.content_type(), None);
    assert_eq!(envelope.data_schema(), None);
    assert_eq!(envelope.key(), None);
    assert_eq!(envelope.correlation_id(), None);
    assert_eq!(envelope.causation_id(), None);
    assert_eq!(envelope.reply_to(), None);
    assert_eq!(envelope.trace_parent(), None);
    assert_eq!(envelope.trace_state(), None);
    assert_eq!(envelope.sequence(), None);
    assert_eq!(envelope.expires_at(), None);
    assert_eq!(envelope.data_ref(), None);
    assert_eq!(envelope.schema_version(), None);
    assert_eq!(envelope.headers().count(), 0);
    assert_eq!(envelope.extensions().count(), 0);
    assert!(envelope.payload().is_empty());
}

#[test]
fn id_and_time_are_filled_in() {
    let before = Timestamp::now();
    let one = Envelope::builder("tick").source("/clock").build().unwrap();
    let two = Envelope::builder("tick").source("/clock").build().unwrap();
    let id = uuid_version(one.id());
    assert_eq!(id, 7, "{}", one.id());
    assert_ne!(one.id(), two.id());
    assert!(one.time().is_some_and(|time| time >= before && time <= Timestamp::now()));
}

fn uuid_version(id: &str) -> u32 {
    assert_eq!(id.len(), 36);
    id.chars().nth(14).and_then(|digit| digit.to_digit(16)).unwrap()
}

#[test]
fn the_source_comes_from_the_builder_else_from_the_default() {
    let error = Envelope::builder("tick").build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("source"), "{error}");
    let built = Envelope::builder("tick").build_with("/default").unwrap();
    assert_eq!(built.source(), "/default");
    assert_eq!(minimal().build_with("/default").unwrap().source(), "/shop");
    let error = Envelope::builder("tick").build_with("not a uri").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn an_attribute_that_breaks_its_rule_is_refused() {
    let long = "x".repeat(1025);
    let invalid = |what: &str, builder| check_refused(what, builder, ErrorKind::Invalid);
    invalid("empty id", minimal().id(""));
    invalid("id with a line break", minimal().id("7\n8"));
    invalid("empty type", minimal().event_type(""));
    invalid("type with NUL", minimal().event_type("a\0b"));
    invalid("empty source", minimal().source(""));
    invalid("source with a space", minimal().source("/my shop"));
    invalid("source beyond ASCII", minimal().source("/caf\u{e9}"));
    invalid("source with a broken escape", minimal().source("/a%2"));
    invalid("source with a wrong escape", minimal().source("/a%zz"));
    invalid("empty subject", minimal().subject(""));
    invalid("subject with C1 control", minimal().subject("a\u{85}b"));
    invalid("subject with a noncharacter", minimal().subject("a\u{fffe}b"));
    invalid("subject with a plane's noncharacter", minimal().subject("a\u{1ffff}b"));
    invalid("content type without slash", minimal().content_type("json"));
    invalid("content type without subtype", minimal().content_type("text/"));
    invalid("content type with two lines", minimal().content_type("text/plain\r\nx: y"));
    invalid("schema without scheme", minimal().data_schema("/order.json"));
    invalid("schema with an empty scheme", minimal().data_schema(":order"));
    invalid("empty key", minimal().key(""));
    invalid("empty borrowed key", minimal().key_ref(b""));
    invalid("empty correlation id", minimal().correlation_id(""));
    invalid("causation id with a tab", minimal().causation_id("a\tb"));
    invalid("empty reply to", minimal().reply_to(""));
    invalid("empty trace state", minimal().trace_state(""));
    invalid("data ref with a space", minimal().data_ref("a b"));
    invalid("empty extension value", minimal().extension("ext", ""));
    invalid("empty extension name", minimal().extension("", "x"));
    invalid("upper case extension", minimal().extension("Ext", "x"));
    invalid("extension with dash", minimal().extension("my-ext", "x"));
    invalid("extension of 21", minimal().extension("abcdefghijklmnopqrstu", "x"));
    for known in ["id", "time", "partitionkey", "sequence", "phheaders", "data", "schemaversion"] {
        invalid(known, minimal().extension(known, "x"));
    }
    let too_large = |what: &str, builder| check_refused(what, builder, ErrorKind::TooLarge);
    too_large("id", minimal().id(&long));
    too_large("source", minimal().source(&long));
    too_large("type", minimal().event_type(&long));
    let fits = "x".repeat(1024);
    minimal().id(&fits).source(&fits).event_type(&fits).build().unwrap();
    minimal().extension("abcdefghijklmnopqrst", "x").build().unwrap();
}

#[test]
fn a_trace_parent_has_the_format_of_w3c() {
    for good in [
        TRACE,
        "00-00000000000000000000000000000001-0000000000000001-00",
        "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what the future will be like",
    ] {
        minimal().trace_parent(good).build().unwrap();
    }
    for bad in [
        "",
        "00",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.more",
        "00-0af7651916cd43dd8448eb211c80319c0b7ad6b7169203331-01",
        "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-\u{e4}af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
    ] {
        check_refused(bad, minimal().trace_parent(bad), ErrorKind::Invalid);
    }
}

#[test]
fn names_that_belong_to_others_are_refused_and_the_rule_is_named() {
    for (name, rule) in [
        ("ph-attempt", "`ph-`"),
        ("PH-anything", "`ph-`"),
        ("ce-id", "`ce-`"),
        ("CE_time", "`ce_`"),
        ("cloudEvents:id", "`cloudEvents`"),
        ("cloudevents_id", "`cloudEvents`"),
        ("Nats-Msg-Id", "`Nats-`"),
        ("nats-ttl", "`Nats-`"),
        ("x-death", "`x-death`"),
        ("X-Death-count", "`x-death`"),
        ("x-first-death-reason", "`x-first-death-`"),
        ("x-last-death-queue", "`x-last-death-`"),
        ("x-delivery-count", "`x-delivery-count`"),
        ("AWS.Trace", "`AWS.`"),
        ("amazon.thing", "`Amazon.`"),
        ("Content-Type", "`content-type`"),
        ("", "printable"),
        ("two words", "printable"),
        ("colon:", "printable"),
        ("caf\u{e9}", "printable"),
        ("line\n", "printable"),
    ] {
        let error = minimal().header(name, "x").build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{name}");
        assert!(error.message().contains(rule), "{name}: {error}");
    }
    check_refused("256", minimal().header(&"n".repeat(256), ""), ErrorKind::Invalid);
    for name in ["x", "phone", "cent", "natsu", "x-dear", "aws", "content-types", "!#$%&'*+.^_`|~"]
    {
        minimal().header(name, "x").build().unwrap();
    }
    minimal().header(&"n".repeat(255), "").build().unwrap();
}

#[test]
fn everything_but_the_payload_has_a_limit_in_bytes() {
    let big = vec![b'x'; (1 << 20) - 512];
    let envelope = minimal().header("big", &big).build().unwrap();
    assert!(envelope.size() > big.len());
    let error = minimal().header("big", &big).header("more", [0; 512]).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    minimal().payload(vec![0; 2 << 20]).build().unwrap();
}

#[test]
fn the_first_mistake_is_the_one_reported() {
    let error = minimal().subject("").key("").build().unwrap_err();
    assert!(error.message().contains("subject"), "{error}");
}

#[test]
fn headers_keep_order_and_repeated_names() {
    let envelope = full();
    let headers: Vec<_> = envelope.headers().collect();
    let expected: [(&str, &[u8]); 3] = [("tenant", b"acme"), ("hop", &[0, 255]), ("hop", b"")];
    assert_eq!(headers, expected);
    assert_eq!(envelope.header("hop"), Some(&[0, 255][..]));
    assert_eq!(envelope.header_all("hop").collect::<Vec<_>>(), [&[0, 255][..], b""]);
    assert_eq!(envelope.header("Tenant"), None);
    let without = envelope.to_builder().remove_header("hop").build().unwrap();
    assert_eq!(without.headers().collect::<Vec<_>>(), [("tenant", &b"acme"[..])]);
    assert_eq!(without.extension("comexample"), envelope.extension("comexample"));
}

#[test]
fn an_attribute_set_twice_has_the_last_value() {
    let envelope = minimal()
        .subject("one")
        .subject("two")
        .extension("ext", "one")
        .extension("other", "x")
        .extension("ext", "two")
        .build()
        .unwrap();
    assert_eq!(envelope.subject(), Some("two"));
    assert_eq!(envelope.extension("ext"), Some("two"));
    assert_eq!(envelope.extensions().count(), 2);
    let without = envelope.to_builder().remove_extension("ext").build().unwrap();
    assert_eq!(without.extension("ext"), None);
}

#[test]
fn a_changed_copy_differs_only_in_the_change() {
    let envelope = full();
    let traced = envelope.to_builder().trace_state("vendor=2").build().unwrap();
    assert_eq!(traced.trace_state(), Some("vendor=2"));
    assert_ne!(traced, envelope);
    assert_eq!(traced.to_builder().trace_state("vendor=1").build().unwrap(), envelope);
    let other = envelope.clone().with_payload("other");
    assert_eq!(other.payload().as_ref(), b"other");
    assert_ne!(other, envelope);
    assert_eq!(other.with_payload(envelope.payload().clone()), envelope);
}

#[test]
fn a_clone_shares_the_payload() {
    let envelope = full();
    let payload = envelope.payload().as_ptr();
    assert_eq!(envelope.clone().into_payload().as_ptr(), payload);
    assert_eq!(envelope.to_builder().build().unwrap().payload().as_ptr(), payload);
}

#[test]
fn debug_shows_no_payload_and_no_value_of_a_header() {
    let envelope = minimal().header("authorization", "hunter2").payload("secret").build().unwrap();
    for shown in [format!("{envelope:?}"), format!("{envelope:#?}")] {
        assert!(!shown.contains("hunter2") && !shown.contains("secret"), "{shown}");
        assert!(shown.contains("authorization") && shown.contains("order.placed"), "{shown}");
        assert!(shown.contains("6 bytes"), "{shown}");
    }
    let builder = minimal().header("authorization", "hunter2").payload("secret");
    let shown = format!("{builder:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("secret"), "{shown}");
}

#[test]
fn a_lenient_builder_keeps_what_can_be_kept() {
    let envelope = EnvelopeBuilder::lenient()
        .foreign(true)
        .id("")
        .subject("line\nbreak")
        .content_type("json")
        .key("")
        .header("x-death", "1")
        .header("two words", [0xFF])
        .extension("Odd", "x")
        .extension("good", "y")
        .payload("p")
        .build_lenient();
    assert!(envelope.is_foreign());
    assert_eq!(uuid_version(envelope.id()), 7);
    assert_eq!(envelope.source(), FOREIGN_SOURCE);
    assert_eq!(envelope.event_type(), FOREIGN_TYPE);
    assert_eq!(envelope.time(), None);
    assert_eq!(envelope.subject(), None);
    assert_eq!(envelope.header("ce-subject"), Some(&b"line\nbreak"[..]));
    assert_eq!(envelope.header("ce-datacontenttype"), Some(&b"json"[..]));
    assert_eq!(envelope.header("two words"), Some(&[0xFF][..]));
    assert_eq!(envelope.header("x-death"), Some(&b"1"[..]));
    assert_eq!(envelope.header("Odd"), Some(&b"x"[..]));
    assert_eq!(envelope.extension("good"), Some("y"));
    assert_eq!(envelope.key(), None);
    // A layer can still add what it must, and what it adds is checked.
    let traced = envelope.to_builder().trace_parent(TRACE).build().unwrap();
    assert_eq!(traced.trace_parent(), Some(TRACE));
    assert_eq!(traced.headers().count(), envelope.headers().count());
    assert!(traced.is_foreign());
    assert_eq!(traced.time(), None, "an unknown time is not made up");
    check_refused("added", envelope.to_builder().header("x-death", ""), ErrorKind::Invalid);
}

#[test]
fn what_a_broker_delivered_may_be_larger_than_what_may_be_published() {
    let big = vec![b'x'; 2 << 20];
    let read = EnvelopeBuilder::lenient().header("big", &big).build_lenient();
    assert_eq!(read.header("big"), Some(&big[..]));
    let traced = read.to_builder().trace_parent(TRACE).build().unwrap();
    assert_eq!(traced.header("big"), Some(&big[..]));
}

proptest! {
    #[test]
    fn a_rebuilt_envelope_is_the_same(envelope in envelope()) {
        prop_assert_eq!(envelope.to_builder().build_lenient(), envelope.clone());
        prop_assert!(envelope.size() >= envelope.payload().len() + envelope.id().len());
        let shown = format!("{envelope:?}");
        prop_assert!(!shown.is_empty());
    }

    #[test]
    fn any_text_is_accepted_or_refused_without_panic(value in ".{0,40}", name in ".{0,30}") {
        let builder = Envelope::builder(&value).id(&value).source(&value).subject(&value);
        let builder = builder.content_type(&value).data_schema(&value).trace_parent(&value);
        let builder = builder.header(&name, &value).extension(&name, &value).key(value.clone());
        if let Err(error) = builder.build() {
            prop_assert_eq!(error.kind(), ErrorKind::Invalid);
        }
    }
}
