//! The proxy when connections stay open and bytes get lost, wait or come late.

use std::io::ErrorKind as Io;
use std::time::{Duration, Instant};

use posthaste_conformance::fault::{Direction, Proxy, wait};
use posthaste_core::Result;
use tokio::io::AsyncWriteExt;

use crate::upstream::{Client, Habit, Upstream};
use crate::{QUIET, SOON, TestResult};

crate::trials!["proxy_holes";
    black_hole_swallows_both_ways, black_hole_hides_the_end_of_a_client,
    black_hole_is_silent_to_new_connections, heal_resets_what_lost_bytes_and_spares_the_rest,
    half_open_loses_replies, half_open_loses_requests, half_open_hides_a_reset_until_healed,
    stall_blocks_the_sender_and_loses_nothing, stall_is_one_way, delay_holds_each_direction,
    delay_does_not_limit_the_rate, delay_is_bounded, heal_delivers_what_was_delayed,
];

const UP: Direction = Direction::ClientToServer;
const DOWN: Direction = Direction::ServerToClient;

async fn echo() -> Result<(Upstream, Proxy)> {
    let upstream = Upstream::start(Habit::Echo).await;
    let proxy = Proxy::start(upstream.addr)?;
    Ok((upstream, proxy))
}

async fn swallowed(proxy: &Proxy, direction: Direction, bytes: u64) -> Result<()> {
    wait::until(&format!("{bytes} bytes are swallowed"), SOON, || async {
        let seen = proxy.traffic(direction);
        if seen.swallowed == bytes { Ok(()) } else { Err(seen) }
    })
    .await
}

async fn black_hole_swallows_both_ways() -> TestResult {
    let (upstream, proxy) = echo().await?;
    let mut client = Client::connect(proxy.addr()).await?;
    client.ping().await?;
    proxy.black_hole();
    client.send(b"lost").await?;
    upstream.push(b"lost, too");
    swallowed(&proxy, UP, 4).await?;
    swallowed(&proxy, DOWN, 9).await?;
    client.hears_nothing();
    assert_eq!(upstream.seen().bytes, b"ping");
    assert_eq!(proxy.connections(), 1);
    Ok(())
}

async fn black_hole_hides_the_end_of_a_client() -> TestResult {
    let (upstream, proxy) = echo().await?;
    let mut client = Client::connect(proxy.addr()).await?;
    client.ping().await?;
    proxy.black_hole();
    client.send(b"x").await?;
    drop(client);
    swallowed(&proxy, UP, 1).await?;
    // What the server sends after it shows that the proxy had time to pass the end on.
    upstream.push(b"anyone?");
    swallowed(&proxy, DOWN, 7).await?;
    assert_eq!(upstream.seen().ends, []);
    proxy.heal()?;
    upstream.saw("a reset", |seen| seen.ends == [Some(Io::ConnectionReset)]).await?;
    Ok(())
}

async fn black_hole_is_silent_to_new_connections() -> TestResult {
    let (upstream, proxy) = echo().await?;
    proxy.black_hole();
    let mut lossy = Client::connect(proxy.addr()).await?;
    let mut idle = Client::connect(proxy.addr()).await?;
    let gone = Client::connect(proxy.addr()).await?;
    lossy.send(b"hello").await?;
    swallowed(&proxy, UP, 5).await?;
    proxy.attempted(3, SOON).await?;
    drop(gone);
    lossy.hears_nothing();
    idle.hears_nothing();
    assert_eq!((upstream.seen().accepted, proxy.connections()), (0, 0));

    proxy.heal()?;
    assert_eq!(lossy.end().await, Err(Io::ConnectionReset));
    idle.ping().await?;
    assert_eq!(upstream.seen().bytes, b"ping");
    Ok(())
}

async fn heal_resets_what_lost_bytes_and_spares_the_rest() -> TestResult {
    let (_upstream, proxy) = echo().await?;
    let mut lossy = Client::connect(proxy.addr()).await?;
    let mut idle = Client::connect(proxy.addr()).await?;
    lossy.ping().await?;
    idle.ping().await?;
    proxy.black_hole();
    lossy.send(b"lost").await?;
    swallowed(&proxy, UP, 4).await?;
    proxy.heal()?;
    assert_eq!(lossy.end().await, Err(Io::ConnectionReset));
    idle.ping().await?;
    Ok(())
}

async fn half_open_loses_replies() -> TestResult {
    let (upstream, proxy) = echo().await?;
    let mut client = Client::connect(proxy.addr()).await?;
    client.ping().await?;
    proxy.half_open(DOWN);
    client.send(b"request").await?;
    upstream.saw("the request", |seen| seen.bytes == b"pingrequest").await?;
    swallowed(&proxy, DOWN, 7).await?;
    client.hears_nothing();
    Ok(())
}

