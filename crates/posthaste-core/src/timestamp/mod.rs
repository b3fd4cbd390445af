//! A point in time, in microseconds, as it travels in envelopes.
//!
//! Deadlines inside a process are tokio's `Instant`; this type is for what crosses the wire.

mod text;

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::{Error, Result};

/// A UTC time with microsecond precision, written as RFC 3339.
///
/// Years 0001 to 9999. Arithmetic saturates at those ends.
///
/// ```
/// use posthaste_core::Timestamp;
/// let time: Timestamp = "2026-11-21T09:30:00.25Z".parse()?;
/// assert_eq!(time.to_string(), "2026-11-21T09:30:00.25Z");
/// assert_eq!(time.as_micros() % 1_000_000, 250_000);
/// # Ok::<(), posthaste_core::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The earliest time that can be written: 0001-01-01T00:00:00Z.
    pub const MIN: Self = Self(-62_135_596_800_000_000);
    /// The latest time that can be written: 9999-12-31T23:59:59.999999Z.
    pub const MAX: Self = Self(253_402_300_799_999_999);
    /// 1970-01-01T00:00:00Z.
    pub const UNIX_EPOCH: Self = Self(0);

    /// The time now. Follows `tokio::time::pause`: virtual time that was advanced shows here too.
    #[must_use]
    pub fn now() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
        let wall = Self::from_system_time(SystemTime::now());
        // Both clocks agree to within the cost of reading them unless tokio's is paused.
        let virtual_now = tokio::time::Instant::now().into_std();
        let real_now = std::time::Instant::now();
        match virtual_now.checked_duration_since(real_now) {
            Some(ahead) => wall + ahead,
            None => {
                let behind = real_now.duration_since(virtual_now);
                if behind > Duration::from_millis(1) { wall - behind } else { wall }
            }
        }
    }

    /// From microseconds since the Unix epoch, clamped to what can be written.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        if micros < Self::MIN.0 {
            Self::MIN
        } else if micros > Self::MAX.0 {
            Self::MAX
        } else {
            Self(micros)
        }
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// From the system's clock type.
    #[must_use]
    pub fn from_system_time(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Self::UNIX_EPOCH + since,
            Err(before) => Self::UNIX_EPOCH - before.duration(),
        }
    }

    /// How long from `earlier` until this time; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, by: Duration) -> Self {
        let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        Self::from_micros(self.0.saturating_add(by))
    }
}

impl std::ops::Sub<Duration> for Timestamp {
    type Output = Self;
    fn sub(self, by: Duration) -> Self {
        let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        Self::from_micros(self.0.saturating_sub(by))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // On the stack: every envelope that is built writes its time.
        let mut out = [0; text::LONGEST];
        let length = text::write(self.0, &mut out);
        let text = out.get(..length).and_then(|text| std::str::from_utf8(text).ok());
        f.write_str(text.ok_or(fmt::Error)?)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = Error;

    /// Reads RFC 3339 with any offset; digits below a microsecond are dropped.
    fn from_str(text: &str) -> Result<Self> {
        if let Some(micros) = text::read(text) {
            return Ok(Self::from_micros(micros));
        }
        let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|error| {
            Error::invalid("a time must be RFC 3339, for example 2026-11-21T09:30:00Z")
                .with_context("found", text.escape_debug())
                .with_source(error)
        })?;
        let micros = time.unix_timestamp_nanos().div_euclid(1_000);
        let micros = i64::try_from(micros)
            .map_err(|_| Error::invalid("a time must be within the years 0001 to 9999"))?;
        Ok(Self::from_micros(micros))
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
