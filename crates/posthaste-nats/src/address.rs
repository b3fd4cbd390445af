//! Reading a connection from a URL.

use std::time::Duration;

use posthaste_core::{Error, Result};
use url::Url;
use url::form_urlencoded;

use crate::config::{Login, NatsConfig, Storage};

/// Every option a URL may have, for the message about one it may not have.
const OPTIONS: &str = "ca, cert, connect_timeout, creds, domain, duplicate_window, inbox_prefix, \
                       key, max_ack_pending, max_age, name, nkey, ping, replicas, \
                       request_timeout, storage, tls, tls_first";

/// Reads `nats://login@host,host:port/?option=value`. No error shows the login.
pub(crate) fn read(url: &str) -> Result<NatsConfig> {
    let missing = || {
        Error::invalid(
            "a NATS URL begins with nats:// or tls://, for example nats://localhost:4222",
        )
    };
    let (scheme, rest) = url.split_once("://").ok_or_else(missing)?;
    let tls = match scheme {
        // Which of the two transports is meant, the caller has seen.
        "nats" | "nats-core" => false,
        "tls" => true,
        _ if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) => {
            return Err(Error::invalid("the scheme of a NATS URL is nats, tls or nats-core")
                .with_context("scheme", scheme));
        }
        // What is no scheme may be a login.
        _ => return Err(missing()),
    };
    read_rest(rest, tls).map_err(|error| {
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

/// Reads what is behind the scheme.
fn read_rest(rest: &str, tls: bool) -> Result<NatsConfig> {
    let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, query)| (rest, query));
    if query.contains('#') || rest.contains('#') {
        return Err(Error::invalid("a NATS URL has no fragment; write # as %23"));
    }
    let (rest, path) = rest.split_once('/').unwrap_or((rest, ""));
    if !path.is_empty() {
        return Err(Error::invalid("a NATS URL has no path"));
    }
    // A password may hold an @ that was not encoded; a host may not.
    let (login, hosts) = match rest.rsplit_once('@') {
        Some((login, hosts)) => (Some(login), hosts),
        None => (None, rest),
    };
    let mut servers = hosts.split(',');
    let mut config = NatsConfig::new(servers.next().unwrap_or_default());
    for server in servers {
        config = config.server(server);
    }
    for server in &config.servers {
        check_server(server)?;
    }
    if tls {
        config = config.tls();
    }
    if let Some(login) = login {
        config.login = read_login(login)?;
    }
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        config = option(config, &name, &value)?;
    }
    Ok(config)
}

fn read_login(text: &str) -> Result<Login> {
    Ok(match text.split_once(':') {
        Some((user, password)) => {
            Login::Password { user: decode(user)?, password: decode(password)? }
        }
        None if text.is_empty() => Login::None,
        None => Login::Token(decode(text)?),
    })
}

fn option(mut config: NatsConfig, name: &str, value: &str) -> Result<NatsConfig> {
    let refuse =
        |why: &'static str| Error::invalid(why).with_context("option", name.escape_debug());
    let duration = || {
        duration(value).ok_or_else(|| {
            refuse("a time is a whole number with ms, s, m, h or d, for example 500ms")
                .with_context("found", value.escape_debug())
        })
    };
    let number = |why| {
        value.parse::<u32>().map_err(|_| refuse(why).with_context("found", value.escape_debug()))
    };
    let flag = || match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(refuse("the option is true or false")),
    };
    if value.is_empty() {
        return Err(refuse("the option has no value"));
    }
    match name {
        "ca" => config = config.tls_ca(value),
        "cert" => {
            config.tls.required = true;
            config.tls.certificate = Some(value.into());
        }
        "key" => config.tls.key = Some(value.into()),
        "tls" if flag()? => config = config.tls(),
        "tls_first" if flag()? => config = config.tls_first(),
        "tls" | "tls_first" => {}
        "creds" => config = config.credentials(value),
        "nkey" => config = config.nkey_file(value),
        "name" => config = config.name(value),
        "connect_timeout" => config = config.connect_timeout(duration()?),
        "request_timeout" => config = config.request_timeout(duration()?),
        "ping" => config = config.ping_interval(duration()?),
        "max_age" => config = config.max_age(duration()?),
        "duplicate_window" => config = config.duplicate_window(duration()?),
        "inbox_prefix" => config = config.inbox_prefix(value),
        "domain" => config = config.domain(value),
        "max_ack_pending" => config = config.max_ack_pending(number("the option is a number")?),
        "replicas" => {
            let why = "the option is a number from 1 to 5";
            let replicas = u8::try_from(number(why)?).ok().filter(|n| (1..=5).contains(n));
            config = config.replicas(replicas.ok_or_else(|| refuse(why))?);
        }
        "storage" => match value {
            "file" => config = config.storage(Storage::File),
            "memory" => config = config.storage(Storage::Memory),
            _ => return Err(refuse("the option is file or memory")),
        },
        _ => return Err(refuse("there is no such option").with_context("options", OPTIONS)),
    }
    Ok(config)
}

