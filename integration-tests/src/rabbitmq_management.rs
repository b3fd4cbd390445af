//! The HTTP API of RabbitMQ's management plugin, as far as the harness needs it: users and
//! their rights, which the protocol itself cannot make.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The virtual host that everybody uses, `/`, as a part of a path.
const VHOST: &str = "%2f";
/// `guest:guest`, the administrator of brokers for development, as HTTP carries it.
const GUEST: &str = "Z3Vlc3Q6Z3Vlc3Q=";
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// The API begins to answer a moment after the broker does.
const PATIENCE: Duration = Duration::from_secs(15);

/// Makes a user with that password, and with all rights in the virtual host or with none.
pub(crate) fn user(base: &str, name: &str, password: &str, may: Rights) -> Result<(), String> {
    let body = serde_json::json!({ "password": password, "tags": "monitoring" });
    put(base, &format!("/api/users/{name}"), &body.to_string())?;
    let everything = serde_json::json!({ "configure": ".*", "write": ".*", "read": ".*" });
    match may {
        Rights::All => {
            let path = format!("/api/permissions/{VHOST}/{name}");
            put(base, &path, &everything.to_string())
        }
        Rights::None => Ok(()),
    }
}

/// What a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rights {
    /// Everything in the virtual host `/`.
    All,
    /// Nothing but to log in.
    None,
}

fn put(base: &str, path: &str, body: &str) -> Result<(), String> {
    let end = Instant::now() + PATIENCE;
    loop {
        let refused = match call(base, path, body) {
            Ok(200..=299) => return Ok(()),
            Ok(status) => format!("{base}{path}: HTTP {status}"),
            Err(error) => format!("{base}{path}: {error}"),
        };
        if Instant::now() > end {
            return Err(refused);
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

/// One request on a connection of its own; the status of the answer.
fn call(base: &str, path: &str, body: &str) -> std::io::Result<u16> {
    let invalid = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what);
    let host = base.strip_prefix("http://").ok_or_else(|| invalid("it is not http://"))?;
    let host = host.trim_end_matches('/');
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    write!(
        stream,
        "PUT {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Basic {GUEST}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.take(64 * 1024).read_to_string(&mut answer)?;
    let status = answer.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| invalid("the answer has no status"))
}
