//! How a value becomes a payload and back: JSON, text, raw bytes.
//!
//! The codec belongs to the event type ([`Event::Codec`](crate::Event)), so that neither bus nor
//! publisher is generic.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, ErrorKind, Result};

/// A format of payloads.
pub trait Codec: Send + Sync + 'static {
    /// The media type that goes into the envelope's `datacontenttype`.
    const CONTENT_TYPE: &'static str;

    /// Whether a payload of this media type can be decoded; `None` is an envelope without one.
    fn accepts(content_type: Option<&str>) -> bool;
}

/// Turns values of `T` into bytes.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot encode `{T}`",
    note = "the codec `Json` needs `serde::Serialize`; `Text` and `Raw` need `AsRef<str>` and `AsRef<[u8]>`"
)]
pub trait Encode<T: ?Sized>: Codec {
    /// Appends the value to `out`.
    ///
    /// # Errors
    /// [`Encode`](ErrorKind::Encode) if the value has no form in this format.
    fn encode(value: &T, out: &mut Vec<u8>) -> Result<()>;
}

/// Turns bytes into values of `T`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot decode `{T}`",
    note = "the codec `Json` needs `serde::de::DeserializeOwned`; `Text` and `Raw` need `From<String>` and `From<Bytes>`"
)]
pub trait Decode<T>: Codec {
    /// Reads the value from the whole payload.
    ///
    /// # Errors
    /// [`Decode`](ErrorKind::Decode) if the payload is not such a value.
    fn decode(payload: &Bytes) -> Result<T>;
}

/// JSON by serde, the default.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Json;

impl Codec for Json {
    const CONTENT_TYPE: &'static str = "application/json";

    fn accepts(content_type: Option<&str>) -> bool {
        content_type.is_none_or(|found| {
            let essence = essence(found);
            essence.eq_ignore_ascii_case("application/json")
                || essence.eq_ignore_ascii_case("text/json")
                || ends_with_ignore_case(essence, "+json")
        })
    }
}

impl<T: Serialize + ?Sized> Encode<T> for Json {
    fn encode(value: &T, out: &mut Vec<u8>) -> Result<()> {
        serde_json::to_writer(out, value).map_err(|error| {
            Error::new(ErrorKind::Encode, "the value has no JSON form").with_source(error)
        })
    }
}

impl<T: DeserializeOwned> Decode<T> for Json {
    fn decode(payload: &Bytes) -> Result<T> {
        serde_json::from_slice(payload).map_err(|error| {
            // serde_json's text can quote the payload; its position and category cannot.
            let category = match error.classify() {
                serde_json::error::Category::Io => "unreadable",
                serde_json::error::Category::Syntax => "not JSON",
                serde_json::error::Category::Data => "JSON of another shape",
                serde_json::error::Category::Eof => "cut off",
            };
            Error::new(ErrorKind::Decode, format!("the payload is {category}"))
                .with_context("line", error.line())
                .with_context("column", error.column())
        })
    }
}

/// UTF-8 text.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Text;

impl Codec for Text {
    const CONTENT_TYPE: &'static str = "text/plain; charset=utf-8";

    fn accepts(content_type: Option<&str>) -> bool {
        content_type.is_none_or(|found| {
            essence(found).get(..5).is_some_and(|start| start.eq_ignore_ascii_case("text/"))
        })
    }
}

impl<T: AsRef<str> + ?Sized> Encode<T> for Text {
    fn encode(value: &T, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(value.as_ref().as_bytes());
        Ok(())
    }
}

impl<T: From<String>> Decode<T> for Text {
    fn decode(payload: &Bytes) -> Result<T> {
        let text = std::str::from_utf8(payload).map_err(|error| {
            Error::new(ErrorKind::Decode, "the payload is not UTF-8 text")
                .with_context("valid up to byte", error.valid_up_to())
        })?;
        Ok(T::from(text.to_owned()))
    }
}

/// The bytes as they are. Decoding shares the payload instead of copying it.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Raw;

impl Codec for Raw {
    const CONTENT_TYPE: &'static str = "application/octet-stream";

    fn accepts(_: Option<&str>) -> bool {
        true
    }
}

impl<T: AsRef<[u8]> + ?Sized> Encode<T> for Raw {
    fn encode(value: &T, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(value.as_ref());
        Ok(())
    }
}

impl<T: From<Bytes>> Decode<T> for Raw {
    fn decode(payload: &Bytes) -> Result<T> {
        Ok(T::from(payload.clone()))
    }
}

fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

fn ends_with_ignore_case(text: &str, end: &str) -> bool {
    text.len() >= end.len()
        && text.as_bytes()[text.len() - end.len()..].eq_ignore_ascii_case(end.as_bytes())
}
