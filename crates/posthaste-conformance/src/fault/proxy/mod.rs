//! A TCP proxy on loopback that breaks the network between a client and a broker on request.
//!
//! It knows no protocol. It models what a network and a dying peer can do to a TCP stream, and
//! nothing that they cannot: a stream out of which bytes were lost never goes on, it is reset.

mod gate;
mod link;
mod plan;
mod pump;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use posthaste_core::{Error, ErrorKind, Result};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use self::gate::{Gate, Generation};
pub use self::plan::{Direction, Traffic};
use self::plan::{End, Flow, Plan, Shared, Trap, lock};

/// A TCP proxy on 127.0.0.1, transparent until it is told otherwise.
///
/// Transparent means: bytes and half-closes pass as they come, a reset of one side becomes a
/// reset of the other, `TCP_NODELAY` is set on both, nothing waits. At most 64 KiB of a direction
/// are held per connection, 4 MiB while it is delayed.
///
/// A client whose connection finds no server (the broker was killed) is reset, at times so early
/// that its connect fails.
///
/// | control | connections that are open | new connections |
/// |---|---|---|
/// | [`cut`](Self::cut), [`reset`](Self::reset) | closed, reset | as before |
/// | [`refuse`](Self::refuse) | go on | refused by the system |
/// | [`black_hole`](Self::black_hole) | all bytes lost | accepted, silent |
/// | [`half_open`](Self::half_open) | one direction lost | the same |
/// | [`stall`](Self::stall) | one direction waits | the same |
/// | [`delay`](Self::delay) | one direction is late | the same |
/// | [`cut_after`](Self::cut_after) | the one that meets the byte is closed, once | the same |
/// | [`heal`](Self::heal) | those that lost bytes are reset, the others go on | pass |
///
/// The bytes that the proxy is writing at the moment of a call may still arrive.
///
/// Its tasks run on the runtime it was started on. [`stop`](Self::stop) ends and joins them;
/// dropping the proxy only ends them.
///
/// ```
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use posthaste_conformance::fault::Proxy;
/// use tokio::net::{TcpListener, TcpStream};
///
/// let broker = TcpListener::bind("127.0.0.1:0").await?;
/// let proxy = Proxy::start(broker.local_addr()?)?;
/// let client = TcpStream::connect(proxy.addr()).await?;
/// proxy.connected(1, Duration::from_secs(5)).await?;
///
/// proxy.cut().await; // the client sees the end of the stream, and may connect again
/// assert_eq!(proxy.connections(), 0);
/// proxy.stop().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    gate: Gate,
    generation: Arc<Mutex<Arc<Generation>>>,
    runtime: Handle,
}

impl Proxy {
    /// Listens on a port of 127.0.0.1 that the system chooses, for clients of `upstream`. The
    /// server need not be there yet.
    ///
    /// # Errors
    /// [`ErrorKind::Connection`] when it cannot listen, [`ErrorKind::Invalid`] outside of a tokio
    /// runtime.
    pub fn start(upstream: SocketAddr) -> Result<Self> {
        let runtime = Handle::try_current().map_err(|error| {
            Error::invalid("a fault proxy is started on a tokio runtime").with_source(error)
        })?;
        let proxy = Self {
            shared: Arc::new(Shared::new(upstream)),
            gate: Gate::new()?,
            generation: Arc::default(),
            runtime,
        };
        proxy.accept()?;
        Ok(proxy)
    }

