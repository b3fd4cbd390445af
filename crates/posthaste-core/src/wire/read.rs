//! From headers to an envelope.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::names::{BASE64_PREFIX, FOREIGN};
use super::{ForeignContext, HeaderStyle, percent};
use crate::Envelope;
use crate::envelope::EnvelopeBuilder;
use crate::envelope::attribute::{Attribute, KEY, SPEC};
use crate::envelope::check;
use crate::envelope::head::{RecordIter, Records, Slot, Tag, push_record};

const ID: Attribute = Attribute::Text(Slot::Id);
const SOURCE: Attribute = Attribute::Text(Slot::Source);
const TYPE: Attribute = Attribute::Text(Slot::Type);
const CONTENT_TYPE: Attribute = Attribute::Text(Slot::ContentType);

/// Reads the envelope of any message. Nothing is refused:
///
/// - An attribute that breaks its rule stays a header, under the name it came with.
/// - A message without `specversion` 1.0, id, source or type is foreign; what it lacks comes from
///   `context`. Its attributes count all the same, and so do its headers `traceparent` and
///   `tracestate`.
/// - A message of another program in CloudEvents' structured mode is taken apart; if its document
///   is not sound, it is foreign.
/// - Headers that brokers and this library add (`Nats-`, `x-death`, `ph-`) are headers of the
///   envelope only if it is foreign.
///
/// `key` is the key that the broker carries beside the headers. It wins over one among them.
#[must_use]
pub fn read<'a>(
    style: HeaderStyle,
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    key: Option<&'a [u8]>,
    payload: Bytes,
    context: &ForeignContext<'_>,
) -> Envelope {
    let mut reader = Reader::new(style);
    headers.into_iter().for_each(|(name, value)| reader.header(name, value));
    reader.finish(key, payload, context)
}

/// Whether the content type says that the payload holds the event and its attributes.
pub(super) fn is_structured(content_type: &str) -> bool {
    const MEDIA: &str = "application/cloudevents";
    let Some((start, rest)) = content_type.split_at_checked(MEDIA.len()) else { return false };
    // A batch is not one event: `application/cloudevents-batch`.
    start.eq_ignore_ascii_case(MEDIA)
        && !rest.starts_with(|c: char| c.is_alphanumeric() || c == '-')
}

struct Reader<'a> {
    style: HeaderStyle,
    builder: EnvelopeBuilder<'a>,
    /// `specversion` is there and understood.
    understood: bool,
    /// The copy of a foreign message.
    marked_foreign: bool,
    /// The content type as a header beside the attributes.
    content_type: Option<&'a str>,
    trace: [Option<&'a str>; 2],
    /// What is no application header of a message that this library wrote.
    aside: Records,
}

impl<'a> Reader<'a> {
    fn new(style: HeaderStyle) -> Self {
        Self {
            style,
            builder: EnvelopeBuilder::lenient(),
            understood: false,
            marked_foreign: false,
            content_type: None,
            trace: [None; 2],
            aside: Records::new(),
        }
    }

    fn header(&mut self, name: &'a str, value: &'a [u8]) {
        if let Some(attribute) = strip(name, self.style.prefix()) {
            if !self.attribute(attribute, value) {
                self.builder.keep_as_header(name, value);
            }
        } else if may_be_special(name) {
            self.special(name, value);
        } else {
            self.builder.keep_as_header(name, value);
        }
    }

    fn special(&mut self, name: &'a str, value: &'a [u8]) {
        if let Some(rest) = strip(name, BASE64_PREFIX) {
            let decoded = STANDARD.decode(value).ok().zip(percent::decode(rest));
            match decoded {
                Some((value, name)) => self.builder.keep_as_header(&name, &value),
                None => self.keep_aside(name, value),
            }
        } else if name.eq_ignore_ascii_case(FOREIGN) && value == b"1" {
            self.marked_foreign = true;
        } else if name.eq_ignore_ascii_case("content-type") {
            match std::str::from_utf8(value).ok().filter(|text| check::content_type(text).is_ok()) {
                Some(text) => self.content_type = Some(text),
                None => self.builder.keep_as_header(name, value),
            }
        } else if check::reserved_header(name).is_some() {
            self.keep_aside(name, value);
        } else {
            let traced = ["traceparent", "tracestate"];
            if let Some(at) = traced.iter().position(|traced| name.eq_ignore_ascii_case(traced)) {
                self.trace[at] = std::str::from_utf8(value).ok();
            }
            self.builder.keep_as_header(name, value);
        }
    }

