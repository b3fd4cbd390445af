//! The proxy when it is transparent, when it ends connections and when it does not take them.

use std::io::ErrorKind as Io;
use std::net::TcpListener;
use std::time::Duration;

use posthaste_conformance::fault::{Direction, Proxy, wait};
use posthaste_core::ErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::upstream::{Client, Habit, Upstream};
use crate::{QUIET, SOON, TestResult};

crate::trials!["proxy";
    bytes_pass_unchanged, half_close_passes, reset_of_one_side_becomes_one_of_the_other,
    cut_closes_both_sides_and_accepts_again, cut_ends_a_blocked_connection,
    reset_resets_both_sides, refuse_refuses_and_keeps_the_port, upstream_down_resets_the_client,
    set_upstream_moves_new_connections, cut_after_loses_the_reply_once,
    cut_after_cuts_at_the_byte, cut_after_spares_other_connections,
    an_armed_cut_says_what_became_of_it, stop_ends_everything, drop_ends_everything,
    waits_name_the_last_value,
];

async fn echo() -> Result<(Upstream, Proxy), posthaste_core::Error> {
    let upstream = Upstream::start(Habit::Echo).await;
    let proxy = Proxy::start(upstream.addr)?;
    Ok((upstream, proxy))
}

/// Bytes are counted after they were written, when their reader may have them already.
async fn forwarded(proxy: &Proxy, direction: Direction, bytes: u64) -> posthaste_core::Result<()> {
    wait::until(&format!("{bytes} bytes are forwarded"), SOON, || async {
        let seen = proxy.traffic(direction);
        if seen.forwarded == bytes { Ok(()) } else { Err(seen) }
    })
    .await
}

async fn bytes_pass_unchanged() -> TestResult {
    let (_upstream, proxy) = echo().await?;
    let sent: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(8 << 20).collect();
    let client = Client::connect(proxy.addr()).await?;
    let (mut reads, mut writes) = client.0.into_split();
    let mut received = vec![0; sent.len()];
    tokio::try_join!(writes.write_all(&sent), reads.read_exact(&mut received))?;
    assert!(sent == received, "the bytes differ");
    for direction in [Direction::ClientToServer, Direction::ServerToClient] {
        forwarded(&proxy, direction, 8 << 20).await?;
        assert_eq!(proxy.traffic(direction).swallowed, 0);
    }
    Ok(())
}

async fn half_close_passes() -> TestResult {
    let (upstream, proxy) = echo().await?;
    let mut client = Client::connect(proxy.addr()).await?;
    client.send(b"last words").await?;
    client.0.shutdown().await?;
    // The echo comes back after our FIN, and the server's FIN after it.
    assert_eq!(client.receive(10).await?, b"last words");
    assert_eq!(client.end().await, Ok(()));
    upstream.saw("FIN", |seen| seen.ends == [None]).await?;
    proxy.disconnected(SOON).await?;
    Ok(())
}

async fn reset_of_one_side_becomes_one_of_the_other() -> TestResult {
    let (upstream, proxy) = echo().await?;
    let mut client = Client::connect(proxy.addr()).await?;
    client.ping().await?;
    client.0.set_zero_linger()?;
    drop(client);
    upstream.saw("a reset", |seen| seen.ends == [Some(Io::ConnectionReset)]).await?;

    let mut client = Client::connect(proxy.addr()).await?;
    client.ping().await?;
    upstream.die();
    assert_eq!(client.end().await, Err(Io::ConnectionReset));
    Ok(())
}

async fn cut_closes_both_sides_and_accepts_again() -> TestResult {
    let (upstream, proxy) = echo().await?;
    let mut clients = [Client::connect(proxy.addr()).await?, Client::connect(proxy.addr()).await?];
    for client in &mut clients {
        client.ping().await?;
    }
    assert_eq!(proxy.connections(), 2);
    proxy.cut().await;
    assert_eq!(proxy.connections(), 0);
    for client in &mut clients {
        assert_eq!(client.end().await, Ok(()));
    }
    upstream.saw("two FINs", |seen| seen.ends == [None, None]).await?;

    Client::connect(proxy.addr()).await?.ping().await?;
    assert_eq!(proxy.accepted(), 3);
    Ok(())
}

