//! What differs, from the words in which the broker refuses a declaration.
//!
//! The protocol has no question for the arguments of a queue or an exchange. A declaration of what
//! exists changes nothing; if it differs, the refusal names the argument, what was asked for and
//! what is there. The words are those of every version from 3.x on.

use posthaste_core::Difference;

/// One argument that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) argument: String,
    pub(crate) wanted: String,
    pub(crate) found: String,
}

/// Reads the text of a refusal: `… inequivalent arg 'A' for queue 'q' in vhost '/': received … but
/// current is …`. `None` if it says something else.
pub(crate) fn read(text: &str) -> Option<Mismatch> {
    let rest = text.split_once("inequivalent arg '")?.1;
    let (argument, rest) = rest.split_once('\'')?;
    // The last ones: names of things may hold anything.
    let (rest, found) = rest.rsplit_once(" but current is ")?;
    let (_, wanted) = rest.rsplit_once(": received ")?;
    Some(Mismatch {
        argument: argument.to_owned(),
        wanted: value(wanted)?.to_owned(),
        found: value(found)?.to_owned(),
    })
}

/// `'x'` and `the value 'x' of type 'y'` are `x`; `none` stays. `None` for what was cut: the
/// broker sends at most 255 bytes.
fn value(text: &str) -> Option<&str> {
    let text = text.trim();
    match (text.strip_prefix("the value "), text.strip_prefix('\'')) {
        (Some(rest), _) => {
            let (value, _) = rest.split_once(" of type '")?;
            Some(value.strip_prefix('\'').and_then(|v| v.strip_suffix('\'')).unwrap_or(value))
        }
        (None, Some(rest)) => rest.strip_suffix('\''),
        (None, None) => Some(text),
    }
}

/// The settings that this library declares, by the names that applications read.
const SETTINGS: &[&str] = &[
    "type",
    "durable",
    "auto_delete",
    "exclusive",
    "internal",
    "alternate-exchange",
    "x-queue-type",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-delivery-limit",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-message-ttl",
    "x-overflow",
    "x-queue-leader-locator",
    "x-quorum-initial-group-size",
    "x-single-active-consumer",
];

impl Mismatch {
    /// As applications read it.
    pub(crate) fn difference(&self) -> Difference {
        let known = SETTINGS.iter().find(|setting| **setting == self.argument);
        let shown = |value: &str| if value.is_empty() { "''".to_owned() } else { value.to_owned() };
        let setting = known.copied().unwrap_or("argument");
        Difference::new(setting, shown(&self.wanted), shown(&self.found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_brokers_say() {
        let cases = [
            (
                "PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for exchange 'orders' \
                 in vhost '/': received the value '?' of type 'longstr' but current is the value \
                 'orders__unrouted' of type 'longstr'",
                ("alternate-exchange", "?", "orders__unrouted"),
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'q' in vhost \
                 '/': received none but current is the value '20' of type 'signedint'",
                ("x-delivery-limit", "none", "20"),
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'it''s: received' in \
                 vhost 'a b': received 'true' but current is 'false'",
                ("durable", "true", "false"),
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'orders' in vhost '/': \
                 received 'topic' but current is 'fanout'",
                ("type", "topic", "fanout"),
            ),
        ];
        for (text, (argument, wanted, found)) in cases {
            let read = read(text).expect(text);
            assert_eq!((&*read.argument, &*read.wanted, &*read.found), (argument, wanted, found));
        }
        assert_eq!(read("PRECONDITION_FAILED - unknown delivery tag 7"), None);
        let cut = "PRECONDITION_FAILED - inequivalent arg 'x-expires' for queue 'q' in vhost '/': \
                   received none but current is the value '12...";
        assert_eq!(read(cut), None);
    }
}
