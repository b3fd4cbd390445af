//! One direction of one connection: reads, holds what has to wait, writes.
//!
//! A pump does not close sockets. It says how its direction ended; the connection draws the
//! consequences.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::plan::{Direction, Flow, Lane, Plan, Shared};

/// The most that is read at once, and all that is held of a direction that is not delayed, so
/// that a reader that stops is felt by the sender as it would be without a proxy.
const READ: usize = 64 * 1024;
/// Below this a full queue asks for a new buffer rather than for a short read.
const SHORT_READ: usize = 16 * 1024;
/// What a delayed direction may hold per connection: 40 MiB/s at a delay of 100 ms.
const DELAYED_BYTES: usize = 4 * 1024 * 1024;
/// The same as a count, against the overhead of many tiny chunks.
const DELAYED_CHUNKS: usize = 16 * 1024;

/// Why a connection cannot go on.
#[derive(Debug)]
pub(super) enum Broken {
    /// One side is gone without a FIN; the news travels in this direction.
    Gone(Direction),
    /// Bytes were lost and the direction passes again: a stream with a hole is no TCP stream.
    Hole,
    /// The armed cut met its byte.
    Cut(oneshot::Sender<()>),
}

/// Moves one direction until its FIN was passed on.
///
/// # Cancel safety
/// Dropping it loses what is queued. Only the end of the connection drops it.
pub(super) async fn pump(
    direction: Direction,
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    shared: &Shared,
) -> Result<(), Broken> {
    let mut plan = shared.plan.subscribe();
    let mut queue = Queue::default();
    let mut tail = Tail::Open;
    let mut lost = false;
    loop {
        let lane = look(&mut plan, direction);
        if lane.flow == Flow::Swallow && queue.bytes > 0 {
            shared.count_swallowed(direction, queue.clear());
            lost = true;
        }
        if lane.flow == Flow::Pass && lost {
            return Err(Broken::Hole);
        }
        let reads = tail.is_open() && queue.has_room(lane);
        let writes = lane.flow == Flow::Pass && !queue.is_empty();
        let ends = lane.flow == Flow::Pass && queue.is_empty();
        queue.make_room();

        // Writing comes first: it makes room, and a direction that can do both stays in step.
        tokio::select! {
            biased;
            _ = plan.changed() => {}
            written = write_front(&mut to, queue.chunks.front(), lane.delay), if writes => {
                match written {
                    Ok(count) if count > 0 => {
                        queue.advance(count);
                        shared.count_forwarded(direction, count);
                    }
                    _ => return Err(Broken::Gone(direction.opposite())),
                }
            }
            () = tail.due(lane.delay), if ends => break,
            read = from.read_buf(&mut queue.free), if reads => {
                let now = Instant::now();
                match read {
                    Err(_) => tail = Tail::Gone(now),
                    Ok(0) => tail = Tail::Fin(now),
                    Ok(_) => tail = queue.push(direction, lane.flow, now, shared),
                }
            }
        }
    }
    match tail {
        Tail::Cut(_, fired) => Err(Broken::Cut(fired)),
        Tail::Gone(_) => Err(Broken::Gone(direction)),
        Tail::Fin(_) | Tail::Open => {
            to.shutdown().await.map_err(|_| Broken::Gone(direction.opposite()))
        }
    }
}

/// The direction's part of the plan, marked as seen.
fn look(plan: &mut watch::Receiver<Plan>, direction: Direction) -> Lane {
    plan.borrow_and_update().lane(direction)
}

/// Writes from the oldest chunk, once it is due. Cancel-safe, since a write is.
async fn write_front(
    to: &mut WriteHalf<'_>,
    front: Option<&Chunk>,
    delay: Duration,
) -> io::Result<usize> {
    let Some(front) = front else { return pending().await };
    // Not for the sake of exactness: a sleep that is due at once still costs a timer.
    if !delay.is_zero() {
        sleep_until(front.read_at + delay).await;
    }
    to.write(&front.bytes).await
}

/// What follows the last byte of the queue.
#[derive(Debug)]
enum Tail {
    Open,
    Fin(Instant),
    Gone(Instant),
    Cut(Instant, oneshot::Sender<()>),
}

impl Tail {
    const fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }

    async fn due(&self, delay: Duration) {
        match self {
            Self::Open => pending().await,
            Self::Fin(at) | Self::Gone(at) | Self::Cut(at, _) => sleep_until(*at + delay).await,
        }
    }
}

#[derive(Debug)]
struct Chunk {
    read_at: Instant,
    bytes: Bytes,
}

/// What was read and not yet written, and the free space for the next read.
#[derive(Debug, Default)]
struct Queue {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    free: BytesMut,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    fn has_room(&self, lane: Lane) -> bool {
        match lane.flow {
            Flow::Stall => false,
            Flow::Swallow => true,
            Flow::Pass if lane.delay.is_zero() => self.bytes < READ,
            Flow::Pass => self.bytes < DELAYED_BYTES && self.chunks.len() < DELAYED_CHUNKS,
        }
    }

    /// Makes sure that a read has space. With an empty queue this takes the old buffer back and
    /// allocates nothing.
    fn make_room(&mut self) {
        let free = self.free.capacity();
        if free < SHORT_READ || (self.is_empty() && free < READ) {
            self.free.reserve(READ);
        }
    }

    /// Takes what was just read, or as much of it as an armed cut lets pass.
    fn push(&mut self, way: Direction, flow: Flow, read_at: Instant, shared: &Shared) -> Tail {
        let mut bytes = self.free.split().freeze();
        let mut tail = Tail::Open;
        // Bytes that get lost anyway do not count towards a cut.
        let claim = if flow == Flow::Pass { shared.claim(way, bytes.len()) } else { None };
        if let Some((pass, fired)) = claim {
            shared.count_swallowed(way, bytes.len() - pass);
            bytes.truncate(pass);
            tail = Tail::Cut(read_at, fired);
        }
        if !bytes.is_empty() {
            self.bytes += bytes.len();
            self.chunks.push_back(Chunk { read_at, bytes });
        }
        tail
    }

    fn advance(&mut self, count: usize) {
        self.bytes -= count;
        if let Some(front) = self.chunks.front_mut() {
            front.bytes.advance(count);
            if front.bytes.is_empty() {
                self.chunks.pop_front();
            }
        }
    }

    /// Throws everything away and says how much it was.
    fn clear(&mut self) -> usize {
        self.chunks.clear();
        std::mem::take(&mut self.bytes)
    }
}
