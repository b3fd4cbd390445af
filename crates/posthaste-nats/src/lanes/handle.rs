//! One ownership of one lane, as its keeper, its driver and its settler share it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use posthaste_core::broker::{Lane, LaneState, Token};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::book::LaneBook;

/// Until when this member's ownerships hold, by its own clock. It is prolonged by each heartbeat
/// that the server confirmed, counted from when it was sent.
#[derive(Debug)]
pub(crate) struct Validity {
    began: Instant,
    // Microseconds since `began`; MAX is for ever.
    until: AtomicU64,
    // How often it began anew.
    term: AtomicU64,
    changed: Notify,
}

impl Validity {
    /// An ownership that nobody contests, in its first and only term.
    pub(crate) fn forever() -> Self {
        Self::beginning(u64::MAX)
    }

    /// None yet.
    pub(crate) fn none() -> Self {
        Self::beginning(0)
    }

    fn beginning(until: u64) -> Self {
        let (until, term) = (AtomicU64::new(until), AtomicU64::new(0));
        Self { began: Instant::now(), until, term, changed: Notify::new() }
    }

    /// Prolongs it. If it had ended, nothing of before holds again: a new term begins.
    pub(crate) fn set(&self, until: Instant) {
        if until <= Instant::now() {
            return;
        }
        if self.left().is_zero() {
            self.term.fetch_add(1, Ordering::AcqRel);
        }
        let micros = until.saturating_duration_since(self.began).as_micros();
        let micros = u64::try_from(micros).unwrap_or(u64::MAX - 1);
        self.until.store(micros, Ordering::Release);
        self.changed.notify_one();
    }

    /// The time without a gap that it is in; `None` if it has ended. What was claimed in one term
    /// may be somebody else's in the next.
    pub(crate) fn term(&self) -> Option<u64> {
        let term = self.term.load(Ordering::Acquire);
        (!self.left().is_zero()).then_some(term)
    }

    /// Waits until it is prolonged; one task may do so. Cancel safe.
    pub(super) async fn prolonged(&self) {
        self.changed.notified().await;
    }

    /// How much longer they hold.
    pub(crate) fn left(&self) -> Duration {
        match self.until.load(Ordering::Acquire) {
            u64::MAX => Duration::MAX,
            micros => (self.began + Duration::from_micros(micros))
                .saturating_duration_since(Instant::now()),
        }
    }

    /// When they end; `None` is never.
    pub(crate) fn until(&self) -> Option<Instant> {
        match self.until.load(Ordering::Acquire) {
            u64::MAX => None,
            micros => Some(self.began + Duration::from_micros(micros)),
        }
    }
}

/// What tells the two sides of a subscription's lanes of each other.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// Wakes the driver: a lane changed its state.
    pub(crate) driver: AtomicWaker,
    /// Wakes the keeper: a lane became idle, or the driver is done with it.
    pub(crate) keeper: Notify,
}

/// One ownership of one lane.
#[derive(Debug)]
pub(crate) struct LaneHandle {
    pub(crate) lane: Arc<Lane>,
    /// Its number in tokens.
    pub(crate) number: u32,
    pub(crate) validity: Arc<Validity>,
    /// The term in which it was claimed, and with which it ends.
    term: u64,
    pub(crate) signals: Arc<Signals>,
    book: Mutex<LaneBook>,
    /// The driver asks the server for nothing any more, and nothing can come.
    closed: AtomicBool,
}

impl LaneHandle {
    pub(crate) fn new(
        lane: Arc<Lane>,
        number: u32,
        validity: Arc<Validity>,
        term: u64,
        signals: Arc<Signals>,
    ) -> Self {
        let (book, closed) = (Mutex::default(), AtomicBool::new(false));
        Self { lane, number, validity, term, signals, book, closed }
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, LaneBook> {
        // Nothing panics while it is held but an allocation that failed.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether deliveries may start.
    pub(crate) fn is_live(&self) -> bool {
        self.lane.state() == LaneState::Live && self.holds()
    }

    /// Whether its deliveries are somebody else's.
    pub(crate) fn is_lost(&self) -> bool {
        self.lane.state() == LaneState::Lost || !self.holds()
    }

    fn holds(&self) -> bool {
        self.validity.term() == Some(self.term)
    }

    /// Notes a delivery as handed out, unless the lane is going. Whoever frees the lane looks at
    /// the same books after it has said that the lane goes: so one of the two is seen.
    pub(crate) fn hand_out(&self, place: u64, token: Token) -> bool {
        let mut book = self.book();
        let may = self.is_live();
        if may {
            book.hand_out(place, token);
        }
        may
    }

    /// Changes the books, and tells the keeper.
    pub(crate) fn update(&self, change: impl FnOnce(&mut LaneBook)) {
        change(&mut self.book());
        if self.lane.state() != LaneState::Live {
            self.signals.keeper.notify_one();
        }
    }

    pub(crate) fn drain(&self, until: Instant) {
        self.lane.drain(until);
        self.signals.driver.wake();
    }

    pub(crate) fn lose(&self) {
        self.lane.lose();
        self.signals.driver.wake();
    }

    pub(crate) fn close(&self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.signals.keeper.notify_one();
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use posthaste_core::TopicName;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn handle(validity: &Arc<Validity>, term: u64) -> LaneHandle {
        let lane = Arc::new(Lane::new(TopicName::new("orders").unwrap(), Some(0)));
        LaneHandle::new(lane, 0, Arc::clone(validity), term, Arc::default())
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_ended_does_not_come_back_with_a_later_heartbeat() {
        let validity = Arc::new(Validity::none());
        assert_eq!(validity.term(), None);
        validity.set(Instant::now() + 2 * SECOND);
        let first = validity.term().unwrap();
        let handle = handle(&validity, first);
        tokio::time::advance(SECOND).await;
        validity.set(Instant::now() + 2 * SECOND);
        assert_eq!(validity.term(), Some(first));
        assert!(handle.is_live());
        tokio::time::advance(2 * SECOND).await;
        assert!(!handle.is_live() && handle.is_lost());
        // A heartbeat from before the gap.
        validity.set(Instant::now() - SECOND);
        assert_eq!(validity.term(), None);
        validity.set(Instant::now() + SECOND);
        assert_ne!(validity.term(), Some(first));
        assert!(!handle.is_live() && handle.is_lost());
        assert!(!handle.hand_out(1, Token::sequence(0, 0, 1)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_contests_holds() {
        let validity = Arc::new(Validity::forever());
        tokio::time::advance(SECOND * 86_400).await;
        assert!(handle(&validity, 0).is_live());
        assert_eq!(validity.until(), None);
    }
}
