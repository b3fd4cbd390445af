//! Typed messages: what is published is what is decoded, and nothing else is taken for it.

use posthaste_core::codec::{Codec, Decode, Encode, Json, Raw, Text};
use posthaste_core::*;
use proptest::prelude::*;

#[test]
fn content_types_that_a_codec_reads() {
    for (found, json, text) in [
        (None, true, true),
        (Some("application/json"), true, false),
        (Some("Application/JSON; charset=utf-8"), true, false),
        (Some("application/vnd.acme+json"), true, false),
        (Some("text/json"), true, true),
        (Some("text/plain"), false, true),
        (Some("TEXT/csv"), false, true),
        (Some("application/octet-stream"), false, false),
        (Some(""), false, false),
        (Some("text"), false, false),
        (Some("ä"), false, false),
    ] {
        assert_eq!(Json::accepts(found), json, "{found:?}");
        assert_eq!(Text::accepts(found), text, "{found:?}");
        assert!(Raw::accepts(found));
    }
}

#[test]
fn payloads_of_another_shape_are_decode_errors_that_quote_nothing() {
    let secret = "hunter2";
    for payload in ["", "{", "nul", "[1,", "\"hunter2\"", "{\"hunter2\":", "\u{0}"] {
        let error = <Json as Decode<u32>>::decode(&Bytes::from(payload)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Decode);
        assert!(!format!("{error:?}").contains(secret), "{error:?}");
    }
    let error = <Text as Decode<String>>::decode(&Bytes::from_static(b"\xff")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode);
}

#[test]
fn a_value_without_a_form_is_an_encode_error() {
    use std::collections::HashMap;
    let keyed_by_pair = HashMap::from([((1, 2), 3)]);
    let error = <Json as Encode<_>>::encode(&keyed_by_pair, &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Encode);
}

proptest! {
    #[test]
    fn values_round_trip(text in any::<String>(), bytes in any::<Vec<u8>>(), number in any::<i64>()) {
        let mut out = Vec::new();
        <Text as Encode<str>>::encode(&text, &mut out).unwrap();
        prop_assert_eq!(&<Text as Decode<String>>::decode(&out.into()).unwrap(), &text);
        let mut out = Vec::new();
        <Raw as Encode<[u8]>>::encode(&bytes, &mut out).unwrap();
        prop_assert_eq!(<Raw as Decode<Bytes>>::decode(&out.into()).unwrap(), bytes);
        let mut out = Vec::new();
        <Json as Encode<_>>::encode(&(number, &text), &mut out).unwrap();
        let back: (i64, String) = Json::decode(&out.into()).unwrap();
        prop_assert_eq!(back, (number, text));
    }

    #[test]
    fn arbitrary_payloads_never_panic(bytes in any::<Vec<u8>>()) {
        let payload = Bytes::from(bytes);
        let _ = <Json as Decode<Vec<String>>>::decode(&payload);
        let _ = <Text as Decode<String>>::decode(&payload);
    }
}
