//! The listening side: a port that is kept while nobody listens on it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use posthaste_core::{Error, ErrorKind, Result};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::link::carry;
use super::plan::{End, Shared, lock};

/// Connections that the system may hold for us while the task is busy.
const BACKLOG: u32 = 1024;
/// The pause after a failed accept, which is for want of file descriptors most of the time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// The connections accepted since the last cut, which end together.
#[derive(Debug, Default)]
pub(super) struct Generation {
    end: watch::Sender<Option<End>>,
    links: TaskTracker,
}

impl Generation {
    /// Ends its connections. They are closed when [`Generation::gone`] returns.
    pub(super) fn end(&self, how: End) {
        self.end.send_replace(Some(how));
        self.links.close();
    }

    pub(super) async fn gone(&self) {
        self.links.wait().await;
    }
}

/// A bound port, and the task that accepts on it while the gate is open.
#[derive(Debug)]
pub(super) struct Gate {
    addr: SocketAddr,
    /// Bound and never listening: it keeps the port ours while the gate is shut, when a connect
    /// is refused by the system itself.
    _reservation: TcpSocket,
    open: Mutex<Option<Opening>>,
}

#[derive(Debug)]
struct Opening {
    shut: CancellationToken,
    task: TaskTracker,
}

impl Gate {
    pub(super) fn new() -> Result<Self> {
        let reservation = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let addr = reservation.local_addr().map_err(listening)?;
        Ok(Self { addr, _reservation: reservation, open: Mutex::default() })
    }

    pub(super) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Listens and accepts. Does nothing when it does already.
    pub(super) fn open(
        &self,
        runtime: &tokio::runtime::Handle,
        shared: &Arc<Shared>,
        generation: &Arc<Mutex<Arc<Generation>>>,
    ) -> Result<()> {
        let mut open = lock(&self.open);
        if open.is_none() {
            // Registering a socket needs the runtime, and the caller may be on another thread.
            let _entered = runtime.enter();
            let listener = bind(self.addr)?.listen(BACKLOG).map_err(listening)?;
            let opening = Opening { shut: CancellationToken::new(), task: TaskTracker::new() };
            let accepts = accept(listener, Arc::clone(shared), Arc::clone(generation));
            let shut = opening.shut.clone();
            opening.task.spawn_on(
                async move {
                    shut.run_until_cancelled(accepts).await;
                },
                runtime,
            );
            *open = Some(opening);
        }
        Ok(())
    }

    /// Shuts the gate; nothing listens any more when the returned future is done. The request
    /// itself is made at once.
    pub(super) fn shut(&self) -> impl Future<Output = ()> + Send + use<> {
        let opening = lock(&self.open).take();
        if let Some(opening) = &opening {
            opening.shut.cancel();
            opening.task.close();
        }
        async move {
            if let Some(opening) = opening {
                opening.task.wait().await;
            }
        }
    }
}

async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    generation: Arc<Mutex<Arc<Generation>>>,
) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                // Under the lock, so that a cut has either this connection or not yet this one.
                let generation = lock(&generation);
                let link = carry(client, Arc::clone(&shared), generation.end.subscribe());
                generation.links.spawn(link);
                drop(generation);
                shared.accepted.send_modify(|count| *count += 1);
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// A socket on the address, which the reservation and the listener of one gate can share. Without
/// `SO_REUSEADDR`, so that nobody else can.
fn bind(addr: SocketAddr) -> Result<TcpSocket> {
    let socket = TcpSocket::new_v4().map_err(listening)?;
    socket.set_reuseport(true).map_err(listening)?;
    socket.bind(addr).map_err(listening)?;
    Ok(socket)
}

#[cold]
#[expect(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
fn listening(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Connection, format!("the fault proxy cannot listen: {error}"))
}
