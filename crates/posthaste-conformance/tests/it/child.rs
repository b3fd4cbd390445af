//! This binary as its own child, and what its roles do.

use std::io::ErrorKind as Io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitCode;
use std::time::Duration;

use posthaste_conformance::fault::{self, Child, wait};
use posthaste_core::{ErrorKind, Result};
use rustix::process::Signal;

use crate::upstream::Client;
use crate::{LIMIT, QUIET, SOON, TestResult};

crate::trials!["child";
    lines_arrive_and_then_the_end, the_environment_arrives, kill_keeps_what_was_said,
    terminate_is_sigterm, pause_stops_and_resume_goes_on, waiting_does_not_end_it,
    a_child_ends_with_its_parent, drop_kills_it, a_long_line_arrives_in_pieces,
    a_flood_of_lines_blocks_the_child, the_test_process_has_no_role,
];

/// What a child does, by its role.
pub(crate) fn play(role: &str) -> ExitCode {
    match role {
        "three" => (1..=3).for_each(|line| fault::say(format_args!("line {line}"))),
        "variable" => fault::say(std::env::var("VALUE").unwrap_or_default()),
        "count" => (0..u64::MAX).for_each(fault::say),
        "long" => fault::say("x".repeat(100_000)),
        "listen" => listen(),
        "parent" => parent(),
        other => panic!("no role {other}"),
    }
    ExitCode::SUCCESS
}

/// Says where it listens, for ever: a connect tells whether it runs.
fn listen() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    fault::say(listener.local_addr().unwrap());
    listener.incoming().for_each(drop);
}

/// Has a child of its own.
fn parent() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut child = Child::spawn("listen", &[]).unwrap();
        fault::say(child.next_line(SOON).await.unwrap().unwrap());
        child.wait(LIMIT).await.unwrap();
    });
}

async fn address(child: &mut Child) -> Result<SocketAddr> {
    Ok(child.next_line(SOON).await?.unwrap().parse().unwrap())
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

async fn lines_arrive_and_then_the_end() -> TestResult {
    let mut child = Child::spawn("three", &[])?;
    for line in ["line 1", "line 2", "line 3"] {
        assert_eq!(child.next_line(SOON).await?.as_deref(), Some(line));
    }
    assert_eq!(child.next_line(SOON).await?, None);
    assert!(child.wait(SOON).await?.success());
    assert_eq!(child.pid(), None);
    Ok(())
}

async fn the_environment_arrives() -> TestResult {
    let mut child = Child::spawn("variable", &[("VALUE", "17".to_owned())])?;
    assert_eq!(child.next_line(SOON).await?.as_deref(), Some("17"));
    Ok(())
}

async fn kill_keeps_what_was_said() -> TestResult {
    let mut child = Child::spawn("count", &[])?;
    for expected in 0..100 {
        assert_eq!(child.next_line(SOON).await?, Some(expected.to_string()));
    }
    let status = child.kill().await?;
    assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
    // What it had said by then is still there, in order; only the last line may be cut off.
    let mut said = Vec::new();
    while let Some(line) = child.next_line(SOON).await? {
        said.push(line);
    }
    said.pop();
    assert!(!said.is_empty());
    assert!(said.iter().zip(100..).all(|(line, expected)| *line == expected.to_string()));
    Ok(())
}

async fn terminate_is_sigterm() -> TestResult {
    let mut child = Child::spawn("listen", &[])?;
    address(&mut child).await?;
    let status = child.terminate(SOON).await?;
    assert_eq!(status.signal(), Some(Signal::TERM.as_raw()));
    Ok(())
}

async fn pause_stops_and_resume_goes_on() -> TestResult {
    let mut child = Child::spawn("count", &[])?;
    child.next_line(SOON).await?;
    child.pause().await?;
    // What is on its way ends; a child that runs would never stop.
    let stops = async {
        loop {
            match child.next_line(QUIET).await {
                Ok(line) => assert!(line.is_some()),
                Err(error) => break error,
            }
        }
    };
    assert_eq!(tokio::time::timeout(SOON, stops).await?.kind(), ErrorKind::Timeout);
    child.resume()?;
    assert!(child.next_line(SOON).await?.is_some());
    Ok(())
}

async fn waiting_does_not_end_it() -> TestResult {
    let mut child = Child::spawn("listen", &[])?;
    let addr = address(&mut child).await?;
    assert_eq!(child.wait(QUIET).await.unwrap_err().kind(), ErrorKind::Timeout);
    Client::connect(addr).await?;
    Ok(())
}

async fn a_child_ends_with_its_parent() -> TestResult {
    let mut parent = Child::spawn("parent", &[])?;
    let addr = address(&mut parent).await?;
    Client::connect(addr).await?;
    parent.kill().await?; // it could not tell its child
    refused(addr).await?;
    Ok(())
}

async fn drop_kills_it() -> TestResult {
    let mut child = Child::spawn("listen", &[])?;
    let addr = address(&mut child).await?;
    // Also outside of the runtime, where nothing could wait.
    std::thread::spawn(move || drop(child)).join().unwrap();
    refused(addr).await?;
    Ok(())
}

async fn a_long_line_arrives_in_pieces() -> TestResult {
    let mut child = Child::spawn("long", &[])?;
    let mut said = String::new();
    let mut pieces = 0;
    while let Some(line) = child.next_line(SOON).await? {
        said += &line;
        pieces += 1;
    }
    assert_eq!((said, pieces), ("x".repeat(100_000), 2));
    Ok(())
}

async fn a_flood_of_lines_blocks_the_child() -> TestResult {
    let mut child = Child::spawn("count", &[])?;
    child.next_line(SOON).await?;
    // Nobody reads: the numbers stop where the pipe and the queue are full.
    tokio::time::sleep(Duration::from_secs(1)).await;
    child.kill().await?;
    let mut lines = 1_u64;
    while child.next_line(SOON).await?.is_some() {
        lines += 1;
    }
    assert!(lines < 50_000, "{lines} lines were held");
    Ok(())
}

async fn the_test_process_has_no_role() -> TestResult {
    assert_eq!(fault::role(), None);
    Ok(())
}
