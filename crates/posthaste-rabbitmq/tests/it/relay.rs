//! A relay in front of a broker, whose connections can be cut all at once, and which can keep back
//! what clients send on one of them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Listens on a port of its own. Dropping it cuts everything.
pub(crate) struct Relay {
    addr: SocketAddr,
    links: Arc<Mutex<JoinSet<()>>>,
    /// What the connections are for from which nothing goes on.
    held: watch::Sender<Option<&'static str>>,
    _listening: JoinSet<()>,
}

impl Relay {
    pub(crate) async fn to(upstream: SocketAddr) -> Self {
        Self::slow(upstream, Duration::ZERO).await
    }

    /// Everything takes so long, in each direction.
    pub(crate) async fn slow(upstream: SocketAddr, delay: Duration) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let addr = listener.local_addr().expect("a bound socket");
        let links: Arc<Mutex<JoinSet<()>>> = Arc::default();
        let mut listening = JoinSet::new();
        let (accepted, held) = (Arc::clone(&links), watch::Sender::new(None));
        let hold = held.subscribe();
        listening.spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let hold = hold.clone();
                let link = async move {
                    if let Ok(mut server) = TcpStream::connect(upstream).await {
                        let (mut from, mut back) = client.split();
                        let (mut answers, mut to) = server.split();
                        // Its end is the end of the link, whichever it is.
                        tokio::select! {
                            _ = forward(&mut from, &mut to, Some(hold), delay) => {}
                            _ = forward(&mut answers, &mut back, None, delay) => {}
                        }
                    }
                };
                accepted.lock().unwrap_or_else(PoisonError::into_inner).spawn(link);
            }
        });
        Self { addr, links, held, _listening: listening }
    }

    pub(crate) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on nothing goes on from clients to the broker on connections of that role, which
    /// the adapter has at the end of their names.
    pub(crate) fn hold(&self, role: &'static str) {
        self.held.send_replace(Some(role));
    }

    /// Closes every connection; new ones are accepted.
    pub(crate) fn cut(&self) {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

/// Forwards until the end, or for ever keeps back what comes once connections like this are held.
async fn forward(
    from: &mut (impl tokio::io::AsyncRead + Unpin),
    to: &mut (impl tokio::io::AsyncWrite + Unpin),
    hold: Option<watch::Receiver<Option<&'static str>>>,
    delay: Duration,
) -> std::io::Result<()> {
    let (put, mut taken) = mpsc::channel::<(Instant, Vec<u8>)>(1_000);
    let reading = async move {
        // The name is in the second thing that a client says.
        let (mut said, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            let count = from.read(&mut buffer).await?;
            if count == 0 {
                return Ok(());
            }
            if said.len() < 4_096 {
                said.extend_from_slice(&buffer[..count]);
            }
            let held = hold.as_ref().and_then(|hold| *hold.borrow());
            let is_held = held.is_some_and(|role| {
                let name = format!("posthaste {role}");
                said.windows(name.len()).any(|at| at == name.as_bytes())
            });
            if is_held {
                std::future::pending::<()>().await;
            }
            // Who writes ends with this connection.
            let _ = put.send((Instant::now() + delay, buffer[..count].to_vec())).await;
        }
    };
    let writing = async {
        while let Some((due, bytes)) = taken.recv().await {
            if delay > Duration::ZERO {
                tokio::time::sleep_until(due).await;
            }
            to.write_all(&bytes).await?;
        }
        Ok(())
    };
    tokio::try_join!(reading, writing).map(drop)
}
