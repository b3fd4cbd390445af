//! RabbitMQ: the configurations we start it with, and how to tell that it is ready.
//!
//! A node needs `epmd`, the name service of Erlang. Left to itself it would start one that outlives
//! it; so one of our own is started before it, and stopped after it.

use std::fs;
use std::io::{Read, Write};
use std::time::Duration;

use super::launch::{Answer, Launch, Site};
use super::probe::{Probed, Target};
use super::{secrets, tree};
use crate::failure::{Context, Result, fail};

/// The user of the login by password.
const USER: &str = "posthaste";

/// The user `guest`, who is let in from loopback only; no TLS.
///
/// URLs: `management`, the HTTP API, which takes the same users.
pub(crate) fn open(site: &Site<'_>) -> Result<Launch> {
    let &[port, ..] = site.ports else { return fail("RabbitMQ takes four ports") };
    start(site, &format!("listeners.tcp.local = 127.0.0.1:{port}\n"))
}

/// TLS by a CA of its own, which asks for no client certificate, and a user with a password.
///
/// Files: `ca`, `foreign_ca`, `password`. URLs: `management`, without TLS.
pub(crate) fn with_tls(site: &Site<'_>) -> Result<Launch> {
    let &[port, ..] = site.ports else { return fail("RabbitMQ takes four ports") };
    let tls = secrets::certificates(site.state)?;
    let (password, password_file) = secrets::password(site.state, "password")?;
    let config = format!(
        "listeners.tcp = none
listeners.ssl.local = 127.0.0.1:{port}
ssl_options.cacertfile = {}
ssl_options.certfile = {}
ssl_options.keyfile = {}
ssl_options.verify = verify_none
ssl_options.fail_if_no_peer_cert = false
default_user = {USER}
default_pass = {password}
",
        tree::file("ca.pem"),
        tree::file("server.pem"),
        tree::file("server-key.pem"),
    );
    let url = format!("amqps://127.0.0.1:{port}/%2f");
    Ok(start(site, &config)?.secured(url, USER, tls, password_file))
}

/// Opens the protocol: the node then says first who it is. It listens only once it is ready.
pub(crate) fn probe(target: &Target<'_>, limit: Duration) -> Probed<Answer> {
    let tls = target.url.starts_with("amqps:");
    let address = target.address(if tls { 5671 } else { 5672 })?;
    let Some(mut stream) = target.connect(&address, limit)? else {
        return Ok(Answer { version: None });
    };
    let silent = |error: std::io::Error| format!("{address}: {error}");
    stream.write_all(b"AMQP\0\0\x09\x01").map_err(silent)?;
    // The type of the frame, its channel, its size; a method frame on channel 0 comes.
    let mut header = [0; 7];
    stream.read_exact(&mut header).map_err(silent)?;
    let [1, 0, 0, size @ ..] = header else {
        return Err(format!("{address} does not speak AMQP 0-9-1"));
    };
    let size = u64::from(u32::from_be_bytes(size)).min(64 * 1024);
    let mut start = Vec::new();
    stream.take(size).read_to_end(&mut start).map_err(silent)?;
    match version(&start) {
        Some(version) => Ok(Answer::of(version)),
        None => Err(format!("{address} does not tell its version")),
    }
}

/// The property `version` of a server in its first method: a short string as the name, and a long
/// one (`S`, four bytes of length) as the value.
fn version(start: &[u8]) -> Option<String> {
    const NAME: &[u8] = b"\x07versionS";
    let at = start.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    let (length, rest) = start.get(at..)?.split_first_chunk()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    String::from_utf8(rest.get(..length)?.to_vec()).ok()
}

/// Writes the configuration and says how to start a node with it, and its `epmd`.
fn start(site: &Site<'_>, listeners: &str) -> Result<Launch> {
    let &[port, distribution, names, management] = site.ports else {
        return fail("RabbitMQ takes four ports");
    };
    let config =
        format!("{listeners}management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {management}\n");
    secrets::write_private(&site.state.join("rabbitmq.conf"), &config)?;
    let plugins = site.state.join("enabled_plugins");
    fs::write(&plugins, "[rabbitmq_management].\n")
        .context(|| format!("writing {}", plugins.display()))?;
    let inside = |command: &[&str]| tree::inside(site.installed, site.state, tree::ROOT, command);
    let names = names.to_string();
    let epmd = ["/usr/bin/epmd", "-address", "127.0.0.1", "-port", &names];
    let server = inside(&["/usr/lib/rabbitmq/bin/rabbitmq-server"])
        .env("HOME", tree::STATE)
        .env("RABBITMQ_NODENAME", "posthaste@localhost")
        .env("RABBITMQ_CONFIG_FILE", tree::file("rabbitmq.conf"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", tree::file("enabled_plugins"))
        .env("RABBITMQ_MNESIA_BASE", tree::STATE)
        .env("RABBITMQ_LOGS", "-")
        .env("RABBITMQ_DIST_PORT", distribution.to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("ERL_EPMD_PORT", &*names)
        // The script then becomes the node, and is no process beside it that has to pass signals.
        .env("RUNNING_UNDER_SYSTEMD", "true")
        .env(
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
            "-start_epmd false +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}",
        );
    let launch = Launch::open(server, format!("amqp://guest:guest@127.0.0.1:{port}/%2f"));
    let urls = [("management".to_owned(), format!("http://127.0.0.1:{management}"))].into();
    // A node that finds no `epmd` would start one.
    let epmd = inside(&epmd).role("epmd").listens(site.ports[2]);
    Ok(Launch { others: vec![epmd], urls, ..launch })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brokers::probe::tests::serve_all;

    fn ask(answer: &'static [u8]) -> Probed<Answer> {
        let url = format!("amqp://guest:guest@{}/%2f", serve_all(vec![answer].leak()));
        probe(&Target::of_url(&url), Duration::from_secs(5))
    }

    #[test]
    fn ready_is_a_start_method_that_names_the_version() {
        let frame = b"\x01\0\0\0\0\0\x16\0\x0a\0\x0a\x07versionS\0\0\0\x054.0.5";
        assert_eq!(ask(frame), Ok(Answer::of("4.0.5")));
        let nameless = b"\x01\0\0\0\0\0\x04\0\x0a\0\x0a";
        assert!(ask(nameless).unwrap_err().contains("version"));
        // What a server answers that wants another version of the protocol.
        assert!(ask(b"AMQP\x03\x01\0\0").unwrap_err().contains("does not speak"));
    }
}
