//! How an envelope looks on a broker: the mapping that all adapters share.
//!
//! Brokers that carry headers get one header for each attribute, by the CloudEvents bindings
//! where one exists ([`write()`], [`read`]). Brokers that do not get the attributes as one JSON text
//! beside the payload ([`pack`], [`unpack`]). The tables are in `docs/wire.md`.
//!
//! What belongs to one broker alone (native properties, record keys, subjects) is done by its
//! adapter, not here.

mod letter;
mod names;
mod pack;
mod percent;
mod read;
mod write;

use std::fmt;

pub use letter::{read_letter, write_letter};
pub use names::*;
pub use pack::{pack, pack_text, unpack};
pub use read::read;
pub use write::write;

use crate::Timestamp;
use crate::envelope::attribute::Name;

/// How attributes are named as headers, and what a header's value may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HeaderStyle {
    /// `ce-id`, as on NATS: values are printable ASCII. Attributes are percent-encoded by the
    /// CloudEvents binding; application headers that cannot stand so travel as base64.
    Dash,
    /// `ce_id` and `content-type`, as on Kafka: values are bytes. The key is the record's key and
    /// not among the headers.
    Underscore,
    /// `cloudEvents:id` and `content-type`, as in AMQP: values are bytes. The adapter may carry
    /// some of them in native properties; it names them here as if they were headers.
    Colon,
}

impl HeaderStyle {
    pub(crate) const fn name_of(self, name: Name) -> &'static str {
        match self {
            Self::Dash => name.dash,
            Self::Underscore => name.underscore,
            Self::Colon => name.colon,
        }
    }

    pub(crate) const fn prefix(self) -> &'static str {
        match self {
            Self::Dash => "ce-",
            Self::Underscore => "ce_",
            Self::Colon => "cloudEvents:",
        }
    }
}

/// A header's value as [`write()`] gives it out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum HeaderValue<'a> {
    /// Text; printable ASCII in [`HeaderStyle::Dash`], where there is no other kind.
    Text(&'a str),
    /// Any bytes.
    Bytes(&'a [u8]),
}

impl<'a> HeaderValue<'a> {
    /// The value as bytes.
    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }

    /// The value as text, if it was given out as such.
    #[must_use]
    pub const fn as_text(self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Bytes(_) => None,
        }
    }
}

impl fmt::Debug for HeaderValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values of headers may be secrets.
        write!(f, "{} bytes", self.as_bytes().len())
    }
}

/// What an adapter knows about a message that may tell nothing about itself.
///
/// The texts are formatted only if they are needed, so that an adapter can pass `&format_args!`.
#[derive(Clone, Copy)]
pub struct ForeignContext<'a> {
    /// Names this message among all of its broker's, the same on each delivery: for example
    /// `orders/3/81`.
    pub id: &'a dyn fmt::Display,
    /// Where the message came from, for example `kafka:orders`. What may not stand in a
    /// URI-reference is percent-encoded.
    pub source: &'a dyn fmt::Display,
    /// When the broker took the message.
    pub time: Option<Timestamp>,
}

impl fmt::Debug for ForeignContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForeignContext")
            .field("id", &format_args!("{}", self.id))
            .field("source", &format_args!("{}", self.source))
            .field("time", &self.time)
            .finish()
    }
}
