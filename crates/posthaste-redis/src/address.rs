//! Reading a connection from a URL.

use posthaste_core::broker::address::{self, Address, UrlForm};
use posthaste_core::{Error, Result};

use crate::config::{Durable, RedisConfig};
use crate::error::BROKER;

/// Every option a URL may have, for the message about one it may not have.
const OPTIONS: &str = "ca, cert, connect_timeout, deduplication_window, durability, keep, key, \
                       max_message_bytes, name, request_timeout";

const FORM: UrlForm<'_> = UrlForm {
    schemes: &["redis", "rediss", "redis+sentinel", "redis+cluster", "redis-pubsub"],
    hint: "a Redis URL begins with redis:// or rediss://, for example redis://localhost",
};

/// Reads `redis://login@host:port/database?option=value`. No error shows the login.
pub(crate) fn read(url: &str) -> Result<RedisConfig> {
    FORM.read(url, make)
}

fn make(address: Address) -> Result<RedisConfig> {
    let tls = match address.scheme.as_str() {
        "redis" => false,
        "rediss" => true,
        other => {
            return Err(Error::unsupported("only single Redis servers can be connected to")
                .with_context("scheme", other)
                .with_broker(BROKER));
        }
    };
    let [server] = <[String; 1]>::try_from(address.servers)
        .map_err(|_| Error::invalid("a Redis URL names one server"))?;
    let mut config = RedisConfig::new(server).tls(tls);
    config.login =
        address.login.filter(|(user, password)| !(user.is_empty() && password.is_empty()));
    if !address.path.is_empty() {
        let number = address
            .path
            .parse()
            .map_err(|_| Error::invalid("what is behind the / is the number of a database"))?;
        config = config.database(number);
    }
    for (name, value) in &address.options {
        config = option(config, name, value)?;
    }
    Ok(config)
}

fn option(mut config: RedisConfig, name: &str, value: &str) -> Result<RedisConfig> {
    let refuse =
        |why: &'static str| Error::invalid(why).with_context("option", name.escape_debug());
    let found = |why: &'static str| refuse(why).with_context("found", value.escape_debug());
    let duration = || {
        let why = "a time is a whole number with ms, s, m, h or d, for example 500ms";
        address::duration(value).ok_or_else(|| found(why))
    };
    match name {
        "ca" => config = config.tls_ca(value),
        "cert" => {
            config.tls.required = true;
            config.tls.certificate = Some(value.into());
        }
        "key" => config.tls.key = Some(value.into()),
        "name" => config = config.name(value),
        "connect_timeout" => config = config.connect_timeout(duration()?),
        "request_timeout" => config = config.request_timeout(duration()?),
        "keep" => config = config.keep(duration()?),
        "deduplication_window" => config = config.deduplication_window(duration()?),
        "max_message_bytes" => {
            let bytes = value.parse().map_err(|_| found("the option is a number of bytes"))?;
            config = config.max_message_bytes(bytes);
        }
        "durability" => match value {
            "append-only" => config = config.durability(Durable::AppendOnly),
            "server" => config = config.durability(Durable::Server),
            _ => return Err(found("the option is append-only or server")),
        },
        _ => return Err(refuse("there is no such option").with_context("options", OPTIONS)),
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use posthaste_core::ErrorKind;

    use super::*;

    #[test]
    fn reads_every_part() {
        let config = read(
            "rediss://us%40er:p%3Aw%2Fd@h2:4333/7?ca=%2Fca.pem&cert=c.pem&key=k.pem&name=shop\
             &connect_timeout=500ms&request_timeout=2s&keep=1h&durability=server\
             &max_message_bytes=9000&deduplication_window=3s",
        )
        .unwrap();
        config.check().unwrap();
        assert_eq!((&*config.server, config.database), ("h2:4333", 7));
        assert_eq!(config.login, Some(("us@er".to_owned(), "p:w/d".to_owned())));
        assert!(config.tls.required);
        assert_eq!(config.tls.ca.as_deref(), Some("/ca.pem".as_ref()));
        assert_eq!(config.connect_timeout, Duration::from_millis(500));
        assert_eq!(config.keep, Duration::from_secs(3_600));
        assert_eq!(config.durability, Durable::Server);
        assert_eq!(config.max_message_bytes, 9_000);
    }

    #[test]
    fn reads_the_short_forms() {
        for url in ["redis://localhost", "redis://localhost/", "redis://localhost/0"] {
            let config = read(url).unwrap();
            config.check().unwrap();
            assert_eq!((&*config.server, config.database), ("localhost", 0), "{url}");
            assert!(!config.tls.required && config.login.is_none());
        }
        assert_eq!(read("redis://:pw@h").unwrap().login, Some((String::new(), "pw".to_owned())));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let cases = [
            ("redis://h1,h2", ErrorKind::Invalid),
            ("redis://h/zero", ErrorKind::Invalid),
            ("redis://h?colour=blue", ErrorKind::Invalid),
            ("redis://h?durability=some", ErrorKind::Invalid),
            ("redis://h?keep=soon", ErrorKind::Invalid),
            ("redis+sentinel://u:secret@h1,h2/main", ErrorKind::Unsupported),
            ("redis+cluster://h1,h2", ErrorKind::Unsupported),
            ("redis-pubsub://h", ErrorKind::Unsupported),
        ];
        for (url, kind) in cases {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), kind, "{url}");
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }
}