async fn half_open_loses_requests() -> TestResult {
    let (upstream, proxy) = echo().await?;
    let mut client = Client::connect(proxy.addr()).await?;
    client.ping().await?;
    // It replaces the hole: the other direction passes again.
    proxy.black_hole();
    proxy.half_open(UP);
    client.send(b"request").await?;
    swallowed(&proxy, UP, 7).await?;
    upstream.push(b"news");
    assert_eq!(client.receive(4).await?, b"news");
    assert_eq!(upstream.seen().bytes, b"ping");
    Ok(())
}

async fn half_open_hides_a_reset_until_healed() -> TestResult {
    let (upstream, proxy) = echo().await?;
    let mut client = Client::connect(proxy.addr()).await?;
    client.ping().await?;
    proxy.half_open(UP);
    client.0.set_zero_linger()?;
    drop(client);
    // Written to a client that is gone: the proxy knows, and must not tell the server.
    upstream.push(b"anyone?");
    upstream.push(b"anyone?");
    tokio::time::sleep(QUIET).await;
    assert_eq!(upstream.seen().ends, []);
    assert_eq!(proxy.connections(), 1);
    proxy.heal()?;
    upstream.saw("a reset", |seen| seen.ends == [Some(Io::ConnectionReset)]).await?;
    Ok(())
}

/// More than all buffers between a client and a server together.
const PLENTY: usize = 128 << 20;

async fn stall_blocks_the_sender_and_loses_nothing() -> TestResult {
    let upstream = Upstream::start(Habit::Sink).await;
    let proxy = Proxy::start(upstream.addr)?;
    let mut client = Client::connect(proxy.addr()).await?;
    client.send(b"first").await?;
    upstream.saw("bytes", |seen| seen.received == 5).await?;
    proxy.stall(UP);
    let written = client.fill(PLENTY).await;
    assert!(written < PLENTY, "the sender was never blocked");
    assert!(written > 0, "a stalled connection has buffers");
    proxy.heal()?;
    client.send(b"last").await?;
    upstream.saw("every byte", |seen| seen.received == 5 + written + 4).await?;
    assert_eq!(proxy.traffic(UP).swallowed, 0);
    Ok(())
}

async fn stall_is_one_way() -> TestResult {
    let (upstream, proxy) = echo().await?;
    let mut client = Client::connect(proxy.addr()).await?;
    client.ping().await?;
    proxy.stall(DOWN);
    client.send(b"request").await?;
    upstream.saw("the request", |seen| seen.bytes == b"pingrequest").await?;
    tokio::time::sleep(QUIET).await;
    client.hears_nothing();
    proxy.heal()?;
    assert_eq!(client.receive(7).await?, b"request");
    Ok(())
}

async fn delay_holds_each_direction() -> TestResult {
    let (_upstream, proxy) = echo().await?;
    let mut client = Client::connect(proxy.addr()).await?;
    let delay = Duration::from_millis(150);
    for (up, down) in [(delay, Duration::ZERO), (Duration::ZERO, delay), (delay, delay)] {
        proxy.delay(UP, up);
        proxy.delay(DOWN, down);
        let begin = Instant::now();
        client.ping().await?;
        let took = begin.elapsed();
        assert!(took >= up + down, "{took:?} with {up:?} up and {down:?} down");
    }
    // The end is late as well.
    let begin = Instant::now();
    client.0.shutdown().await?;
    assert_eq!(client.end().await, Ok(()));
    assert!(begin.elapsed() >= delay * 2, "the end came after {:?}", begin.elapsed());
    Ok(())
}

async fn delay_does_not_limit_the_rate() -> TestResult {
    let (upstream, proxy) = echo().await?;
    let mut client = Client::connect(proxy.addr()).await?;
    proxy.delay(UP, Duration::from_secs(1));
    let begin = Instant::now();
    for _ in 0..20 {
        client.send(b"chunk").await?;
        // A pause, so that they are read one by one.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    upstream.saw("all chunks", |seen| seen.received == 100).await?;
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(6), "20 chunks, each a second late, took {took:?}");
    Ok(())
}

async fn delay_is_bounded() -> TestResult {
    let upstream = Upstream::start(Habit::Sink).await;
    let proxy = Proxy::start(upstream.addr)?;
    let mut client = Client::connect(proxy.addr()).await?;
    proxy.delay(UP, Duration::from_secs(3600));
    let written = client.fill(PLENTY).await;
    assert!(written < PLENTY, "the proxy took {written} bytes");
    assert_eq!(upstream.seen().received, 0);
    Ok(())
}

async fn heal_delivers_what_was_delayed() -> TestResult {
    let (upstream, proxy) = echo().await?;
    let mut client = Client::connect(proxy.addr()).await?;
    client.ping().await?;
    proxy.delay(DOWN, Duration::from_secs(3600));
    client.send(b"request").await?;
    upstream.saw("the request", |seen| seen.bytes == b"pingrequest").await?;
    proxy.heal()?;
    assert_eq!(client.receive(7).await?, b"request");
    Ok(())
}
