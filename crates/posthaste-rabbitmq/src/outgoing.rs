//! A message on its way out.

use std::fmt;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::ShortString;
use posthaste_core::Result;

use crate::error;

/// A message with its address. All copies that this library makes are persistent.
pub(crate) struct Outgoing {
    pub(crate) exchange: ShortString,
    pub(crate) routing_key: ShortString,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Bytes,
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing")
            .field("exchange", &self.exchange)
            .field("routing_key", &self.routing_key)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// A name as the protocol carries it.
///
/// # Errors
/// `TooLarge` beyond 255 bytes: the client would panic.
pub(crate) fn short(what: &'static str, text: impl Into<String>) -> Result<ShortString> {
    ShortString::try_new(text).map_err(|_| error::too_long(what))
}
