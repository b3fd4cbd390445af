//! From the errors of the client and the server to ours.
//!
//! What the server answers is told by its error code, because the client's kinds lump most codes
//! together.

use std::error::Error as StdError;

use async_nats::client::{FlushError, RequestError, RequestErrorKind};
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::{self, ErrorCode};
use async_nats::rustls;
use async_nats::{ConnectError, ConnectErrorKind, SubscribeError};
use posthaste_core::{Error, ErrorKind, Retry};

/// The name of this adapter in errors and capabilities.
pub(crate) const BROKER: &str = "nats";

/// The bus was closed.
#[cold]
pub(crate) fn closed() -> Error {
    Error::closed("the connection was closed").with_broker(BROKER)
}

/// Connecting failed. `servers` are addresses without logins.
#[cold]
pub(crate) fn connect(error: ConnectError, servers: &[String]) -> Error {
    let kind = error.kind();
    let made = match kind {
        ConnectErrorKind::AuthorizationViolation => {
            Error::new(ErrorKind::Auth, "the server refused the login")
        }
        ConnectErrorKind::Authentication => {
            Error::new(ErrorKind::Auth, "the login could not be signed: its key is not sound")
        }
        ConnectErrorKind::ServerParse => Error::invalid("a server's address is malformed"),
        ConnectErrorKind::Tls => Error::invalid("TLS could not be set up"),
        ConnectErrorKind::Dns => {
            Error::new(ErrorKind::Connection, "the host is not known").with_retry(Retry::Never)
        }
        ConnectErrorKind::TimedOut => timed_out_connecting(),
        ConnectErrorKind::Io if tls_fault(&error) => {
            Error::new(ErrorKind::Connection, "the TLS handshake failed").with_retry(Retry::Never)
        }
        ConnectErrorKind::Io | ConnectErrorKind::MaxReconnects => {
            Error::new(ErrorKind::Connection, "no server could be reached")
        }
    };
    made.with_context("servers", servers.join(",")).with_source(error).with_broker(BROKER)
}

/// Connecting took too long.
#[cold]
pub(crate) fn timed_out_connecting() -> Error {
    Error::new(ErrorKind::Timeout, "connecting took too long").with_broker(BROKER)
}

/// Whether a fault of TLS is behind the error, which the client reports as one of the network.
fn tls_fault(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<rustls::Error>() {
            return true;
        }
        // The source of an I/O error hides what it wraps.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if wrapped.is_some_and(|wrapped| wrapped.is::<rustls::Error>()) {
            return true;
        }
        next = error.source();
    }
    false
}

/// A publish failed, or its answer did not come.
#[cold]
pub(crate) fn publish(error: PublishError) -> Error {
    let unknown = |kind, text| Error::new(kind, text).with_may_be_stored(true);
    let made = match error.kind() {
        PublishErrorKind::StreamNotFound => no_stream(),
        PublishErrorKind::WrongLastMessageId | PublishErrorKind::WrongLastSequence => {
            Error::new(ErrorKind::Conflict, "the stream is not where it was expected to be")
        }
        PublishErrorKind::TimedOut => {
            unknown(ErrorKind::Timeout, "the server did not confirm the message in time")
        }
        PublishErrorKind::BrokenPipe => {
            unknown(ErrorKind::Connection, "the connection was lost before the confirmation")
        }
        PublishErrorKind::MaxAckPending => {
            Error::new(ErrorKind::Backpressure, "too many messages wait for their confirmation")
        }
        PublishErrorKind::MaxPayloadExceeded => {
            Error::new(ErrorKind::TooLarge, "the message is larger than the server takes")
        }
        PublishErrorKind::Other => match server_error(&error) {
            Some(server) => api(server),
            None if error.to_string().contains("invalid subject") => {
                Error::invalid("the subject is malformed")
            }
            // The command could not be given to the client's task: it has ended.
            None => Error::new(ErrorKind::Connection, "the client is not running"),
        },
    };
    made.with_source(error).with_broker(BROKER)
}

/// No stream takes the subject, or none has a leader now.
#[cold]
pub(crate) fn no_stream() -> Error {
    Error::new(ErrorKind::NotFound, "no stream takes the subject").with_broker(BROKER)
}

