//! Servers that are started, killed, paused and started again.

use std::fs::read_to_string;
use std::io::ErrorKind as Io;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use posthaste_conformance::fault::{Ready, Server, ServerSpec, free_port, wait};
use posthaste_core::{Error, ErrorKind, Result};
use rustix::process::Signal;

use crate::upstream::Client;
use crate::{QUIET, SOON, TestResult, echo};

crate::trials!["server";
    ready_by_line, ready_by_tcp, ready_by_check, ready_line_of_an_earlier_start_does_not_count,
    kill_is_sigkill, kill_reaches_the_whole_group, kill_does_not_wait_for_the_dead, drop_kills_the_whole_group,
    restart_keeps_data_and_port, restart_kills_what_runs, terminate_lets_it_finish,
    terminate_lets_the_group_finish, terminate_kills_the_stubborn, terminate_ends_a_paused_server,
    pause_stops_and_resume_goes_on, a_server_that_ends_early_says_why,
    a_server_that_ends_early_leaves_nothing, a_server_that_is_never_ready_is_killed, a_program_that_is_not_there_is_named,
    secrets_stay_out_of_debug,
];

/// A folder of the test's own, removed at its end unless it failed.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let name = format!("server-{}-{:x}", std::process::id(), fastrand::u64(..));
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn data(&self) -> PathBuf {
        self.0.join("data")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// This binary as an echo server.
fn echo_spec(folder: &Folder, ready: impl FnOnce(SocketAddr) -> Ready) -> (ServerSpec, SocketAddr) {
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
    let program = std::env::current_exe().unwrap();
    let spec = ServerSpec::new(program, folder.data(), ready(addr))
        .env(echo::ADDR, addr.to_string())
        .env(echo::STARTS, folder.data().join("starts"));
    (spec, addr)
}

async fn echo_server(folder: &Folder) -> Result<(Server, SocketAddr)> {
    let (spec, addr) = echo_spec(folder, Ready::Tcp);
    Ok((Server::start(spec).await?, addr))
}

/// A shell script as a server that is ready when it says so.
fn script(folder: &Folder, text: &str) -> ServerSpec {
    ServerSpec::new("sh", folder.data(), Ready::Line("ready".into())).args(["-c", text])
}

async fn refused(addr: SocketAddr) -> Result<()> {
    wait::until("connects are refused", SOON, || async {
        match Client::connect(addr).await {
            Err(error) if error.kind() == Io::ConnectionRefused => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

async fn ready_by_line() -> TestResult {
    let folder = Folder::new();
    let (spec, addr) = echo_spec(&folder, |addr| Ready::Line(format!("ready on {addr}")));
    let _server = Server::start(spec).await?;
    Client::connect(addr).await?.ping().await?;
    Ok(())
}

async fn ready_by_tcp() -> TestResult {
    let folder = Folder::new();
    let (_server, addr) = echo_server(&folder).await?;
    Client::connect(addr).await?.ping().await?;
    Ok(())
}

async fn ready_by_check() -> TestResult {
    let folder = Folder::new();
    let checks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&checks);
    let ready = Ready::check(move || {
        let nth = counted.fetch_add(1, Ordering::Relaxed);
        async move { if nth == 3 { Ok(()) } else { Err(Error::closed("not yet")) } }
    });
    let server = Server::start(echo_spec(&folder, |_| ready).0).await?;
    assert_eq!(checks.load(Ordering::Relaxed), 4);
    assert!(server.pid().is_some());
    Ok(())
}

async fn ready_line_of_an_earlier_start_does_not_count() -> TestResult {
    let folder = Folder::new();
    // Ready at the first start only.
    let text = "test -e ../once || { touch ../once; echo ready; }; exec sleep 1000";
    let text = format!("cd '{}'; {text}", folder.data().display());
    let mut server = Server::start(script(&folder, &text).start_within(QUIET)).await?;
    let error = server.restart().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    Ok(())
}

async fn kill_is_sigkill() -> TestResult {
    let folder = Folder::new();
    let (mut server, addr) = echo_server(&folder).await?;
    let mut client = Client::connect(addr).await?;
    client.ping().await?;
    let status = server.kill().await?;
    assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
    assert_eq!(Client::connect(addr).await.unwrap_err().kind(), Io::ConnectionRefused);
    assert_eq!(client.end().await, Ok(()));
    assert_eq!(server.pid(), None);
    // Again is no error, and nothing can be paused any more.
    assert_eq!(server.kill().await?, status);
    assert_eq!(server.pause().await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(server.resume().unwrap_err().kind(), ErrorKind::Closed);
    Ok(())
}

/// A script that starts the server and stays in front of it.
async fn wrapped(folder: &Folder) -> Result<(Server, SocketAddr)> {
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let spec = ServerSpec::new("sh", folder.data(), Ready::Tcp(addr))
        .args(["-c", "\"$PROGRAM\" & wait"])
        .env("PROGRAM", std::env::current_exe().unwrap())
        .env(echo::BALLAST, (128 << 20).to_string())
        .env(echo::ADDR, addr.to_string());
    Ok((Server::start(spec).await?, addr))
}

async fn kill_reaches_the_whole_group() -> TestResult {
    let folder = Folder::new();
    let (mut server, addr) = wrapped(&folder).await?;
    server.kill().await?;
    // At once: nothing of it is left when `kill` returns.
    assert_eq!(Client::connect(addr).await.unwrap_err().kind(), Io::ConnectionRefused);
    server.restart().await?;
    Client::connect(addr).await?.ping().await?;
    Ok(())
}

/// A dead member that nobody reaps, as in a container without an init, is not waited for.
#[cfg(target_os = "linux")]
async fn kill_does_not_wait_for_the_dead() -> TestResult {
    let folder = Folder::new();
    // The parent of the inner sleep leaves the group and does not look after its child.
    let text = "(sleep 1000 & exec setsid sh -c 'echo ready; exec sleep 8') & wait";
    let mut server = Server::start(script(&folder, text)).await?;
    let begin = Instant::now();
    server.kill().await?;
    assert!(begin.elapsed() < Duration::from_secs(6), "it took {:?}", begin.elapsed());
    Ok(())
}

#[cfg(not(target_os = "linux"))]
async fn kill_does_not_wait_for_the_dead() -> TestResult {
    Ok(())
}

async fn drop_kills_the_whole_group() -> TestResult {
    let folder = Folder::new();
    let (server, addr) = wrapped(&folder).await?;
    drop(server);
    refused(addr).await?;
    Ok(())
}

async fn restart_keeps_data_and_port() -> TestResult {
    let folder = Folder::new();
    let (mut server, addr) = echo_server(&folder).await?;
    for starts in 1..=4 {
        Client::connect(addr).await?.ping().await?;
        let noted = read_to_string(server.data_dir().join("starts"))?;
        assert_eq!(noted, "started\n".repeat(starts));
        let log = read_to_string(server.log())?;
        assert_eq!(log.matches("ready on").count(), starts);
        server.kill().await?;
        server.restart().await?;
    }
    Ok(())
}

async fn restart_kills_what_runs() -> TestResult {
    let folder = Folder::new();
    let (mut server, addr) = echo_server(&folder).await?;
    let mut client = Client::connect(addr).await?;
    client.ping().await?;
    let first = server.pid();
    server.restart().await?;
    assert_ne!(server.pid(), first);
    assert_eq!(client.end().await, Ok(()));
    Client::connect(addr).await?.ping().await?;
    Ok(())
}

async fn terminate_lets_it_finish() -> TestResult {
    let folder = Folder::new();
    let text = "trap 'echo flushed; exit 7' TERM; echo ready; while :; do sleep 0.05; done";
    let mut server = Server::start(script(&folder, text)).await?;
    let status = server.terminate(SOON).await?;
    assert_eq!(status.code(), Some(7));
    assert!(read_to_string(server.log())?.contains("flushed"));
    Ok(())
}

async fn terminate_lets_the_group_finish() -> TestResult {
    let folder = Folder::new();
    // The script ends at once; what it started takes its time.
    let inner = "trap 'sleep 0.2; echo flushed; exit 0' TERM; echo ready; \
                 while :; do sleep 0.05; done";
    let mut server = Server::start(script(&folder, &format!("({inner}) & wait"))).await?;
    let status = server.terminate(SOON).await?;
    assert_eq!(status.signal(), Some(Signal::TERM.as_raw()));
    assert!(read_to_string(server.log())?.contains("flushed"));
    Ok(())
}

async fn terminate_kills_the_stubborn() -> TestResult {
    let folder = Folder::new();
    let stubborn = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let mut server = Server::start(script(&folder, stubborn)).await?;
    let status = server.terminate(QUIET).await?;
    assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));

    // The same behind a script that ends at once.
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let spec = ServerSpec::new("sh", folder.data(), Ready::Tcp(addr))
        .args(["-c", "(trap '' TERM; exec \"$PROGRAM\") & wait"])
        .env("PROGRAM", std::env::current_exe()?)
        .env(echo::ADDR, addr.to_string());
    let mut server = Server::start(spec).await?;
    let status = server.terminate(QUIET).await?;
    assert_eq!(status.signal(), Some(Signal::TERM.as_raw()));
    assert_eq!(Client::connect(addr).await.unwrap_err().kind(), Io::ConnectionRefused);
    Ok(())
}

async fn terminate_ends_a_paused_server() -> TestResult {
    let folder = Folder::new();
    let (mut server, _) = echo_server(&folder).await?;
    server.pause().await?;
    let status = server.terminate(SOON).await?;
    assert_eq!(status.signal(), Some(Signal::TERM.as_raw()));
    Ok(())
}

async fn pause_stops_and_resume_goes_on() -> TestResult {
    let folder = Folder::new();
    let (mut server, addr) = echo_server(&folder).await?;
    let mut client = Client::connect(addr).await?;
    client.ping().await?;
    for _ in 0..2 {
        server.pause().await?;
        server.pause().await?; // it stands still already
        client.send(b"ping").await?;
        // The kernel accepts in its place.
        let mut other = Client::connect(addr).await?;
        other.send(b"ping").await?;
        tokio::time::sleep(QUIET).await;
        client.hears_nothing();
        other.hears_nothing();
        server.resume()?;
        assert_eq!(client.receive(4).await?, b"ping");
        assert_eq!(other.receive(4).await?, b"ping");
    }
    Ok(())
}

async fn a_server_that_ends_early_says_why() -> TestResult {
    let folder = Folder::new();
    let error = Server::start(script(&folder, "echo no such setting >&2; exit 3")).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    let text = error.to_string();
    assert!(text.contains("exit status: 3") && text.contains("no such setting"), "{text}");
    Ok(())
}

async fn a_server_that_ends_early_leaves_nothing() -> TestResult {
    let folder = Folder::new();
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let text = "\"$PROGRAM\" > \"$OUT\" & \
                until grep -q ready \"$OUT\" 2>/dev/null; do sleep 0.05; done; exit 3";
    let spec = script(&folder, text)
        .env("PROGRAM", std::env::current_exe()?)
        .env("OUT", folder.0.join("out"))
        .env(echo::ADDR, addr.to_string());
    let error = Server::start(spec).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    refused(addr).await?;
    Ok(())
}

async fn a_server_that_is_never_ready_is_killed() -> TestResult {
    let folder = Folder::new();
    let (spec, addr) = echo_spec(&folder, |_| Ready::Line("never".into()));
    // Long enough that it does listen by then.
    let error = Server::start(spec.start_within(Duration::from_secs(1))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let output = error.context().find(|(name, _)| *name == "output").unwrap().1;
    assert!(output.contains("ready on"), "{error}");
    refused(addr).await?;
    Ok(())
}

async fn a_program_that_is_not_there_is_named() -> TestResult {
    let folder = Folder::new();
    let spec = ServerSpec::new("/nowhere/broker", folder.data(), Ready::Line("ready".into()));
    let error = Server::start(spec).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.message().contains("broker"), "{error}");
    Ok(())
}

async fn secrets_stay_out_of_debug() -> TestResult {
    let folder = Folder::new();
    let debug = format!("{:?}", script(&folder, "").env("PASSWORD", "hunter2"));
    assert!(debug.contains("PASSWORD") && !debug.contains("hunter2"), "{debug}");
    Ok(())
}
