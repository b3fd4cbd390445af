//! From the errors of the client and the broker to ours.
//!
//! The broker's replies are told by their code, and where one code means several things by their
//! text.

use lapin::ErrorKind as Native;
use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPHardError, AMQPSoftError};
use posthaste_core::{Error, ErrorKind, Retry};

use crate::mismatch;

/// The name of this adapter in errors and capabilities.
pub(crate) const BROKER: &str = "rabbitmq";

/// The bus was closed.
#[cold]
pub(crate) fn closed() -> Error {
    Error::closed("the connection was closed").with_broker(BROKER)
}

/// Connecting took too long.
#[cold]
pub(crate) fn timed_out_connecting() -> Error {
    Error::new(ErrorKind::Timeout, "connecting took too long").with_broker(BROKER)
}

/// An answer did not come in time.
#[cold]
pub(crate) fn timed_out(what: &'static str) -> Error {
    Error::new(ErrorKind::Timeout, "the broker did not answer in time")
        .with_context("request", what)
        .with_broker(BROKER)
}

/// The broker takes nothing now, because it is short of something.
#[cold]
pub(crate) fn blocked(reason: &str) -> Error {
    Error::new(ErrorKind::Backpressure, "the broker takes no messages now")
        .with_context("reason", reason.escape_debug())
        .with_broker(BROKER)
}

/// There is no such topic.
#[cold]
pub(crate) fn no_topic() -> Error {
    Error::new(ErrorKind::NotFound, "the topic does not exist").with_broker(BROKER)
}

/// There is no such group.
#[cold]
pub(crate) fn no_group() -> Error {
    Error::new(ErrorKind::NotFound, "the group does not exist").with_broker(BROKER)
}

/// A name or a text of a message is too long for the protocol.
#[cold]
pub(crate) fn too_long(what: &'static str) -> Error {
    Error::new(ErrorKind::TooLarge, "a text is longer than the protocol carries")
        .with_context("what", what)
        .with_context("limit in bytes", 255)
        .with_broker(BROKER)
}

/// Connecting failed. `server` is an address without a login.
#[cold]
pub(crate) fn connect(error: lapin::Error, server: &str, vhost: &str) -> Error {
    let made = match error.kind() {
        Native::ProtocolError(reply) => match reply.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
                Error::new(ErrorKind::Auth, "the broker refused the login")
            }
            AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) if text(reply).contains("not found") => {
                Error::new(ErrorKind::NotFound, "the virtual host does not exist")
            }
            AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => {
                Error::new(ErrorKind::Auth, "the broker refused the virtual host")
            }
            _ => return native(error).with_context("server", server.escape_debug()),
        },
        Native::AuthProviderError(_) => Error::new(ErrorKind::Auth, "the login could not be made"),
        Native::IOError(io) if is_tls_fault(io) => {
            Error::new(ErrorKind::Connection, "the TLS handshake failed").with_retry(Retry::Never)
        }
        Native::IOError(io) if io.to_string().contains("failed to lookup address") => {
            Error::new(ErrorKind::Connection, "the host is not known").with_retry(Retry::Never)
        }
        Native::IOError(_) | Native::MissingHeartbeatError => {
            Error::new(ErrorKind::Connection, "no server could be reached")
        }
        _ => return native(error).with_context("server", server.escape_debug()),
    };
    made.with_context("server", server.escape_debug())
        .with_context("vhost", vhost.escape_debug())
        .with_source(error)
        .with_broker(BROKER)
}

/// Whether the handshake is what failed: the client reports it as one of the network.
fn is_tls_fault(error: &std::io::Error) -> bool {
    let text = error.to_string();
    error.kind() == std::io::ErrorKind::InvalidData
        || ["certificate", "tls", "TLS", "corrupt message"].iter().any(|word| text.contains(word))
}

/// What the broker says.
pub(crate) fn text(reply: &AMQPError) -> String {
    reply.get_message().to_string()
}

/// The reply of the broker in an error of the client.
pub(crate) fn reply(error: &lapin::Error) -> Option<&AMQPError> {
    match error.kind() {
        Native::ProtocolError(reply) => Some(reply),
        _ => None,
    }
}

/// Whether the broker knows nothing of that name.
pub(crate) fn is_not_found(error: &lapin::Error) -> bool {
    reply(error).is_some_and(|reply| *reply.kind() == AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND))
}

/// Whether somebody else has it for himself.
pub(crate) fn is_locked(error: &lapin::Error) -> bool {
    reply(error)
        .is_some_and(|reply| *reply.kind() == AMQPErrorKind::Soft(AMQPSoftError::RESOURCELOCKED))
}

