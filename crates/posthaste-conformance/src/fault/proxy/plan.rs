//! What the proxy does now, in each direction: shared by its handle and all of its connections.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

/// One way through the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// What clients send: requests, publishes, settlements.
    ClientToServer,
    /// What the server sends: replies, confirmations, deliveries.
    ServerToClient,
}

impl Direction {
    pub(super) const fn opposite(self) -> Self {
        match self {
            Self::ClientToServer => Self::ServerToClient,
            Self::ServerToClient => Self::ClientToServer,
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::ClientToServer => 0,
            Self::ServerToClient => 1,
        }
    }
}

/// What went one way through a proxy since it was started, in bytes, over all connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Bytes written to the other side.
    pub forwarded: u64,
    /// Bytes read and thrown away, by a fault that loses them.
    pub swallowed: u64,
}

/// What happens to the bytes of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Flow {
    /// They arrive.
    #[default]
    Pass,
    /// They wait where they are, and their sender is held up once the buffers are full.
    Stall,
    /// They are taken and lost.
    Swallow,
}

/// One direction of the plan.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lane {
    pub(super) flow: Flow,
    pub(super) delay: Duration,
}

/// The standing faults. Copied out of its `watch` at each look.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Plan([Lane; 2]);

impl Plan {
    pub(super) const fn lane(&self, direction: Direction) -> Lane {
        self.0[direction.index()]
    }

    pub(super) const fn lane_mut(&mut self, direction: Direction) -> &mut Lane {
        &mut self.0[direction.index()]
    }

    pub(super) fn is_black_hole(&self) -> bool {
        self.0.iter().all(|lane| lane.flow == Flow::Swallow)
    }
}

/// How connections are ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// FIN, as a process that closes.
    Close,
    /// RST.
    Reset,
}

/// A cut that waits for its byte.
#[derive(Debug)]
pub(super) struct Trap {
    pub(super) direction: Direction,
    /// Bytes that may still pass.
    pub(super) remaining: usize,
    pub(super) fired: oneshot::Sender<()>,
}

/// What handle and connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) plan: watch::Sender<Plan>,
    /// Connections open from the client through to the server.
    pub(super) open: watch::Sender<usize>,
    pub(super) accepted: watch::Sender<u64>,
    upstream: Mutex<SocketAddr>,
    trap: Mutex<Option<Trap>>,
    forwarded: [AtomicU64; 2],
    swallowed: [AtomicU64; 2],
}

impl Shared {
    pub(super) fn new(upstream: SocketAddr) -> Self {
        Self {
            plan: watch::Sender::default(),
            open: watch::Sender::default(),
            accepted: watch::Sender::default(),
            upstream: Mutex::new(upstream),
            trap: Mutex::default(),
            forwarded: Default::default(),
            swallowed: Default::default(),
        }
    }

    pub(super) fn upstream(&self) -> SocketAddr {
        *lock(&self.upstream)
    }

    pub(super) fn set_upstream(&self, upstream: SocketAddr) {
        *lock(&self.upstream) = upstream;
    }

    /// Arms a trap in place of the one before, or disarms. A replaced trap's `fired` is dropped.
    pub(super) fn set_trap(&self, trap: Option<Trap>) {
        *lock(&self.trap) = trap;
    }

    /// Asks how many of `len` bytes that just arrived may pass. `None` is all; otherwise the
    /// connection is cut after that many, and the trap is spent.
    ///
    /// Bytes are claimed when they are read, not when they are written, so that two connections
    /// cannot both pass the last one.
    pub(super) fn claim(
        &self,
        direction: Direction,
        len: usize,
    ) -> Option<(usize, oneshot::Sender<()>)> {
        let mut slot = lock(&self.trap);
        let trap = slot.as_mut().filter(|trap| trap.direction == direction)?;
        if len <= trap.remaining {
            trap.remaining -= len;
            return None;
        }
        slot.take().map(|trap| (trap.remaining, trap.fired))
    }

    pub(super) fn count_forwarded(&self, direction: Direction, bytes: usize) {
        add(&self.forwarded[direction.index()], bytes);
    }

    pub(super) fn count_swallowed(&self, direction: Direction, bytes: usize) {
        add(&self.swallowed[direction.index()], bytes);
    }

    pub(super) fn traffic(&self, direction: Direction) -> Traffic {
        Traffic {
            forwarded: self.forwarded[direction.index()].load(Ordering::Relaxed),
            swallowed: self.swallowed[direction.index()].load(Ordering::Relaxed),
        }
    }
}

/// Locks, also after a panic elsewhere: every value behind these locks is whole at all times.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn add(counter: &AtomicU64, bytes: usize) {
    counter.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
}
