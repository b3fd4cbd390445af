//! Calls into an adapter: a panic there fails the call and nothing else.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};

use futures_util::FutureExt;

use crate::{Error, ErrorKind, Result};

/// Awaits an adapter's answer.
///
/// Without this, a panic would end the task that flushes, keeps leases or sends, and everybody
/// who waits for that task would wait for ever.
pub(crate) async fn shielded<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    AssertUnwindSafe(call).catch_unwind().await.unwrap_or_else(|_| Err(panicked()))
}

/// Calls an adapter.
pub(crate) fn shielded_call<T>(call: impl FnOnce() -> T, failed: impl FnOnce(Error) -> T) -> T {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| failed(panicked()))
}

#[cold]
fn panicked() -> Error {
    // What it said is on standard error already, by the panic hook.
    Error::new(ErrorKind::Fatal, "the adapter panicked").with_may_be_stored(true)
}