/// The argument that differs, if that is what the broker says.
pub(crate) fn mismatch(error: &lapin::Error) -> Option<mismatch::Mismatch> {
    reply(error).and_then(|reply| mismatch::read(&text(reply)))
}

/// Whether the connection is gone, and not only the channel.
pub(crate) fn is_lost(error: &lapin::Error) -> bool {
    match error.kind() {
        Native::ProtocolError(reply) => matches!(reply.kind(), AMQPErrorKind::Hard(_)),
        Native::IOError(_)
        | Native::MissingHeartbeatError
        | Native::InvalidConnectionState(_)
        | Native::ParsingError(_)
        | Native::SerialisationError(_) => true,
        _ => false,
    }
}

/// Any call failed.
#[cold]
pub(crate) fn native(error: lapin::Error) -> Error {
    let (kind, message) = match error.kind() {
        Native::ProtocolError(reply) => classify(reply),
        Native::IOError(_)
        | Native::MissingHeartbeatError
        | Native::InvalidConnectionState(_)
        | Native::InvalidChannelState(..)
        | Native::InvalidChannel(_) => (ErrorKind::Connection, "the connection was lost"),
        Native::ChannelsLimitReached => {
            (ErrorKind::Backpressure, "the connection has as many channels as it may have")
        }
        _ => (ErrorKind::Fatal, "the client failed"),
    };
    let made = Error::new(kind, message);
    let made = match error.kind() {
        Native::ProtocolError(reply) => made.with_context("broker said", text(reply)),
        _ => made,
    };
    made.with_source(error).with_broker(BROKER)
}

fn classify(reply: &AMQPError) -> (ErrorKind, &'static str) {
    use ErrorKind as K;
    let text = text(reply);
    let says = |words: &str| text.contains(words);
    match reply.kind() {
        AMQPErrorKind::Soft(soft) => match soft {
            AMQPSoftError::CONTENTTOOLARGE => (K::TooLarge, "the message is too large"),
            AMQPSoftError::NOCONSUMERS | AMQPSoftError::NOROUTE => {
                (K::Unroutable, "nobody takes the message")
            }
            AMQPSoftError::ACCESSREFUSED if says("exclusive use") => {
                (K::Conflict, "somebody else has the queue for himself")
            }
            AMQPSoftError::ACCESSREFUSED if says("reserved") => {
                (K::Invalid, "the name begins with what is the broker's")
            }
            AMQPSoftError::ACCESSREFUSED => (K::Auth, "the user may not do this"),
            AMQPSoftError::NOTFOUND => (K::NotFound, "the broker knows nothing of that name"),
            AMQPSoftError::RESOURCELOCKED => {
                (K::Conflict, "the queue belongs to another connection")
            }
            AMQPSoftError::PRECONDITIONFAILED if says("inequivalent arg") => {
                (K::Conflict, "what exists differs from what was asked for")
            }
            AMQPSoftError::PRECONDITIONFAILED if says("larger than") => {
                (K::TooLarge, "the message is larger than the broker takes")
            }
            AMQPSoftError::PRECONDITIONFAILED if says("timed out") => {
                (K::Timeout, "a delivery was held for longer than the broker allows")
            }
            AMQPSoftError::PRECONDITIONFAILED if says("in use") => (K::Conflict, "it is in use"),
            AMQPSoftError::PRECONDITIONFAILED => (K::Invalid, "the broker refused the request"),
        },
        AMQPErrorKind::Hard(hard) => match hard {
            AMQPHardError::CONNECTIONFORCED => (K::Connection, "the broker ended the connection"),
            AMQPHardError::FRAMEERROR => (K::TooLarge, "a frame is larger than the broker takes"),
            AMQPHardError::NOTALLOWED => (K::Auth, "the broker does not allow this"),
            AMQPHardError::NOTIMPLEMENTED => (K::Unsupported, "the broker cannot do this"),
            AMQPHardError::COMMANDINVALID if says("exchange type") => {
                (K::Invalid, "there is no such type of exchange")
            }
            _ => (K::Connection, "the broker ended the connection"),
        },
    }
}

/// A publish that was under way failed.
#[cold]
pub(crate) fn publish(error: lapin::Error) -> Error {
    let may_be_stored =
        !reply(&error).is_some_and(|reply| matches!(reply.kind(), AMQPErrorKind::Soft(_)));
    native(error).with_may_be_stored(may_be_stored)
}