    /// `false` if it must stay a header.
    fn attribute(&mut self, name: &str, value: &'a [u8]) -> bool {
        let Ok(text) = std::str::from_utf8(value) else { return false };
        let decoded = match self.style {
            HeaderStyle::Dash => percent::decode(text),
            HeaderStyle::Underscore | HeaderStyle::Colon => Some(Cow::Borrowed(text)),
        };
        let Some(text) = decoded else { return false };
        // Headers are compared without regard to case, names of attributes are lower case.
        let lower = name.bytes().any(|byte| byte.is_ascii_uppercase());
        let name = if lower { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) };
        match Attribute::by_event_name(&name) {
            Some(Attribute::SpecVersion) => {
                self.understood = text == SPEC;
                self.understood
            }
            Some(attribute) => self.builder.read(attribute, text).is_ok(),
            None if check::readable_extension_name(&name) && check::is_event_text(&text) => {
                self.builder.keep_extension(&name, &text);
                true
            }
            None => false,
        }
    }

    fn keep_aside(&mut self, name: &str, value: &[u8]) {
        push_record(&mut self.aside, Tag::Header, name, value);
    }

    fn finish(
        mut self,
        key: Option<&'a [u8]>,
        payload: Bytes,
        context: &ForeignContext<'_>,
    ) -> Envelope {
        if self.content_type.is_some_and(is_structured)
            && let Ok(envelope) = Envelope::from_json(payload.clone())
        {
            return self.structured(&envelope, key);
        }
        if let Some(content_type) = self.content_type
            && !self.builder.has(CONTENT_TYPE)
        {
            // It was checked when it was found.
            let _ = self.builder.read(CONTENT_TYPE, content_type.into());
        }
        self.take_key(key);
        let complete = [ID, SOURCE, TYPE].into_iter().all(|required| self.builder.has(required));
        if !(self.understood && complete) {
            self.foreign(context);
        } else if self.marked_foreign {
            self.builder.set_foreign();
        }
        self.builder.set_payload(payload);
        self.builder.build_lenient()
    }

    fn take_key(&mut self, key: Option<&'a [u8]>) {
        let Some(key) = key.filter(|key| !key.is_empty()) else { return };
        match self.builder.key_bytes() {
            Some(other) if other != key => {
                let other = other.to_vec();
                self.builder.keep_as_header(self.style.name_of(KEY), &other);
            }
            _ => {}
        }
        self.builder.set_key(key);
    }

    fn foreign(&mut self, context: &ForeignContext<'_>) {
        self.builder.set_foreign();
        // What fails its rule even here is made up by `build_lenient`.
        if !self.builder.has(ID) {
            let _ = self.builder.read(ID, context.id.to_string().into());
        }
        if !self.builder.has(SOURCE) {
            let mut source = String::new();
            percent::encode_with(&mut source, &context.source.to_string(), check::in_uri);
            let _ = self.builder.read(SOURCE, source.into());
        }
        if let Some(time) = context.time
            && !self.builder.has(Attribute::Time)
        {
            self.builder.set_time(time);
        }
        for (slot, found) in [Slot::TraceParent, Slot::TraceState].into_iter().zip(self.trace) {
            let attribute = Attribute::Text(slot);
            if let Some(text) = found
                && !self.builder.has(attribute)
            {
                let _ = self.builder.read(attribute, text.into());
            }
        }
        for (_, name, value) in RecordIter(&self.aside) {
            self.builder.keep_as_header(name, value);
        }
    }

    /// An event that was taken out of the payload, with the headers that stood beside it.
    fn structured(self, envelope: &Envelope, key: Option<&'a [u8]>) -> Envelope {
        let beside = self.builder.build_lenient();
        let mut builder = envelope.to_builder();
        for (name, value) in beside.headers() {
            builder.keep_as_header(name, value);
        }
        if let Some(key) = key.filter(|key| !key.is_empty()) {
            builder.set_key(key);
        }
        builder.build_lenient()
    }
}

/// Whether the name begins as one does that is more than an application header. Most do not.
fn may_be_special(name: &str) -> bool {
    matches!(
        name.as_bytes().first().map(u8::to_ascii_lowercase),
        Some(b'a' | b'c' | b'n' | b'p' | b't' | b'x')
    )
}

/// What follows the prefix, whose case does not matter.
fn strip<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = name.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}
