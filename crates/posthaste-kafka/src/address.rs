//! Reading a connection from a URL.

use std::net::Ipv6Addr;
use std::time::Duration;

use posthaste_core::{Error, Layout, Result};
use url::form_urlencoded;

use crate::config::{Compression, GroupProtocol, KafkaConfig, Login, Sasl};

/// Every option a URL may have, for the message about one it may not have.
const OPTIONS: &str = "ca, cert, client_id, compression, connect_timeout, group_protocol, \
                       instance_id, key, linger, partitions, property.<name>, rack, \
                       replicas, request_timeout, sasl, tls";

/// As many partitions may be asked for.
const MOST_PARTITIONS: u16 = Layout::MAX_PARTITIONS;

/// What begins the name of an option that sets a property of the client.
const PROPERTY: &str = "property.";

/// Reads `kafka://user:password@host,host:port/?option=value`. No error shows the login.
pub(crate) fn read(url: &str) -> Result<KafkaConfig> {
    let missing = || {
        Error::invalid(
            "a Kafka URL begins with kafka:// or kafkas://, for example kafka://localhost:9092",
        )
    };
    let (scheme, rest) = url.split_once("://").ok_or_else(missing)?;
    let tls = match scheme {
        "kafka" => false,
        "kafkas" => true,
        _ if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) => {
            return Err(Error::invalid("the scheme of a Kafka URL is kafka or kafkas")
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
fn read_rest(rest: &str, tls: bool) -> Result<KafkaConfig> {
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    if query.contains('#') || rest.contains('#') {
        return Err(Error::invalid("a Kafka URL has no fragment; write # as %23"));
    }
    let (rest, path) = rest.split_once('/').unwrap_or((rest, ""));
    if !path.is_empty() {
        return Err(Error::invalid("a Kafka URL has no path"));
    }
    // A password may hold an @ that was not encoded; a host may not.
    let (login, hosts) = match rest.rsplit_once('@') {
        Some((login, hosts)) => (Some(login), hosts),
        None => (None, rest),
    };
    let mut config = KafkaConfig::new(hosts).tls(tls);
    for server in &config.servers {
        check_server(server)?;
    }
    config.login = match login {
        None | Some("") => None,
        Some(login) => Some(read_login(login)?),
    };
    let mut seen = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        config = option(config, &name, &value, tls)?;
        if seen.contains(&name) {
            return Err(Error::invalid("the option is there twice")
                .with_context("option", name.escape_debug()));
        }
        seen.push(name);
    }
    Ok(config)
}

fn read_login(text: &str) -> Result<Login> {
    let Some((user, password)) = text.split_once(':') else {
        return Err(Error::invalid("a login is written user:password"));
    };
    Ok(Login { user: decode(user)?, password: decode(password)? })
}

fn option(mut config: KafkaConfig, name: &str, value: &str, tls: bool) -> Result<KafkaConfig> {
    let refuse =
        |why: &'static str| Error::invalid(why).with_context("option", name.escape_debug());
    let time = || {
        duration(value).ok_or_else(|| {
            refuse("a time is a whole number with ms, s, m, h or d, for example 500ms")
                .with_context("found", value.escape_debug())
        })
    };
    if value.is_empty() {
        return Err(refuse("the option has no value"));
    }
    if let Some(property) = name.strip_prefix(PROPERTY) {
        if property.is_empty() {
            return Err(refuse("the property has no name"));
        }
        return Ok(config.property(property, value));
    }
    Ok(match name {
        "ca" => config.tls_ca(value),
        "cert" => {
            config.tls.certificate = Some(value.into());
            config.tls(true)
        }
        "key" => {
            config.tls.key = Some(value.into());
            config.tls(true)
        }
        "tls" => match value {
            "true" => config.tls(true),
            "false" if tls => return Err(refuse("a connection by kafkas:// is encrypted")),
            "false" => config,
            _ => return Err(refuse("the option is true or false")),
        },
        "client_id" => config.client_id(value),
        "instance_id" => config.instance_id(value),
        "rack" => config.rack(value),
        "connect_timeout" => config.connect_timeout(time()?),
        "request_timeout" => config.request_timeout(time()?),
        "linger" => config.linger(time()?),
        "partitions" => match value.parse() {
            Ok(partitions @ 1..=MOST_PARTITIONS) => config.partitions(partitions),
            _ => return Err(refuse("the option is a number from 1 to 1024")),
        },
        "replicas" => match value.parse() {
            Ok(replicas @ 1..) => config.replicas(replicas),
            _ => return Err(refuse("the option is a number from 1 to 255")),
        },
        "sasl" => config.sasl(match value {
            "plain" => Sasl::Plain,
            "scram-sha-256" => Sasl::ScramSha256,
            "scram-sha-512" => Sasl::ScramSha512,
            _ => return Err(refuse("the option is plain, scram-sha-256 or scram-sha-512")),
        }),
        "compression" => config.compression(match value {
            "none" => Compression::None,
            "gzip" => Compression::Gzip,
            "lz4" => Compression::Lz4,
            "snappy" => Compression::Snappy,
            "zstd" => Compression::Zstd,
            _ => return Err(refuse("the option is none, gzip, lz4, snappy or zstd")),
        }),
        "group_protocol" => config.group_protocol(match value {
            "classic" => GroupProtocol::Classic,
            "consumer" => GroupProtocol::Consumer,
            _ => return Err(refuse("the option is classic or consumer")),
        }),
        _ => return Err(refuse("there is no such option").with_context("options", OPTIONS)),
    })
}

/// Checks `host` or `host:port`. The client takes nearly anything, and a wrong port for 0.
pub(crate) fn check_server(server: &str) -> Result<()> {
    let refuse = |why: &'static str| {
        // Where `@host` was forgotten, the password stands behind the colon.
        let shown = if server.starts_with('[') { server } else { before_colon(server) };
        Err(Error::invalid(why).with_context("server", shown.escape_debug()))
    };
    const FORM: &str = "a server is written host or host:port, an IPv6 address in brackets";
    /// What a name in the DNS may be long.
    const LIMIT: usize = 253;
    let port = if let Some(rest) = server.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return refuse(FORM) };
        if address.parse::<Ipv6Addr>().is_err() {
            return refuse(FORM);
        }
        match port.strip_prefix(':') {
            Some(port) => Some(port),
            None if port.is_empty() => None,
            None => return refuse(FORM),
        }
    } else {
        let (host, port) = match server.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (server, None),
        };
        if host.is_empty() {
            return refuse("a host is missing");
        }
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if host.len() > LIMIT || !host.bytes().all(legal) || port.is_some_and(|p| p.contains(':')) {
            return refuse(FORM);
        }
        port
    };
    let sound = |port: &str| {
        port.bytes().all(|byte| byte.is_ascii_digit()) && matches!(port.parse::<u16>(), Ok(1..))
    };
    if port.is_none_or(sound) {
        Ok(())
    } else {
        refuse("the port must be a number from 1 to 65535")
    }
}

