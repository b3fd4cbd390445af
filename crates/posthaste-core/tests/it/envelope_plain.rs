//! Envelopes in the plain JSON format.

use posthaste_core::Envelope;
use posthaste_core::envelope::EnvelopeFormat::Plain;

use crate::envelope_samples::check_bad;

#[test]
fn the_plain_format_is_read_as_other_programs_write_it() {
    let document = r#"{"eventType":"OrderPlaced","eventId":"evt-1","timestamp":"2026-11-21T09:30:00Z",
        "version":"1.0","payload":{"orderId": 7},"aggregateId":"order-7","sequenceNumber":3,
        "metadata":{"userId":"u-1","correlationId":"c-1","causationId":"c-0","tags":["a"],"none":null}}"#;
    let envelope = Plain.read(document).unwrap();
    assert_eq!(envelope.event_type(), "OrderPlaced");
    assert_eq!(envelope.id(), "evt-1");
    assert_eq!(envelope.time().unwrap().to_string(), "2026-11-21T09:30:00Z");
    assert_eq!(envelope.schema_version(), Some(1));
    assert_eq!(envelope.payload().as_ref(), br#"{"orderId": 7}"#);
    assert_eq!(envelope.content_type(), Some("application/json"));
    assert_eq!(envelope.correlation_id(), Some("c-1"));
    assert_eq!(envelope.causation_id(), Some("c-0"));
    let headers: Vec<_> = envelope.headers().collect();
    let expected: [(&str, &[u8]); 4] = [
        ("aggregateId", b"order-7"),
        ("sequenceNumber", b"3"),
        ("userId", b"u-1"),
        ("tags", br#"["a"]"#),
    ];
    assert_eq!(headers, expected);
    assert_eq!(Plain.read(Plain.write(&envelope)).unwrap(), envelope);
}

#[test]
fn the_version_of_the_plain_format_is_that_of_the_schema() {
    let document =
        |version: &str| format!(r#"{{"eventType":"t","eventId":"7"{version},"payload":1}}"#);
    for (version, number, text) in [
        ("", None, "1.0"),
        (r#","version":null"#, None, "1.0"),
        (r#","version":"1.0""#, Some(1), "1.0"),
        (r#","version":"2""#, Some(2), "2"),
        (r#","version":"3.1.4""#, Some(3), "3.1.4"),
        (r#","version":4"#, Some(4), "4"),
        (r#","version":"4294967295.0""#, Some(u32::MAX), "4294967295.0"),
    ] {
        let envelope = Plain.read(document(version)).unwrap();
        assert_eq!(envelope.schema_version(), number, "{version}");
        let written = Plain.write(&envelope);
        assert!(written.contains(&format!(r#""version":"{text}""#)), "{version}: {written}");
        assert_eq!(Plain.read(written).unwrap(), envelope, "{version}");
    }
}

#[test]
fn headers_stand_in_metadata_where_they_can() {
    let build = |headers: &[(&str, &str)]| {
        let builder = Envelope::builder("t").id("7").source("/s");
        let add = |builder, (name, value): &(&str, &str)| {
            posthaste_core::EnvelopeBuilder::header(builder, name, value)
        };
        Plain.write(&headers.iter().fold(builder, add).build().unwrap())
    };
    assert!(build(&[("userId", "u-1")]).contains(r#""userId":"u-1""#));
    for headers in [&[("a", "1"), ("a", "2")][..], &[("source", "x")], &[("a", "\n")]] {
        assert!(build(headers).contains(r#""headers":[["#), "{headers:?}");
    }
}

#[test]
fn a_plain_document_that_is_unsound_is_refused_and_the_part_is_named() {
    let sound = r#""eventType":"t","eventId":"7","payload":1"#;
    for document in ["", "[]", "null", "{", r#"{"eventType":"t","eventType":"u"}"#] {
        check_bad(Plain, document, "document");
    }
    for (document, part) in [
        (r#""eventId":"7","payload":1"#, "eventType"),
        (r#""eventType":"t","payload":1"#, "eventId"),
        (r#""eventType":"t","eventId":"7""#, "payload"),
        (r#""eventType":7,"eventId":"7","payload":1"#, "eventType"),
        (r#""eventType":"","eventId":"7","payload":1"#, "eventType"),
        (r#""eventType":"t","eventId":7,"payload":1"#, "eventId"),
        (r#""eventType":"t","eventId":null,"payload":1"#, "eventId"),
        (r#""eventType":"t","eventId":"7","payload":1,"timestamp":0"#, "timestamp"),
        (r#""eventType":"t","eventId":"7","payload":1,"timestamp":"now""#, "timestamp"),
        (r#""eventType":"t","eventId":"7","payload":1,"version":"one""#, "version"),
        (r#""eventType":"t","eventId":"7","payload":1,"version":"""#, "version"),
        (r#""eventType":"t","eventId":"7","payload":1,"version":"1.x""#, "version"),
        (r#""eventType":"t","eventId":"7","payload":1,"version":"4294967296""#, "version"),
        (r#""eventType":"t","eventId":"7","payload":1,"version":[1]"#, "version"),
        (r#""eventType":"t","eventId":"7","payload":1,"version":-1"#, "version"),
        (r#""eventType":"t","eventId":"7","payload":1,"metadata":7"#, "metadata"),
        (r#""eventType":"t","eventId":"7","payload":1,"metadata":[]"#, "metadata"),
        (r#""eventType":"t","eventId":"7","payload":1,"bad":"\ud800""#, "bad"),
    ] {
        check_bad(Plain, format!("{{{document}}}"), part);
    }
    for (member, part) in [
        (r#""source":"a b""#, "source"),
        (r#""source":7"#, "source"),
        (r#""contentType":"json""#, "contentType"),
        (r#""key":"""#, "key"),
        (r#""key":"a","keyBase64":"YQ==""#, "keyBase64"),
        (r#""keyBase64":"*""#, "keyBase64"),
        (r#""sequence":"x""#, "sequence"),
        (r#""sequence":-1"#, "sequence"),
        (r#""sequence":18446744073709551616"#, "sequence"),
        (r#""expiresAt":"soon""#, "expiresAt"),
        (r#""schemaVersion":"x""#, "schemaVersion"),
        (r#""traceParent":"x""#, "traceParent"),
        (r#""payloadEncoding":"hex""#, "payloadEncoding"),
        (r#""payloadEncoding":1"#, "payloadEncoding"),
        (r#""payloadEncoding":"base64""#, "payload"),
        (r#""foreign":"yes""#, "foreign"),
        (r#""extensions":7"#, "extensions"),
        (r#""extensions":{"Bad":"x"}"#, "extensions"),
        (r#""extensions":{"ext":{}}"#, "extensions"),
        (r#""headers":{}"#, "headers"),
        (r#""headers":[["a"]]"#, "headers"),
    ] {
        check_bad(Plain, format!(r#"{{{sound},"metadata":{{{member}}}}}"#), part);
    }
    let deep = format!(r#""payload":{}{}"#, "[".repeat(129), "]".repeat(129));
    check_bad(Plain, format!(r#"{{"eventType":"t","eventId":"7",{deep}}}"#), "payload");
}
