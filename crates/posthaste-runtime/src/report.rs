//! What a consumer has done.

use std::sync::atomic::{AtomicU64, Ordering};

use posthaste_core::Stats;

/// What a consumer has done: so far, or when it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Report {
    /// Deliveries that were received.
    pub received: u64,
    /// Messages that were handled and acknowledged.
    pub handled: u64,
    /// Tries of a handler that failed, in whatever way.
    pub failed: u64,
    /// Among those, panics.
    pub panicked: u64,
    /// Among those, handlers that took too long.
    pub timed_out: u64,
    /// Failed deliveries that come again.
    pub retried: u64,
    /// Messages that were given up as dead letters.
    pub dead_lettered: u64,
    /// Messages that a handler found of no use.
    pub discarded: u64,
    /// Messages that were settled because no handler takes their type.
    pub skipped: u64,
    /// Messages that expired before they were handled.
    pub expired: u64,
    /// Deliveries that were given back without fault.
    pub released: u64,
    /// Deliveries whose lease was lost.
    pub leases_lost: u64,
    /// Messages that handlers returned, and that were published.
    pub published: u64,
    /// Settlements that did not reach the broker: those messages come again.
    pub settle_failures: u64,
    /// Messages that the broker removed before they were read, as far as they are counted.
    pub lost: u64,
    /// Deliveries that were still being handled when the drain's time was over: they come again.
    pub unfinished: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) handled: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) panicked: AtomicU64,
    pub(crate) timed_out: AtomicU64,
    pub(crate) discarded: AtomicU64,
    pub(crate) skipped: AtomicU64,
    pub(crate) published: AtomicU64,
    pub(crate) unfinished: AtomicU64,
}

impl Counters {
    pub(crate) fn report(&self, stats: Stats) -> Report {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Report {
            received: stats.received,
            handled: read(&self.handled),
            failed: read(&self.failed),
            panicked: read(&self.panicked),
            timed_out: read(&self.timed_out),
            retried: stats.retried,
            dead_lettered: stats.dead_lettered,
            discarded: read(&self.discarded),
            skipped: read(&self.skipped),
            expired: stats.expired,
            released: stats.released,
            leases_lost: stats.leases_lost,
            published: read(&self.published),
            settle_failures: stats.settle_failures,
            lost: stats.lost,
            unfinished: read(&self.unfinished),
        }
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
