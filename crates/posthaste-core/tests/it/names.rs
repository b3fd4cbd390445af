//! Names, times and topic settings: what is legal everywhere, and what is refused by name.

use std::time::Duration;

use posthaste_core::*;
use proptest::prelude::*;

fn refused<T: std::fmt::Debug>(outcome: Result<T>, part: &str) {
    let error = outcome.expect_err(part);
    assert_eq!(error.kind(), ErrorKind::Invalid, "{part}: {error}");
}

#[test]
fn topics_that_are_legal_on_every_broker() {
    let long = "a".repeat(100);
    for name in ["a", "0", "orders", "Orders", "orders.eu", "a.b.c.d", "a-b", "a_b", "a-b_c", &long]
    {
        assert_eq!(TopicName::new(name).unwrap().as_str(), name);
    }
}

#[test]
fn topics_that_are_not() {
    let long = "a".repeat(101);
    let names = [
        "",
        ".",
        "..",
        "a.",
        ".a",
        "a..b",
        "-a",
        "a-",
        "_a",
        "a_",
        "a--b",
        "a__b",
        "a-_b",
        "a_-b",
        "a.-b",
        "a-.b",
        "a._b",
        "a_.b",
        "a b",
        " a",
        "a ",
        "a\n",
        "a\tb",
        "a\0b",
        "a/b",
        "a\\b",
        "a*",
        "a>",
        "a#",
        "a:b",
        "a,b",
        "a;b",
        "a'b",
        "a\"b",
        "a(b",
        "a)b",
        "a{b",
        "a}b",
        "a[b",
        "a]b",
        "a<b",
        "a=b",
        "a+b",
        "a~b",
        "a!b",
        "a@b",
        "a$b",
        "a%b",
        "a^b",
        "a&b",
        "a|b",
        "a?b",
        "ä",
        "ordérs",
        "注文",
        "a\u{200b}b",
        "a\u{7f}",
        "\u{feff}a",
        "🚀",
        &long,
    ];
    for name in names {
        refused(TopicName::new(name), name);
    }
}

#[test]
fn groups_are_one_segment_and_not_reserved() {
    let (longest, long) = ("g".repeat(40), "g".repeat(41));
    for name in ["billing", "Billing-2", "a_b", "0", &longest] {
        assert_eq!(GroupName::new(name).unwrap().as_str(), name);
    }
    for name in ["", "unrouted", "a.b", "a__b", "-a", "a-", "a b", "a*", "ä", "a\n", &long] {
        refused(GroupName::new(name), name);
    }
}

#[test]
fn bound_names_need_not_be_portable() {
    let (longest, long) = ("x".repeat(255), "x".repeat(256));
    for name in ["LEGACY/Orders (v1)", "a..b", "__x", "ä", "amq.topic", "a b", &longest] {
        assert_eq!(BoundName::new(name).unwrap().as_str(), name);
    }
    for name in ["", "a\nb", "a\0", "\u{7f}", "a\u{85}b", "\t", &long] {
        refused(BoundName::new(name), name);
    }
}

#[test]
fn derived_names_cannot_be_topics() {
    let (topic, group) = (TopicName::new("orders").unwrap(), GroupName::new("billing").unwrap());
    assert_eq!(group.derived(&topic, None), "orders__billing");
    assert_eq!(group.derived(&topic, Some("dlq")), "orders__billing__dlq");
    refused(TopicName::new(group.derived(&topic, Some("dlq"))), "derived");
}

#[test]
fn topic_settings_that_make_no_sense_are_refused() {
    let zero = Duration::ZERO;
    let settings = [
        TopicConfig::new("no spaces"),
        TopicConfig::new("orders").group("no.dots"),
        TopicConfig::new("orders").ordered(0),
        TopicConfig::new("orders").ordered(1_025),
        TopicConfig::new("orders").max_age(zero),
        TopicConfig::new("orders").max_bytes(0),
        TopicConfig::new("orders").max_messages(0),
        TopicConfig::new("orders").deduplication_window(zero),
        TopicConfig::new("orders").replicas(0),
        TopicConfig::queue("orders").group("second"),
    ];
    for setting in settings {
        let shown = format!("{setting:?}");
        refused(setting.check(), &shown);
    }
    let twice = TopicConfig::new("orders").group("billing").group("billing").check().unwrap();
    assert_eq!(twice.groups.len(), 1);
}

