//! The one error type: a kind to branch on, whether to try again, and what was wrong.
//!
//! One struct instead of an enum per operation, so that errors of different brokers can be handled
//! by the same code. The text is for people and is not stable; branch on [`Error::kind`].

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

/// The result of every fallible call in this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, broadly enough to be the same on every broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The broker cannot be reached, or the connection was lost.
    Connection,
    /// The deadline passed before the call was done.
    Timeout,
    /// The broker refused the credentials, or the rights for this operation.
    Auth,
    /// The topic, group, stream or queue does not exist.
    NotFound,
    /// What exists differs from what was asked for, or is in use.
    Conflict,
    /// The message, a header or a name is larger than the broker takes.
    TooLarge,
    /// An argument, URL, name, header or configuration is malformed.
    Invalid,
    /// This broker, topic or server version cannot keep that promise.
    Unsupported,
    /// A bounded queue, here or at the broker, is full.
    Backpressure,
    /// No group could ever get the message.
    Unroutable,
    /// The delivery's lease ended; it belongs to somebody else now.
    LeaseLost,
    /// The bus or subscription was closed.
    Closed,
    /// The value could not be turned into bytes.
    Encode,
    /// The bytes could not be turned into the value.
    Decode,
    /// A defect of this library or of the broker; nothing a caller can repair.
    Fatal,
}

impl ErrorKind {
    /// The name as it stands in messages, for example `too large`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Timeout => "timeout",
            Self::Auth => "auth",
            Self::NotFound => "not found",
            Self::Conflict => "conflict",
            Self::TooLarge => "too large",
            Self::Invalid => "invalid",
            Self::Unsupported => "unsupported",
            Self::Backpressure => "backpressure",
            Self::Unroutable => "unroutable",
            Self::LeaseLost => "lease lost",
            Self::Closed => "closed",
            Self::Encode => "encode",
            Self::Decode => "decode",
            Self::Fatal => "fatal",
        }
    }

    const fn default_retry(self) -> Retry {
        match self {
            Self::Connection | Self::Timeout | Self::Backpressure => Retry::Transient,
            _ => Retry::Never,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether trying the same call again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Retry {
    /// The same call will fail again.
    Never,
    /// The cause may pass by itself.
    Transient,
    /// It was transient, and this library has already tried until the deadline: do not multiply.
    Exhausted,
}

/// An error of any operation, one word wide.
///
/// `Display` is one line. `{:?}` is a report of several lines with context and causes.
///
/// ```
/// use posthaste_core::{Error, ErrorKind, TopicName};
/// let error: Error = TopicName::new("no spaces here").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Invalid);
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    retry: Retry,
    may_be_stored: bool,
    message: Cow<'static, str>,
    broker: Option<&'static str>,
    operation: Option<&'static str>,
    topic: Option<Box<str>>,
    group: Option<Box<str>>,
    context: Vec<(&'static str, Box<str>)>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A new error. The message says what was wrong and, where it can, what would be right.
    /// It must not hold a secret or a payload.
    #[cold]
    #[inline(never)]
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            retry: kind.default_retry(),
            may_be_stored: false,
            message: message.into(),
            broker: None,
            operation: None,
            topic: None,
            group: None,
            context: Vec::new(),
            source: None,
        }))
    }

    /// A new error of kind [`ErrorKind::Invalid`].
    #[cold]
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// A new error of kind [`ErrorKind::Unsupported`]: names what cannot be kept, and why.
    #[cold]
    pub fn unsupported(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// A new error of kind [`ErrorKind::Closed`].
    #[cold]
    pub fn closed(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Closed, message)
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether trying again can help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// Whether the message of a failed publish may nevertheless be stored at the broker.
    /// `false` means it certainly is not. Publishing it again with the same id is safe for
    /// consumers that tell duplicates by id.
    #[must_use]
    pub fn may_be_stored(&self) -> bool {
        self.0.may_be_stored
    }

    /// What was wrong, without context.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The broker's scheme, for example `nats`.
    #[must_use]
    pub fn broker(&self) -> Option<&'static str> {
        self.0.broker
    }

    /// The operation that failed, for example `publish`.
    #[must_use]
    pub fn operation(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// The topic the operation was about.
    #[must_use]
    pub fn topic(&self) -> Option<&str> {
        self.0.topic.as_deref()
    }

    /// The group the operation was about.
    #[must_use]
    pub fn group(&self) -> Option<&str> {
        self.0.group.as_deref()
    }

    /// Further facts, as name and value, in the order they were added.
    pub fn context(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.context.iter().map(|(name, value)| (*name, &**value))
    }

    /// Sets whether trying again can help.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// Marks whether the message may be stored although the publish failed.
    #[must_use]
    pub fn with_may_be_stored(mut self, may_be_stored: bool) -> Self {
        self.0.may_be_stored = may_be_stored;
        self
    }

    /// Names the broker, unless an inner layer already did.
    #[must_use]
    pub fn with_broker(mut self, broker: &'static str) -> Self {
        self.0.broker.get_or_insert(broker);
        self
    }

    /// Names the operation, unless an inner layer already did.
    #[must_use]
    pub fn with_operation(mut self, operation: &'static str) -> Self {
        self.0.operation.get_or_insert(operation);
        self
    }

    /// Names the topic, unless an inner layer already did.
    #[must_use]
    pub fn with_topic(mut self, topic: impl AsRef<str>) -> Self {
        self.0.topic.get_or_insert_with(|| topic.as_ref().into());
        self
    }

    /// Names the group, unless an inner layer already did.
    #[must_use]
    pub fn with_group(mut self, group: impl AsRef<str>) -> Self {
        self.0.group.get_or_insert_with(|| group.as_ref().into());
        self
    }

    /// Adds a fact. Never a secret, never a payload.
    #[must_use]
    pub fn with_context(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((name, value.to_string().into_boxed_str()));
        self
    }

    /// Keeps the native error as the source. Downcasting it is possible but not stable.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// A copy for another waiter of the same batch. The source is kept as its text, because
    /// native errors cannot be cloned.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        let inner = &*self.0;
        Self(Box::new(Inner {
            kind: inner.kind,
            retry: inner.retry,
            may_be_stored: inner.may_be_stored,
            message: inner.message.clone(),
            broker: inner.broker,
            operation: inner.operation,
            topic: inner.topic.clone(),
            group: inner.group.clone(),
            context: inner.context.clone(),
            source: inner.source.as_ref().map(|source| source.to_string().into()),
        }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        if let Some(broker) = inner.broker {
            write!(f, "{broker}: ")?;
        }
        if let Some(operation) = inner.operation {
            write!(f, "{operation}: ")?;
        }
        write!(f, "{}: {}", inner.kind, inner.message)?;
        let mut open = false;
        let named = [("topic", inner.topic.as_deref()), ("group", inner.group.as_deref())];
        let named = named.into_iter().filter_map(|(name, value)| value.map(|value| (name, value)));
        for (name, value) in named.chain(self.context()) {
            write!(f, "{}{name}: {value}", if open { ", " } else { " (" })?;
            open = true;
        }
        if open { f.write_str(")") } else { Ok(()) }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        write!(f, "\n    retry: {:?}", self.0.retry)?;
        if self.0.may_be_stored {
            f.write_str("\n    the message may be stored")?;
        }
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(f, "\n    caused by: {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}
