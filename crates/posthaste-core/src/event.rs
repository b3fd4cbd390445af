//! Typed messages: a Rust type that knows its event type, version, key and codec.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use crate::codec::{Codec, Decode, Encode};
use crate::envelope::EnvelopeBuilder;
use crate::{Envelope, Error, ErrorKind, Result};

/// A type that is published and received. Derive it:
///
/// ```ignore
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(type = "order.placed", version = 1, key = order_id)]
/// struct OrderPlaced { order_id: String, total: f64 }
/// ```
///
/// or write it:
///
/// ```
/// use posthaste_core::{Bytes, Event, codec::Json};
/// struct OrderPlaced { order_id: String }
/// impl Event for OrderPlaced {
///     const TYPE: &'static str = "order.placed";
///     const VERSION: u32 = 1;
///     type Codec = Json;
///     fn key(&self) -> Option<Bytes> {
///         Some(Bytes::copy_from_slice(self.order_id.as_bytes()))
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    note = "add `#[derive(Event)]` and `#[event(type = \"…\")]`, or publish an `Envelope` with `publish_envelope`"
)]
pub trait Event {
    /// The CloudEvents `type`.
    const TYPE: &'static str;
    /// The version of the payload's schema, from 1.
    const VERSION: u32 = 1;
    /// The format of the payload.
    type Codec: Codec;

    /// Messages of one key keep their order on ordered topics. No key means no order.
    fn key(&self) -> Option<Bytes> {
        None
    }
}

/// A value that can be the key of a message: what `#[event(key = ..)]` asks of the field.
///
/// Text and bytes are taken as they are, integers as decimal text. `None` means no key, so no
/// order; an empty key is refused when the message is published.
///
/// ```
/// use posthaste_core::{AsKey, Bytes};
/// struct OrderId(u64);
/// impl AsKey for OrderId {
///     fn as_key(&self) -> Option<Bytes> {
///         Some(format!("order-{}", self.0).into())
///     }
/// }
/// assert_eq!(OrderId(7).as_key().as_deref(), Some(&b"order-7"[..]));
/// assert_eq!(7_u64.as_key().as_deref(), Some(&b"7"[..]));
/// assert_eq!(None::<String>.as_key(), None);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the key of a message",
    label = "this is neither text, nor bytes, nor an integer",
    note = "implement `AsKey` for `{Self}`, or write `impl Event` by hand"
)]
pub trait AsKey {
    /// The bytes of the key.
    fn as_key(&self) -> Option<Bytes>;
}

macro_rules! key_from_bytes {
    ($($ty:ty),*) => {
        $(impl AsKey for $ty {
            fn as_key(&self) -> Option<Bytes> {
                let bytes: &[u8] = self.as_ref();
                Some(Bytes::copy_from_slice(bytes))
            }
        })*
    };
}

macro_rules! key_from_integer {
    ($($ty:ty),*) => {
        $(impl AsKey for $ty {
            fn as_key(&self) -> Option<Bytes> {
                Some(self.to_string().into())
            }
        })*
    };
}

key_from_bytes!(str, String, [u8], Vec<u8>);
key_from_integer!(u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize);

impl<const N: usize> AsKey for [u8; N] {
    fn as_key(&self) -> Option<Bytes> {
        self.as_slice().as_key()
    }
}

impl AsKey for Bytes {
    fn as_key(&self) -> Option<Bytes> {
        Some(self.clone())
    }
}

impl<T: AsKey> AsKey for Option<T> {
    fn as_key(&self) -> Option<Bytes> {
        self.as_ref()?.as_key()
    }
}

impl<T: AsKey + ?Sized> AsKey for &T {
    fn as_key(&self) -> Option<Bytes> {
        (**self).as_key()
    }
}

impl<T: AsKey + ?Sized> AsKey for Box<T> {
    fn as_key(&self) -> Option<Bytes> {
        (**self).as_key()
    }
}

impl<T: AsKey + ?Sized> AsKey for Arc<T> {
    fn as_key(&self) -> Option<Bytes> {
        (**self).as_key()
    }
}

impl<T: AsKey + ToOwned + ?Sized> AsKey for Cow<'_, T> {
    fn as_key(&self) -> Option<Bytes> {
        (**self).as_key()
    }
}

/// Encodes an event into a builder that has type, version, key, content type and payload.
pub(crate) fn encode<E>(
    event: &E,
    build: impl FnOnce(EnvelopeBuilder<'_>) -> Result<Envelope>,
) -> Result<Envelope>
where
    E: Event + ?Sized,
    E::Codec: Encode<E>,
{
    let mut payload = Vec::with_capacity(128);
    <E::Codec as Encode<E>>::encode(event, &mut payload)?;
    let mut builder = Envelope::builder(E::TYPE)
        .schema_version(E::VERSION)
        .content_type(E::Codec::CONTENT_TYPE)
        .payload(payload);
    if let Some(key) = event.key() {
        builder = builder.key(key);
    }
    build(builder)
}

/// Decodes an event, after checking that the envelope holds one of that type and format.
pub(crate) fn decode<E>(envelope: &Envelope) -> Result<E>
where
    E: Event,
    E::Codec: Decode<E>,
{
    // A message of another writer may not name its type; then only the payload can tell.
    let unnamed = envelope.is_foreign() && envelope.event_type() == crate::envelope::FOREIGN_TYPE;
    if envelope.event_type() != E::TYPE && !unnamed {
        return Err(Error::new(ErrorKind::Decode, "the message is of another event type")
            .with_context("wanted", E::TYPE)
            .with_context("found", envelope.event_type()));
    }
    if !E::Codec::accepts(envelope.content_type()) {
        return Err(Error::new(ErrorKind::Decode, "the payload is of another content type")
            .with_context("wanted", E::Codec::CONTENT_TYPE)
            .with_context("found", envelope.content_type().unwrap_or("none")));
    }
    <E::Codec as Decode<E>>::decode(envelope.payload())
        .map_err(|error| error.with_context("type", E::TYPE))
}
