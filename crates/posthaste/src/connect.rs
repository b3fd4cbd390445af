//! From a URL to a bus: the scheme chooses the broker, and the adapter reads the rest.
//!
//! The one place that knows every adapter. Nothing of a URL but its scheme reaches an error here,
//! because the rest may hold a password.

use std::env::VarError;
use std::sync::Arc;

use posthaste_core::broker::Broker;
use posthaste_core::{Bus, BusBuilder, Error, Result};
use posthaste_memory::{MemoryBroker, MemoryConfig};

/// The environment variable that [`from_env`] reads.
const VARIABLE: &str = "POSTHASTE_URL";

/// Connects to the broker of a URL, with the bus's default settings.
///
/// `memory://` is a new, private broker in this process each time; to share one, clone a
/// [`MemoryBroker`] and give it to [`Bus::new`]. Which parameters a URL may have is said by the
/// `from_url` of each broker's config.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> posthaste::Result<()> {
/// let bus = posthaste::connect("memory://").await?;
/// # bus.close(std::time::Duration::from_secs(1)).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `Invalid` for a malformed URL or an unknown scheme; `Unsupported` for a scheme whose cargo
/// feature is off; `Auth`, `Connection` and `Timeout` from the broker. None of them shows more of
/// the URL than scheme, host and parameters.
///
/// # Cancel safety
/// Cancel safe: when dropped, the connection is given up.
pub async fn connect(url: &str) -> Result<Bus> {
    builder(url).await?.build()
}

/// Connects to the broker that the environment's `POSTHASTE_URL` names.
///
/// # Errors
/// `Invalid` if the variable is not set, empty or not UTF-8; else as [`connect`].
///
/// # Cancel safety
/// Cancel safe: when dropped, the connection is given up.
pub async fn from_env() -> Result<Bus> {
    let url = url_from(std::env::var(VARIABLE))?;
    connect(&url).await.map_err(|error| error.with_context("URL from", VARIABLE))
}

/// Connects to the broker of a URL and begins a bus: for settings that belong to no URL.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> posthaste::Result<()> {
/// use std::time::Duration;
/// let bus = posthaste::builder("memory://")
///     .await?
///     .source("/shop")
///     .publish_deadline(Duration::from_secs(5))
///     .build()?;
/// # bus.close(Duration::from_secs(1)).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`connect`].
///
/// # Cancel safety
/// Cancel safe: when dropped, the connection is given up.
pub async fn builder(url: &str) -> Result<BusBuilder> {
    let broker = match scheme(url)? {
        "memory" => memory(url)?,
        "kafka" | "kafkas" => kafka(url).await?,
        "nats" | "tls" => nats(url).await?,
        "nats-core" => nats_core(url).await?,
        "amqp" | "amqps" => rabbitmq(url).await?,
        "redis" | "rediss" | "redis+sentinel" | "redis+cluster" | "redis-pubsub" => {
            redis(url).await?
        }
        other => return Err(unknown(other)),
    };
    Ok(Bus::shared(broker))
}

fn memory(url: &str) -> Result<Arc<dyn Broker>> {
    Ok(Arc::new(MemoryBroker::with_config(MemoryConfig::from_url(url)?)?))
}

#[cfg(feature = "kafka")]
async fn kafka(url: &str) -> Result<Arc<dyn Broker>> {
    use posthaste_kafka::{KafkaBroker, KafkaConfig};
    Ok(Arc::new(KafkaBroker::connect(KafkaConfig::from_url(url)?).await?))
}

#[cfg(not(feature = "kafka"))]
async fn kafka(_: &str) -> Result<Arc<dyn Broker>> {
    Err(switched_off("kafka"))
}

#[cfg(feature = "nats")]
async fn nats(url: &str) -> Result<Arc<dyn Broker>> {
    use posthaste_nats::{NatsBroker, NatsConfig};
    Ok(Arc::new(NatsBroker::connect(NatsConfig::from_url(url)?).await?))
}