async fn cut_ends_a_blocked_connection() -> TestResult {
    let upstream = Upstream::start(Habit::Flood).await;
    let proxy = Proxy::start(upstream.addr)?;
    let client = Client::connect(proxy.addr()).await?;
    // Nobody reads: what the proxy holds is bounded, and so the server comes to a stop.
    wait::until("the server is blocked", SOON, || async {
        let before = upstream.seen().sent;
        tokio::time::sleep(QUIET).await;
        let sent = upstream.seen().sent - before;
        if sent == 0 && before > 0 { Ok(()) } else { Err(sent) }
    })
    .await?;
    proxy.cut().await;
    assert_eq!(proxy.connections(), 0);
    upstream.saw("the end", |seen| seen.ends.len() == 1).await?;
    drop(client);
    Ok(())
}

async fn reset_resets_both_sides() -> TestResult {
    let (upstream, proxy) = echo().await?;
    let mut client = Client::connect(proxy.addr()).await?;
    client.ping().await?;
    proxy.reset().await;
    assert_eq!(proxy.connections(), 0);
    assert_eq!(client.end().await, Err(Io::ConnectionReset));
    upstream.saw("a reset", |seen| seen.ends == [Some(Io::ConnectionReset)]).await?;
    Client::connect(proxy.addr()).await?.ping().await?;
    Ok(())
}

async fn refuse_refuses_and_keeps_the_port() -> TestResult {
    let (_upstream, proxy) = echo().await?;
    let mut client = Client::connect(proxy.addr()).await?;
    client.ping().await?;
    for _ in 0..3 {
        proxy.refuse().await;
        let refused = Client::connect(proxy.addr()).await.unwrap_err();
        assert_eq!(refused.kind(), Io::ConnectionRefused);
        let taken = TcpListener::bind(proxy.addr()).unwrap_err();
        assert_eq!(taken.kind(), Io::AddrInUse);
        client.ping().await?;
        proxy.accept()?;
        Client::connect(proxy.addr()).await?.ping().await?;
    }
    proxy.refuse().await;
    proxy.heal()?;
    Client::connect(proxy.addr()).await?.ping().await?;
    Ok(())
}

async fn upstream_down_resets_the_client() -> TestResult {
    let (upstream, proxy) = echo().await?;
    Client::connect(proxy.addr()).await?.ping().await?;
    upstream.die();
    wait::until("the server is gone", SOON, || async {
        match tokio::net::TcpStream::connect(upstream.addr).await {
            Ok(_) => Err("it accepts"),
            Err(_) => Ok(()),
        }
    })
    .await?;
    // The reset may be so quick that the connect itself reports it.
    let end = match Client::connect(proxy.addr()).await {
        Ok(mut client) => client.end().await,
        Err(error) => Err(error.kind()),
    };
    assert_eq!(end, Err(Io::ConnectionReset));
    proxy.disconnected(SOON).await?;
    Ok(())
}

async fn set_upstream_moves_new_connections() -> TestResult {
    let (first, proxy) = echo().await?;
    let second = Upstream::start(Habit::Echo).await;
    let mut old = Client::connect(proxy.addr()).await?;
    old.ping().await?;
    proxy.set_upstream(second.addr);
    let mut new = Client::connect(proxy.addr()).await?;
    new.ping().await?;
    old.ping().await?;
    assert_eq!((first.seen().accepted, first.seen().received), (1, 8));
    assert_eq!((second.seen().accepted, second.seen().received), (1, 4));
    Ok(())
}

