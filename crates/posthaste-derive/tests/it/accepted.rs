//! What the derived `impl` says: type, version, codec, key.

use std::borrow::Cow;
use std::sync::Arc;

use posthaste_core::codec::{Codec, Json, Text};
use posthaste_core::{AsKey, Bytes, Event as _};
use posthaste_derive::Event;
use serde::Serialize;

/// The key of an event as text.
fn key(event: &impl posthaste_core::Event) -> Option<String> {
    event.key().map(|key| String::from_utf8_lossy(&key).into_owned())
}

fn codec<E: posthaste_core::Event>() -> &'static str {
    E::Codec::CONTENT_TYPE
}

#[test]
fn only_the_type_is_required() {
    #[derive(Event)]
    #[event(type = "order.placed", crate = posthaste_core)]
    struct Unit;

    assert_eq!((Unit::TYPE, Unit::VERSION), ("order.placed", 1));
    assert_eq!(codec::<Unit>(), Json::CONTENT_TYPE);
    assert_eq!(Unit.key(), None);
}

#[test]
fn options_may_stand_in_several_attributes_and_in_any_order() {
    #[derive(Event)]
    #[event(version = 3, codec = Text)]
    #[event(key = id)]
    #[event(type = "note.taken", crate = posthaste_core)]
    struct Note {
        id: &'static str,
    }

    assert_eq!((Note::TYPE, Note::VERSION), ("note.taken", 3));
    assert_eq!(codec::<Note>(), Text::CONTENT_TYPE);
    assert_eq!(key(&Note { id: "n-1" }).as_deref(), Some("n-1"));
}

#[test]
fn the_key_may_lie_deeper_and_in_tuples() {
    struct Customer {
        id: (u8, i64),
    }

    #[derive(Event)]
    #[event(type = "a", key = customer.id.1, crate = posthaste_core)]
    struct Nested {
        customer: Customer,
    }

    #[derive(Event)]
    #[event(type = "b", key = 1, crate = posthaste_core)]
    struct Tuple(u8, String);

    #[derive(Event)]
    #[event(type = "c", key = r#type, crate = posthaste_core)]
    struct Raw {
        r#type: String,
    }

    let nested = Nested { customer: Customer { id: (0, -5) } };
    assert_eq!((key(&nested).as_deref(), nested.customer.id.0), (Some("-5"), 0));
    let tuple = Tuple(9, "k".to_owned());
    assert_eq!((key(&tuple).as_deref(), tuple.0), (Some("k"), 9));
    assert_eq!(key(&Raw { r#type: "t".to_owned() }).as_deref(), Some("t"));
}

#[test]
fn generic_events_are_bound_by_what_their_key_needs() {
    #[derive(Event)]
    #[event(type = "changed", key = id, crate = posthaste_core)]
    struct Changed<'a, Id, V: Serialize, const N: usize>
    where
        V: Clone,
    {
        id: Option<Id>,
        values: &'a [V; N],
    }

    let changed = Changed { id: Some(7_u16), values: &["x"] };
    assert_eq!(key(&changed).as_deref(), Some("7"));
    assert_eq!(changed.values.len(), 1);
    assert_eq!(Changed::<String, &str, 1> { id: None, values: &["x"] }.key(), None);
}

#[test]
fn text_bytes_and_integers_are_keys_and_so_is_what_holds_them() {
    fn bytes(key: &(impl AsKey + ?Sized)) -> Vec<u8> {
        key.as_key().expect("there is a key").to_vec()
    }

    assert_eq!(bytes("k"), b"k");
    assert_eq!(bytes(&"k"), b"k");
    assert_eq!(bytes(&"k".to_owned()), b"k");
    assert_eq!(bytes(&vec![0_u8, 255]), [0, 255]);
    assert_eq!(bytes(&[0_u8, 255]), [0, 255]);
    assert_eq!(bytes(&[0_u8, 255][..]), [0, 255]);
    assert_eq!(bytes(&Bytes::from_static(b"k")), b"k");
    assert_eq!(bytes(&Box::<str>::from("k")), b"k");
    assert_eq!(bytes(&Arc::<str>::from("k")), b"k");
    assert_eq!(bytes(&Cow::Borrowed("k")), b"k");
    assert_eq!(bytes(&Some(Some(12_u8))), b"12");
    assert_eq!(bytes(&i128::MIN), i128::MIN.to_string().as_bytes());
    assert_eq!(Some(None::<u8>).as_key(), None);
}
