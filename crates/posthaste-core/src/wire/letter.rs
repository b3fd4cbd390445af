//! What a dead letter carries beside the message: the headers `ph-dl-`.

use super::{HeaderStyle, names, percent};
use crate::envelope::json;
use crate::{Cause, DeadLetter, Envelope, GroupName, Reason, TopicName};

/// Gives out the headers that make a message a dead letter; those of its envelope come from
/// [`write`](super::write()).
///
/// Values are text. In [`HeaderStyle::Dash`] they are percent-encoded like attributes.
pub fn write_letter(letter: &DeadLetter, style: HeaderStyle, mut put: impl FnMut(&str, &str)) {
    let mut buffer = String::new();
    let mut give = |name: &str, value: &str| {
        if style == HeaderStyle::Dash && !percent::is_plain(value) {
            buffer.clear();
            percent::encode(&mut buffer, value);
            put(name, &buffer);
        } else {
            put(name, value);
        }
    };
    give(names::DEAD_LETTER_REASON, letter.reason.as_str());
    give(names::DEAD_LETTER_TOPIC, letter.topic.as_str());
    give(names::DEAD_LETTER_GROUP, letter.group.as_str());
    give(names::DEAD_LETTER_ATTEMPTS, &letter.attempts.to_string());
    if let Some(time) = letter.first_failed_at {
        give(names::DEAD_LETTER_FIRST_FAILED, &time.to_string());
    }
    give(names::DEAD_LETTER_FAILED, &letter.failed_at.to_string());
    if let Some(cause) = &letter.cause {
        let mut chain = String::from("[");
        for text in cause.chain() {
            if chain.len() > 1 {
                chain.push(',');
            }
            json::string(&mut chain, text);
        }
        chain.push(']');
        give(names::DEAD_LETTER_CAUSE, &chain);
        if let Some(handler) = cause.handler_name() {
            give(names::DEAD_LETTER_HANDLER, handler);
        }
        give(names::DEAD_LETTER_FINGERPRINT, &cause.fingerprint());
    }
}

/// Reads what [`write_letter`] wrote, from the headers of the message that holds `envelope`.
/// `None` if it is no dead letter: reason, topic or group are absent or unsound. Other parts that
/// cannot be read are left at what [`DeadLetter::new`] says.
#[must_use]
pub fn read_letter<'a>(
    style: HeaderStyle,
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    envelope: Envelope,
) -> Option<DeadLetter> {
    let mut reason = None;
    let (mut topic, mut group, mut attempts) = (None, None, None);
    let (mut first_failed_at, mut failed_at) = (None, None);
    let (mut chain, mut handler): (Option<Vec<String>>, _) = (None, None);
    for (name, value) in headers {
        if !name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("ph-dl-")) {
            continue;
        }
        let Ok(text) = std::str::from_utf8(value) else { continue };
        let decoded = match style {
            HeaderStyle::Dash => percent::decode(text),
            HeaderStyle::Underscore | HeaderStyle::Colon => Some(text.into()),
        };
        let Some(text) = decoded else { continue };
        match name.to_ascii_lowercase().as_str() {
            names::DEAD_LETTER_REASON => reason = Some(Reason::from_name(&text)),
            names::DEAD_LETTER_TOPIC => topic = TopicName::new(&text).ok(),
            names::DEAD_LETTER_GROUP => group = GroupName::new(&text).ok(),
            names::DEAD_LETTER_ATTEMPTS => attempts = text.parse().ok(),
            names::DEAD_LETTER_FIRST_FAILED => first_failed_at = text.parse().ok(),
            names::DEAD_LETTER_FAILED => failed_at = text.parse().ok(),
            names::DEAD_LETTER_CAUSE => chain = serde_json::from_str(&text).ok(),
            names::DEAD_LETTER_HANDLER => handler = Some(text.into_owned()),
            _ => {}
        }
    }
    let mut letter = DeadLetter::new(envelope, reason?, topic?, group?);
    letter.attempts = attempts.unwrap_or(letter.attempts);
    letter.first_failed_at = first_failed_at;
    letter.failed_at = failed_at.unwrap_or(letter.failed_at);
    letter.cause = chain.map(|chain| Cause::from_chain(chain, handler));
    Some(letter)
}
