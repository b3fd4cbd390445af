//! Waiting for a condition that only shows when one looks: the one place of this suite that polls.
//!
//! What announces itself (a channel, a process that ends, a connection that opens) is awaited where
//! it is announced, not here.

use std::fmt::Debug;
use std::time::Duration;

use posthaste_core::{Error, ErrorKind, Result};
use tokio::time::{Instant, sleep_until, timeout_at};

/// The pause between two looks. Short against everything that a fault test waits for, long
/// against one look.
pub const INTERVAL: Duration = Duration::from_millis(10);

/// Looks again and again until `check` says `Ok`, and returns what it found.
///
/// `Err` from `check` means *not yet* and carries what was seen instead; the last one stands in the
/// error, so that a failed wait says how far it came. There is always at least one look, and one
/// look that never ends does not outlive `deadline`, counted from now.
///
/// ```
/// # use std::time::Duration;
/// # use std::sync::atomic::{AtomicUsize, Ordering};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> posthaste_core::Result<()> {
/// use posthaste_conformance::fault::wait;
///
/// let handled = AtomicUsize::new(0);
/// let count = wait::until("three messages handled", Duration::from_secs(5), || async {
///     match handled.fetch_add(1, Ordering::Relaxed) {
///         seen if seen >= 3 => Ok(seen),
///         seen => Err(seen),
///     }
/// })
/// .await?;
/// assert_eq!(count, 3);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ErrorKind::Timeout`], naming `what`, the deadline and the last value that was seen.
///
/// # Cancel safety
/// Dropping it drops the look that is under way; nothing else is kept.
pub async fn until<T, S, F, Fut>(what: &str, deadline: Duration, mut check: F) -> Result<T>
where
    S: Debug,
    // Not `AsyncFnMut`: the future of this function would not be `Send` where that matters.
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, S>>,
{
    let end = Instant::now() + deadline;
    let mut last = None;
    let mut looks = 0_u64;
    loop {
        looks += 1;
        match timeout_at(end, check()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(seen)) => last = Some(seen),
            Err(_) => return Err(missed(what, deadline, looks, last, "never ended")),
        }
        let next = Instant::now() + INTERVAL;
        if next >= end {
            return Err(missed(what, deadline, looks, last, "said not yet"));
        }
        sleep_until(next).await;
    }
}

#[cold]
fn missed<S: Debug>(
    what: &str,
    deadline: Duration,
    looks: u64,
    last: Option<S>,
    end: &str,
) -> Error {
    let seen = last.map_or_else(|| "nothing".to_owned(), |seen| format!("{seen:?}"));
    Error::new(ErrorKind::Timeout, format!("did not happen within {deadline:?}: {what}"))
        .with_context("last seen", seen)
        .with_context("looks", format_args!("{looks}, the last one {end}"))
}