fn before_colon(server: &str) -> &str {
    server.split_once(':').map_or(server, |(host, _)| host)
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
            "kafkas://us%40er:p%3Aw%2Fd@h1,h2:9093,[::1]:9094/?ca=%2Fca.pem&cert=c.pem&key=k.pem\
             &client_id=shop&connect_timeout=500ms&request_timeout=2s&linger=5ms&replicas=3&partitions=12\
             &compression=gzip&group_protocol=consumer&instance_id=pod-7&rack=eu-1a\
             &sasl=scram-sha-512&tls=true&property.fetch.min.bytes=10&property.debug=cgrp",
        )
        .unwrap();
        assert_eq!(config.servers, ["h1", "h2:9093", "[::1]:9094"]);
        let login = Login { user: "us@er".into(), password: "p:w/d".into() };
        assert!(config.login == Some(login));
        assert_eq!(config.sasl, Some(Sasl::ScramSha512));
        assert!(config.tls.required);
        assert_eq!(config.tls.ca.as_deref(), Some("/ca.pem".as_ref()));
        assert_eq!(config.tls.certificate.as_deref(), Some("c.pem".as_ref()));
        assert_eq!(config.tls.key.as_deref(), Some("k.pem".as_ref()));
        assert_eq!(config.client_id, "shop");
        assert_eq!(config.connect_timeout, Duration::from_millis(500));
        assert_eq!(config.request_timeout, Duration::from_secs(2));
        assert_eq!(config.linger, Duration::from_millis(5));
        assert_eq!((config.replicas, config.partitions), (Some(3), Some(12)));
        assert_eq!(config.compression, Compression::Gzip);
        assert_eq!(config.group_protocol, GroupProtocol::Consumer);
        assert_eq!(config.instance_id.as_deref(), Some("pod-7"));
        assert_eq!(config.rack.as_deref(), Some("eu-1a"));
        let property = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            config.properties,
            [property("fetch.min.bytes", "10"), property("debug", "cgrp")]
        );
    }

    #[test]
    fn reads_the_short_forms() {
        let config = read("kafka://localhost").unwrap();
        config.check().unwrap();
        assert_eq!(config.servers, ["localhost"]);
        assert!(config.login.is_none() && config.sasl.is_none() && !config.tls.required);
        assert!(read("kafka://@h").unwrap().login.is_none());
        assert!(read("kafka://h?tls=true").unwrap().tls.required);
        assert!(!read("kafka://h/?tls=false").unwrap().tls.required);
        assert!(read("kafka://h?ca=c.pem").unwrap().tls.required);
        for (value, sasl) in [("plain", Sasl::Plain), ("scram-sha-256", Sasl::ScramSha256)] {
            let url = format!("kafka://u:p@h?sasl={value}");
            assert_eq!(read(&url).unwrap().sasl, Some(sasl));
        }
        for (value, compression) in [
            ("none", Compression::None),
            ("lz4", Compression::Lz4),
            ("snappy", Compression::Snappy),
            ("zstd", Compression::Zstd),
        ] {
            let url = format!("kafka://h?compression={value}");
            assert_eq!(read(&url).unwrap().compression, compression);
        }
        // A password that was not encoded still shows in no host.
        assert_eq!(read("kafka://u:p@ss@h").unwrap().servers, ["h"]);
    }

    #[test]
    fn refuses_with_the_part_that_is_wrong_and_without_the_login() {
        let cases = [
            ("", "kafka://"),
            ("kafka", "kafka://"),
            ("kafka:", "kafka://"),
            ("kafka:/h", "kafka://"),
            ("localhost:9092", "kafka://"),
            ("amqp://localhost", "amqp"),
            ("KAFKA://localhost", "KAFKA"),
            ("kafka+ssl://localhost", "kafka+ssl"),
            ("SASL_SSL://h:9093", "kafka://"),
            ("us:SECRET@kafka://h", "kafka://"),
            ("kafka://", "host"),
            ("kafkas://", "host"),
            ("kafka:///", "host"),
            ("kafka://:9092", "host"),
            ("kafka://h1,,h2", "host"),
            ("kafka://h1,", "host"),
            ("kafka://,h1", "host"),
            ("kafka://us:SECRET@", "host"),
            ("kafka://us:SECRET@:9092", "host"),
            ("kafka://h1:", "port"),
            ("kafka://h1:0", "port"),
            ("kafka://h1:+1", "port"),
            ("kafka://h1:-1", "port"),
            ("kafka://h1:65536", "port"),
            ("kafka://h1:99999999999999999999", "port"),
            ("kafka://h1:port", "port"),
            ("kafka://us:SECRET", "port"),
            ("kafka://us:SECRET,h2", "port"),
            ("kafka://us:x:SECRET", "brackets"),
            ("kafka://h1,h2:9092x", "port"),
            ("kafka://[::1]:", "port"),
            ("kafka://[::1]:x", "port"),
            ("kafka://h1:1:2", "brackets"),
            ("kafka://::1", "host"),
            ("kafka://fe80::1", "brackets"),
            ("kafka://[::1", "brackets"),
            ("kafka://[h1]:9092", "brackets"),
            ("kafka://[::1]9092", "brackets"),
            ("kafka://[]", "brackets"),
            ("kafka://h 1", "host"),
            ("kafka://h1, h2", "host"),
            ("kafka://h%31", "host"),
            ("kafka://b\u{fc}cher", "host"),
            ("kafka://h1\\h2", "host"),
            ("kafka://h1;h2", "host"),
            ("kafka://h1\n", "host"),
            ("kafka://h1/topic", "path"),
            ("kafka://h1//", "path"),
            ("kafka://h1#frag", "fragment"),
            ("kafka://h1?linger=5ms#frag", "fragment"),
            ("kafka://SECRET@h", "user:password"),
            ("kafka://us:SECRET%zz@h", "percent"),
            ("kafka://us:SECRET%@h", "percent"),
            ("kafka://us:SECRET%2@h", "percent"),
            ("kafka://us:SECRET%ff@h", "percent"),
            ("kafka://%zz:SECRET@h", "percent"),
            ("kafka://us:SECRET@h?nope=1", "nope"),
            ("kafka://us:SECRET@h?Linger=1ms", "Linger"),
            ("kafka://us:SECRET@h?acks=1", "acks"),
            ("kafka://us:SECRET@h?nope=1", "request_timeout"),
            ("kafka://us:SECRET@h?=1", "no such option"),
            ("kafka://us:SECRET@h?linger", "linger"),
            ("kafka://us:SECRET@h?linger=", "linger"),
            ("kafka://us:SECRET@h?linger=5", "linger"),
            ("kafka://us:SECRET@h?linger=xs", "linger"),
            ("kafka://us:SECRET@h?linger=-1s", "linger"),
            ("kafka://us:SECRET@h?linger=1.5s", "linger"),
            ("kafka://us:SECRET@h?linger=99999999999999999999s", "linger"),
            ("kafka://us:SECRET@h?linger=9999999999999999999d", "linger"),
            ("kafka://us:SECRET@h?connect_timeout=5", "connect_timeout"),
            ("kafka://us:SECRET@h?request_timeout=5y", "request_timeout"),
            ("kafka://us:SECRET@h?linger=1s&linger=2s", "twice"),
            ("kafka://us:SECRET@h?partitions=0", "partitions"),
            ("kafka://us:SECRET@h?partitions=1025", "partitions"),
            ("kafka://us:SECRET@h?replicas=0", "replicas"),
            ("kafka://us:SECRET@h?replicas=256", "replicas"),
            ("kafka://us:SECRET@h?replicas=many", "replicas"),
            ("kafka://us:SECRET@h?compression=brotli", "compression"),
            ("kafka://us:SECRET@h?compression=LZ4", "compression"),
            ("kafka://us:SECRET@h?group_protocol=share", "group_protocol"),
            ("kafka://us:SECRET@h?sasl=gssapi", "sasl"),
            ("kafka://us:SECRET@h?tls=1", "tls"),
            ("kafkas://us:SECRET@h?tls=false", "encrypted"),
            ("kafka://us:SECRET@h?property.=1", "property"),
            ("kafka://us:SECRET@h?property.debug=", "property.debug"),
            ("kafka://us:SECRET?x@h", "%3F"),
            ("kafka://us:x?SECRET@h", "%3F"),
            ("kafka://us:SECRET/x@h", "%2F"),
            ("kafka://us:SECRET#x@h", "%23"),
            ("kafka://us:a@SECRET?x@h", "%3F"),
        ];
        for (url, names) in cases {
            let error = read(url).expect_err(url);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            let text = format!("{error} {error:?}");
            assert!(text.contains(names), "{url}: {text}");
            assert!(!text.contains("SECRET"), "{url}: {text}");
        }
        let long = format!("kafka://{}", "h".repeat(254));
        assert_eq!(read(&long).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn refuses_what_only_the_whole_shows() {
        for (url, names) in [
            ("kafka://h?connect_timeout=0s", "connect_timeout"),
            ("kafka://h?request_timeout=999ms", "request_timeout"),
            ("kafka://h?request_timeout=6m", "request_timeout"),
            ("kafka://h?linger=10s", "linger"),
            ("kafka://h?sasl=plain", "sasl"),
            ("kafka://:SECRET@h", "user"),
            ("kafka://u:@h", "password"),
            ("kafka://u%00:SECRET@h", "user"),
            ("kafka://h?cert=c.pem", "key"),
            ("kafka://h?client_id=%00", "client_id"),
            ("kafka://u:SECRET@h?property.acks=1", "acks"),
            ("kafka://u:SECRET@h?property.nope=1", "nope"),
            ("kafka://u:SECRET@h?property.fetch.min.bytes=lots", "fetch.min.bytes"),
        ] {
            let error = read(url).unwrap().check().expect_err(url);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}: {error}");
            let text = format!("{error} {error:?}");
            assert!(text.contains(names), "{url}: {text}");
            assert!(!text.contains("SECRET"), "{url}: {text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(
            text in "(kafkas?|x)?(://)?\\PC{0,30}",
            server in "[\\[\\]:.0-9a-f%]{0,12}",
        ) {
            for url in [text, format!("kafka://{server}")] {
                match read(&url) {
                    Ok(config) => prop_assert!(config.servers.iter().all(|s| check_server(s).is_ok())),
                    Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Invalid),
                }
            }
        }

        #[test]
        fn no_login_shows_however_it_is_written(
            before in "[a-z%:@/?#& ]{0,6}",
            behind in "[a-z%:@/?#& ]{0,6}",
            options in "(\\?(nope|linger|rack|property.x)=[a-z0-9]{0,3})?",
        ) {
            let shown = match read(&format!("kafka://us:{before}SECRET{behind}@h{options}")) {
                Ok(config) => match config.check() {
                    Ok(()) => format!("{config:?}"),
                    Err(error) => format!("{config:?} {error} {error:?}"),
                },
                Err(error) => {
                    prop_assert_eq!(error.kind(), ErrorKind::Invalid);
                    format!("{error} {error:?}")
                }
            };
            prop_assert!(!shown.contains("SECRET"), "{}", shown);
        }
    }
}