    /// Where clients connect. It stays the same for the life of the proxy.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.gate.addr()
    }

    /// Sends new connections to another address, as for a server that came back elsewhere. Open
    /// connections stay where they are.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        self.shared.set_upstream(upstream);
    }

    /// Closes every connection, on both sides, and goes on accepting. Both sides see an orderly
    /// end, or a reset if bytes were on their way to the proxy, as when a process dies.
    ///
    /// # Cancel safety
    /// The connections are told at once; dropping the future gives up waiting for them.
    pub async fn cut(&self) {
        self.end(End::Close).await;
    }

    /// Resets every connection, on both sides (RST), and goes on accepting.
    ///
    /// # Cancel safety
    /// As [`cut`](Self::cut).
    pub async fn reset(&self) {
        self.end(End::Reset).await;
    }

    /// Stops listening: a connect is refused by the system, as when no server runs. The port
    /// stays ours. Open connections go on.
    ///
    /// # Cancel safety
    /// The listener is told at once; dropping the future gives up waiting for it.
    pub async fn refuse(&self) {
        self.gate.shut().await;
    }

    /// Listens again after [`refuse`](Self::refuse).
    ///
    /// # Errors
    /// [`ErrorKind::Connection`] when it cannot listen.
    pub fn accept(&self) -> Result<()> {
        self.gate.open(&self.runtime, &self.shared, &self.generation)
    }

    /// Loses every byte, both ways; connections stay open, closes and resets do not get through.
    /// New connections are accepted and get no answer, and the server does not hear of them.
    pub fn black_hole(&self) {
        self.change(|plan| {
            plan.lane_mut(Direction::ClientToServer).flow = Flow::Swallow;
            plan.lane_mut(Direction::ServerToClient).flow = Flow::Swallow;
        });
    }

    /// Loses every byte of one direction, and its closes and resets; the other one passes.
    pub fn half_open(&self, lost: Direction) {
        self.change(|plan| {
            plan.lane_mut(lost).flow = Flow::Swallow;
            plan.lane_mut(lost.opposite()).flow = Flow::Pass;
        });
    }

    /// Holds one direction up without losing anything, as a peer that does not read: the sender
    /// is blocked once the buffers between are full. The other direction stays as it is.
    pub fn stall(&self, direction: Direction) {
        self.change(|plan| plan.lane_mut(direction).flow = Flow::Stall);
    }

    /// Lets each byte of one direction arrive this much later than it came. It adds to the
    /// latency and does not limit the rate up to 4 MiB on their way; bytes that are on their way
    /// are due by the new delay. Zero is none. It lasts until [`heal`](Self::heal).
    pub fn delay(&self, direction: Direction, delay: Duration) {
        self.change(|plan| plan.lane_mut(direction).delay = delay);
    }

    /// Arms one cut: the next `bytes` bytes of a direction pass, counted from now over all
    /// connections; the byte after them is lost, and the connection that carried it is closed on
    /// both sides in its place. The other direction passes until then.
    ///
    /// With 0 and [`Direction::ServerToClient`] the server gets a request and its reply is lost.
    /// Only one cut is armed at a time: a second call replaces the first, and
    /// [`heal`](Self::heal) disarms it.
    #[must_use = "await `fired`, or a test cannot tell that the cut ever happened"]
    pub fn cut_after(&self, bytes: usize, direction: Direction) -> Armed {
        let (fired, armed) = oneshot::channel();
        self.shared.set_trap(Some(Trap { direction, remaining: bytes, fired }));
        Armed { fired: armed }
    }

    /// Makes the proxy transparent again: bytes pass without delay, a cut that is armed is
    /// disarmed, connects are accepted. A connection that lost bytes is reset.
    ///
    /// # Errors
    /// [`ErrorKind::Connection`] when it had refused and cannot listen again; the rest is healed.
    pub fn heal(&self) -> Result<()> {
        self.shared.set_trap(None);
        self.change(|plan| *plan = Plan::default());
        self.accept()
    }

    /// How many connections are open from a client through to the server.
    #[must_use]
    pub fn connections(&self) -> usize {
        *self.shared.open.borrow()
    }

    /// How many client connections were accepted since the start, whatever became of them.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        *self.shared.accepted.borrow()
    }

    /// What went one way since the start. Bytes are counted just after they were written.
    #[must_use]
    pub fn traffic(&self, direction: Direction) -> Traffic {
        self.shared.traffic(direction)
    }

    /// Waits until at least this many connections are open through to the server.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] with the number there is.
    ///
    /// # Cancel safety
    /// It only looks.
    pub async fn connected(&self, at_least: usize, deadline: Duration) -> Result<()> {
        let what = format!("{at_least} open connections through the proxy");
        reached(&self.shared.open, |open| *open >= at_least, &what, deadline).await
    }

    /// Waits until no connection is open through to the server.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] with the number there is.
    ///
    /// # Cancel safety
    /// It only looks.
    pub async fn disconnected(&self, deadline: Duration) -> Result<()> {
        reached(&self.shared.open, |open| *open == 0, "no open connection", deadline).await
    }

    /// Waits until [`accepted`](Self::accepted) is at least this: clients keep trying.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] with the number there is.
    ///
    /// # Cancel safety
    /// It only looks.
    pub async fn attempted(&self, at_least: u64, deadline: Duration) -> Result<()> {
        let what = format!("{at_least} accepted connections");
        reached(&self.shared.accepted, |count| *count >= at_least, &what, deadline).await
    }

    /// Stops listening, closes every connection and joins every task.
    ///
    /// # Cancel safety
    /// Dropping the future drops the proxy: everything is ended, nothing is joined.
    pub async fn stop(self) {
        self.gate.shut().await;
        self.end(End::Close).await;
    }

    fn change(&self, change: impl FnOnce(&mut Plan)) {
        self.shared.plan.send_modify(change);
    }

    async fn end(&self, how: End) {
        let generation = std::mem::take(&mut *lock(&self.generation));
        generation.end(how);
        generation.gone().await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.gate.shut());
        lock(&self.generation).end(End::Close);
    }
}

/// A cut that was armed by [`Proxy::cut_after`]. Dropping it does not disarm.
#[derive(Debug)]
pub struct Armed {
    fired: oneshot::Receiver<()>,
}

impl Armed {
    /// Waits until the cut happened and both sockets are closed.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] when the byte did not come, [`ErrorKind::Closed`] when the cut was
    /// disarmed or replaced, or its connection ended in another way.
    ///
    /// # Cancel safety
    /// It only looks; the cut stays armed.
    pub async fn fired(self, deadline: Duration) -> Result<()> {
        match timeout(deadline, self.fired).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Error::closed("the armed cut never happened: it was disarmed")),
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                format!("did not happen within {deadline:?}: the armed cut"),
            )),
        }
    }
}

async fn reached<T: Copy + std::fmt::Display>(
    value: &watch::Sender<T>,
    reached: impl FnMut(&T) -> bool,
    what: &str,
    deadline: Duration,
) -> Result<()> {
    let mut seen = value.subscribe();
    if timeout(deadline, seen.wait_for(reached)).await.is_ok() {
        return Ok(());
    }
    let message = format!("did not happen within {deadline:?}: {what}");
    Err(Error::new(ErrorKind::Timeout, message).with_context("last seen", *value.borrow()))
}
