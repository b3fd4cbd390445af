//! Existing streams, under the names of topics.

use posthaste_core::{BoundName, Result};

/// An existing stream that a topic stands for. Its entries are read whoever wrote them; what is
/// published to it has the fields of this library.
///
/// ```
/// use posthaste_redis::{Binding, RedisConfig};
/// let config = RedisConfig::new("localhost").bind("orders", Binding::stream("legacy:orders"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    pub(crate) stream: String,
}

impl Binding {
    /// The stream of that key.
    pub fn stream(key: impl Into<String>) -> Self {
        Self { stream: key.into() }
    }

    /// Checks the name.
    pub(crate) fn check(&self) -> Result<()> {
        BoundName::new(&self.stream).map(drop)
    }
}