/// An answer to a publish could not be read.
#[cold]
pub(crate) fn unreadable() -> Error {
    Error::new(ErrorKind::Connection, "the server's answer could not be read")
        .with_may_be_stored(true)
        .with_broker(BROKER)
}

/// Whether the server could not make what was to be on its disk.
pub(crate) fn is_not_created(error: &Error) -> bool {
    server_error(error).is_some_and(|error| error.error_code() == ErrorCode::STREAM_CREATE)
}

fn server_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a jetstream::Error> {
    error.source().and_then(|source| source.downcast_ref())
}

/// A request got no answer.
#[cold]
pub(crate) fn request(error: RequestError) -> Error {
    let made = match error.kind() {
        RequestErrorKind::TimedOut => {
            Error::new(ErrorKind::Timeout, "the server did not answer in time")
        }
        RequestErrorKind::NoResponders => Error::new(
            ErrorKind::Connection,
            "JetStream does not answer: it is starting, has no leader, or is not enabled",
        ),
        RequestErrorKind::InvalidSubject => Error::invalid("the subject is malformed"),
        RequestErrorKind::MaxPayloadExceeded => {
            Error::new(ErrorKind::TooLarge, "the request is larger than the server takes")
        }
        RequestErrorKind::Other => {
            Error::new(ErrorKind::Connection, "the request could not be sent or read")
        }
    };
    made.with_source(error).with_broker(BROKER)
}

/// A subscription could not be made.
#[cold]
pub(crate) fn subscribe(error: SubscribeError) -> Error {
    use async_nats::SubscribeErrorKind as Kind;
    let made = match error.kind() {
        Kind::InvalidSubject => Error::invalid("the subject is malformed"),
        Kind::InvalidQueueName => Error::invalid("the group's name is malformed"),
        Kind::Other => Error::new(ErrorKind::Connection, "the client is not running"),
    };
    made.with_source(error).with_broker(BROKER)
}

/// Something could not be handed to the connection.
#[cold]
pub(crate) fn send(error: async_nats::PublishError) -> Error {
    use async_nats::PublishErrorKind as Kind;
    let made = match error.kind() {
        Kind::MaxPayloadExceeded => {
            Error::new(ErrorKind::TooLarge, "the message is larger than the server takes")
        }
        Kind::InvalidSubject => Error::invalid("the subject is malformed"),
        Kind::Send => Error::new(ErrorKind::Connection, "the client is not running"),
    };
    made.with_source(error).with_broker(BROKER)
}

/// What was written could not be brought on its way.
#[cold]
pub(crate) fn flush(error: FlushError) -> Error {
    Error::new(ErrorKind::Connection, "the connection was lost before everything was sent")
        .with_source(error)
        .with_broker(BROKER)
}

/// The server answered with an error.
#[cold]
pub(crate) fn api(error: &jetstream::Error) -> Error {
    let (kind, text) = classify(error);
    Error::new(kind, text)
        .with_context("server", error.to_string().escape_debug())
        .with_source(error.clone())
        .with_broker(BROKER)
}

