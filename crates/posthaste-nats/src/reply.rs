//! What the server says of a delivery: it is written into the subject that takes the answer.

use std::time::Duration;

use posthaste_core::Timestamp;

/// One delivery, as `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<pending>`
/// or, on servers with several domains, `$JS.ACK.<domain>.<account>.<stream>. ...` tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delivered {
    /// How often the message was delivered to the consumer, this time included.
    pub(crate) deliveries: u64,
    pub(crate) stream_sequence: u64,
    pub(crate) consumer_sequence: u64,
    /// When the stream took the message.
    pub(crate) stored_at: Timestamp,
    /// How many messages the consumer has not delivered yet.
    pub(crate) pending: u64,
}

impl Delivered {
    /// Reads the subject; `None` if it is no answer to a delivery.
    pub(crate) fn parse(reply: &str) -> Option<Self> {
        let rest = reply.strip_prefix("$JS.ACK.")?;
        let tokens = rest.bytes().filter(|byte| *byte == b'.').count() + 1;
        // Two tokens more before the stream, and perhaps a random one at the end.
        let before = match tokens {
            7 => 2,
            9 | 10 => 4,
            _ => return None,
        };
        // Bytes, because this is read once for each delivery.
        let mut numbers = rest.as_bytes().split(|byte| *byte == b'.').skip(before).map(number);
        let mut next = || numbers.next().flatten();
        let deliveries = next()?;
        let stream_sequence = next()?;
        let consumer_sequence = next()?;
        let stored_at = Timestamp::UNIX_EPOCH + Duration::from_nanos(next()?);
        let pending = next()?;
        Some(Self { deliveries, stream_sequence, consumer_sequence, stored_at, pending })
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    let (first, rest) = digits.split_first()?;
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
    rest.iter()
        .try_fold(digit(first)?, |number, byte| number.checked_mul(10)?.checked_add(digit(byte)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form() {
        let expected = Delivered {
            deliveries: 2,
            stream_sequence: 17,
            consumer_sequence: 21,
            stored_at: Timestamp::from_micros(1_700_000_000_000_123),
            pending: 5,
        };
        for reply in [
            "$JS.ACK.orders.billing.2.17.21.1700000000000123456.5",
            "$JS.ACK._.ACC7.orders.billing.2.17.21.1700000000000123456.5",
            "$JS.ACK.hub.ACC7.orders.billing.2.17.21.1700000000000123456.5.r4nd",
        ] {
            assert_eq!(Delivered::parse(reply), Some(expected), "{reply}");
        }
    }

    #[test]
    fn refuses_what_is_no_answer() {
        for reply in [
            "",
            "_INBOX.x.y",
            "$JS.ACK.a.b.1.2",
            "$JS.ACK.a.b.x.17.21.1.5",
            "$JS.ACK.s.c.1.2.3.4.5.6",
            "$JS.ACK.a.b..17.21.1.5",
            "$JS.ACK.a.b.2.99999999999999999999.21.1.5",
        ] {
            assert_eq!(Delivered::parse(reply), None, "{reply}");
        }
    }
}
