//! Reading where a broker is from a URL, for adapters. No error shows the login.
//!
//! A URL is `scheme://user:password@host:port,host:port/path?option=value`. Login, path and
//! options are percent-encoded.

use std::time::Duration;

use crate::{Error, Result};

/// The parts of a URL, decoded.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Address {
    /// The scheme, one of those that were allowed.
    pub scheme: String,
    /// User and password; both may be empty.
    pub login: Option<(String, String)>,
    /// The servers as they were written, `host` or `host:port`, at least one.
    pub servers: Vec<String>,
    /// What is behind the first slash, without it.
    pub path: String,
    /// The options in their order. None is empty.
    pub options: Vec<(String, String)>,
}

/// What a URL of a broker looks like.
#[derive(Debug, Clone, Copy)]
pub struct UrlForm<'a> {
    /// The schemes that are allowed.
    pub schemes: &'a [&'a str],
    /// The sentence for who gave another one, with an example.
    pub hint: &'static str,
}

impl UrlForm<'_> {
    /// Reads a URL, and makes of its parts what the adapter needs. What `make` refuses is shown
    /// only if no part of a login can be in it.
    ///
    /// # Errors
    /// `Invalid` with the part that is wrong; those of `make`.
    pub fn read<T>(&self, url: &str, make: impl FnOnce(Address) -> Result<T>) -> Result<T> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| Error::invalid(self.hint))?;
        if !self.schemes.contains(&scheme) {
            let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
            return Err(match scheme.bytes().all(sound) {
                true => Error::invalid(self.hint).with_context("scheme", scheme),
                // What is no scheme may be a login.
                false => Error::invalid(self.hint),
            });
        }
        parts(scheme, rest).and_then(make).map_err(|error| {
            let behind = rest.find(['/', '?', '#']).map_or("", |end| &rest[end..]);
            if behind.contains('@') {
                // A part of a password may stand where a host or an option was read.
                return Error::invalid(
                    "the URL cannot be read; in a login, / ? and # are written %2F, %3F and %23",
                );
            }
            error
        })
    }
}

fn parts(scheme: &str, rest: &str) -> Result<Address> {
    if rest.contains('#') {
        return Err(Error::invalid("the URL of a broker has no fragment; write # as %23"));
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (rest, path) = rest.split_once('/').unwrap_or((rest, ""));
    // A password may hold an @ that was not encoded; a host may not.
    let (login, hosts) = match rest.rsplit_once('@') {
        Some((login, hosts)) => (Some(login), hosts),
        None => (None, rest),
    };
    let servers: Vec<String> = hosts.split(',').map(str::to_owned).collect();
    for server in &servers {
        server_and_port(server, 0)?;
    }
    let badly = |what: &'static str| move || Error::invalid(what);
    let path = decode(path).ok_or_else(badly("the path of the URL is not well percent-encoded"))?;
    let login = match login {
        Some(login) => {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            let decoded = decode(user).zip(decode(password));
            Some(decoded.ok_or_else(badly("the login in the URL is not well percent-encoded"))?)
        }
        None => None,
    };
    let mut options = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = decode(name).zip(decode(&value.replace('+', " ")));
        let (name, value) =
            decoded.ok_or_else(badly("an option of the URL is not well percent-encoded"))?;
        if value.is_empty() {
            return Err(Error::invalid("the option has no value")
                .with_context("option", name.escape_debug()));
        }
        options.push((name, value));
    }
    Ok(Address { scheme: scheme.to_owned(), login, servers, path, options })
}

/// The host, without the brackets of an IPv6 address, and the port.
///
/// # Errors
/// `Invalid`, which shows what was given: not for a text that may hold a login.
pub fn server_and_port(server: &str, default: u16) -> Result<(String, u16)> {
    let refuse =
        |why: &'static str| Err(Error::invalid(why).with_context("server", server.escape_debug()));
    let written = "a server is written host or host:port";
    let (host, port) = if let Some(rest) = server.strip_prefix('[') {
        match rest.split_once(']') {
            Some((host, "")) => (host, None),
            Some((host, rest)) if rest.starts_with(':') => (host, Some(&rest[1..])),
            _ => return refuse(written),
        }
    } else {
        match server.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (server, None),
        }
    };
    if host.is_empty() {
        return refuse("a host is missing");
    }
    if host.contains(['/', '@', '?', '#', '[', ']', '%'])
        || host.contains(|c: char| c.is_whitespace() || c.is_control())
    {
        return refuse(written);
    }
    match port.map(str::parse) {
        None => Ok((host.to_owned(), default)),
        Some(Ok(port)) => Ok((host.to_owned(), port)),
        Some(Err(_)) => refuse("the port must be a number below 65536"),
    }
}

/// A time as options write it: a whole number with `ms`, `s`, `m`, `h` or `d`.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit);
    let number: u64 = number.parse().ok()?;
    let seconds = match unit {
        "ms" => return Some(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

fn decode(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
            let (high, low) = (digit()?, digit()?);
            decoded.push(u8::try_from(high << 4 | low).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Address")
            .field("scheme", &self.scheme)
            .field("login", &self.login.is_some())
            .field("servers", &self.servers)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    const FORM: UrlForm<'_> =
        UrlForm { schemes: &["redis", "rediss"], hint: "begins with redis://" };

    fn read(url: &str) -> Result<Address> {
        FORM.read(url, Ok)
    }

    #[test]
    fn reads_every_part() {
        let address =
            read("rediss://us%40er:p%3Aw%2Fd@h1,h2:4333/my%2Fpath?a=1&b=two+words").unwrap();
        assert_eq!(address.scheme, "rediss");
        assert_eq!(address.login, Some(("us@er".to_owned(), "p:w/d".to_owned())));
        assert_eq!(address.servers, ["h1", "h2:4333"]);
        assert_eq!(address.path, "my/path");
        let option = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(address.options, [option("a", "1"), option("b", "two words")]);
        assert_eq!(server_and_port("[::1]:77", 1).unwrap(), ("::1".to_owned(), 77));
        assert_eq!(server_and_port("h", 6379).unwrap(), ("h".to_owned(), 6379));
        // A password that was not encoded still shows in no host.
        assert_eq!(read("redis://u:p@ss@h").unwrap().servers, ["h"]);
        assert!(!format!("{address:?}").contains("p:w/d"));
    }

    #[test]
    fn refuses_without_the_login() {
        for url in [
            "",
            "localhost:1",
            "nats://localhost",
            "redis://",
            "redis://u:secret@",
            "redis://u:secret@:1",
            "redis://u:secret@h1,,h2",
            "redis://u:secret@h:99999",
            "redis://u:secret@h:port",
            "redis://u:%zz-secret@h",
            "redis://u:sec/ret@h",
            "redis://u:sec?ret@h",
            "redis://u:sec#ret@h",
            "redis://u:secret@h?a",
            "redis//u:secret@h://",
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            assert!(!format!("{error:?}").contains("sec"), "{url}: {error:?}");
        }
    }

    #[test]
    fn reads_times() {
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("2h"), Some(Duration::from_secs(7_200)));
        assert_eq!(duration("2"), None);
        assert_eq!(duration("s"), None);
        assert_eq!(duration("99999999999999999999d"), None);
    }
}