fn classify(error: &jetstream::Error) -> (ErrorKind, &'static str) {
    use ErrorKind as K;
    match error.error_code() {
        ErrorCode::STREAM_NOT_FOUND => (K::NotFound, "the stream does not exist"),
        ErrorCode::CONSUMER_NOT_FOUND => (K::NotFound, "the consumer does not exist"),
        ErrorCode::SEQUENCE_NOT_FOUND | ErrorCode::NO_MESSAGE_FOUND => {
            (K::NotFound, "there is no such message")
        }
        // The code is that of any failure to delete; only the text tells this one.
        ErrorCode::STREAM_MESSAGE_DELETE_FAILED if error.to_string().contains("no message") => {
            (K::NotFound, "there is no such message")
        }
        ErrorCode::STREAM_NAME_EXIST => {
            (K::Conflict, "the stream exists with another configuration")
        }
        ErrorCode::STREAM_SUBJECT_OVERLAP => {
            (K::Conflict, "another stream takes one of the subjects")
        }
        ErrorCode::CONSUMER_CREATE
        | ErrorCode::CONSUMER_ALREADY_EXISTS
        | ErrorCode::CONSUMER_NAME_EXIST
        | ErrorCode::CONSUMER_EXISTING_ACTIVE
        | ErrorCode::CONSUMER_REPLACEMENT_WITH_DIFFERENT_NAME => {
            (K::Conflict, "the consumer exists with another configuration")
        }
        ErrorCode::STREAM_WRONG_LAST_SEQUENCE
        | ErrorCode::STREAM_WRONG_LAST_MESSAGE_ID
        | ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT => {
            (K::Conflict, "the stream is not where it was expected to be")
        }
        ErrorCode::STREAM_NOT_MATCH | ErrorCode::STREAM_SEALED => {
            (K::Conflict, "the stream does not take the message")
        }
        ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => {
            (K::Unsupported, "JetStream is not enabled")
        }
        ErrorCode::MESSAGE_SCHEDULES_DISABLED => {
            (K::Unsupported, "the stream does not take messages for later")
        }
        ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM => {
            (K::TooLarge, "the message is larger than the stream takes")
        }
        ErrorCode::STREAM_STORE_FAILED => (K::Backpressure, "the stream is full"),
        ErrorCode::STREAM_TOO_MANY_REQUESTS
        | ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT
        | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
        | ErrorCode::INSUFFICIENT_RESOURCES
        | ErrorCode::MEMORY_RESOURCES_EXCEEDED
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::MAXIMUM_STREAMS_LIMIT
        | ErrorCode::STREAM_MAX_STREAM_BYTES_EXCEEDED => {
            (K::Backpressure, "the server is at one of its limits")
        }
        ErrorCode::CLUSTER_NOT_AVAILABLE
        | ErrorCode::CLUSTER_NOT_LEADER
        | ErrorCode::CLUSTER_NOT_ASSIGNED
        | ErrorCode::CLUSTER_INCOMPLETE
        | ErrorCode::CLUSTER_NOT_ACTIVE => (K::Connection, "the cluster is not ready"),
        ErrorCode::MESSAGE_TTL_INVALID | ErrorCode::MESSAGE_TTL_DISABLED => {
            (K::Invalid, "the time to live is not accepted")
        }
        _ => match error.code() {
            400 => (K::Invalid, "the server refused the request"),
            401 | 403 => (K::Auth, "the server refused the right to do this"),
            404 => (K::NotFound, "the server knows nothing of that name"),
            408 => (K::Timeout, "the server gave up waiting"),
            409 => (K::Conflict, "the request contradicts what exists"),
            429 => (K::Backpressure, "the server is at one of its limits"),
            503 => (K::Connection, "the server is not ready"),
            _ => (K::Fatal, "the server failed"),
        },
    }
}

/// A server that is too old for what was asked.
#[cold]
pub(crate) fn too_old(feature: &'static str, needs: &'static str, server: &str) -> Error {
    Error::unsupported(format!("the server is too old for {feature}"))
        .with_context("needs", needs)
        .with_context("server", server)
        .with_broker(BROKER)
}

