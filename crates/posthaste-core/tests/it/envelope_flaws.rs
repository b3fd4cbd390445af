//! Documents that are no envelopes: refused with the part that is wrong, never a panic.

use posthaste_core::envelope::EnvelopeFormat::CloudEvents;
use posthaste_core::{Bytes, Envelope, ErrorKind};
use proptest::prelude::*;

use crate::envelope_arbitrary::envelope;
use crate::envelope_samples::{FORMATS, check_bad, event, part, read_event as read};

#[test]
fn a_document_that_is_no_event_is_refused_and_the_part_is_named() {
    for document in [
        "",
        " ",
        "{",
        "}",
        "[]",
        "null",
        "true",
        "7",
        "\"text\"",
        "{}{}",
        "{\"id\"}",
        "{\"id\":}",
        "{\"id\":\"7\",}",
        "{'id':'7'}",
        "{id:7}",
        "{\"id\":\"7\"}x",
        "\u{feff}{}",
        "{\"a\":1 \"b\":2}",
        "{\"a\":01}",
        "{\"a\":\"\n\"}",
        "{\"a\":nul}",
        "{\"\\ud800\":1}",
        "[{\"id\":\"7\"}]",
        "{\"id\":\"7\",\"id\":\"8\"}",
        "{\"a\":1,\"\\u0061\":2}",
        "{\"data\":1,\"data\":2}",
    ] {
        check_bad(CloudEvents, document.to_owned(), "document");
    }
    check_bad(CloudEvents, &b"{\"a\":\"\xFF\"}"[..], "document");
    check_bad(CloudEvents, &b"\xFF\xFE{\0}\0"[..], "document");
    let members: Vec<_> = (0..300).map(|index| format!("\"a{index}\":1")).collect();
    check_bad(CloudEvents, format!("{{{}}}", members.join(",")), "document");
    check_bad(CloudEvents, "[".repeat(200_000), "document");
    check_bad(CloudEvents, format!("{{\"data\":{}", "[".repeat(200_000)), "document");
}

