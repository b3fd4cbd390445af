//! Reading a connection from a URL.

use std::time::Duration;

use posthaste_core::{Error, Result};
use url::Url;
use url::form_urlencoded;

use crate::config::{Login, QueueType, RabbitmqConfig};

/// Every option a URL may have, for the message about one it may not have.
const OPTIONS: &str = "auth, ca, cert, connect_timeout, heartbeat, key, max_message_bytes, name, \
                       queue_type, request_timeout, unrouted_bytes";

/// Reads `amqp://login@host,host:port/vhost?option=value`. No error shows the login.
pub(crate) fn read(url: &str) -> Result<RabbitmqConfig> {
    let missing = || {
        Error::invalid(
            "a RabbitMQ URL begins with amqp:// or amqps://, for example amqp://localhost",
        )
    };
    let (scheme, rest) = url.split_once("://").ok_or_else(missing)?;
    let tls = match scheme {
        "amqp" => false,
        "amqps" => true,
        _ if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) => {
            return Err(Error::invalid("the scheme of a RabbitMQ URL is amqp or amqps")
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
fn read_rest(rest: &str, tls: bool) -> Result<RabbitmqConfig> {
    let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, query)| (rest, query));
    if query.contains('#') || rest.contains('#') {
        return Err(Error::invalid("a RabbitMQ URL has no fragment; write # as %23"));
    }
    let (rest, path) = rest.split_once('/').unwrap_or((rest, ""));
    // A password may hold an @ that was not encoded; a host may not.
    let (login, hosts) = match rest.rsplit_once('@') {
        Some((login, hosts)) => (Some(login), hosts),
        None => (None, rest),
    };
    let mut config = RabbitmqConfig::new(hosts).tls(tls);
    for server in &config.servers {
        check_server(server)?;
    }
    if !path.is_empty() {
        // One slash behind the host is no name: a virtual host without a name does not exist.
        if path.contains('/') {
            return Err(Error::invalid("a / in the name of a virtual host is written %2F"));
        }
        config = config.vhost(decode(path).ok_or_else(|| {
            Error::invalid("the virtual host in the URL is not well percent-encoded")
        })?);
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
    let refuse = || Error::invalid("the login in the URL is not well percent-encoded");
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    let user = decode(user).ok_or_else(refuse)?;
    let password = decode(password).ok_or_else(refuse)?;
    Ok(Login::Password { user, password })
}

fn option(mut config: RabbitmqConfig, name: &str, value: &str) -> Result<RabbitmqConfig> {
    let refuse =
        |why: &'static str| Error::invalid(why).with_context("option", name.escape_debug());
    let found = |why: &'static str| refuse(why).with_context("found", value.escape_debug());
    let duration = || {
        let why = "a time is a whole number with ms, s, m, h or d, for example 500ms";
        duration(value).ok_or_else(|| found(why))
    };
    if value.is_empty() {
        return Err(refuse("the option has no value"));
    }
    match name {
        "auth" => match value {
            "plain" => {}
            "external" => config = config.login_by_certificate(),
            _ => return Err(found("the option is plain or external")),
        },
        "ca" => config = config.tls_ca(value),
        "cert" => {
            config.tls.required = true;
            config.tls.certificate = Some(value.into());
        }
        "key" => config.tls.key = Some(value.into()),
        "name" => config = config.name(value),
        "connect_timeout" => config = config.connect_timeout(duration()?),
        "request_timeout" => config = config.request_timeout(duration()?),
        "heartbeat" => config = config.heartbeat(duration()?),
        "unrouted_bytes" => {
            let bytes = value.parse().map_err(|_| found("the option is a number of bytes"))?;
            config = config.unrouted_bytes(bytes);
        }
        "max_message_bytes" => {
            let bytes = value.parse().map_err(|_| found("the option is a number of bytes"))?;
            config = config.max_message_bytes(bytes);
        }
        "queue_type" => match value {
            "quorum" => config = config.queue_type(QueueType::Quorum),
            "classic" => config = config.queue_type(QueueType::Classic),
            _ => return Err(found("the option is quorum or classic")),
        },
        _ => return Err(refuse("there is no such option").with_context("options", OPTIONS)),
    }
    Ok(config)
}

/// Checks `host` or `host:port`.
pub(crate) fn check_server(server: &str) -> Result<()> {
    split_server(server, 0).map(|_| ())
}

/// The host, without the brackets of an IPv6 address, and the port.
pub(crate) fn split_server(server: &str, default: u16) -> Result<(String, u16)> {
    let refuse =
        |why: &'static str| Err(Error::invalid(why).with_context("server", server.escape_debug()));
    if server.is_empty() || server.starts_with(':') {
        return refuse("a host is missing");
    }
    if server.contains(['/', '@', '?', '#']) || server.contains(char::is_whitespace) {
        return refuse("a server is written host or host:port");
    }
    match Url::parse(&format!("amqp://{server}")) {
        Ok(url) => match url.host_str() {
            Some(host) if !host.is_empty() => {
                let host = host.trim_start_matches('[').trim_end_matches(']');
                Ok((host.to_owned(), url.port().unwrap_or(default)))
            }
            _ => refuse("a host is missing"),
        },
        Err(url::ParseError::InvalidPort) => refuse("the port must be a number below 65536"),
        Err(_) => refuse("a server is written host or host:port"),
    }
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
            "amqps://us%40er:p%3Aw%2Fd@h1,h2:4333/my%2Fhost?ca=%2Fca.pem&cert=c.pem&key=k.pem\
             &name=shop&connect_timeout=500ms&request_timeout=2s&heartbeat=5s&queue_type=classic\
             &unrouted_bytes=1000&max_message_bytes=9000",
        )
        .unwrap();
        config.check().unwrap();
        assert_eq!(config.servers, ["h1", "h2:4333"]);
        assert_eq!(config.vhost, "my/host");
        let password = Login::Password { user: "us@er".into(), password: "p:w/d".into() };
        assert!(config.login == password);
        assert!(config.tls.required);
        assert_eq!(config.tls.ca.as_deref(), Some("/ca.pem".as_ref()));
        assert_eq!(config.connect_timeout, Duration::from_millis(500));
        assert_eq!(config.heartbeat, Duration::from_secs(5));
        assert_eq!(config.queue_type, QueueType::Classic);
        assert_eq!((config.unrouted_bytes, config.max_message_bytes), (1_000, 9_000));
    }

    #[test]
    fn reads_the_short_forms() {
        for url in ["amqp://localhost", "amqp://localhost/", "amqp://localhost/%2f"] {
            let config = read(url).unwrap();
            config.check().unwrap();
            assert_eq!((&*config.servers[0], &*config.vhost), ("localhost", "/"), "{url}");
            assert!(!config.tls.required);
        }
        assert_eq!(read("amqp://h/orders").unwrap().vhost, "orders");
        let config = read("amqps://h?auth=external&cert=c&key=k").unwrap();
        assert!(config.login == Login::External);
        // A password that was not encoded still shows in no host.
        assert_eq!(read("amqp://u:p@ss@h").unwrap().servers, ["h"]);
        assert_eq!(split_server("[::1]:77", 1).unwrap(), ("::1".to_owned(), 77));
        assert_eq!(split_server("h", 5672).unwrap(), ("h".to_owned(), 5672));
    }

    #[test]
    fn refuses_with_the_part_that_is_wrong_and_without_the_login() {
        let cases = [
            ("", "amqp://"),
            ("localhost:5672", "amqp://"),
            ("nats://localhost", "nats"),
            ("amqp://", "host"),
            ("amqp://:5672", "host"),
            ("amqp://h1,,h2", "host"),
            ("amqp://h1:99999", "port"),
            ("amqp://h1:port", "port"),
            ("amqp://h 1", "host"),
            ("amqp://h1/a/b", "%2F"),
            ("amqp://h1/a%zz", "percent"),
            ("amqp://h1#frag", "fragment"),
            ("amqp://us:SECRET%zz@h", "percent"),
            ("amqp://us:SECRET@h?nope=1", "nope"),
            ("amqp://us:SECRET@h?connect_timeout=5", "connect_timeout"),
            ("amqp://us:SECRET@h?heartbeat=", "heartbeat"),
            ("amqp://us:SECRET@h?queue_type=stack", "queue_type"),
            ("amqp://us:SECRET@h?auth=none", "auth"),
            ("amqp://us:SECRET@h?unrouted_bytes=many", "unrouted_bytes"),
            ("us:SECRET@amqp://h", "amqp://"),
            ("amqp://us:SECRET?x@h", "%3F"),
            ("amqp://us:x?SECRET@h", "%3F"),
            ("amqp://us:SECRET/x@h:y", "%2F"),
            ("amqp://us:SECRET#x@h", "%23"),
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
            ("amqp://h?cert=c.pem", "key"),
            ("amqp://h?auth=external", "auth"),
            ("amqp://h?connect_timeout=0s", "connect_timeout"),
            ("amqp://h?heartbeat=500ms", "heartbeat"),
            ("amqp://h?request_timeout=0s", "request_timeout"),
            ("amqp://h?unrouted_bytes=0", "unrouted_bytes"),
            ("amqp://h?max_message_bytes=1", "max_message_bytes"),
            ("amqp://:p@h", "user"),
        ] {
            let error = read(url).unwrap().check().expect_err(url);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            assert!(error.to_string().contains(names), "{url}: {error}");
        }
    }

    #[test]
    fn shows_no_secret() {
        assert!(!format!("{:?}", read("amqp://u:SECRET@h").unwrap()).contains("SECRET"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(amqp|amqps|x)?(://)?\\PC{0,30}") {
            if let Err(error) = read(&text) {
                prop_assert_eq!(error.kind(), ErrorKind::Invalid);
            }
        }

        #[test]
        fn no_login_shows_however_it_is_written(
            before in "[a-z%:@/?#& ]{0,6}",
            behind in "[a-z%:@?#& ]{0,6}",
            options in "(\\?(nope|name)=[a-z0-9]{0,3})?",
        ) {
            let url = format!("amqp://us:{before}SECRET{behind}@h{options}");
            if let Err(error) = read(&url) {
                prop_assert_eq!(error.kind(), ErrorKind::Invalid);
                let shown = format!("{error} {error:?}");
                prop_assert!(!shown.contains("SECRET"), "{}", shown);
            }
        }
    }
}
