//! Dead letters as headers.

use posthaste_core::wire::{self, HeaderStyle};
use posthaste_core::{Cause, DeadLetter, GroupName, Reason, Timestamp, TopicName};

use crate::envelope_arbitrary::STYLES;
use crate::envelope_samples::{Headers, headers, order, read, record_key};

fn letter() -> DeadLetter {
    let cause = std::io::Error::other("the card \u{2014} \"expired\"\nwas declined");
    let topic = TopicName::new("orders.eu").unwrap();
    let group = GroupName::new("billing").unwrap();
    let mut letter = DeadLetter::new(order(), Reason::AttemptsExhausted, topic, group);
    letter.cause = Some(Cause::from(cause).handler("charge"));
    letter.attempts = 5;
    letter.first_failed_at = Some(Timestamp::from_micros(1));
    letter.failed_at = Timestamp::from_micros(2);
    letter
}

fn letter_headers(letter: &DeadLetter, style: HeaderStyle) -> Headers {
    let mut headers = headers(&letter.envelope, style);
    wire::write_letter(letter, style, |name, value| {
        assert!(name.starts_with("ph-dl-") && wire::OWN_HEADERS.contains(&name), "{name}");
        headers.push((name.to_owned(), value.as_bytes().to_vec()));
    });
    headers
}

#[test]
fn a_dead_letter_keeps_what_is_known_about_the_failure() {
    for style in STYLES {
        let letter = letter();
        let headers = letter_headers(&letter, style);
        if style == HeaderStyle::Dash {
            let safe = |value: &Vec<u8>| value.iter().all(|byte| (b' '..=b'~').contains(byte));
            assert!(headers.iter().all(|(_, value)| safe(value)));
        }
        let key = record_key(&letter.envelope, style);
        let envelope = read(style, &headers, key, letter.envelope.payload());
        assert_eq!(envelope, letter.envelope);
        let pairs = || headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        let found = wire::read_letter(style, pairs(), envelope).unwrap();
        assert_eq!(found.reason, letter.reason);
        assert_eq!(found.cause, letter.cause);
        assert_eq!(found.topic, letter.topic);
        assert_eq!(found.group, letter.group);
        assert_eq!(found.attempts, letter.attempts);
        assert_eq!(found.first_failed_at, letter.first_failed_at);
        assert_eq!(found.failed_at, letter.failed_at);
        let without = pairs().filter(|(name, _)| *name != wire::DEAD_LETTER_GROUP);
        assert!(wire::read_letter(style, without, order()).is_none());
    }
    let mut plain = letter();
    plain.cause = None;
    plain.first_failed_at = None;
    let headers = letter_headers(&plain, HeaderStyle::Dash);
    let pairs = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
    let found = wire::read_letter(HeaderStyle::Dash, pairs, order()).unwrap();
    assert_eq!((found.cause, found.first_failed_at), (None, None));
}
