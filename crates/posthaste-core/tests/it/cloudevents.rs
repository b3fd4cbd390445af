//! Envelopes as CloudEvents JSON, and batches of them.

use posthaste_core::envelope::EnvelopeFormat::{CloudEvents, Plain};
use posthaste_core::{Bytes, Envelope, ErrorKind};

use crate::envelope_samples::{
    FORMATS, binary, check_golden, event, foreign, golden, order, part, read_event as read,
};

#[test]
fn documents_are_the_golden_ones() {
    check_golden("cloudevents.json", order().to_json().as_bytes());
    check_golden("cloudevents-binary.json", binary().to_json().as_bytes());
    check_golden("cloudevents-foreign.json", foreign().to_json().as_bytes());
    let batch = [order(), binary()];
    check_golden("cloudevents-batch.json", Envelope::to_json_batch(&batch).as_bytes());
    check_golden("plain.json", Plain.write(&order()).as_bytes());
    check_golden("plain-binary.json", Plain.write(&binary()).as_bytes());
}

#[test]
fn the_golden_documents_are_read_as_what_was_written() {
    assert_eq!(Envelope::from_json(golden("cloudevents.json")).unwrap(), order());
    assert_eq!(Envelope::from_json(golden("cloudevents-binary.json")).unwrap(), binary());
    assert_eq!(Envelope::from_json(golden("cloudevents-foreign.json")).unwrap(), foreign());
    let batch = Envelope::from_json_batch(golden("cloudevents-batch.json")).unwrap();
    assert_eq!(batch, [order(), binary()]);
    assert_eq!(Plain.read(golden("plain.json")).unwrap(), order());
    assert_eq!(Plain.read(golden("plain-binary.json")).unwrap(), binary());
}

#[test]
fn media_types_are_those_of_the_formats() {
    assert_eq!(CloudEvents.content_type(), "application/cloudevents+json");
    assert_eq!(Envelope::JSON_BATCH, "application/cloudevents-batch+json");
    assert_eq!(Plain.content_type(), "application/json");
}

