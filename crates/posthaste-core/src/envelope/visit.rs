//! The attributes of an envelope one after the other, as text: what every format writes.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::attribute::{self, Name, TEXT};
use super::head::Slot;
use super::{Envelope, check};

impl Envelope {
    /// Visits every attribute that is set but the spec version and extensions, in the order in
    /// which documents and headers show them. A key that CloudEvents cannot carry as a String
    /// comes as base64, under its own name.
    pub(crate) fn visit_attributes(&self, mut visit: impl FnMut(Name, &str)) {
        let head = self.head();
        // One buffer for everything that is not text already; it costs nothing if unused.
        let mut buffer = String::new();
        for attribute in &TEXT {
            if let Some(value) = head.text(attribute.slot) {
                visit(attribute.name, value);
            }
            if attribute.slot == Slot::Subject
                && let Some(time) = head.time()
            {
                visit(attribute::TIME, show(&mut buffer, time));
            }
        }
        if let Some(key) = head.bytes(Slot::Key) {
            match std::str::from_utf8(key).ok().filter(|key| check::is_event_text(key)) {
                Some(key) => visit(attribute::KEY, key),
                None => {
                    buffer.clear();
                    STANDARD.encode_string(key, &mut buffer);
                    visit(attribute::KEY_BASE64, &buffer);
                }
            }
        }
        if let Some(sequence) = head.sequence() {
            visit(attribute::SEQUENCE, show(&mut buffer, sequence));
        }
        if let Some(expiry) = head.expiry() {
            visit(attribute::EXPIRY, show(&mut buffer, expiry));
        }
        if let Some(version) = head.version() {
            visit(attribute::VERSION, show(&mut buffer, version));
        }
    }
}

fn show(buffer: &mut String, value: impl std::fmt::Display) -> &str {
    buffer.clear();
    // Writing to a String fails only if Display does, and these do not.
    let _ = write!(buffer, "{value}");
    buffer
}
