//! The derive macro of Posthaste. Applications get it from the `posthaste` crate, whose `Event` is
//! the trait and the macro.
//!
//! This crate only turns an attribute into an `impl`. What an event is, and what can be a key, is
//! said by the traits `Event` and `AsKey` of `posthaste-core`.

mod expand;
mod key;
mod options;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Implements `Event` for a struct.
///
/// ```
/// use posthaste_core::{Event as _, codec};
/// use posthaste_derive::Event;
///
/// #[derive(Event)]
/// #[event(type = "order.placed", version = 2, key = customer.id)]
/// # #[event(crate = posthaste_core)]
/// struct OrderPlaced {
///     customer: Customer,
///     total: f64,
/// }
///
/// struct Customer {
///     id: u64,
/// }
///
/// let order = OrderPlaced { customer: Customer { id: 7 }, total: 12.5 };
/// assert_eq!(OrderPlaced::TYPE, "order.placed");
/// assert_eq!(order.key().as_deref(), Some(&b"7"[..]));
/// # let _ = order.total;
/// ```
///
/// | option | meaning | if it is missing |
/// |---|---|---|
/// | `type = "order.placed"` | the CloudEvents `type`: 1 to 1,024 bytes, no control characters | an error |
/// | `version = 2` | the version of the payload's schema, from 1 | 1 |
/// | `key = customer.id` | the field whose value is the key; dots lead into fields of fields | no key, so no order |
/// | `codec = posthaste::codec::Text` | the payload's format, a type that implements `Codec` | JSON |
/// | `crate = posthaste_core` | the crate that has `Event`, for who does not depend on `posthaste` | `::posthaste` |
///
/// The options may stand in one `#[event(..)]` or in several; each may be given once.
///
/// # The key
///
/// The field's type implements `AsKey`: text, bytes, integers, and `Option`, `Box`, `Arc` or
/// references of these. For a type of your own, implement `AsKey`; for a type of another crate,
/// or a key of several fields, write `impl Event` by hand.
///
/// # Generics
///
/// Type parameters stay as they are. If the key is a field whose type names a parameter, the
/// `impl` is bound to that type being a key. Behind a dotted path the struct states that bound
/// itself.
///
/// # Enums
///
/// Refused, because all variants would share one event type. Give each variant a struct of its
/// own, or write `impl Event` by hand where one type for all is what is wanted.
#[proc_macro_derive(Event, attributes(event))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand::event(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}