#[cfg(feature = "nats")]
async fn nats_core(url: &str) -> Result<Arc<dyn Broker>> {
    use posthaste_nats::{NatsConfig, NatsCoreBroker};
    Ok(Arc::new(NatsCoreBroker::connect(NatsConfig::from_url(url)?).await?))
}

#[cfg(not(feature = "nats"))]
async fn nats(_: &str) -> Result<Arc<dyn Broker>> {
    Err(switched_off("nats"))
}

#[cfg(not(feature = "nats"))]
async fn nats_core(_: &str) -> Result<Arc<dyn Broker>> {
    Err(switched_off("nats"))
}

#[cfg(feature = "rabbitmq")]
async fn rabbitmq(url: &str) -> Result<Arc<dyn Broker>> {
    use posthaste_rabbitmq::{RabbitmqBroker, RabbitmqConfig};
    Ok(Arc::new(RabbitmqBroker::connect(RabbitmqConfig::from_url(url)?).await?))
}

#[cfg(not(feature = "rabbitmq"))]
async fn rabbitmq(_: &str) -> Result<Arc<dyn Broker>> {
    Err(switched_off("rabbitmq"))
}

#[cfg(feature = "redis")]
async fn redis(url: &str) -> Result<Arc<dyn Broker>> {
    use posthaste_redis::{RedisBroker, RedisConfig};
    Ok(Arc::new(RedisBroker::connect(RedisConfig::from_url(url)?).await?))
}

#[cfg(not(feature = "redis"))]
async fn redis(_: &str) -> Result<Arc<dyn Broker>> {
    Err(switched_off("redis"))
}

/// The scheme of a URL.
fn scheme(url: &str) -> Result<&str> {
    let missing = || Error::invalid(format!("the URL has no scheme; {KNOWN}"));
    let (scheme, _) = url.split_once("://").ok_or_else(missing)?;
    // Only what is a scheme by RFC 3986: anything else may be a part that is secret.
    let fine = scheme.len() <= 32
        && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    if fine { Ok(scheme) } else { Err(missing()) }
}

const KNOWN: &str = "known are memory://, kafka://, kafkas://, nats://, tls://, nats-core://, \
                     amqp://, amqps://, redis:// and rediss://";

#[cold]
fn unknown(scheme: &str) -> Error {
    Error::invalid(format!("there is no broker for this scheme; {KNOWN}"))
        .with_context("scheme", scheme)
}

#[cfg(not(all(feature = "kafka", feature = "nats", feature = "rabbitmq", feature = "redis")))]
#[cold]
fn switched_off(feature: &'static str) -> Error {
    Error::unsupported(format!(
        "the feature `{feature}` of posthaste is off; switch it on in Cargo.toml: \
         posthaste = {{ .., features = [\"{feature}\"] }}"
    ))
}

/// The URL in the variable.
fn url_from(variable: Result<String, VarError>) -> Result<String> {
    let wrong = match variable {
        Ok(url) if !url.trim().is_empty() => return Ok(url.trim().to_owned()),
        Ok(_) => "is empty",
        Err(VarError::NotPresent) => "is not set",
        Err(VarError::NotUnicode(_)) => "is not UTF-8",
    };
    Err(Error::invalid(format!(
        "the environment variable {VARIABLE} {wrong}: it holds the broker's URL, for example \
         memory://"
    )))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use posthaste_core::ErrorKind;

    use super::*;

    #[test]
    fn a_variable_without_a_url_is_named() {
        let not_text = Err(VarError::NotUnicode(OsString::from("secret")));
        let cases = [
            (Err(VarError::NotPresent), "is not set"),
            (Ok(String::new()), "is empty"),
            (Ok(" \n".to_owned()), "is empty"),
            (not_text, "is not UTF-8"),
        ];
        for (variable, wrong) in cases {
            let error = url_from(variable).expect_err(wrong);
            assert_eq!(error.kind(), ErrorKind::Invalid);
            let text = format!("{error:?}");
            assert!(text.contains(&format!("POSTHASTE_URL {wrong}")), "{text}");
            assert!(!text.contains("secret"), "{text}");
        }
        assert_eq!(url_from(Ok(" memory:// ".to_owned())).expect("a URL"), "memory://");
    }
}