#[test]
fn times_are_rfc_3339_with_microseconds() {
    let same = [
        ("2026-11-21T09:30:00Z", "2026-11-21T09:30:00Z"),
        ("2026-11-21T10:30:00+01:00", "2026-11-21T09:30:00Z"),
        ("2026-11-21T09:30:00.123456789Z", "2026-11-21T09:30:00.123456Z"),
        ("1969-12-31T23:59:59.999999Z", "1969-12-31T23:59:59.999999Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
    ];
    for (text, shown) in same {
        assert_eq!(text.parse::<Timestamp>().unwrap().to_string(), shown);
    }
    let bad = [
        "",
        "now",
        "2026",
        "2026-11-21",
        "09:30:00",
        "2026-11-21T09:30:00",
        "2026-13-01T00:00:00Z",
        "2026-02-30T00:00:00Z",
        "2026-11-21T25:00:00Z",
        "2026-11-21T09:61:00Z",
        "2026-11-21 09:30",
        "20261121T093000Z",
        "1763717400",
        "2026-11-21T09:30:00+25:00",
        "+02026-11-21T09:30:00Z",
        "2026-11-21T09:30:00ZZ",
        " 2026-11-21T09:30:00Z",
        "\0",
    ];
    for text in bad {
        refused(text.parse::<Timestamp>(), text);
    }
    assert_eq!(Timestamp::MAX + Duration::from_secs(1), Timestamp::MAX);
    assert_eq!(Timestamp::MIN - Duration::MAX, Timestamp::MIN);
    assert_eq!(Timestamp::UNIX_EPOCH.since(Timestamp::MAX), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn the_wall_clock_follows_virtual_time() {
    let before = Timestamp::now();
    tokio::time::advance(Duration::from_secs(3_600)).await;
    let passed = Timestamp::now().since(before);
    // Real time and virtual time are read one after the other: up to a millisecond apart.
    assert!(passed >= Duration::from_millis(3_599_999), "{passed:?}");
    assert!(passed < Duration::from_secs(3_660), "{passed:?}");
}

proptest! {
    #[test]
    fn no_text_panics_and_every_refusal_is_typed(text in any::<String>()) {
        for refusal in [
            TopicName::new(&text).err(),
            GroupName::new(&text).err(),
            BoundName::new(&text).err(),
            text.parse::<Timestamp>().err(),
        ].into_iter().flatten() {
            prop_assert_eq!(refusal.kind(), ErrorKind::Invalid);
            prop_assert!(!refusal.to_string().contains('\n'));
        }
    }

    #[test]
    fn a_legal_topic_holds_no_derived_marker(name in "[a-zA-Z0-9._-]{1,20}") {
        if let Ok(topic) = TopicName::new(&name) {
            prop_assert!(!topic.as_str().contains("__"));
        }
    }

    #[test]
    fn times_survive_their_text(micros in Timestamp::MIN.as_micros()..=Timestamp::MAX.as_micros()) {
        let time = Timestamp::from_micros(micros);
        prop_assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
    }

    #[test]
    fn a_key_keeps_its_partition(key in prop::collection::vec(any::<u8>(), 1..40), n in 1_u16..1_025) {
        let envelope = |id: &str| {
            Envelope::builder("t").source("/s").id(id.to_owned()).key(key.clone()).build().unwrap()
        };
        let first = Layout::Ordered(n).partition(&envelope("1")).unwrap();
        prop_assert!(first < n);
        prop_assert_eq!(Layout::Ordered(n).partition(&envelope("2")), Some(first));
        prop_assert_eq!(Layout::Plain.partition(&envelope("1")), None);
    }
}