async fn cut_after_loses_the_reply_once() -> TestResult {
    let (upstream, proxy) = echo().await?;
    let mut client = Client::connect(proxy.addr()).await?;
    client.ping().await?;
    let cut = proxy.cut_after(0, Direction::ServerToClient);
    client.send(b"publish").await?;
    cut.fired(SOON).await?;
    assert_eq!(client.end().await, Ok(()));
    upstream.saw("the request", |seen| seen.bytes == b"pingpublish").await?;
    upstream.saw("FIN", |seen| seen.ends == [None]).await?;
    forwarded(&proxy, Direction::ServerToClient, 4).await?;
    assert_eq!(proxy.traffic(Direction::ServerToClient).swallowed, 7);
    // Once.
    Client::connect(proxy.addr()).await?.ping().await?;
    Ok(())
}

async fn cut_after_cuts_at_the_byte() -> TestResult {
    let (upstream, proxy) = echo().await?;
    let mut client = Client::connect(proxy.addr()).await?;
    client.ping().await?;
    let cut = proxy.cut_after(7, Direction::ClientToServer);
    client.ping().await?; // 4 of the 7
    client.send(b"abcdef").await?;
    cut.fired(SOON).await?;
    upstream.saw("FIN", |seen| seen.ends == [None]).await?;
    assert_eq!(upstream.seen().bytes, b"pingpingabc");
    Ok(())
}

async fn cut_after_spares_other_connections() -> TestResult {
    let (_upstream, proxy) = echo().await?;
    let mut other = Client::connect(proxy.addr()).await?;
    let mut client = Client::connect(proxy.addr()).await?;
    other.ping().await?;
    let cut = proxy.cut_after(4, Direction::ServerToClient);
    other.ping().await?;
    client.send(b"x").await?;
    cut.fired(SOON).await?;
    assert_eq!(client.end().await, Ok(()));
    other.ping().await?;
    assert_eq!(proxy.connections(), 1);
    Ok(())
}

async fn an_armed_cut_says_what_became_of_it() -> TestResult {
    let (_upstream, proxy) = echo().await?;
    let mut client = Client::connect(proxy.addr()).await?;
    let replaced = proxy.cut_after(0, Direction::ClientToServer);
    let disarmed = proxy.cut_after(0, Direction::ClientToServer);
    assert_eq!(replaced.fired(SOON).await.unwrap_err().kind(), ErrorKind::Closed);
    proxy.heal()?;
    assert_eq!(disarmed.fired(SOON).await.unwrap_err().kind(), ErrorKind::Closed);
    let waits = proxy.cut_after(1000, Direction::ClientToServer);
    client.ping().await?;
    let error = waits.fired(Duration::from_millis(20)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    Ok(())
}

async fn stop_ends_everything() -> TestResult {
    let (upstream, proxy) = echo().await?;
    let addr = proxy.addr();
    let mut client = Client::connect(addr).await?;
    client.ping().await?;
    proxy.stop().await;
    assert_eq!(Client::connect(addr).await.unwrap_err().kind(), Io::ConnectionRefused);
    assert_eq!(client.end().await, Ok(()));
    upstream.saw("FIN", |seen| seen.ends == [None]).await?;
    Ok(())
}

async fn drop_ends_everything() -> TestResult {
    let (upstream, proxy) = echo().await?;
    let addr = proxy.addr();
    let mut client = Client::connect(addr).await?;
    client.ping().await?;
    // Also outside of the runtime, where nothing could wait.
    std::thread::spawn(move || drop(proxy)).join().unwrap();
    assert_eq!(client.end().await, Ok(()));
    upstream.saw("FIN", |seen| seen.ends == [None]).await?;
    wait::until("connects are refused", SOON, || async {
        match Client::connect(addr).await {
            Err(error) if error.kind() == Io::ConnectionRefused => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    Ok(())
}

async fn waits_name_the_last_value() -> TestResult {
    let (_upstream, proxy) = echo().await?;
    let mut client = Client::connect(proxy.addr()).await?;
    proxy.connected(1, SOON).await?;
    proxy.attempted(1, SOON).await?;
    client.ping().await?;
    let brief = Duration::from_millis(20);
    for error in [
        proxy.connected(2, brief).await.unwrap_err(),
        proxy.disconnected(brief).await.unwrap_err(),
        proxy.attempted(2, brief).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert_eq!(error.context().collect::<Vec<_>>(), [("last seen", "1")]);
    }
    Ok(())
}
