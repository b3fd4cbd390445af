//! Envelopes of every shape, for property tests.

use posthaste_core::wire::{self, ForeignContext, HeaderStyle};
use posthaste_core::{Envelope, Timestamp};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

pub(crate) const STYLES: [HeaderStyle; 3] =
    [HeaderStyle::Dash, HeaderStyle::Underscore, HeaderStyle::Colon];

/// What an adapter would say about a message that tells nothing about itself.
pub(crate) fn context() -> ForeignContext<'static> {
    ForeignContext {
        id: &"orders/3/81",
        source: &"kafka:orders",
        time: Some(Timestamp::from_micros(1_000_000)),
    }
}

pub(crate) fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[ -~]{1,24}",
        2 => "\\PC{1,16}",
        1 => Just("%41 \"quoted\" \\ %zz".to_owned()),
        1 => Just("\"all quoted\"".to_owned()),
    ]
}

fn uri() -> impl Strategy<Value = String> {
    prop_oneof![
        "(/[a-z0-9._~-]{1,8}){1,3}",
        Just("urn:shop:caf%C3%A9".to_owned()),
        Just("https://example.org/a?b=c#d".to_owned()),
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..24),
        "[ -~]{0,24}".prop_map(String::into_bytes),
        "\\PC{0,12}".prop_map(String::into_bytes),
        Just(b" edges ".to_vec()),
        Just(b"two\r\nlines\0".to_vec()),
    ]
}

fn time() -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        any::<i64>().prop_map(Timestamp::from_micros),
        (0_i64..4_000_000_000_000_000).prop_map(Timestamp::from_micros),
    ]
}

fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>()
            .prop_filter("JSON knows no infinity", |number| number.is_finite())
            .prop_map(|number| format!("{number:e}")),
        "\\PC{0,8}".prop_map(|text| serde_json::to_string(&text).unwrap()),
        Just(r#""\ud83d\ude00 \/""#.to_owned()),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(", "))),
            vec(inner, 0..4).prop_map(|items| {
                let members = items.iter().map(|item| format!("\"same\" : {item}"));
                format!("{{{}}}", members.collect::<Vec<_>>().join(","))
            }),
        ]
    })
}

/// A content type and a payload that may or may not be what it says.
fn content() -> impl Strategy<Value = (Option<String>, Vec<u8>)> {
    let json_type = prop_oneof![
        Just("application/json"),
        Just("application/vnd.acme+JSON; charset=utf-8"),
        Just("text/json"),
    ];
    let other = prop_oneof![
        Just(None),
        Just(Some("text/plain")),
        Just(Some("application/xml")),
        Just(Some("application/octet-stream")),
        Just(Some("application/cloudevents+json")),
        Just(Some("application/cloudevents-batch+json")),
    ];
    prop_oneof![
        (json_type.clone(), json()).prop_map(|(kind, json)| (Some(kind.into()), json.into_bytes())),
        (json_type.clone(), json())
            .prop_map(|(kind, json)| (Some(kind.into()), format!(" {json}\n").into_bytes())),
        (json_type, bytes()).prop_map(|(kind, bytes)| (Some(kind.into()), bytes)),
        (other.clone(), bytes()).prop_map(|(kind, bytes)| (kind.map(Into::into), bytes)),
        (other, json()).prop_map(|(kind, json)| (kind.map(Into::into), json.into_bytes())),
    ]
}

fn header_name() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-e]",
        2 => "h[!-9;-~]{0,16}",
        1 => Just("traceparent".to_owned()),
        1 => Just("payloadEncoding".to_owned()),
        1 => Just("eventId".to_owned()),
    ]
}

fn extension() -> impl Strategy<Value = (String, String)> {
    ("x[a-z0-9]{0,19}", text())
}

