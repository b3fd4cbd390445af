//! What servers of which version can do.
//!
//! Old servers ignore what they do not know and say nothing, so that every newer feature is asked
//! for only where the version allows it, and what was created is compared with what was asked.

use std::fmt;

/// The version of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u16, u16, u16);

impl Version {
    /// The oldest that is supported: consumers are created by name.
    pub(crate) const OLDEST: Self = Self(2, 9, 0);
    /// Streams and consumers carry metadata; creating a consumer does not change an existing one.
    pub(crate) const METADATA: Self = Self(2, 10, 0);
    /// Only what was delivered is counted. Older servers count a redelivery before they look for a
    /// request to send it by, and when the last one has just ended, they neither send it nor take
    /// the count back: it falls due once more after the acknowledgement wait. They also step back
    /// one message in the stream, and so send the one before again, as if for the first time
    /// (nats-server 2.9.10 and 2.10.12, `loopAndGatherMsgs` and `getNextMsg` in
    /// `server/consumer.go`; put right in 2.10.15).
    pub(crate) const EXACT_ATTEMPTS: Self = Self(2, 10, 15);
    /// The first of two lines that write a consumer's position to a file of its own and then put it
    /// in the place of the last one. Older servers write over the last one: who is stopped or
    /// killed in the midst of it finds an empty file at the next start and begins the group anew
    /// (nats-server 2.9.10, 2.11.10 and 2.12.0, `writeState` and `Stop` of `consumerFileStore` in
    /// `server/filestore.go`).
    const SAFE_POSITIONS: Self = Self(2, 11, 11);
    /// The second one.
    const SAFE_POSITIONS_AGAIN: Self = Self(2, 12, 1);
    /// Messages have a time to live of their own, or none.
    pub(crate) const MESSAGE_TTL: Self = Self(2, 11, 0);
    /// Messages are stored for later.
    pub(crate) const SCHEDULES: Self = Self(2, 12, 0);

    /// Whether a group finds its place again after any end of the server.
    pub(crate) fn keeps_positions(self) -> bool {
        let first = Self::SAFE_POSITIONS..Self::SCHEDULES;
        first.contains(&self) || self >= Self::SAFE_POSITIONS_AGAIN
    }

    /// Reads the version a server names. What cannot be read is taken for the oldest.
    pub(crate) fn read(text: &str) -> Self {
        let mut numbers = text.trim_start_matches('v').split(['.', '-', '+']);
        let mut next = || numbers.next().and_then(|number| number.parse().ok());
        match (next(), next()) {
            (Some(major), Some(minor)) => Self(major, minor, next().unwrap_or(0)),
            _ => Self::OLDEST,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_compares() {
        for (text, version) in [
            ("2.9.10", Version(2, 9, 10)),
            ("v2.12.0-RC.3", Version(2, 12, 0)),
            ("2.11.0-dev", Version(2, 11, 0)),
            ("3.0", Version(3, 0, 0)),
            ("", Version::OLDEST),
            ("nightly", Version::OLDEST),
        ] {
            assert_eq!(Version::read(text), version, "{text}");
        }
        assert!(Version::read("2.9.10") < Version::METADATA);
        assert!(Version::read("2.10.27") >= Version::METADATA);
        assert!(Version::read("2.10.9") < Version::EXACT_ATTEMPTS);
        assert!(Version::read("2.15.2") >= Version::SCHEDULES);
        for safe in ["2.11.11", "2.11.17", "2.12.1", "2.15.2"] {
            assert!(Version::read(safe).keeps_positions(), "{safe}");
        }
        for unsafe_ in ["2.9.10", "2.11.10", "2.12.0"] {
            assert!(!Version::read(unsafe_).keeps_positions(), "{unsafe_}");
        }
    }
}