#[test]
fn a_json_payload_is_a_slice_of_the_document() {
    let document = Bytes::from(event(r#","data":{"a":[1,  2]}"#));
    let envelope = Envelope::from_json(document.clone()).unwrap();
    assert_eq!(envelope.payload().as_ref(), br#"{"a":[1,  2]}"#);
    assert!(document.as_ptr_range().contains(&envelope.payload().as_ptr()));
    assert_eq!(envelope.content_type(), Some("application/json"), "what its absence means");
}

#[test]
fn data_is_read_by_its_content_type() {
    let xml = read(r#","datacontenttype":"application/xml","data":"<a b=\"c\"/>""#);
    assert_eq!(xml.payload().as_ref(), br#"<a b="c"/>"#);
    let string = read(r#","datacontenttype":"application/json","data":"text""#);
    assert_eq!(string.payload().as_ref(), br#""text""#);
    let null = read(r#","data":null"#);
    assert_eq!(null.payload().as_ref(), b"null");
    let none = read("");
    assert!(none.payload().is_empty());
    assert_eq!(none.content_type(), None);
    let binary = read(r#","data_base64":"AP8=""#);
    assert_eq!(binary.payload().as_ref(), [0, 255]);
    assert_eq!(binary.content_type(), None);
    let nothing = read(r#","datacontenttype":"text/plain","data":null"#);
    assert!(nothing.payload().is_empty());
}

#[test]
fn data_is_written_by_its_content_type() {
    let written = |content_type: Option<&str>, payload: &'static [u8]| {
        let builder = Envelope::builder("t").id("7").source("/s").payload(payload);
        let builder = match content_type {
            Some(kind) => builder.content_type(kind),
            None => builder,
        };
        let json: serde_json::Value =
            serde_json::from_str(&builder.build().unwrap().to_json()).unwrap();
        (json.get("data").cloned(), json.get("data_base64").cloned())
    };
    let json = Some("application/vnd.acme+json");
    assert_eq!(written(json, br#"{"a":1}"#), (Some(serde_json::json!({"a": 1})), None));
    assert_eq!(written(json, b"null"), (Some(serde_json::Value::Null), None));
    assert_eq!(written(json, b" 1"), (None, Some("IDE=".into())), "white space must come back");
    assert_eq!(written(json, b"{"), (None, Some("ew==".into())), "no JSON");
    assert_eq!(written(json, b""), (None, None));
    assert_eq!(written(Some("text/plain"), b"hi"), (Some("hi".into()), None));
    assert_eq!(written(Some("application/octet-stream"), b"hi"), (None, Some("aGk=".into())));
    assert_eq!(written(None, b"1"), (None, Some("MQ==".into())));
}

#[test]
fn events_of_other_programs_are_understood() {
    let envelope = read(
        r#","subject":null,"time":"2018-04-05T17:31:00+02:00","comexampleothervalue":5,
        "comexampleflag":true,"comexampleunset":null,"sequence":"0012","schemaversion":3,
        "partitionkey":"k","unused":"\ud83d\ude00""#,
    );
    assert_eq!(envelope.subject(), None);
    assert_eq!(envelope.time().unwrap().to_string(), "2018-04-05T15:31:00Z");
    assert_eq!(envelope.extension("comexampleothervalue"), Some("5"));
    assert_eq!(envelope.extension("comexampleflag"), Some("true"));
    assert_eq!(envelope.extension("comexampleunset"), None);
    assert_eq!(envelope.extension("unused"), Some("\u{1f600}"));
    assert_eq!(envelope.sequence(), Some(12));
    assert_eq!(envelope.schema_version(), Some(3));
    assert_eq!(envelope.key(), Some(&b"k"[..]));
    assert!(!envelope.is_foreign());
    assert_eq!(read("").time(), None, "an absent time is not made up");
    let long = "x".repeat(64);
    assert_eq!(read(&format!(r#","{long}":"y""#)).extension(&long), Some("y"));
}

#[test]
fn what_has_another_meaning_elsewhere_is_kept_as_a_header() {
    let envelope = read(r#","sequence":"a1","schemaversion":"draft""#);
    assert_eq!(envelope.sequence(), None);
    assert_eq!(envelope.header("ce-sequence"), Some(&b"a1"[..]));
    assert_eq!(envelope.header("ce-schemaversion"), Some(&b"draft"[..]));
    assert_eq!(Envelope::from_json(envelope.to_json()).unwrap(), envelope);
}

#[test]
fn a_payload_that_is_nested_too_deep_travels_as_base64() {
    for (depth, embedded) in [(128, true), (129, false)] {
        let payload = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let builder = Envelope::builder("t").id("7").source("/s").payload(payload);
        let envelope = builder.content_type("application/json").build().unwrap();
        for format in FORMATS {
            let document = format.write(&envelope);
            assert_eq!(document.contains("[[["), embedded, "{depth} {format:?}");
            assert_eq!(format.read(document).unwrap(), envelope);
        }
    }
}

#[test]
fn a_batch_is_all_or_nothing_and_names_the_bad_event() {
    let none: [Envelope; 0] = [];
    assert_eq!(Envelope::to_json_batch(&none), "[]");
    assert_eq!(Envelope::from_json_batch("[]").unwrap(), none);
    let document = format!("[{},{{}},{}]", event(""), event(""));
    let error = Envelope::from_json_batch(document).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode);
    assert_eq!(part(&error), Some("specversion"));
    assert!(error.context().any(|fact| fact == ("event", "1")), "{error}");
    for document in ["", "{}", "null", "[1", "[,]", "[{}]]"] {
        let error = Envelope::from_json_batch(document).unwrap_err();
        assert_eq!((error.kind(), part(&error)), (ErrorKind::Decode, Some("document")));
    }
    let error = Envelope::from_json_batch("[1]").unwrap_err();
    assert_eq!((error.kind(), part(&error)), (ErrorKind::Decode, Some("document")));
}
