//! The lanes that a member owns, and that they end in time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::handle::{LaneHandle, Validity};
use crate::source::EXPIRES;

/// Requests of the driver may be open that long after it was told to ask no more.
const LAST_REQUESTS: Duration = EXPIRES.saturating_add(Duration::from_millis(500));

/// The lanes of one topic that are ours, as the keeper and the fence share them.
pub(super) type Owned = Mutex<HashMap<usize, Arc<Ownership>>>;

/// One lane that is ours.
#[derive(Debug)]
pub(super) struct Ownership {
    pub(super) handle: Arc<LaneHandle>,
    /// Since when it is given up, and until when its handlers may run.
    going: Mutex<Option<(Instant, Instant)>>,
}

/// Ends all ownerships in time when heartbeats are not confirmed any more.
pub(super) async fn fence(owned: &Owned, validity: &Validity) {
    loop {
        match validity.until().filter(|until| *until > Instant::now()) {
            Some(until) => tokio::time::sleep_until(until).await,
            None => {
                lose_all(owned);
                validity.prolonged().await;
            }
        }
    }
}

pub(super) fn lose_all(owned: &Owned) {
    for (_, ownership) in lock(owned).drain() {
        ownership.handle.lose();
    }
}

pub(super) fn lock(owned: &Owned) -> MutexGuard<'_, HashMap<usize, Arc<Ownership>>> {
    // Nothing panics while it is held but an allocation that failed.
    owned.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ownership {
    pub(super) fn new(handle: Arc<LaneHandle>) -> Self {
        Self { handle, going: Mutex::default() }
    }

    pub(super) fn going(&self) -> MutexGuard<'_, Option<(Instant, Instant)>> {
        // Nothing panics while it is held but an allocation that failed.
        self.going.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Given up, and nothing of it is on its way here.
    pub(super) fn is_quiet(&self) -> bool {
        let since = self.going().map(|(since, _)| since);
        since.is_some_and(|since| self.handle.is_closed() || since.elapsed() > LAST_REQUESTS)
    }

    /// Given up, and its handlers have had their time.
    pub(super) fn is_over(&self, grace: Duration) -> bool {
        let going = *self.going();
        going.is_some_and(|(since, until)| {
            Instant::now() >= until || (grace.is_zero() && since.elapsed() > LAST_REQUESTS)
        })
    }
}
