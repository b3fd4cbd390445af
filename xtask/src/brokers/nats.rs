//! NATS: the configurations we start it with, and how to tell that it is ready.
//!
//! One server takes either users (password, NKey), or one token, or credentials files, so there
//! are three secured configurations beside the open one.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nkeys::KeyPair;
use serde_json::Value;

use super::table::{Answer, Launch, Site};
use super::{credentials, secrets};
use crate::failure::{Context, Result, fail};

/// The user name of every login by password.
const USER: &str = "posthaste";

/// JetStream, no login, no TLS.
pub(crate) fn open(site: &Site<'_>) -> Result<Launch> {
    start(site, "nats", "", None, BTreeMap::new())
}

/// TLS with a CA of its own; logins by password and by NKey; a system account.
///
/// Files: `ca`, `foreign_ca` (signed nothing here), `password`, `nkey_seed`.
pub(crate) fn with_tls(site: &Site<'_>) -> Result<Launch> {
    let tls = secrets::certificates(site.state)?;
    let (password, password_file) = secrets::password(site.state, "password")?;
    let (system_password, _) = secrets::password(site.state, "system-password")?;
    let (seed, seed_file) =
        secrets::text(site.state, "user.nk", || new_seed(&KeyPair::new_user()))?;
    let nkey = KeyPair::from_seed(&seed).context(|| "reading user.nk".to_owned())?.public_key();
    let config = format!(
        "{}accounts {{
  APP {{
    jetstream: enabled
    users: [ {{ user: {USER}, password: {} }}, {{ nkey: {nkey} }} ]
  }}
  SYS {{ users: [ {{ user: system, password: {} }} ] }}
}}
system_account: SYS
",
        tls_block(&tls, false),
        quoted(&password),
        quoted(&system_password),
    );
    let files = BTreeMap::from([
        ("ca".to_owned(), tls.ca),
        ("foreign_ca".to_owned(), tls.foreign_ca),
        ("password".to_owned(), password_file),
        ("nkey_seed".to_owned(), seed_file),
    ]);
    start(site, "tls", &config, Some(USER), files)
}

/// TLS that asks for a client certificate; login by a credentials file (operator mode).
///
/// Files: `ca`, `foreign_ca`, `client_cert`, `client_key`, `credentials`, and
/// `foreign_credentials` of an operator whom the server does not know.
pub(crate) fn with_credentials(site: &Site<'_>) -> Result<Launch> {
    let tls = secrets::certificates(site.state)?;
    let creds = credentials::ensure(site.state)?;
    let config = format!("{}{}", tls_block(&tls, true), creds.config);
    let files = BTreeMap::from([
        ("ca".to_owned(), tls.ca),
        ("foreign_ca".to_owned(), tls.foreign_ca),
        ("client_cert".to_owned(), tls.client_cert),
        ("client_key".to_owned(), tls.client_key),
        ("credentials".to_owned(), creds.user),
        ("foreign_credentials".to_owned(), creds.foreign_user),
    ]);
    start(site, "tls", &config, None, files)
}

/// Login by token, no TLS. Files: `token`.
pub(crate) fn with_token(site: &Site<'_>) -> Result<Launch> {
    let (token, file) = secrets::password(site.state, "token")?;
    let config = format!("authorization {{ token: {} }}\n", quoted(&token));
    start(site, "nats", &config, None, BTreeMap::from([("token".to_owned(), file)]))
}

/// Asks a server for its `INFO` line, and for a `PONG` where no login is needed for that.
pub(crate) fn probe(url: &str, limit: Duration) -> std::result::Result<Answer, String> {
    let address = host_and_port(url).ok_or("the URL has no host")?;
    let silent = |error: std::io::Error| format!("{address}: {error}");
    let targets = address.to_socket_addrs().map_err(silent)?;
    let mut stream = Err(format!("{address}: no such host"));
    for target in targets {
        stream = TcpStream::connect_timeout(&target, limit).map_err(silent);
        if stream.is_ok() {
            break;
        }
    }
    let stream = stream?;
    stream.set_read_timeout(Some(limit)).map_err(silent)?;
    stream.set_write_timeout(Some(limit)).map_err(silent)?;
    let mut reader = BufReader::new(stream);
    let first = line(&mut reader).map_err(silent)?;
    let info = parse_info(&first).ok_or_else(|| format!("{address} does not speak NATS"))?;
    if !info.jetstream {
        return Err(format!("{address} has JetStream off"));
    }
    if !info.closed {
        let ping = b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\nPING\r\n";
        reader.get_mut().write_all(ping).map_err(silent)?;
        let pong = line(&mut reader).map_err(silent)?;
        if pong.trim_end() != "PONG" {
            return Err(format!("{address} answered a PING with {}", pong.trim_end()));
        }
    }
    Ok(Answer { version: info.version })
}

/// What the `INFO` line of a server says.
#[derive(Debug, PartialEq, Eq)]
struct Info {
    version: String,
    jetstream: bool,
    /// It wants TLS or a login before it answers anything else.
    closed: bool,
}

