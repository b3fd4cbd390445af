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

/// Ends ownerships in time when heartbeats are not confirmed any more.
pub(super) async fn fence(owned: &Owned, validity: &Validity) {
    loop {
        // Also when a new term has begun already: the end of the one before may have been missed.
        lose_what_ended(owned);
        match validity.until().filter(|until| *until > Instant::now()) {
            Some(until) => tokio::time::sleep_until(until).await,
            None => validity.prolonged().await,
        }
    }
}

/// Ends the ownerships whose term is over.
fn lose_what_ended(owned: &Owned) {
    lock(owned).retain(|_, ownership| {
        let ended = ownership.handle.is_lost();
        if ended {
            ownership.handle.lose();
        }
        !ended
    });
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

#[cfg(test)]
mod tests {
    use posthaste_core::TopicName;
    use posthaste_core::broker::Lane;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn own(owned: &Owned, lane: usize, validity: &Arc<Validity>) {
        let name = TopicName::new("orders").unwrap();
        let (term, signals) = (validity.term().unwrap(), Arc::default());
        let lane_of = Arc::new(Lane::new(name, None));
        let handle = LaneHandle::new(lane_of, 0, Arc::clone(validity), term, signals);
        lock(owned).insert(lane, Arc::new(Ownership::new(Arc::new(handle))));
    }

    /// The heartbeat that begins a new term is confirmed before the end of the old one is seen.
    #[tokio::test(start_paused = true)]
    async fn a_term_that_follows_at_once_ends_what_is_of_the_one_before() {
        let (owned, validity) = (Owned::default(), Arc::new(Validity::none()));
        validity.set(Instant::now() + SECOND);
        own(&owned, 0, &validity);
        let fenced = fence(&owned, &validity);
        tokio::pin!(fenced);
        assert!(futures_util::poll!(&mut fenced).is_pending());
        assert_eq!(lock(&owned).len(), 1);
        tokio::time::advance(SECOND).await;
        validity.set(Instant::now() + SECOND);
        own(&owned, 1, &validity);
        assert!(futures_util::poll!(&mut fenced).is_pending());
        assert_eq!(lock(&owned).keys().copied().collect::<Vec<_>>(), [1]);
        tokio::time::advance(SECOND).await;
        assert!(futures_util::poll!(&mut fenced).is_pending());
        assert!(lock(&owned).is_empty());
    }
}
