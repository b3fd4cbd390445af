//! How a chore fails: one sentence for a human. Nothing here is matched on by code.

use std::fmt::{self, Display};

/// Why a command could not do its work, as the sentence that is printed.
#[derive(Debug)]
pub(crate) struct Failure(String);

/// The result of a chore.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// A failure that says `message`.
pub(crate) fn fail<T>(message: impl Into<String>) -> Result<T> {
    Err(Failure(message.into()))
}

/// Adds what was being done to an error of the system or of a library.
pub(crate) trait Context<T> {
    /// Turns the error into "`doing`: cause".
    fn context(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Display> Context<T> for std::result::Result<T, E> {
    fn context(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| Failure(format!("{}: {cause}", doing())))
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