/// The user lacks a right. The server does not answer then; it names the subject in a message of
/// its own.
#[cold]
pub(crate) fn forbidden(violation: &str) -> Error {
    Error::new(ErrorKind::Auth, "the user may not use the subject")
        .with_context("server", violation.escape_debug())
        .with_broker(BROKER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u64, code: u64) -> Error {
        let json = format!(r#"{{"code":{status},"err_code":{code},"description":"told so"}}"#);
        api(&serde_json::from_str(&json).unwrap())
    }

    #[test]
    fn tells_the_answers_of_servers_apart() {
        use ErrorKind as K;
        let cases = [
            (404, 10_059, K::NotFound, Retry::Never),
            (404, 10_014, K::NotFound, Retry::Never),
            (404, 10_037, K::NotFound, Retry::Never),
            (400, 10_043, K::NotFound, Retry::Never),
            (400, 10_058, K::Conflict, Retry::Never),
            (400, 10_065, K::Conflict, Retry::Never),
            (500, 10_012, K::Conflict, Retry::Never),
            (400, 10_148, K::Conflict, Retry::Never),
            (400, 10_105, K::Conflict, Retry::Never),
            (400, 10_013, K::Conflict, Retry::Never),
            (400, 10_071, K::Conflict, Retry::Never),
            (400, 10_164, K::Conflict, Retry::Never),
            (400, 10_070, K::Conflict, Retry::Never),
            (400, 10_060, K::Conflict, Retry::Never),
            (400, 10_109, K::Conflict, Retry::Never),
            (503, 10_076, K::Unsupported, Retry::Never),
            (503, 10_039, K::Unsupported, Retry::Never),
            (400, 10_054, K::TooLarge, Retry::Never),
            (400, 10_097, K::TooLarge, Retry::Never),
            (503, 10_077, K::Backpressure, Retry::Transient),
            (429, 10_167, K::Backpressure, Retry::Transient),
            (503, 10_047, K::Backpressure, Retry::Transient),
            (500, 10_028, K::Backpressure, Retry::Transient),
            (503, 10_023, K::Backpressure, Retry::Transient),
            (400, 10_122, K::Backpressure, Retry::Transient),
            (400, 10_002, K::Backpressure, Retry::Transient),
            (409, 10_158, K::Backpressure, Retry::Transient),
            (503, 10_008, K::Connection, Retry::Transient),
            (503, 10_004, K::Connection, Retry::Transient),
            (500, 10_009, K::Connection, Retry::Transient),
            (500, 10_007, K::Connection, Retry::Transient),
            (500, 10_006, K::Connection, Retry::Transient),
            (400, 10_165, K::Invalid, Retry::Never),
            (400, 10_166, K::Invalid, Retry::Never),
            (400, 10_003, K::Invalid, Retry::Never),
            (403, 1, K::Auth, Retry::Never),
            (503, 1, K::Connection, Retry::Transient),
            (500, 1, K::Fatal, Retry::Never),
        ];
        for (status, code, kind, retry) in cases {
            let error = answer(status, code);
            assert_eq!((error.kind(), error.retry()), (kind, retry), "{code}: {error}");
            assert!(!error.may_be_stored(), "{code}");
        }
    }

    #[test]
    fn tells_failed_publishes_apart() {
        use ErrorKind as K;
        use PublishErrorKind as P;
        let cases = [
            (P::StreamNotFound, K::NotFound, false),
            (P::WrongLastMessageId, K::Conflict, false),
            (P::WrongLastSequence, K::Conflict, false),
            (P::TimedOut, K::Timeout, true),
            (P::BrokenPipe, K::Connection, true),
            (P::MaxAckPending, K::Backpressure, false),
            (P::MaxPayloadExceeded, K::TooLarge, false),
            (P::Other, K::Connection, false),
        ];
        for (native, kind, stored) in cases {
            let error = publish(PublishError::new(native));
            assert_eq!((error.kind(), error.may_be_stored()), (kind, stored), "{native:?}");
        }
        let server: jetstream::Error =
            serde_json::from_str(r#"{"code":503,"err_code":10077,"description":"full"}"#).unwrap();
        let error = publish(PublishError::with_source(P::Other, server));
        assert_eq!(error.kind(), K::Backpressure);
    }

    #[test]
    fn tells_failed_connects_apart() {
        use ConnectErrorKind as C;
        use ErrorKind as K;
        let cases = [
            (C::AuthorizationViolation, K::Auth),
            (C::Authentication, K::Auth),
            (C::ServerParse, K::Invalid),
            (C::Tls, K::Invalid),
            (C::Dns, K::Connection),
            (C::TimedOut, K::Timeout),
            (C::Io, K::Connection),
            (C::MaxReconnects, K::Connection),
        ];
        for (native, kind) in cases {
            let error = connect(ConnectError::new(native), &["h:1".to_owned()]);
            assert_eq!(error.kind(), kind, "{native:?}");
            assert!(error.to_string().contains("h:1"), "{error}");
        }
        let tls = std::io::Error::other(rustls::Error::DecryptError);
        let error = connect(ConnectError::with_source(C::Io, tls), &[]);
        assert_eq!((error.kind(), error.retry()), (K::Connection, Retry::Never));
    }

    #[test]
    fn tells_unanswered_requests_apart() {
        use ErrorKind as K;
        use RequestErrorKind as R;
        for (native, kind) in [
            (R::TimedOut, K::Timeout),
            (R::NoResponders, K::Connection),
            (R::InvalidSubject, K::Invalid),
            (R::MaxPayloadExceeded, K::TooLarge),
            (R::Other, K::Connection),
        ] {
            assert_eq!(request(RequestError::new(native)).kind(), kind, "{native:?}");
        }
    }
}