#[test]
fn an_event_that_lacks_a_required_attribute_is_refused() {
    check_bad(CloudEvents, "{}", "specversion");
    let id = r#""id":"7""#;
    let source = r#""source":"/s""#;
    let kind = r#""type":"t""#;
    let spec = r#""specversion":"1.0""#;
    check_bad(CloudEvents, format!("{{{id},{source},{kind}}}"), "specversion");
    check_bad(CloudEvents, format!("{{{spec},{source},{kind}}}"), "id");
    check_bad(CloudEvents, format!("{{{spec},{id},{kind}}}"), "source");
    check_bad(CloudEvents, format!("{{{spec},{id},{source}}}"), "type");
    for (member, part) in [
        (r#""specversion":null"#, "specversion"),
        (r#""specversion":"0.3""#, "specversion"),
        (r#""specversion":"""#, "specversion"),
        (r#""specversion":1.0"#, "specversion"),
        (r#""specversion":{"major":1}"#, "specversion"),
    ] {
        check_bad(CloudEvents, format!("{{{member},{id},{source},{kind}}}"), part);
    }
    for (member, part) in [
        (r#""id":null"#, "id"),
        (r#""id":"""#, "id"),
        (r#""id":7"#, "id"),
        (r#""id":true"#, "id"),
        (r#""id":["7"]"#, "id"),
        (r#""id":"\u0007""#, "id"),
        (r#""id":"\ud800""#, "id"),
    ] {
        check_bad(CloudEvents, format!("{{{spec},{member},{source},{kind}}}"), part);
    }
    for source in [r#"null"#, r#""""#, r#""a b""#, r#""caf\u00e9""#, "{}", "0"] {
        check_bad(CloudEvents, format!("{{{spec},{id},\"source\":{source},{kind}}}"), "source");
    }
    for kind in [r#"null"#, r#""""#, r#""a\nb""#, "[]", "1"] {
        check_bad(CloudEvents, format!("{{{spec},{id},{source},\"type\":{kind}}}"), "type");
    }
}

#[test]
fn an_event_with_an_unsound_attribute_is_refused_and_the_attribute_is_named() {
    for (member, part) in [
        (r#""time":"yesterday""#, "time"),
        (r#""time":"2026-13-01T00:00:00Z""#, "time"),
        (r#""time":"2026-11-21""#, "time"),
        (r#""time":1700000000"#, "time"),
        (r#""time":"""#, "time"),
        (r#""time":{}"#, "time"),
        (r#""subject":"""#, "subject"),
        (r#""subject":7"#, "subject"),
        (r#""subject":"a\u0000b""#, "subject"),
        (r#""subject":"\uffff""#, "subject"),
        (r#""datacontenttype":"json""#, "datacontenttype"),
        (r#""datacontenttype":"""#, "datacontenttype"),
        (r#""datacontenttype":1"#, "datacontenttype"),
        (r#""dataschema":"order.json""#, "dataschema"),
        (r#""dataschema":"https://a b""#, "dataschema"),
        (r#""correlationid":"""#, "correlationid"),
        (r#""causationid":[]"#, "causationid"),
        (r#""replyto":"\t""#, "replyto"),
        (r#""traceparent":"00-1-2-3""#, "traceparent"),
        (r#""tracestate":"""#, "tracestate"),
        (r#""dataref":"a b""#, "dataref"),
        (r#""expirytime":"soon""#, "expirytime"),
        (r#""expirytime":60"#, "expirytime"),
        (r#""sequence":{}"#, "sequence"),
        (r#""sequence":1.5"#, "sequence"),
        (r#""sequence":1e3"#, "sequence"),
        (r#""schemaversion":[1]"#, "schemaversion"),
        (r#""partitionkey":"""#, "partitionkey"),
        (r#""partitionkey":7"#, "partitionkey"),
        (r#""partitionkeybase64":"***""#, "partitionkeybase64"),
        (r#""partitionkeybase64":"""#, "partitionkeybase64"),
        (r#""partitionkey":"a","partitionkeybase64":"YQ==""#, "partitionkeybase64"),
        (r#""comExample":"x""#, "comExample"),
        (r#""com_example":"x""#, "com_example"),
        (r#""com-example":null"#, "com-example"),
        (r#""":"x""#, ""),
        (r#""caf\u00e9":"x""#, "caf\u{e9}"),
        (r#""line\n":"x""#, "line\\n"),
        (r#""ext":{"a":1}"#, "ext"),
        (r#""ext":[1]"#, "ext"),
        (r#""ext":1.5"#, "ext"),
        (r#""ext":"\u0001""#, "ext"),
        (r#""phheaders":"{""#, "phheaders"),
        (r#""phheaders":7"#, "phheaders"),
        (r#""phheaders":"[1]""#, "phheaders"),
        (r#""phheaders":[["a"]]"#, "phheaders"),
        (r#""phheaders":[["a","b","c"]]"#, "phheaders"),
        (r#""phheaders":[[1,"b"]]"#, "phheaders"),
        (r#""phheaders":[["a",1]]"#, "phheaders"),
        (r#""phheaders":[["a",{"base64":"*"}]]"#, "phheaders"),
        (r#""phheaders":[["a",{"hex":"00"}]]"#, "phheaders"),
        (r#""phforeign":"yes""#, "phforeign"),
        (r#""phforeign":1"#, "phforeign"),
        (r#""phbody":"base64""#, "phbody"),
        (r#""data":1,"data_base64":"MQ==""#, "data_base64"),
        (r#""data_base64":"MQ==","data":null"#, "data"),
        (r#""data_base64":"*""#, "data_base64"),
        (r#""data_base64":"MQ""#, "data_base64"),
        (r#""data_base64":7"#, "data_base64"),
        (r#""datacontenttype":"text/plain","data":7"#, "data"),
        (r#""datacontenttype":"text/plain","data":{}"#, "data"),
        (r#""data":"\ud800","datacontenttype":"text/plain""#, "data"),
    ] {
        check_bad(CloudEvents, event(&format!(",{member}")), part);
    }
    let long = "x".repeat(65);
    check_bad(CloudEvents, event(&format!(r#","{long}":"x""#)), &long);
    let deep = |depth| format!(r#","data":{}{}"#, "[".repeat(depth), "]".repeat(depth));
    check_bad(CloudEvents, event(&deep(129)), "data");
    check_bad(CloudEvents, event(&deep(100_000)), "data");
    read(&deep(128));
}

#[test]
fn what_is_too_large_to_be_read_is_refused() {
    let long = "x".repeat(1025);
    for (members, named) in [
        (format!(r#","correlationid":"{}""#, "x".repeat(1 << 20)), "attributes"),
        (format!(r#","phheaders":[["a","{}"]]"#, "x".repeat(1 << 20)), "attributes"),
        (format!(r#","phheaders":[["a","{}"]]"#, "x".repeat(17 << 20)), "phheaders"),
        (format!(r#","phheaders":[{}["",""]]"#, r#"["",""],"#.repeat(65_536)), "phheaders"),
    ] {
        let error = Envelope::from_json(event(&members)).unwrap_err();
        assert_eq!((error.kind(), part(&error)), (ErrorKind::TooLarge, Some(named)), "{error}");
    }
    let document = format!(r#"{{"specversion":"1.0","id":"{long}","source":"/s","type":"t"}}"#);
    let error = Envelope::from_json(document).unwrap_err();
    assert_eq!((error.kind(), part(&error)), (ErrorKind::TooLarge, Some("id")));
    let document = vec![b' '; (128 << 20) + 1];
    let error = Envelope::from_json(document).unwrap_err();
    assert_eq!((error.kind(), part(&error)), (ErrorKind::TooLarge, Some("document")));
    let batch = format!("[{}1]", "1,".repeat(65_536));
    let error = Envelope::from_json_batch(batch).unwrap_err();
    assert_eq!((error.kind(), part(&error)), (ErrorKind::TooLarge, Some("document")));
}

/// JSON that is nearly an event.
fn near_event() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        prop::sample::select(vec![
            "specversion",
            "id",
            "source",
            "type",
            "time",
            "data",
            "data_base64",
            "phheaders",
            "datacontenttype",
            "sequence",
            "partitionkey",
            "phbody",
            "eventType",
            "eventId",
            "payload",
            "metadata",
            "version",
            "timestamp",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,8}",
    ];
    let value = prop_oneof![
        prop::sample::select(vec![
            "null",
            "true",
            "1",
            "-1.5e9",
            "\"1.0\"",
            "\"7\"",
            "{}",
            "[]",
            "[[\"a\",\"b\"]]",
            "\"text/plain\"",
            "\"application/json\"",
            "\"AAAA\"",
            "\"2026-11-21T09:30:00Z\"",
            "{\"source\":\"/s\",\"headers\":[]}",
            "\"\\ud800\"",
        ])
        .prop_map(str::to_owned),
        ".{0,10}".prop_map(|text| serde_json::to_string(&text).unwrap()),
    ];
    prop::collection::vec((name, value), 0..10).prop_map(|members| {
        let members = members
            .iter()
            .map(|(name, value)| format!("{}:{value}", serde_json::to_string(name).unwrap()));
        format!("{{{}}}", members.collect::<Vec<_>>().join(","))
    })
}

/// Whatever comes, it is an envelope that can be written and read again, or an error that names
/// its part.
fn check_any(document: &Bytes) {
    for format in FORMATS {
        match format.read(document.clone()) {
            Ok(envelope) => assert_eq!(format.read(format.write(&envelope)).unwrap(), envelope),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::Decode | ErrorKind::TooLarge));
                assert!(part(&error).is_some(), "{error}");
            }
        }
    }
    if let Err(error) = Envelope::from_json_batch(document.clone()) {
        assert!(part(&error).is_some(), "{error}");
    }
}

proptest! {
    #[test]
    fn every_envelope_survives_every_format(envelope in envelope()) {
        for format in FORMATS {
            let document = format.write(&envelope);
            let value: Result<serde_json::Value, _> = serde_json::from_str(&document);
            prop_assert!(value.is_ok(), "{}", document);
            prop_assert_eq!(&format.read(document)?, &envelope);
        }
    }

    #[test]
    fn every_batch_survives(events in prop::collection::vec(envelope(), 0..4)) {
        let document = Envelope::to_json_batch(&events);
        prop_assert_eq!(Envelope::from_json_batch(document)?, events);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check_any(&Bytes::from(bytes));
    }

    #[test]
    fn any_object_is_read_or_refused(document in near_event()) {
        check_any(&Bytes::from(document));
    }

    #[test]
    fn a_document_with_a_flaw_is_read_or_refused(
        envelope in envelope(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        for format in FORMATS {
            let mut document = format.write(&envelope).into_bytes();
            let at = at.index(document.len());
            document[at] = byte;
            check_any(&Bytes::from(document.clone()));
            document.truncate(at);
            check_any(&Bytes::from(document));
        }
    }
}
