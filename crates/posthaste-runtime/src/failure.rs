//! The error of a handler: any error, and whether trying again can help.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use posthaste_core::{Cause, ErrorKind};

type Source = Box<dyn StdError + Send + Sync>;

/// What becomes of a message whose handler failed with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Class {
    /// Again, by the retry policy.
    Retry,
    /// Again, not before that time is over.
    RetryAfter(Duration),
    /// Never again: it becomes a dead letter.
    Permanent,
    /// It is settled and counted.
    Discard,
}

/// Why a handler failed. Any error converts into it by `?`, and means: again, by the retry policy.
///
/// ```
/// use posthaste_runtime::{HandlerError, Permanent};
///
/// async fn charge(card: &str) -> Result<(), HandlerError> {
///     let number: u64 = card.parse().map_err(Permanent)?; // never again: a dead letter
///     if number == 0 {
///         return Err(HandlerError::new("the card service is down")); // again
///     }
///     Ok(())
/// }
/// ```
pub struct HandlerError(Box<Inner>);

struct Inner {
    class: Option<Class>,
    source: Source,
}

impl HandlerError {
    /// Again, by the retry policy and its classification. Takes any error, or a text.
    pub fn new(source: impl Into<Source>) -> Self {
        Self(Box::new(Inner { class: None, source: source.into() }))
    }

    /// Never again: the message becomes a dead letter.
    pub fn permanent(source: impl Into<Source>) -> Self {
        Self::new(source).with_class(Class::Permanent)
    }

    /// Again, not before that time is over.
    pub fn retry_after(delay: Duration, source: impl Into<Source>) -> Self {
        Self::new(source).with_class(Class::RetryAfter(delay))
    }

    /// Says what becomes of the message, whatever the retry policy's classification says.
    #[must_use]
    pub fn with_class(mut self, class: Class) -> Self {
        self.0.class = Some(class);
        self
    }

    /// What becomes of the message, if the error says so. Errors of this library with kind
    /// `Decode`, `Encode`, `TooLarge` or `Invalid` are permanent.
    #[must_use]
    pub fn class(&self) -> Option<Class> {
        self.0.class.or_else(|| {
            let own = self.downcast_ref::<posthaste_core::Error>()?;
            let hopeless = matches!(
                own.kind(),
                ErrorKind::Decode | ErrorKind::Encode | ErrorKind::TooLarge | ErrorKind::Invalid
            );
            hopeless.then_some(Class::Permanent)
        })
    }

    /// The error itself.
    #[must_use]
    pub fn source(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.0.source
    }

    /// The error, if it is of that type.
    #[must_use]
    pub fn downcast_ref<E: StdError + 'static>(&self) -> Option<&E> {
        self.0.source.downcast_ref()
    }

    /// The error and its causes as text, for the dead letter that the message may become.
    #[must_use]
    pub fn cause(&self) -> Cause {
        Cause::of(&*self.0.source)
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.source.fmt(f)
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerError")
            .field("class", &self.class())
            .field("source", &self.0.source)
            .finish()
    }
}

/// An error that trying again does not repair: the message becomes a dead letter at once. Holds
/// any error, or a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permanent<E>(pub E);

impl<E: Into<Source>> From<Permanent<E>> for HandlerError {
    fn from(error: Permanent<E>) -> Self {
        Self::permanent(error.0)
    }
}
