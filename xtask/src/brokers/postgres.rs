//! PostgreSQL: how we start it, and how to tell that it is ready.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::chown;
use std::path::Path;
use std::time::Duration;

use super::launch::{Answer, Launch, Site};
use super::probe::{Probed, Stream, Target};
use super::{install, secrets, tree};
use crate::failure::{Context, Result, fail};

const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
const USER: &str = "postgres";
/// The number of [`tree::NOBODY`], since PostgreSQL refuses to run as root.
const OWNER: u32 = 65534;

/// Everybody on loopback is let in.
pub(crate) fn open(site: &Site<'_>) -> Result<Launch> {
    start(site, &["--auth=trust"])
}

/// Login by password (`scram-sha-256`). Files: `password`.
pub(crate) fn with_password(site: &Site<'_>) -> Result<Launch> {
    let (password, file) = secrets::password(site.state, "password")?;
    // Read once, by a process that may read nothing of ours.
    let first = site.state.join("first-password");
    secrets::write_private(&first, &password)?;
    own(&first)?;
    let pwfile = format!("--pwfile={}", tree::file("first-password"));
    let launch = start(site, &["--auth=scram-sha-256", &pwfile])?;
    fs::remove_file(&first).context(|| format!("deleting {}", first.display()))?;
    let files = BTreeMap::from([("password".to_owned(), file)]);
    Ok(Launch { user: Some(USER.to_owned()), files, ..launch })
}

/// Opens a session. A server that asks for a password is ready too, but does not tell its version
/// before.
pub(crate) fn probe(target: &Target<'_>, limit: Duration) -> Probed<Answer> {
    let address = target.address(5432)?;
    let Some(mut stream) = target.connect(&address, limit)? else {
        return Ok(Answer { version: None });
    };
    let wrong = |reason: String| format!("{address}: {reason}");
    // Version 3.0 of the protocol, and parameters as pairs of strings.
    let mut opening = 196_608_u32.to_be_bytes().to_vec();
    opening.extend(b"user\0postgres\0database\0postgres\0\0");
    let length = u32::try_from(opening.len() + 4).map_err(|error| wrong(error.to_string()))?;
    let packet = [&length.to_be_bytes(), &*opening].concat();
    stream.write_all(&packet).map_err(|error| wrong(error.to_string()))?;
    let mut version = None;
    loop {
        let (kind, body) = message(&mut stream).map_err(|error| wrong(error.to_string()))?;
        match kind {
            b'R' if body.get(..4) == Some(&[0; 4]) => {}
            b'R' => return Ok(Answer { version: None }),
            b'S' => {
                let mut words = body.split(|&byte| byte == 0);
                if words.next() == Some(b"server_version") {
                    let text = String::from_utf8_lossy(words.next().unwrap_or_default());
                    version = text.split_whitespace().next().map(str::to_owned);
                }
            }
            b'Z' => return Ok(Answer { version }),
            b'E' => {
                let fields = body.split(|&byte| byte == 0);
                let mut texts = fields.filter_map(|field| field.strip_prefix(b"M"));
                let text = texts.next().unwrap_or(b"an error");
                return Err(wrong(String::from_utf8_lossy(text).into_owned()));
            }
            b'K' | b'N' => {}
            _ => return Err(wrong("does not speak PostgreSQL".to_owned())),
        }
    }
}

/// Kind and body of the next message, of at most 64 KiB.
fn message(stream: &mut Stream) -> std::io::Result<(u8, Vec<u8>)> {
    let (mut kind, mut length) = ([0], [0; 4]);
    stream.read_exact(&mut kind)?;
    stream.read_exact(&mut length)?;
    let length = u64::from(u32::from_be_bytes(length));
    if !(4..64 * 1024).contains(&length) {
        return Err(std::io::Error::other("does not speak PostgreSQL"));
    }
    let mut body = Vec::new();
    stream.take(length - 4).read_to_end(&mut body)?;
    Ok((kind[0], body))
}

/// Makes the data folder at the first start, and says how to start a server on it.
fn start(site: &Site<'_>, access: &[&str]) -> Result<Launch> {
    let &[port] = site.ports else { return fail("PostgreSQL takes one port") };
    let inside = |command: &[&str]| tree::inside(site.installed, site.state, tree::NOBODY, command);
    let (data, done) = (site.state.join("data"), site.state.join("initialized"));
    if !done.exists() {
        let doing = || format!("making {}", data.display());
        // An interrupted try may have left half of it.
        if data.exists() {
            fs::remove_dir_all(&data).context(doing)?;
        }
        fs::create_dir_all(&data).context(doing)?;
        own(&data)?;
        let initdb = format!("{PROGRAMS}/initdb");
        let data = tree::file("data");
        let mut command =
            vec![&*initdb, "-D", &data, "-U", USER, "-E", "UTF8", "--locale=C", "--no-sync"];
        command.extend(access);
        install::run(&mut inside(&command).command(), site.log)?;
        fs::write(&done, "").context(|| format!("writing {}", done.display()))?;
    }
    let (postgres, port) = (format!("{PROGRAMS}/postgres"), port.to_string());
    let server = inside(&[
        &postgres,
        "-D",
        &tree::file("data"),
        "-p",
        &port,
        "-c",
        "listen_addresses=127.0.0.1",
        // No socket in a folder that others share.
        "-c",
        "unix_socket_directories=",
    ]);
    Ok(Launch::open(server, format!("postgres://{USER}@127.0.0.1:{port}/postgres")))
}

/// Gives a file to the user that the server runs as.
fn own(path: &Path) -> Result<()> {
    chown(path, Some(OWNER), Some(OWNER)).context(|| format!("giving away {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brokers::probe::tests::serve_all;

    fn ask(answer: &'static [u8]) -> Probed<Answer> {
        let url = format!("postgres://postgres@{}/postgres", serve_all(vec![answer].leak()));
        probe(&Target::of_url(&url), Duration::from_secs(5))
    }

    #[test]
    fn ready_is_a_session_that_names_the_version() {
        let open = b"R\0\0\0\x08\0\0\0\0S\0\0\0\x19server_version\x0015.13\0Z\0\0\0\x05I";
        assert_eq!(ask(open), Ok(Answer::of("15.13")));
    }

    #[test]
    fn a_question_for_the_password_is_an_answer() {
        assert_eq!(ask(b"R\0\0\0\x08\0\0\0\x0a"), Ok(Answer { version: None }));
    }

    #[test]
    fn a_server_that_starts_up_is_not_ready() {
        let starting = b"E\0\0\0\x0eMnot yet\0\0";
        assert!(ask(starting).unwrap_err().contains("not yet"));
        assert!(ask(b"HTTP/1.1 400 Bad Request\r\n").unwrap_err().contains("does not speak"));
    }
}