fn parse_info(line: &str) -> Option<Info> {
    let info: Value = serde_json::from_str(line.trim_end().strip_prefix("INFO ")?).ok()?;
    let is = |field: &str| info.get(field).and_then(Value::as_bool).unwrap_or(false);
    Some(Info {
        version: info.get("version")?.as_str()?.to_owned(),
        jetstream: is("jetstream"),
        closed: is("auth_required") || is("tls_required") || is("tls_verify"),
    })
}

/// `host:port` of the first server in a NATS URL or a list of them.
fn host_and_port(url: &str) -> Option<String> {
    let first = url.split(',').next()?.trim();
    let rest = first.split_once("://").map_or(first, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if host.is_empty() {
        return None;
    }
    let has_port = host.rsplit_once(':').is_some_and(|(before, port)| {
        !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && !before.is_empty()
    });
    Some(if has_port { host.to_owned() } else { format!("{host}:4222") })
}

/// A line of at most 64 KiB; a server that sends more is not a NATS server.
fn line(reader: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut text = String::new();
    reader.by_ref().take(64 * 1024).read_line(&mut text)?;
    Ok(text)
}

/// Writes the configuration and says how to start a server with it.
fn start(
    site: &Site<'_>,
    scheme: &str,
    security: &str,
    user: Option<&str>,
    files: BTreeMap<String, PathBuf>,
) -> Result<Launch> {
    let &[port] = site.ports else { return fail("NATS takes one port") };
    let path = site.state.join("server.conf");
    let config = format!(
        "listen: \"127.0.0.1:{port}\"
server_name: \"posthaste-{port}\"
jetstream {{ store_dir: {} }}
{security}",
        quoted_path(&site.state.join("jetstream")),
    );
    secrets::write_private(&path, &config)?;
    Ok(Launch {
        args: vec![OsString::from("-c"), path.into_os_string()],
        url: format!("{scheme}://127.0.0.1:{port}"),
        user: user.map(str::to_owned),
        files,
    })
}

fn tls_block(tls: &secrets::Certificates, verify_clients: bool) -> String {
    format!(
        "tls {{
  cert_file: {}
  key_file: {}
  ca_file: {}
  verify: {verify_clients}
  timeout: 5
}}
",
        quoted_path(&tls.server_cert),
        quoted_path(&tls.server_key),
        quoted_path(&tls.ca),
    )
}

fn new_seed(key: &KeyPair) -> Result<String> {
    key.seed().context(|| "making a key".to_owned())
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// A string of the server's configuration language.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_address_is_read_from_any_form_of_url() {
        let read = |url: &str| host_and_port(url);
        assert_eq!(read("nats://127.0.0.1:4333").as_deref(), Some("127.0.0.1:4333"));
        assert_eq!(read("tls://me:p%40ss@broker:4333/x").as_deref(), Some("broker:4333"));
        assert_eq!(read("nats://a:1,nats://b:2").as_deref(), Some("a:1"));
        assert_eq!(read("localhost").as_deref(), Some("localhost:4222"));
        assert_eq!(read("nats://[::1]:4333").as_deref(), Some("[::1]:4333"));
        assert_eq!(read("nats://"), None);
    }

    #[test]
    fn an_info_line_says_version_jetstream_and_whether_it_is_closed() {
        let line = r#"INFO {"version":"2.15.2","jetstream":true,"tls_required":true}"#;
        let info = Info { version: "2.15.2".to_owned(), jetstream: true, closed: true };
        assert_eq!(parse_info(line), Some(info));
        assert_eq!(parse_info("+OK"), None);
        assert_eq!(parse_info("INFO {"), None);
    }

    /// A server that says `greeting`, and `answer` to whatever comes.
    fn fake(greeting: &'static str, answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(greeting.as_bytes()).unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut asked = String::new();
            while asked.trim_end() != "PING" {
                asked.clear();
                if reader.read_line(&mut asked).unwrap() == 0 {
                    return;
                }
            }
            stream.write_all(answer.as_bytes()).unwrap();
        });
        url
    }

    #[test]
    fn ready_is_info_with_jetstream_and_a_pong() {
        let limit = Duration::from_secs(5);
        let good = "INFO {\"version\":\"2.9.10\",\"jetstream\":true}\r\n";
        assert_eq!(probe(&fake(good, "PONG\r\n"), limit).unwrap().version, "2.9.10");
        assert!(probe(&fake(good, "-ERR 'no'\r\n"), limit).unwrap_err().contains("-ERR"));
        let plain = "INFO {\"version\":\"2.9.10\"}\r\n";
        assert!(probe(&fake(plain, "PONG\r\n"), limit).unwrap_err().contains("JetStream"));
        let http = "HTTP/1.1 400 Bad Request\r\n";
        assert!(probe(&fake(http, ""), limit).unwrap_err().contains("does not speak NATS"));
        let login = "INFO {\"version\":\"2.9.10\",\"jetstream\":true,\"auth_required\":true}\r\n";
        assert!(probe(&fake(login, ""), limit).is_ok());
    }

    #[test]
    fn nothing_listening_is_an_answer_too() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        drop(listener);
        assert!(probe(&url, Duration::from_secs(5)).is_err());
    }

    #[test]
    fn strings_of_the_configuration_are_quoted() {
        assert_eq!(quoted(r#"a"b\c"#), r#""a\"b\\c""#);
    }
}
