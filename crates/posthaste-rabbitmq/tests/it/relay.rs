//! A relay in front of a broker, whose connections can be cut all at once.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Listens on a port of its own. Dropping it cuts everything.
pub(crate) struct Relay {
    addr: SocketAddr,
    links: Arc<Mutex<JoinSet<()>>>,
    _listening: JoinSet<()>,
}

impl Relay {
    pub(crate) async fn to(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let addr = listener.local_addr().expect("a bound socket");
        let links: Arc<Mutex<JoinSet<()>>> = Arc::default();
        let mut listening = JoinSet::new();
        let accepted = Arc::clone(&links);
        listening.spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let link = async move {
                    if let Ok(mut server) = TcpStream::connect(upstream).await {
                        // Its end is the end of the link, whichever it is.
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                };
                accepted.lock().unwrap_or_else(PoisonError::into_inner).spawn(link);
            }
        });
        Self { addr, links, _listening: listening }
    }

    pub(crate) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes every connection; new ones are accepted.
    pub(crate) fn cut(&self) {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}
