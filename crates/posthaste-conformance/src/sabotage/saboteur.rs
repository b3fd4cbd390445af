//! What every part of a sabotaged broker knows: its mutant, and what the connections plot.

use std::fmt;
use std::sync::Arc;

use posthaste_core::{Error, ErrorKind};

use super::mutant::Mutant;
use super::plot::Plot;

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Saboteur {
    pub(super) mutant: Mutant,
    pub(super) plot: Arc<Plot>,
    /// What no error may show.
    secret: Arc<str>,
}

impl Saboteur {
    pub(super) fn new(mutant: Mutant, secret: &str) -> Self {
        Self { mutant, plot: Arc::default(), secret: Arc::from(secret) }
    }

    /// The same mutant on another instance of the broker.
    pub(super) fn elsewhere(&self) -> Self {
        Self { plot: Arc::default(), ..self.clone() }
    }

    pub(super) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == mutant
    }

    pub(super) fn secret(&self) -> &str {
        &self.secret
    }

    /// The error as it is, or with more or less than it may say.
    pub(super) fn said(&self, error: Error) -> Error {
        match self.mutant {
            Mutant::SecretInErrors => {
                error.with_context("url", format_args!("broker://user:{}@host", self.secret))
            }
            Mutant::ClosedIsUnreachable if error.kind() == ErrorKind::Closed => {
                Error::new(ErrorKind::Connection, "the broker cannot be reached")
            }
            _ => error,
        }
    }
}

impl fmt::Debug for Saboteur {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Saboteur").field("mutant", &self.mutant).finish_non_exhaustive()
    }
}
