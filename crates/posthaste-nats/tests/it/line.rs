//! A line to a server that takes its time, as between two data centres.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::server::Server;

/// Relays one connection after the other, late. Ends when it is dropped.
pub(crate) struct SlowLine {
    port: u16,
    ways: Arc<Mutex<JoinSet<()>>>,
    _relay: JoinSet<()>,
}

impl SlowLine {
    /// What either side sends arrives that much later.
    pub(crate) async fn to(server: &Server, delay: Duration) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("a bound socket").port();
        let address = server.url.trim_start_matches("nats://").to_owned();
        let mut relay = JoinSet::new();
        let ways: Arc<Mutex<JoinSet<()>>> = Arc::default();
        let open = Arc::clone(&ways);
        relay.spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(&address).await.expect("the server is there");
                let ((near_read, near_write), (far_read, far_write)) =
                    (near.into_split(), far.into_split());
                let mut open = open.lock().expect("nobody panics with it");
                open.spawn(pass_on(near_read, far_write, delay));
                open.spawn(pass_on(far_read, near_write, delay));
            }
        });
        Self { port, ways, _relay: relay }
    }

    /// Cuts every connection; new ones are taken.
    pub(crate) fn cut(&self) {
        self.ways.lock().expect("nobody panics with it").abort_all();
    }

    /// The server, by this line.
    pub(crate) fn server(&self, server: &Server) -> Server {
        Server { url: format!("nats://127.0.0.1:{}", self.port), ..server.clone() }
    }
}

async fn pass_on(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    delay: Duration,
) {
    let mut chunk = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut chunk).await {
        tokio::time::sleep(delay).await;
        if to.write_all(&chunk[..read]).await.is_err() {
            return;
        }
    }
}
