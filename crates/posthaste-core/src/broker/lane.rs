//! What a broker orders and hands over as one.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::TopicName;

const LIVE: u64 = 0;
const LOST: u64 = u64::MAX;

/// A partition, partitioned queue, shard or channel, shared by its deliveries and its adapter.
///
/// The adapter moves it from live to draining to lost; before a delivery's handler starts, the
/// state is checked.
pub struct Lane {
    topic: TopicName,
    partition: Option<u32>,
    // 0 is live, MAX is lost, else the microseconds from `since` until it is lost.
    state: AtomicU64,
    since: Instant,
    changed: Notify,
}

/// Whether deliveries of a lane may still be handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneState {
    /// They may.
    Live,
    /// None may start; those running have until then.
    Draining(Instant),
    /// They belong to somebody else.
    Lost,
}

impl Lane {
    /// A live lane.
    #[must_use]
    pub fn new(topic: TopicName, partition: Option<u32>) -> Self {
        Self {
            topic,
            partition,
            state: AtomicU64::new(LIVE),
            since: Instant::now(),
            changed: Notify::new(),
        }
    }

    /// The topic it belongs to.
    #[must_use]
    pub const fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// The partition of an ordered topic or log.
    #[must_use]
    pub const fn partition(&self) -> Option<u32> {
        self.partition
    }

    /// The state now.
    #[must_use]
    pub fn state(&self) -> LaneState {
        match self.state.load(Ordering::Acquire) {
            LIVE => LaneState::Live,
            LOST => LaneState::Lost,
            micros => LaneState::Draining(self.since + Duration::from_micros(micros)),
        }
    }

    /// No delivery may start from now on; those running have until the deadline.
    pub fn drain(&self, until: Instant) {
        let micros = until.saturating_duration_since(self.since).as_micros();
        let micros = u64::try_from(micros).unwrap_or(LOST - 1).clamp(LIVE + 1, LOST - 1);
        let moved =
            self.state.compare_exchange(LIVE, micros, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if moved {
            self.changed.notify_waiters();
        }
    }

    /// Its deliveries belong to somebody else from now on.
    pub fn lose(&self) {
        self.state.store(LOST, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Waits until the lane is lost.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn lost(&self) {
        loop {
            let changed = self.changed.notified();
            if self.state() == LaneState::Lost {
                return;
            }
            changed.await;
        }
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("topic", &self.topic)
            .field("partition", &self.partition)
            .field("state", &self.state())
            .finish()
    }
}
