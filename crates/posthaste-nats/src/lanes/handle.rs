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
}

impl Validity {
    /// An ownership that nobody contests.
    pub(crate) fn forever() -> Self {
        Self { began: Instant::now(), until: AtomicU64::new(u64::MAX) }
    }

    /// None yet.
    pub(crate) fn none() -> Self {
        Self { began: Instant::now(), until: AtomicU64::new(0) }
    }

    pub(crate) fn set(&self, until: Instant) {
        let micros = until.saturating_duration_since(self.began).as_micros();
        let micros = u64::try_from(micros).unwrap_or(u64::MAX - 1);
        self.until.store(micros, Ordering::Release);
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
        signals: Arc<Signals>,
    ) -> Self {
        let (book, closed) = (Mutex::default(), AtomicBool::new(false));
        Self { lane, number, validity, signals, book, closed }
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, LaneBook> {
        // Nothing panics while it is held but an allocation that failed.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether deliveries may start.
    pub(crate) fn is_live(&self) -> bool {
        self.lane.state() == LaneState::Live && !self.validity.left().is_zero()
    }

    /// Whether its deliveries are somebody else's.
    pub(crate) fn is_lost(&self) -> bool {
        self.lane.state() == LaneState::Lost || self.validity.left().is_zero()
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
