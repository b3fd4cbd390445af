//! The server behind the proxy, inside the test: it sees what arrives and how connections end.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use posthaste_conformance::fault::wait;
use posthaste_core::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::SOON;

/// What the server does with what it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Habit {
    Echo,
    /// Reads and says nothing.
    Sink,
    /// Writes as fast as it can and reads nothing.
    Flood,
}

/// What the server saw, over all connections.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) accepted: usize,
    pub(crate) received: usize,
    /// The first bytes that were received.
    pub(crate) bytes: Vec<u8>,
    pub(crate) sent: usize,
    /// How each ended connection ended, `None` for FIN.
    pub(crate) ends: Vec<Option<io::ErrorKind>>,
}

#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) addr: SocketAddr,
    seen: watch::Sender<Seen>,
    push: broadcast::Sender<&'static [u8]>,
    /// Ends every connection by RST.
    die: CancellationToken,
    _tasks: TaskTracker,
}

impl Upstream {
    pub(crate) async fn start(habit: Habit) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = watch::Sender::new(Seen::default());
        let push = broadcast::Sender::new(8);
        let (die, tasks) = (CancellationToken::new(), TaskTracker::new());
        let accept = {
            let (seen, push, die, tasks) = (seen.clone(), push.clone(), die.clone(), tasks.clone());
            async move {
                while let Some(Ok((stream, _))) = die.run_until_cancelled(listener.accept()).await {
                    seen.send_modify(|seen| seen.accepted += 1);
                    tasks.spawn(serve(stream, habit, seen.clone(), push.subscribe(), die.clone()));
                }
            }
        };
        tasks.spawn(accept);
        Self { addr, seen, push, die, _tasks: tasks }
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    pub(crate) async fn saw(&self, what: &str, check: impl Fn(&Seen) -> bool) -> Result<()> {
        wait::until(what, SOON, || async {
            let seen = self.seen();
            if check(&seen) { Ok(()) } else { Err(seen) }
        })
        .await
    }

    /// Sends something on every connection, unasked.
    pub(crate) fn push(&self, bytes: &'static [u8]) {
        self.push.send(bytes).unwrap();
    }

    /// Resets every connection and stops listening.
    pub(crate) fn die(&self) {
        self.die.cancel();
    }
}

static CHUNK: [u8; 64 * 1024] = [7; 64 * 1024];

async fn serve(
    mut stream: TcpStream,
    habit: Habit,
    seen: watch::Sender<Seen>,
    mut push: broadcast::Receiver<&'static [u8]>,
    die: CancellationToken,
) {
    let mut buffer = vec![0; 64 * 1024];
    let (mut reads, mut writes) = stream.split();
    let end = loop {
        let sent = tokio::select! {
            () = die.cancelled() => {
                stream.set_zero_linger().unwrap();
                return;
            }
            bytes = push.recv() => writes.write_all(bytes.unwrap()).await,
            count = writes.write(&CHUNK), if habit == Habit::Flood => {
                count.map(|count| seen.send_modify(|seen| seen.sent += count))
            }
            read = reads.read(&mut buffer), if habit != Habit::Flood => match read {
                Ok(0) => break None,
                Err(error) => break Some(error.kind()),
                Ok(count) => {
                    seen.send_modify(|seen| {
                        seen.received += count;
                        let rest = 64_usize.saturating_sub(seen.bytes.len());
                        seen.bytes.extend_from_slice(&buffer[..count.min(rest)]);
                    });
                    if habit == Habit::Echo {
                        writes.write_all(&buffer[..count]).await
                    } else {
                        Ok(())
                    }
                }
            },
        };
        if let Err(error) = sent {
            break Some(error.kind());
        }
    };
    seen.send_modify(|seen| seen.ends.push(end));
}

/// A client of the proxy.
#[derive(Debug)]
pub(crate) struct Client(pub(crate) TcpStream);

impl Client {
    pub(crate) async fn connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = soon(TcpStream::connect(addr)).await?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        soon(self.0.write_all(bytes)).await
    }

    /// The next so many bytes.
    pub(crate) async fn receive(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        soon(self.0.read_exact(&mut bytes)).await?;
        Ok(bytes)
    }

    pub(crate) async fn ping(&mut self) -> io::Result<()> {
        self.send(b"ping").await?;
        let reply = self.receive(4).await?;
        assert_eq!(reply, b"ping");
        Ok(())
    }

    /// How the stream ends: FIN, or the error. Bytes before the end are a failure.
    pub(crate) async fn end(&mut self) -> Result<(), io::ErrorKind> {
        match soon(self.0.read(&mut [0; 16])).await {
            Ok(0) => Ok(()),
            Ok(count) => panic!("{count} bytes instead of the end"),
            Err(error) => Err(error.kind()),
        }
    }

    /// That nothing has come: no byte, no end.
    pub(crate) fn hears_nothing(&self) {
        match self.0.try_read(&mut [0; 16]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => panic!("expected silence, got {other:?}"),
        }
    }

    /// Writes until nothing more is taken for a while; how much that was, at most `limit`.
    pub(crate) async fn fill(&mut self, limit: usize) -> usize {
        let mut written = 0;
        while written < limit {
            match tokio::time::timeout(crate::QUIET, self.0.write(&CHUNK)).await {
                Ok(count) => written += count.unwrap(),
                Err(_) => break,
            }
        }
        written
    }
}

async fn soon<T>(io: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    within(SOON, io).await
}

async fn within<T>(deadline: Duration, io: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(deadline, io).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
