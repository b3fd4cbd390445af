//! What the server says to a request for messages, instead of a message.

/// What follows from it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// A sign of life, or the regular end of a request.
    Nothing,
    /// What there is goes to requests that were made before.
    Taken,
    /// Ask again after a pause.
    Pause,
    /// See what became of the consumer.
    Check,
    /// The next message does not fit into the bytes that were asked for.
    Oversized,
}

/// Understands a status with its text.
pub(crate) fn read(code: u16, text: &str) -> Word {
    let says = |part: &str| text.get(..part.len()).is_some_and(|t| t.eq_ignore_ascii_case(part));
    match code {
        // Signs of life, and the ends that a request is expected to have.
        100 | 404 => Word::Nothing,
        408 if says("Request Timeout") => Word::Nothing,
        408 if says("Requests Pending") => Word::Taken,
        408 if says("Interest Expired") => Word::Pause,
        409 if says("Message Size Exceeds") => Word::Oversized,
        409 if says("Batch Completed") => Word::Nothing,
        409 if says("Leadership Change") || says("Server Shutdown") => Word::Pause,
        409 if says("Exceeded MaxWaiting") => Word::Pause,
        // The consumer is gone, is another one than it was, or nobody leads it.
        _ => Word::Check,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn understands_what_servers_say() {
        for (code, text, expected) in [
            (100, "Idle Heartbeat", Word::Nothing),
            (404, "No Messages", Word::Nothing),
            (408, "Request Timeout", Word::Nothing),
            (408, "Requests Pending", Word::Taken),
            (408, "Interest Expired", Word::Pause),
            (409, "Message Size Exceeds MaxBytes", Word::Oversized),
            (409, "Batch Completed", Word::Nothing),
            (409, "Leadership Change", Word::Pause),
            (409, "Server Shutdown", Word::Pause),
            (409, "Exceeded MaxWaiting", Word::Pause),
            (409, "Exceeded MaxRequestBatch of 10", Word::Check),
            (409, "Consumer Deleted", Word::Check),
            (409, "Consumer is push based", Word::Check),
            (503, "", Word::Check),
            (400, "Bad Request", Word::Check),
        ] {
            assert_eq!(read(code, text), expected, "{code} {text}");
        }
    }
}
