//! Why a case failed: a sentence and the line that said so. Cases return it, they never panic.

use std::fmt;
use std::panic::Location;

use posthaste_core::{Error, ErrorKind};

/// What a case returns.
pub type Outcome<T = ()> = Result<T, Failed>;

/// Why a case failed, and where.
///
/// Any [`Error`] converts into it: a case that did not expect an error fails by `?`, with the line
/// of the `?`.
pub struct Failed {
    message: String,
    place: &'static Location<'static>,
}

impl Failed {
    /// A failure at the caller's line.
    #[track_caller]
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), place: Location::caller() }
    }

    /// The same place, another sentence.
    #[must_use]
    pub(crate) fn saying(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    /// What was wrong.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl From<Error> for Failed {
    #[track_caller]
    fn from(error: Error) -> Self {
        Self { message: format!("unexpected error: {error:?}"), place: Location::caller() }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}:{}]", self.message, self.place.file(), self.place.line())
    }
}

impl fmt::Debug for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Expects a failure of one of these kinds, and returns its error for further questions.
///
/// # Errors
/// When there was none, or one of another kind.
#[track_caller]
pub(crate) fn refused<T>(
    outcome: Result<T, Error>,
    kinds: &[ErrorKind],
    what: &str,
) -> Result<Error, Failed> {
    match outcome {
        Err(error) if kinds.contains(&error.kind()) => Ok(error),
        Err(error) => {
            Err(Failed::new(format!("{what}: expected an error of {kinds:?}, found {error:?}")))
        }
        Ok(_) => Err(Failed::new(format!("{what}: expected an error of {kinds:?}, it succeeded"))),
    }
}

/// Fails the case unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::failure::Failed::new(format!($($message)+)));
        }
    };
}

/// Fails the case unless both values are equal.
macro_rules! ensure_eq {
    ($found:expr, $wanted:expr, $($message:tt)+) => {
        match (&$found, &$wanted) {
            (found, wanted) => {
                if found != wanted {
                    return Err($crate::failure::Failed::new(format!(
                        "{}: found {found:?}, wanted {wanted:?}",
                        format_args!($($message)+),
                    )));
                }
            }
        }
    };
}

pub(crate) use {ensure, ensure_eq};
