//! One client connection, from the accepted socket to the end of both directions.

use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};

use super::plan::{Direction, End, Flow, Plan, Shared};
use super::pump::{Broken, pump};

/// Carries one client until it ends by itself or is ended from outside.
pub(super) async fn carry(
    mut client: TcpStream,
    shared: Arc<Shared>,
    mut end: watch::Receiver<Option<End>>,
) {
    let mut server = None;
    let mut open = None;
    let outcome = tokio::select! {
        biased;
        end = ended(&mut end) => match end {
            End::Close => Outcome::Close,
            End::Reset => Outcome::Reset,
        },
        outcome = async {
            if let Err(outcome) = hold(&client, &shared).await {
                return outcome;
            }
            let Ok(stream) = TcpStream::connect(shared.upstream()).await else {
                return Outcome::Reset;
            };
            // Best effort: a socket that refuses it is gone, and the next read says so.
            let _ = (client.set_nodelay(true), stream.set_nodelay(true));
            open = Some(Open::new(&shared.open));
            relay(&mut client, server.insert(stream), &shared).await
        } => outcome,
    };
    if let Some(server) = server {
        close(server, &outcome).await;
    }
    close(client, &outcome).await;
    // Only now, so that whoever waits for the count or for the cut finds the sockets closed.
    drop(open);
    if let Outcome::Cut(fired) = outcome {
        let _ = fired.send(());
    }
}

#[derive(Debug)]
enum Outcome {
    Close,
    Reset,
    Cut(oneshot::Sender<()>),
}

async fn ended(end: &mut watch::Receiver<Option<End>>) -> End {
    // A dropped sender is a dropped proxy.
    end.wait_for(Option::is_some).await.ok().and_then(|end| *end).unwrap_or(End::Close)
}

/// Keeps a client that comes into a black hole, silent and unknown to the server, until the hole
/// is gone. What it sends is lost, and so is then its connection.
async fn hold(client: &TcpStream, shared: &Shared) -> Result<(), Outcome> {
    let mut plan = shared.plan.subscribe();
    let mut lost = false;
    loop {
        match swallow(client, &plan.borrow_and_update(), shared) {
            Swallowed::Nothing => {}
            Swallowed::Bytes => lost = true,
            // A client that gave up is let go, or dialing into a hole would pile up here. One
            // that only closed its sending half sees an end that a real hole would not show.
            Swallowed::End => return Err(Outcome::Close),
            Swallowed::NoHole if lost => return Err(Outcome::Reset),
            Swallowed::NoHole => return Ok(()),
        }
        tokio::select! {
            _ = plan.changed() => {}
            _ = client.readable() => {}
        }
    }
}

#[derive(Debug)]
enum Swallowed {
    Nothing,
    Bytes,
    End,
    NoHole,
}

/// Reads into nowhere. The caller lends the plan and thereby holds it still, so that nothing is
/// lost that was sent after the hole was gone.
fn swallow(client: &TcpStream, plan: &Plan, shared: &Shared) -> Swallowed {
    if !plan.is_black_hole() {
        return Swallowed::NoHole;
    }
    match client.try_read(&mut [0; 4096]) {
        Ok(count) if count > 0 => {
            shared.count_swallowed(Direction::ClientToServer, count);
            Swallowed::Bytes
        }
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Swallowed::Nothing,
        _ => Swallowed::End,
    }
}

async fn relay(client: &mut TcpStream, server: &mut TcpStream, shared: &Shared) -> Outcome {
    let (client_reads, client_writes) = client.split();
    let (server_reads, server_writes) = server.split();
    let both = tokio::try_join!(
        pump(Direction::ClientToServer, client_reads, server_writes, shared),
        pump(Direction::ServerToClient, server_reads, client_writes, shared),
    );
    match both {
        Ok(((), ())) => Outcome::Close,
        Err(Broken::Hole) => Outcome::Reset,
        Err(Broken::Cut(fired)) => Outcome::Cut(fired),
        Err(Broken::Gone(news)) => {
            // The other side hears of it when the direction lets the news through.
            let passes = |plan: &Plan| plan.lane(news).flow == Flow::Pass;
            // The sender cannot go first: `shared` holds it.
            let _ = shared.plan.subscribe().wait_for(passes).await;
            Outcome::Reset
        }
    }
}

/// Closes a socket the way the connection ended.
async fn close(mut stream: TcpStream, outcome: &Outcome) {
    match outcome {
        Outcome::Reset => {
            let _ = stream.set_zero_linger();
        }
        // The FIN first: closing a socket with unread bytes sends only a reset.
        Outcome::Close | Outcome::Cut(_) => {
            let _ = stream.shutdown().await;
        }
    }
}

/// Counts an open connection for as long as it lives.
#[derive(Debug)]
struct Open(watch::Sender<usize>);

impl Open {
    fn new(open: &watch::Sender<usize>) -> Self {
        open.send_modify(|count| *count += 1);
        Self(open.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