/// Checks `host` or `host:port`.
pub(crate) fn check_server(server: &str) -> Result<()> {
    let refuse =
        |why: &'static str| Err(Error::invalid(why).with_context("server", server.escape_debug()));
    if server.is_empty() || server.starts_with(':') {
        return refuse("a host is missing");
    }
    if server.contains(['/', '@', '?', '#']) || server.contains(char::is_whitespace) {
        return refuse("a server is written host or host:port");
    }
    let parsed = Url::parse(&format!("nats://{server}"));
    match parsed {
        Ok(url) if url.host_str().is_some_and(|host| !host.is_empty()) => Ok(()),
        Ok(_) => refuse("a host is missing"),
        Err(url::ParseError::InvalidPort) => refuse("the port must be a number below 65536"),
        Err(_) => refuse("a server is written host or host:port"),
    }
}

fn decode(text: &str) -> Result<String> {
    let refuse = || Error::invalid("the login in the URL is not well percent-encoded");
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
            let (high, low) = (digit().ok_or_else(refuse)?, digit().ok_or_else(refuse)?);
            decoded.push(u8::try_from(high << 4 | low).map_err(|_| refuse())?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).map_err(|_| refuse())
}

fn duration(text: &str) -> Option<Duration> {
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

#[cfg(test)]
mod tests {
    use posthaste_core::ErrorKind;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_every_part() {
        let config = read(
            "tls://us%40er:p%3Aw%2Fd@h1,h2:4333/?ca=%2Fca.pem&cert=c.pem&key=k.pem&name=shop\
             &connect_timeout=500ms&request_timeout=2s&ping=1m&replicas=3&storage=memory\
             &max_age=14d&duplicate_window=30s&inbox_prefix=_SHOP&domain=hub&max_ack_pending=9",
        )
        .unwrap();
        config.check().unwrap();
        assert_eq!(config.servers, ["h1", "h2:4333"]);
        let password = Login::Password { user: "us@er".into(), password: "p:w/d".into() };
        assert!(config.login == password);
        assert!(config.tls.required);
        assert_eq!(config.tls.ca.as_deref(), Some("/ca.pem".as_ref()));
        assert_eq!(config.connect_timeout, Duration::from_millis(500));
        assert_eq!(config.ping_interval, Duration::from_secs(60));
        assert_eq!(config.defaults.replicas, Some(3));
        assert_eq!(config.defaults.storage, Storage::Memory);
        assert_eq!(config.defaults.max_age, Duration::from_secs(14 * 86_400));
        assert_eq!(config.defaults.max_ack_pending, 9);
    }

    #[test]
    fn reads_the_short_forms() {
        let config = read("nats://localhost").unwrap();
        assert_eq!(config.servers, ["localhost"]);
        assert!(config.login == Login::None && !config.tls.required);
        assert!(read("nats://t0k3n@[::1]:4222").unwrap().login == Login::Token("t0k3n".into()));
        let login = read("nats://@h?creds=u.creds").unwrap().login;
        assert!(login == Login::Credentials("u.creds".into()));
        assert!(read("nats://h?nkey=u.nk").unwrap().login == Login::NKeyFile("u.nk".into()));
        // A password that was not encoded still shows in no host.
        assert_eq!(read("nats://u:p@ss@h").unwrap().servers, ["h"]);
    }

    #[test]
    fn refuses_with_the_part_that_is_wrong_and_without_the_login() {
        let cases = [
            ("", "nats://"),
            ("localhost:4222", "nats://"),
            ("amqp://localhost", "amqp"),
            ("nats://", "host"),
            ("nats://:4222", "host"),
            ("nats://h1,,h2", "host"),
            ("nats://h1:99999", "port"),
            ("nats://h1:port", "port"),
            ("nats://h 1", "host"),
            ("nats://h1/path", "path"),
            ("nats://h1#frag", "fragment"),
            ("nats://us:SECRET%zz@h", "percent"),
            ("nats://us:SECRET@h?nope=1", "nope"),
            ("nats://us:SECRET@h?connect_timeout=5", "connect_timeout"),
            ("nats://us:SECRET@h?connect_timeout=xs", "connect_timeout"),
            ("nats://us:SECRET@h?ping=", "ping"),
            ("nats://us:SECRET@h?replicas=9", "replicas"),
            ("nats://us:SECRET@h?replicas=many", "replicas"),
            ("nats://us:SECRET@h?storage=tape", "storage"),
            ("nats://us:SECRET@h?tls_first=1", "tls_first"),
            ("us:SECRET@nats://h", "nats://"),
            ("nats://us:SECRET?x@h", "%3F"),
            ("nats://us:x?SECRET@h", "%3F"),
            ("nats://us:SECRET/x@h", "%2F"),
            ("nats://us:SECRET#x@h", "%23"),
            ("nats://us:a@SECRET?x@h", "%3F"),
        ];
        for (url, names) in cases {
            let error = read(url).expect_err(url);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            let text = format!("{error} {error:?}");
            assert!(text.contains(names), "{url}: {text}");
            assert!(!text.contains("SECRET"), "{url}: {text}");
        }
    }

    #[test]
    fn refuses_what_only_the_whole_shows() {
        for (url, names) in [
            ("nats://h?cert=c.pem", "key"),
            ("nats://h?max_ack_pending=0", "max_ack_pending"),
            ("nats://h?connect_timeout=0s", "connect_timeout"),
        ] {
            let error = read(url).unwrap().check().expect_err(url);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            assert!(error.to_string().contains(names), "{url}: {error}");
        }
    }

    #[test]
    fn shows_no_secret() {
        for url in ["nats://u:SECRET@h", "nats://SECRET@h"] {
            assert!(!format!("{:?}", read(url).unwrap()).contains("SECRET"));
        }
        let config = NatsConfig::new("h").nkey("SECRET");
        assert!(!format!("{config:?}").contains("SECRET"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(nats|tls|nats-core|x)?(://)?\\PC{0,30}") {
            if let Err(error) = read(&text) {
                prop_assert_eq!(error.kind(), ErrorKind::Invalid);
            }
        }

        #[test]
        fn no_login_shows_however_it_is_written(
            before in "[a-z%:@/?#& ]{0,6}",
            behind in "[a-z%:@/?#& ]{0,6}",
            options in "(\\?(nope|ping|name)=[a-z0-9]{0,3})?",
        ) {
            let shown = match read(&format!("nats://us:{before}SECRET{behind}@h{options}")) {
                Ok(config) => format!("{config:?}"),
                Err(error) => {
                    prop_assert_eq!(error.kind(), ErrorKind::Invalid);
                    format!("{error} {error:?}")
                }
            };
            prop_assert!(!shown.contains("SECRET"), "{}", shown);
        }
    }
}
