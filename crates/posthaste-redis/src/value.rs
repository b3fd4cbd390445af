//! Answers of the server, taken apart by hand: the client's own types copy payloads and lose the
//! order of fields.

use bytes::Bytes;
use posthaste_core::{Error, Result};
use redis::Value;

use crate::error;

/// The answer, if it is no error.
///
/// # Errors
/// What the server refused.
pub(crate) fn ok(value: Value) -> Result<Value> {
    match value {
        Value::ServerError(refused) => Err(error::server(&refused)),
        value => Ok(value),
    }
}

/// The parts of an array. Nothing is an empty one.
pub(crate) fn array(value: Value) -> Result<Vec<Value>> {
    match ok(value)? {
        Value::Array(parts) | Value::Set(parts) => Ok(parts),
        Value::Nil => Ok(Vec::new()),
        Value::Map(pairs) => Ok(pairs.into_iter().flat_map(|(key, value)| [key, value]).collect()),
        _ => Err(error::unexpected("an array")),
    }
}

/// A number, also as a text.
pub(crate) fn int(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        other => text(other)?.parse().ok(),
    }
}

/// A number that is not negative.
pub(crate) fn count(value: &Value) -> Option<u64> {
    int(value).and_then(|number| u64::try_from(number).ok())
}

pub(crate) fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        Value::Okay => Some(b"OK"),
        _ => None,
    }
}

pub(crate) fn text(value: &Value) -> Option<&str> {
    std::str::from_utf8(bytes(value)?).ok()
}

/// The bytes themselves, without a copy.
pub(crate) fn into_bytes(value: Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(Bytes::from(bytes)),
        Value::SimpleString(text) => Some(Bytes::from(text)),
        _ => None,
    }
}

/// The next part of an answer.
///
/// # Errors
/// `Fatal` if there is none.
pub(crate) fn next(
    parts: &mut impl Iterator<Item = Value>,
    what: &'static str,
) -> Result<Value, Error> {
    parts.next().ok_or_else(|| error::unexpected(what)).and_then(ok)
}

/// The next part of an answer, a number that is not negative.
///
/// # Errors
/// `Fatal` if it is none.
pub(crate) fn next_count(
    parts: &mut impl Iterator<Item = Value>,
    what: &'static str,
) -> Result<u64, Error> {
    let value = next(parts, what)?;
    count(&value).ok_or_else(|| error::unexpected(what))
}
