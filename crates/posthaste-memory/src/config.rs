//! How large the broker may grow, and what goes wrong in it. Does not start anything.

use std::time::Duration;

use posthaste_core::{Error, Result};
use url::Url;

use crate::Faults;
use crate::error::BROKER;

/// The settings of a [`MemoryBroker`](crate::MemoryBroker).
///
/// ```
/// use posthaste_memory::{MemoryBroker, MemoryConfig};
/// let config = MemoryConfig::new().name("tests").max_messages(10_000);
/// let broker = MemoryBroker::with_config(config)?;
/// # Ok::<(), posthaste_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a config does nothing until a broker is made of it"]
pub struct MemoryConfig {
    pub(crate) name: String,
    pub(crate) max_messages: usize,
    pub(crate) max_bytes: usize,
    pub(crate) max_message_bytes: Option<usize>,
    pub(crate) deduplication_window: Duration,
    pub(crate) faults: Option<Faults>,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            name: "memory".to_owned(),
            max_messages: 1_000_000,
            max_bytes: 256 << 20,
            max_message_bytes: None,
            deduplication_window: Duration::from_secs(120),
            faults: None,
        }
    }
}

impl MemoryConfig {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads `memory://name?max_messages=…&max_bytes=…&max_message_bytes=…&deduplication_window=…`,
    /// the window in seconds. The name and each parameter may be left out.
    ///
    /// The name is a label: each broker made of a URL is a new, private one, whatever its name,
    /// because there is no state outside of it. To share one, clone it.
    ///
    /// # Errors
    /// [`Invalid`](posthaste_core::ErrorKind::Invalid) for another scheme, an unknown parameter or
    /// a value that is no number.
    pub fn from_url(url: &str) -> Result<Self> {
        let invalid = |message: &'static str| Error::invalid(message).with_broker(BROKER);
        let url = Url::parse(url).map_err(|error| {
            invalid("the URL is malformed; `memory://` is enough").with_source(error)
        })?;
        if url.scheme() != "memory" {
            return Err(invalid("the scheme must be `memory`")
                .with_context("found", url.scheme().escape_debug()));
        }
        if !matches!(url.path(), "" | "/") || !url.username().is_empty() || url.port().is_some() {
            return Err(invalid("a memory URL has a name and parameters, nothing else"));
        }
        let mut config = Self::new();
        if let Some(name) = url.host_str().filter(|name| !name.is_empty()) {
            config = config.name(name);
        }
        for (name, value) in url.query_pairs() {
            let number = || {
                value.parse::<u32>().map_err(|error| {
                    invalid("a parameter of a memory URL is a number below 2^32")
                        .with_context("parameter", name.escape_debug())
                        .with_context("found", value.escape_debug())
                        .with_source(error)
                })
            };
            let count = || number().map(|n| usize::try_from(n).unwrap_or(usize::MAX));
            config = match &*name {
                "max_messages" => config.max_messages(count()?),
                "max_bytes" => config.max_bytes(count()?),
                "max_message_bytes" => config.max_message_bytes(count()?),
                "deduplication_window" => {
                    config.deduplication_window(Duration::from_secs(number()?.into()))
                }
                _ => {
                    return Err(invalid(
                        "unknown parameter; there are max_messages, max_bytes, \
                         max_message_bytes, deduplication_window",
                    )
                    .with_context("parameter", name.escape_debug()));
                }
            };
        }
        config.check()?;
        Ok(config)
    }

    /// A label for logs and health. Default `memory`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How many messages a topic may hold. Above that, publishing is refused with `Backpressure`
    /// as soon as nothing can go that every group has read. Default 1,000,000.
    pub const fn max_messages(mut self, messages: usize) -> Self {
        self.max_messages = messages;
        self
    }

    /// How many bytes a topic may hold, counted as [`Envelope::size`](posthaste_core::Envelope),
    /// with the same consequence. Default 256 MiB.
    pub const fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// How large a message may be with its headers; larger ones are `TooLarge`. By default what
    /// the topic may hold.
    pub const fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = Some(bytes);
        self
    }

    /// How long ids are remembered on topics that say nothing else. Default 2 minutes.
    pub const fn deduplication_window(mut self, window: Duration) -> Self {
        self.deduplication_window = window;
        self
    }

    /// What goes wrong by chance, from the start.
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = Some(faults);
        self
    }

    pub(crate) fn largest_message(&self) -> usize {
        self.max_message_bytes.unwrap_or(usize::MAX).min(self.max_bytes)
    }

    pub(crate) fn check(&self) -> Result<()> {
        let zero = [
            ("max_messages", self.max_messages == 0),
            ("max_bytes", self.max_bytes == 0),
            ("max_message_bytes", self.max_message_bytes == Some(0)),
            ("deduplication_window", self.deduplication_window.is_zero()),
        ];
        match zero.into_iter().find(|(_, is_zero)| *is_zero) {
            Some((setting, _)) => Err(Error::invalid("a bound must be greater than zero")
                .with_broker(BROKER)
                .with_context("setting", setting)),
            None => Ok(()),
        }
    }
}
