//! Header tables of messages: as bytes for what reads them, and how large they are on the wire.

use std::borrow::Cow;

use lapin::types::{AMQPValue, FieldTable};
use serde_json::Value;

/// Values deeper than this are shown as nothing: nobody sends them in good faith.
const DEEPEST: usize = 16;

/// The values of a header: several where it is an array of texts, which is how a repeated name is
/// carried.
pub(crate) fn values(value: &AMQPValue, mut take: impl FnMut(Cow<'_, [u8]>)) {
    match value {
        AMQPValue::FieldArray(array)
            if !array.as_slice().is_empty()
                && array.as_slice().iter().all(|item| matches!(item, AMQPValue::LongString(_))) =>
        {
            for item in array.as_slice() {
                take(scalar(item));
            }
        }
        value => take(scalar(value)),
    }
}

fn scalar(value: &AMQPValue) -> Cow<'_, [u8]> {
    match value {
        AMQPValue::LongString(text) => Cow::Borrowed(text.as_bytes()),
        AMQPValue::ShortString(text) => Cow::Borrowed(text.as_str().as_bytes()),
        AMQPValue::ByteArray(bytes) => Cow::Borrowed(bytes.as_slice()),
        AMQPValue::Void => Cow::Borrowed(b""),
        value => match json(value, 0) {
            Value::String(text) => Cow::Owned(text.into_bytes()),
            value => Cow::Owned(value.to_string().into_bytes()),
        },
    }
}

/// Numbers and truth as they are written, tables and arrays as JSON.
fn json(value: &AMQPValue, depth: usize) -> Value {
    if depth > DEEPEST {
        return Value::Null;
    }
    match value {
        AMQPValue::Boolean(value) => (*value).into(),
        AMQPValue::ShortShortInt(value) => (*value).into(),
        AMQPValue::ShortShortUInt(value) => (*value).into(),
        AMQPValue::ShortInt(value) => (*value).into(),
        AMQPValue::ShortUInt(value) => (*value).into(),
        AMQPValue::LongInt(value) => (*value).into(),
        AMQPValue::LongUInt(value) => (*value).into(),
        AMQPValue::LongLongInt(value) => (*value).into(),
        AMQPValue::Timestamp(value) => (*value).into(),
        AMQPValue::Float(value) => f64::from(*value).into(),
        AMQPValue::Double(value) => (*value).into(),
        AMQPValue::DecimalValue(value) => {
            let scale = i32::from(value.scale);
            (f64::from(value.value) / 10_f64.powi(scale)).into()
        }
        AMQPValue::LongString(text) => String::from_utf8_lossy(text.as_bytes()).into(),
        AMQPValue::ShortString(text) => text.as_str().into(),
        AMQPValue::ByteArray(bytes) => String::from_utf8_lossy(bytes.as_slice()).into(),
        AMQPValue::FieldArray(array) => {
            array.as_slice().iter().map(|item| json(item, depth + 1)).collect()
        }
        AMQPValue::FieldTable(table) => table
            .inner()
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), json(value, depth + 1)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        AMQPValue::Void => Value::Null,
    }
}

/// A whole number, of whatever width.
pub(crate) fn number(table: &FieldTable, name: &str) -> Option<u64> {
    match table.inner().get(name)? {
        AMQPValue::LongLongInt(value) => u64::try_from(*value).ok(),
        AMQPValue::LongInt(value) => u64::try_from(*value).ok(),
        AMQPValue::ShortInt(value) => u64::try_from(*value).ok(),
        AMQPValue::ShortShortInt(value) => u64::try_from(*value).ok(),
        AMQPValue::LongUInt(value) => Some(u64::from(*value)),
        AMQPValue::ShortUInt(value) => Some(u64::from(*value)),
        AMQPValue::ShortShortUInt(value) => Some(u64::from(*value)),
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok()?.parse().ok(),
        _ => None,
    }
}

/// A text.
pub(crate) fn text<'a>(table: &'a FieldTable, name: &str) -> Option<&'a str> {
    match table.inner().get(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    }
}

/// The bytes of a table on the wire, of the values that we write.
pub(crate) fn size(table: &FieldTable) -> usize {
    let entries = table.inner().iter().map(|(name, value)| 1 + name.as_str().len() + width(value));
    4 + entries.sum::<usize>()
}

fn width(value: &AMQPValue) -> usize {
    1 + match value {
        AMQPValue::LongString(text) => 4 + text.as_bytes().len(),
        AMQPValue::ShortString(text) => 1 + text.as_str().len(),
        AMQPValue::FieldArray(array) => 4 + array.as_slice().iter().map(width).sum::<usize>(),
        AMQPValue::FieldTable(table) => size(table),
        AMQPValue::ByteArray(bytes) => 4 + bytes.as_slice().len(),
        _ => 8,
    }
}