/// What an application can build.
pub(crate) fn built() -> impl Strategy<Value = Envelope> {
    let identity = (text(), uri(), text(), option::of(text()), option::of(time()));
    let content = (content(), option::of(Just("urn:schema:1".to_owned())));
    let relations = (option::of(text()), option::of(text()), option::of(text()));
    let trace = option::of((any::<u64>(), text()));
    let numbers =
        (any::<Option<u64>>(), option::of(time()), any::<Option<u32>>(), option::of(uri()));
    let key = option::of(bytes().prop_filter("a key is not empty", |key| !key.is_empty()));
    let headers = vec((header_name(), bytes()), 0..6);
    let extensions = vec(extension(), 0..3);
    (identity, content, relations, trace, numbers, key, headers, extensions).prop_map(
        |(identity, content, relations, trace, numbers, key, headers, extensions)| {
            let (id, source, kind, subject, time) = identity;
            let ((content_type, payload), schema) = content;
            let (correlation, causation, reply_to) = relations;
            let (sequence, expiry, version, data_ref) = numbers;
            let mut builder = Envelope::builder(kind).id(id).source(source).payload(payload);
            macro_rules! set {
                ($($setter:ident = $value:expr;)*) => {
                    $(if let Some(value) = $value { builder = builder.$setter(value); })*
                };
            }
            set! {
                subject = subject;
                time = time;
                content_type = content_type;
                data_schema = schema;
                correlation_id = correlation;
                causation_id = causation;
                reply_to = reply_to;
                sequence = sequence;
                expires_at = expiry;
                schema_version = version;
                data_ref = data_ref;
                key = key;
            }
            if let Some((span, state)) = trace {
                let parent = format!("00-{:032x}-{:016x}-01", u128::from(span) + 1, span | 1);
                builder = builder.trace_parent(parent).trace_state(state);
            }
            for (name, value) in &headers {
                builder = builder.header(name, value);
            }
            for (name, value) in &extensions {
                builder = builder.extension(name, value);
            }
            builder.build().unwrap()
        },
    )
}

/// Names that mean something to somebody, and names that nobody should use.
fn odd_name() -> impl Strategy<Value = String> {
    let known = prop_oneof![
        Just("specversion"),
        Just("id"),
        Just("source"),
        Just("type"),
        Just("time"),
        Just("datacontenttype"),
        Just("partitionkey"),
        Just("partitionkeybase64"),
        Just("sequence"),
        Just("traceparent"),
        Just("data"),
        Just("phheaders"),
        Just("comexample"),
        Just("Odd_Name"),
        Just(""),
    ];
    let prefix = prop_oneof![Just("ce-"), Just("ce_"), Just("cloudEvents:"), Just("CE-")];
    prop_oneof![
        (prefix, known).prop_map(|(prefix, name)| format!("{prefix}{name}")),
        Just("content-type".to_owned()),
        Just("Content-Type".to_owned()),
        Just("Nats-Msg-Id".to_owned()),
        Just("x-death".to_owned()),
        Just("ph-level".to_owned()),
        Just("ph-foreign".to_owned()),
        Just("ph-b64-h%3a".to_owned()),
        Just("traceparent".to_owned()),
        Just("two words: \"ä\"\n".to_owned()),
        Just(String::new()),
        ".{0,12}",
    ]
}

fn odd_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(b"1.0".to_vec()),
        Just(b"1".to_vec()),
        Just(b"application/json".to_vec()),
        Just(b"application/cloudevents+json".to_vec()),
        Just(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_vec()),
        Just(b"2026-11-21T09:30:00Z".to_vec()),
        Just(b"%C0%A0".to_vec()),
        Just(b"/source".to_vec()),
        bytes(),
    ]
}

/// Headers as any program may send them.
pub(crate) fn odd_headers() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    vec((odd_name(), odd_value()), 0..10)
}

/// What adapters make of the messages of other programs.
pub(crate) fn foreign() -> impl Strategy<Value = Envelope> {
    let style = prop::sample::select(STYLES.to_vec());
    let key = option::of(bytes());
    (style, odd_headers(), key, bytes()).prop_map(|(style, headers, key, payload)| {
        let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        wire::read(style, headers, key.as_deref(), payload.into(), &context())
    })
}

/// Every envelope there can be.
pub(crate) fn envelope() -> impl Strategy<Value = Envelope> {
    prop_oneof![2 => built(), 1 => foreign()]
}
