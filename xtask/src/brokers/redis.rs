//! Redis and Valkey: the configuration we start them with, and how to tell that they are ready.

use std::io::{BufRead, BufReader, Read, Write};
use std::time::Duration;

use super::launch::{Answer, Launch, Site};
use super::probe::{self, Probed, Stream, Target};
use super::{secrets, tree};
use crate::failure::{Result, fail};

/// Nothing that was confirmed is lost when the process is killed: an entry is in the log before its
/// answer leaves. Only a crash of the machine can cost the last second. Nothing is evicted.
const DURABLE: &str = "appendonly yes
appendfsync everysec
maxmemory-policy noeviction
";

/// The user of the login by password.
const USER: &str = "posthaste";

/// Redis, no login, no TLS.
pub(crate) fn open(site: &Site<'_>) -> Result<Launch> {
    start(site, "redis-server", "")
}

/// Valkey, which differs by its name only.
pub(crate) fn valkey(site: &Site<'_>) -> Result<Launch> {
    start(site, "valkey-server", "")
}

/// Redis with TLS by a CA of its own, and an ACL user with a password; the default user is off.
///
/// Files: `ca`, `foreign_ca`, `password`.
pub(crate) fn with_tls(site: &Site<'_>) -> Result<Launch> {
    let tls = secrets::certificates(site.state)?;
    let (password, password_file) = secrets::password(site.state, "password")?;
    let &[port] = site.ports else { return fail("Redis takes one port") };
    let security = format!(
        "port 0
tls-port {port}
tls-cert-file {}
tls-key-file {}
tls-ca-cert-file {}
tls-auth-clients no
user default off
user {USER} on >{password} ~* &* +@all
",
        tree::file("server.pem"),
        tree::file("server-key.pem"),
        tree::file("ca.pem"),
    );
    let url = format!("rediss://127.0.0.1:{port}/0");
    Ok(start(site, "redis-server", &security)?.secured(url, USER, tls, password_file))
}

/// Asks for `INFO`, after the login where there is one.
pub(crate) fn probe(target: &Target<'_>, limit: Duration) -> Probed<Answer> {
    let address = target.address(6379)?;
    let Some(stream) = target.connect(&address, limit)? else {
        return Ok(Answer { version: None });
    };
    let mut reader = BufReader::new(stream);
    let silent = |error: std::io::Error| format!("{address}: {error}");
    if let Some((user, password)) = target.login()? {
        let answer = ask(&mut reader, &["AUTH", &user, &password]).map_err(silent)?;
        if !answer.starts_with("+OK") {
            return Err(format!("{address} refused the login"));
        }
    }
    let info = ask(&mut reader, &["INFO", "server"]).map_err(silent)?;
    match version(&info) {
        Some(version) => Ok(Answer::of(version)),
        None => Err(format!("{address} answered INFO with {}", probe::first_line(&info))),
    }
}

/// Sends a command and reads its answer: a line, or a bulk string of at most 64 KiB.
fn ask(reader: &mut BufReader<Stream>, words: &[&str]) -> std::io::Result<String> {
    let mut command = format!("*{}\r\n", words.len());
    for word in words {
        command.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    reader.get_mut().write_all(command.as_bytes())?;
    let mut first = String::new();
    reader.by_ref().take(64 * 1024).read_line(&mut first)?;
    let length = first.strip_prefix('$').and_then(|length| length.trim().parse::<u64>().ok());
    let Some(length) = length else { return Ok(first) };
    let mut text = String::new();
    reader.by_ref().take(length.min(64 * 1024)).read_to_string(&mut text)?;
    Ok(text)
}

/// The version in the text of `INFO`. Valkey names that of the Redis that it is compatible with,
/// too.
fn version(info: &str) -> Option<&str> {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    field("valkey_version:").or_else(|| field("redis_version:"))
}

/// Writes the configuration and says how to start a server with it.
fn start(site: &Site<'_>, program: &str, security: &str) -> Result<Launch> {
    let &[port] = site.ports else { return fail("Redis takes one port") };
    // A line of `security` comes later, and wins.
    let config = format!(
        "bind 127.0.0.1\nport {port}\ndir {}\ndaemonize no\n{DURABLE}{security}",
        tree::STATE
    );
    secrets::write_private(&site.state.join("server.conf"), &config)?;
    let command = [&*format!("/usr/bin/{program}"), &*tree::file("server.conf")];
    let server = tree::inside(site.installed, site.state, tree::ROOT, &command);
    Ok(Launch::open(server, format!("redis://127.0.0.1:{port}/0")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brokers::probe::tests::serve_all;

    /// What comes of an answer to the first question.
    fn answered(answer: String) -> Probed<Answer> {
        let url = format!("redis://{}/0", serve_all(vec![answer.leak().as_bytes()].leak()));
        probe(&Target::of_url(&url), Duration::from_secs(5))
    }

    #[test]
    fn ready_is_an_info_that_names_the_version() {
        let text = "# Server\r\nredis_version:7.2.4\r\nvalkey_version:8.1.1\r\n";
        let answer = format!("${}\r\n{text}\r\n", text.len());
        assert_eq!(answered(answer), Ok(Answer::of("8.1.1")));
        assert!(answered("-LOADING wait\r\n".to_owned()).unwrap_err().contains("LOADING"));
    }

    #[test]
    fn redis_names_its_own_version() {
        assert_eq!(version("redis_version:8.0.2\r\nredis_mode:standalone\r\n"), Some("8.0.2"));
        assert_eq!(version("-NOAUTH"), None);
    }
}
