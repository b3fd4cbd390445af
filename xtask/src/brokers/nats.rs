//! NATS: the configurations we start it with, and how to tell that it is ready.
//!
//! One server takes either users (password, NKey), or one token, or credentials files, so there
//! are three secured configurations beside the open one.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nkeys::KeyPair;
use serde_json::Value;

use super::launch::{Answer, Launch, Program, Site};
use super::probe::{self, Probed, Target};
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

/// Three servers with one JetStream; the first is the server of the record.
pub(crate) fn three(site: &Site<'_>) -> Result<Launch> {
    let &[a, b, c, x, y, z] = site.ports else { return fail("three nodes take six ports") };
    let mut nodes = Vec::new();
    for (number, port, route) in [(2, b, y), (3, c, z), (1, a, x)] {
        let config = format!(
            "listen: \"127.0.0.1:{port}\"
server_name: \"node{number}\"
jetstream {{ store_dir: {} }}
cluster {{
  name: posthaste
  listen: \"127.0.0.1:{route}\"
  routes: [ \"nats://127.0.0.1:{x}\", \"nats://127.0.0.1:{y}\", \"nats://127.0.0.1:{z}\" ]
}}
",
            quoted_path(&site.state.join(format!("jetstream{number}"))),
        );
        let path = site.state.join(format!("node{number}.conf"));
        secrets::write_private(&path, &config)?;
        let args = ["-c".to_owned(), path.display().to_string()];
        nodes.push(Program::new(site.installed, args).role(format!("node{number}")));
    }
    let Some(server) = nodes.pop() else { return fail("NATS has no node") };
    let url = [a, b, c].map(|port| format!("nats://127.0.0.1:{port}")).join(",");
    Ok(Launch { others: nodes, ..Launch::open(server, url) })
}

/// Asks each server of a cluster, and whether JetStream has a leader.
pub(crate) fn probe_cluster(target: &Target<'_>, limit: Duration) -> Probed<Answer> {
    let mut answer = Answer { version: None };
    for address in target.addresses(4222)? {
        let silent = |error: std::io::Error| format!("{address}: {error}");
        answer = probe(&Target::of_url(&address), limit)?;
        let mut reader = BufReader::new(probe::connect(&address, limit)?);
        line(&mut reader).map_err(silent)?;
        let ask = b"CONNECT {\"verbose\":false}\r\nSUB answer 1\r\n\
            PUB $JS.API.STREAM.NAMES answer 0\r\n\r\n";
        reader.get_mut().write_all(ask).map_err(silent)?;
        let mut said = line(&mut reader).map_err(silent)?;
        while said.starts_with("PING") || said.starts_with("INFO") {
            said = line(&mut reader).map_err(silent)?;
        }
        let names = line(&mut reader).map_err(silent)?;
        if !said.starts_with("MSG ") || names.contains("\"error\"") {
            return Err(format!("{address}: JetStream says {}", probe::first_line(&names)));
        }
    }
    Ok(answer)
}

/// Asks a server for its `INFO` line, and for a `PONG` where no login is needed for that.
pub(crate) fn probe(target: &Target<'_>, limit: Duration) -> Probed<Answer> {
    let address = target.address(4222)?;
    let silent = |error: std::io::Error| format!("{address}: {error}");
    let mut reader = BufReader::new(probe::connect(&address, limit)?);
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
    Ok(Answer::of(info.version))
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
    let server = Program::new(site.installed, ["-c".to_owned(), path.display().to_string()]);
    let launch = Launch::open(server, format!("{scheme}://127.0.0.1:{port}"));
    Ok(Launch { user: user.map(str::to_owned), files, ..launch })
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

    fn ask(url: &str) -> Probed<Answer> {
        probe(&Target::of_url(url), Duration::from_secs(5))
    }

    #[test]
    fn ready_is_info_with_jetstream_and_a_pong() {
        let good = "INFO {\"version\":\"2.9.10\",\"jetstream\":true}\r\n";
        assert_eq!(ask(&fake(good, "PONG\r\n")).unwrap(), Answer::of("2.9.10"));
        assert!(ask(&fake(good, "-ERR 'no'\r\n")).unwrap_err().contains("-ERR"));
        let plain = "INFO {\"version\":\"2.9.10\"}\r\n";
        assert!(ask(&fake(plain, "PONG\r\n")).unwrap_err().contains("JetStream"));
        let http = "HTTP/1.1 400 Bad Request\r\n";
        assert!(ask(&fake(http, "")).unwrap_err().contains("does not speak NATS"));
        let login = "INFO {\"version\":\"2.9.10\",\"jetstream\":true,\"auth_required\":true}\r\n";
        assert!(ask(&fake(login, "")).is_ok());
    }

    #[test]
    fn strings_of_the_configuration_are_quoted() {
        assert_eq!(quoted(r#"a"b\c"#), r#""a\"b\\c""#);
    }
}
