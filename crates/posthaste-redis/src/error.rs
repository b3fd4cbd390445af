//! From the errors of the client and the server to ours.
//!
//! The server's replies are told by their code, and where one code means several things by their
//! text.

use posthaste_core::{Error, ErrorKind, Retry};
use redis::{RedisError, ServerError};

/// The name of this adapter in errors and capabilities.
pub(crate) const BROKER: &str = "redis";

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
pub(crate) fn timed_out() -> Error {
    Error::new(ErrorKind::Timeout, "the server did not answer in time").with_broker(BROKER)
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

/// An answer is not what the protocol says.
#[cold]
pub(crate) fn unexpected(what: &'static str) -> Error {
    Error::new(ErrorKind::Fatal, "the server's answer cannot be read")
        .with_context("answer to", what)
        .with_broker(BROKER)
}

/// The client failed: nothing is known of what was sent.
#[cold]
pub(crate) fn native(error: RedisError) -> Error {
    let made = if error.is_timeout() {
        Error::new(ErrorKind::Timeout, "the server did not answer in time")
    } else if error.is_io_error() || error.is_connection_dropped() {
        Error::new(ErrorKind::Connection, "the connection was lost")
    } else {
        return match error.code() {
            Some(code) => reply(code, error.detail()),
            None => Error::new(ErrorKind::Connection, "the connection cannot be used")
                .with_source(error)
                .with_broker(BROKER),
        };
    };
    made.with_source(error).with_broker(BROKER)
}

/// Connecting failed. `server` is an address without a login.
#[cold]
pub(crate) fn connect(error: RedisError, server: &str) -> Error {
    let refused = error.kind() == redis::ErrorKind::AuthenticationFailed
        || error.code().is_some_and(|code| matches!(code, "WRONGPASS" | "NOAUTH"));
    let made = if refused {
        // The server's text may name the user, and never the password.
        Error::new(ErrorKind::Auth, "the server refused the login").with_broker(BROKER)
    } else if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() {
        Error::new(ErrorKind::Connection, "no server could be reached")
            .with_source(error)
            .with_broker(BROKER)
    } else if error.code() == Some("ERR") && error.to_string().contains("DB index") {
        Error::new(ErrorKind::NotFound, "the database does not exist").with_broker(BROKER)
    } else {
        native(error)
    };
    made.with_context("server", server.escape_debug())
}

/// The network failed while a connection was made.
#[cold]
pub(crate) fn network(error: std::io::Error, server: &str) -> Error {
    let text = error.to_string();
    let made = if error.kind() == std::io::ErrorKind::InvalidData {
        Error::new(ErrorKind::Connection, "the TLS handshake failed").with_retry(Retry::Never)
    } else if text.contains("failed to lookup address") {
        Error::new(ErrorKind::Connection, "the host is not known").with_retry(Retry::Never)
    } else {
        Error::new(ErrorKind::Connection, "no server could be reached")
    };
    made.with_context("server", server.escape_debug()).with_source(error).with_broker(BROKER)
}

/// What the server refused.
#[cold]
pub(crate) fn server(error: &ServerError) -> Error {
    reply(error.code(), error.details())
}

fn reply(code: &str, detail: Option<&str>) -> Error {
    let detail = detail.unwrap_or("");
    let script_denied = detail.contains("can't run this command");
    let made = match code {
        "NOPERM" => denied(detail),
        _ if script_denied => denied(detail),
        "NOAUTH" | "WRONGPASS" => Error::new(ErrorKind::Auth, "the server asks for a login"),
        "OOM" => Error::new(ErrorKind::Backpressure, "the server has no memory left"),
        "NOGROUP" => Error::new(ErrorKind::NotFound, "the topic or its group does not exist"),
        "UNBLOCKED" => Error::new(ErrorKind::NotFound, "the topic was deleted"),
        "WRONGTYPE" => Error::new(ErrorKind::Conflict, "a key of the topic is of another type"),
        "READONLY" | "LOADING" | "MASTERDOWN" | "BUSY" | "TRYAGAIN" | "MISCONF" | "NOREPLICAS"
        | "CLUSTERDOWN" => Error::new(ErrorKind::Connection, "the server takes nothing now"),
        "MOVED" | "ASK" | "CROSSSLOT" => {
            Error::unsupported("the server is a node of a cluster, which this adapter cannot use")
        }
        _ => Error::new(ErrorKind::Fatal, "the server refused a command"),
    };
    let made = made.with_context("code", code.escape_debug()).with_broker(BROKER);
    if detail.is_empty() { made } else { made.with_context("detail", detail.escape_debug()) }
}

/// What the user may not do. The server names the command; the rule that allows it follows.
fn denied(detail: &str) -> Error {
    let error = Error::new(ErrorKind::Auth, "the user may not do this");
    let command = detail.split('\'').nth(1).filter(|_| detail.contains("command"));
    match command {
        Some(command)
            if command.bytes().all(|b| b.is_ascii_alphanumeric() || b"|-_".contains(&b)) =>
        {
            error.with_context("command", command).with_context("rule", format!("+{command}"))
        }
        _ => error,
    }
}

/// Whether the server knows no such stream or group.
pub(crate) fn is_gone(error: &Error) -> bool {
    error.kind() == ErrorKind::NotFound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_denied_is_named() {
        let detail = "User posthaste has no permissions to run the 'xadd' command";
        let error = reply("NOPERM", Some(detail));
        assert_eq!(error.kind(), ErrorKind::Auth);
        assert!(error.context().any(|fact| fact == ("command", "xadd")), "{error}");
        assert!(error.context().any(|fact| fact == ("rule", "+xadd")), "{error}");
        assert_eq!(reply("NOPERM", Some("No permissions to access a key")).kind(), ErrorKind::Auth);
    }

    #[test]
    fn codes_have_kinds() {
        let cases = [
            ("OOM", ErrorKind::Backpressure, Retry::Transient),
            ("READONLY", ErrorKind::Connection, Retry::Transient),
            ("LOADING", ErrorKind::Connection, Retry::Transient),
            ("NOGROUP", ErrorKind::NotFound, Retry::Never),
            ("WRONGTYPE", ErrorKind::Conflict, Retry::Never),
            ("MOVED", ErrorKind::Unsupported, Retry::Never),
            ("ERR", ErrorKind::Fatal, Retry::Never),
        ];
        for (code, kind, retry) in cases {
            let error = reply(code, Some("why"));
            assert_eq!((error.kind(), error.retry()), (kind, retry), "{code}");
            assert!(!error.may_be_stored(), "{code}");
        }
    }
}
