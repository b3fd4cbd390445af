//! Whether a broker can be used now.

use std::fmt;

/// The answer of one cheap round trip.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// Usable.
    Live,
    /// Usable with a reservation, which the text names.
    Degraded(String),
    /// Not usable, for the reason that the text names. Publishers and subscriptions resume by
    /// themselves once it is back.
    Down(String),
}

impl Health {
    /// Whether it can be used without reservation.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        matches!(self, Self::Live)
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Live => f.write_str("live"),
            Self::Degraded(why) => write!(f, "degraded: {why}"),
            Self::Down(why) => write!(f, "down: {why}"),
        }
    }
}
