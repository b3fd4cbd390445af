//! From an envelope to headers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::names::{BASE64_PREFIX, FOREIGN};
use super::{HeaderStyle, HeaderValue, percent};
use crate::Envelope;
use crate::envelope::attribute::{self, SPEC, SPEC_VERSION, TEXT};
use crate::envelope::check;
use crate::envelope::head::Slot;

/// The name of the header, or native property, that holds the content type.
const CONTENT_TYPE: &str = "content-type";

/// Gives out every attribute and application header of the envelope as a header: those of
/// CloudEvents first, `specversion` before all. The payload is not touched.
///
/// In [`HeaderStyle::Dash`] every value is text and printable ASCII. In
/// [`HeaderStyle::Underscore`] the key is left out: it is the record's.
///
/// ```
/// use posthaste_core::Envelope;
/// use posthaste_core::wire::{self, HeaderStyle};
/// let placed = Envelope::builder("order.placed").id("7").source("/shop").build()?;
/// let mut names = Vec::new();
/// wire::write(&placed, HeaderStyle::Dash, |name, _| names.push(name.to_owned()));
/// assert_eq!(names, ["ce-specversion", "ce-id", "ce-source", "ce-type", "ce-time"]);
/// # Ok::<(), posthaste_core::Error>(())
/// ```
pub fn write(envelope: &Envelope, style: HeaderStyle, mut put: impl FnMut(&str, HeaderValue<'_>)) {
    let mut buffer = String::new();
    put(style.name_of(SPEC_VERSION), HeaderValue::Text(SPEC));
    envelope.visit_attributes(|name, value| {
        let header = if name.event == TEXT[Slot::ContentType as usize].name.event {
            content_type_header(style, value)
        } else if name.event == attribute::KEY.event || name.event == attribute::KEY_BASE64.event {
            if style == HeaderStyle::Underscore {
                return;
            }
            style.name_of(name)
        } else {
            style.name_of(name)
        };
        put(header, HeaderValue::Text(attribute_value(style, value, &mut buffer)));
    });
    let mut name = String::new();
    for (extension, value) in envelope.extensions() {
        name.clear();
        name.push_str(style.prefix());
        name.push_str(extension);
        put(&name, HeaderValue::Text(attribute_value(style, value, &mut buffer)));
    }
    if envelope.is_foreign() {
        put(FOREIGN, HeaderValue::Text("1"));
    }
    write_headers(envelope, style, &mut put);
}

/// A payload that is itself a CloudEvents document must not look like the structured mode.
fn content_type_header(style: HeaderStyle, value: &str) -> &'static str {
    let name = TEXT[Slot::ContentType as usize].name;
    match style {
        HeaderStyle::Dash => name.dash,
        _ if super::read::is_structured(value) => style.name_of(name),
        HeaderStyle::Underscore | HeaderStyle::Colon => CONTENT_TYPE,
    }
}

fn attribute_value<'a>(style: HeaderStyle, value: &'a str, buffer: &'a mut String) -> &'a str {
    if style != HeaderStyle::Dash || percent::is_plain(value) {
        return value;
    }
    buffer.clear();
    percent::encode(buffer, value);
    buffer
}

fn write_headers(
    envelope: &Envelope,
    style: HeaderStyle,
    put: &mut impl FnMut(&str, HeaderValue<'_>),
) {
    let text_only = style == HeaderStyle::Dash;
    // Only what was read from a broker can have names that an application may not give.
    let odd_names = envelope.is_lenient();
    let unsafe_values = text_only && !envelope.headers().all(|(_, value)| is_safe(value));
    for (name, value) in envelope.headers() {
        let encoded = (odd_names && !stands(name, text_only))
            // All values of a name take the same form, or their order would be lost.
            || (unsafe_values && !envelope.header_all(name).all(is_safe));
        if encoded {
            let mut encoded_name = BASE64_PREFIX.to_owned();
            percent::encode_with(&mut encoded_name, name, |byte| {
                byte.is_ascii_graphic() && !b":%\"".contains(&byte)
            });
            put(&encoded_name, HeaderValue::Text(&STANDARD.encode(value)));
        } else if text_only {
            put(name, HeaderValue::Text(std::str::from_utf8(value).unwrap_or_default()));
        } else {
            put(name, HeaderValue::Bytes(value));
        }
    }
}

fn stands(name: &str, text_only: bool) -> bool {
    check::reserved_header(name).is_none()
        && !name.is_empty()
        && (!text_only || check::portable_header_name(name))
}

/// Whether every client of a text protocol gives the value back as it is.
fn is_safe(value: &[u8]) -> bool {
    value.iter().all(|byte| (b' '..=b'~').contains(byte))
        && value.first() != Some(&b' ')
        && value.last() != Some(&b' ')
}
