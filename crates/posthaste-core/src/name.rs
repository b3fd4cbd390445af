//! Names of topics and groups that are legal on every broker.
//!
//! Portable names never contain `__`, so names derived from them (`orders__billing__dlq`) cannot
//! collide with a topic of the application. What exists under other names is bound in the
//! adapter's configuration with a [`BoundName`].

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::{Error, Result};

const TOPIC_LIMIT: usize = 100;
const GROUP_LIMIT: usize = 40;
const BOUND_LIMIT: usize = 255;

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the text and keeps it.
            ///
            /// # Errors
            /// [`Invalid`](crate::ErrorKind::Invalid) names the rule that the text breaks.
            pub fn new(text: impl AsRef<str>) -> Result<Self> {
                let text = text.as_ref();
                $check(text)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = Error;
            fn try_from(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                Self::new(text)
            }
        }

        impl TryFrom<&$name> for $name {
            type Error = Error;
            fn try_from(name: &$name) -> Result<Self> {
                Ok(name.clone())
            }
        }
    };
}

name_type! {
    /// The name of a topic: segments of `A–Z a–z 0–9` with single inner `-` or `_`, joined by
    /// single dots, at most 100 bytes.
    ///
    /// ```
    /// use posthaste_core::TopicName;
    /// assert!(TopicName::new("orders.eu-west.placed").is_ok());
    /// assert!(TopicName::new("orders__internal").is_err());
    /// ```
    TopicName, check_topic
}

name_type! {
    /// The name of a group: one segment of `A–Z a–z 0–9` with single inner `-` or `_`, at most
    /// 40 bytes, and not `unrouted`.
    ///
    /// ```
    /// use posthaste_core::GroupName;
    /// assert!(GroupName::new("billing").is_ok());
    /// assert!(GroupName::new("billing.eu").is_err());
    /// ```
    GroupName, check_group
}

name_type! {
    /// A name that exists at a broker already and need not be portable: 1 to 255 bytes without
    /// control characters. The adapter checks it further by its broker's own rules.
    ///
    /// ```
    /// use posthaste_core::BoundName;
    /// assert!(BoundName::new("LEGACY/Orders (v1)").is_ok());
    /// assert!(BoundName::new("two\nlines").is_err());
    /// ```
    BoundName, check_bound
}

impl GroupName {
    /// The name of something that belongs to this group on a topic, for example
    /// `orders__billing__dlq` for the role `dlq`; without a role `orders__billing`.
    #[must_use]
    pub fn derived(&self, topic: &TopicName, role: Option<&str>) -> String {
        match role {
            Some(role) => format!("{topic}__{self}__{role}"),
            None => format!("{topic}__{self}"),
        }
    }
}

fn check_topic(text: &str) -> Result<()> {
    check_length("topic", text, TOPIC_LIMIT)?;
    text.split('.').try_for_each(|segment| check_segment("topic", text, segment))
}

fn check_group(text: &str) -> Result<()> {
    check_length("group", text, GROUP_LIMIT)?;
    if text == "unrouted" {
        return Err(refuse("group", text, "`unrouted` is reserved"));
    }
    check_segment("group", text, text)
}

fn check_bound(text: &str) -> Result<()> {
    check_length("bound", text, BOUND_LIMIT)?;
    if text.chars().any(char::is_control) {
        return Err(refuse("bound", text, "control characters are not allowed"));
    }
    Ok(())
}

fn check_length(what: &'static str, text: &str, limit: usize) -> Result<()> {
    if text.is_empty() {
        return Err(refuse(what, text, "it is empty"));
    }
    if text.len() > limit {
        return Err(refuse(what, text, "it is too long").with_context("limit in bytes", limit));
    }
    Ok(())
}

fn check_segment(what: &'static str, text: &str, segment: &str) -> Result<()> {
    let joiner = |byte: u8| byte == b'-' || byte == b'_';
    let bytes = segment.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return Err(refuse(what, text, "there is an empty segment: dots must be single and inner"));
    };
    if let Some(bad) = segment.chars().find(|c| !c.is_ascii_alphanumeric() && !"-_".contains(*c)) {
        let allowed = if what == "topic" {
            "only A-Z a-z 0-9 with inner - _ and . are allowed"
        } else {
            "only A-Z a-z 0-9 with inner - and _ are allowed"
        };
        return Err(refuse(what, text, allowed).with_context("character", bad.escape_debug()));
    }
    if joiner(first)
        || joiner(last)
        || bytes.windows(2).any(|pair| joiner(pair[0]) && joiner(pair[1]))
    {
        return Err(refuse(what, text, "- and _ must be single and inner"));
    }
    Ok(())
}

#[cold]
fn refuse(what: &'static str, text: &str, why: &'static str) -> Error {
    let shown: String = text.chars().take(120).flat_map(char::escape_debug).collect();
    Error::invalid(format!("{what} name: {why}")).with_context("name", shown)
}
