//! Runtimes: each run has one of its own.

use std::fmt;
use std::time::Duration;

use posthaste::{Error, ErrorKind, Result};
use serde::Serialize;
use tokio::runtime::Builder;

/// A run that takes longer has stalled.
const LIMIT: Duration = Duration::from_secs(120);

/// How a runtime schedules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Flavour {
    /// All on the thread that waits for it.
    CurrentThread,
    /// Two workers, as `#[tokio::main]` has them on two cores.
    MultiThread,
}

impl Flavour {
    pub(crate) const ALL: [Self; 2] = [Self::CurrentThread, Self::MultiThread];

    /// Runs the work on a new runtime and ends both.
    pub(crate) fn run<T>(self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.run_within(LIMIT, work)
    }

    /// The same, for work that may take that long.
    pub(crate) fn run_within<T>(
        self,
        limit: Duration,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let mut builder = match self {
            Self::CurrentThread => Builder::new_current_thread(),
            Self::MultiThread => Builder::new_multi_thread(),
        };
        if self == Self::MultiThread {
            builder.worker_threads(2);
        }
        let runtime = builder.enable_all().build().map_err(|error| {
            Error::new(ErrorKind::Fatal, "the runtime does not start").with_source(error)
        })?;
        let stalled = || {
            Error::new(ErrorKind::Timeout, "a run has not ended in time; it was given up")
                .with_context("seconds", limit.as_secs())
        };
        runtime.block_on(async {
            tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(stalled()))
        })
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::CurrentThread => "current-thread",
            Self::MultiThread => "multi-thread",
        })
    }
}
