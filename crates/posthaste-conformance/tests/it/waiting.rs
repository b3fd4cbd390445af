//! Waiting for a condition, and the port picker.

use std::collections::HashSet;
use std::future::pending;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use posthaste_conformance::fault::{free_port, wait};
use posthaste_core::ErrorKind;

use crate::{SOON, TestResult};

crate::trials!["wait";
    until_returns_what_it_found, until_says_what_it_saw_last, until_looks_once_at_least,
    until_ends_a_look_that_hangs, until_can_be_spawned, free_ports_are_free,
];

async fn until_returns_what_it_found() -> TestResult {
    let mut looks = 0;
    let found = wait::until("the third look", SOON, || {
        looks += 1;
        std::future::ready(if looks == 3 { Ok("found") } else { Err(looks) })
    });
    assert_eq!(found.await?, "found");
    assert_eq!(looks, 3);
    Ok(())
}

async fn until_says_what_it_saw_last() -> TestResult {
    let deadline = Duration::from_millis(100);
    let (begin, mut looks) = (Instant::now(), 0);
    let error = wait::until::<(), _, _, _>("lag is 0", deadline, || {
        looks += 1;
        std::future::ready(Err(("lag", looks)))
    });
    let error = error.await.unwrap_err();
    assert!(begin.elapsed() >= deadline - wait::INTERVAL, "it gave up early");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.message().contains("lag is 0") && error.message().contains("100ms"), "{error}");
    let seen = error.context().find(|(name, _)| *name == "last seen").unwrap().1;
    assert_eq!(seen, format!("(\"lag\", {looks})"));
    Ok(())
}

async fn until_looks_once_at_least() -> TestResult {
    let found = wait::until("now", Duration::ZERO, || async { Ok::<_, ()>(1) }).await?;
    assert_eq!(found, 1);
    Ok(())
}

async fn until_ends_a_look_that_hangs() -> TestResult {
    let mut looks = 0;
    let error = wait::until::<(), _, _, _>("an answer", Duration::from_millis(100), || {
        looks += 1;
        let hangs = looks == 2;
        async move { if hangs { pending().await } else { Err("silence") } }
    });
    let text = error.await.unwrap_err().to_string();
    assert!(text.contains("silence") && text.contains("never ended"), "{text}");
    Ok(())
}

async fn until_can_be_spawned() -> TestResult {
    let tasks = tokio_util::task::TaskTracker::new();
    let task = tasks.spawn(async {
        let mut looks = 0;
        wait::until("the second look", SOON, || {
            looks += 1;
            async move { if looks == 2 { Ok(looks) } else { Err(looks) } }
        })
        .await
    });
    assert_eq!(task.await??, 2);
    Ok(())
}

async fn free_ports_are_free() -> TestResult {
    let mut listeners = Vec::new();
    let mut ports = HashSet::new();
    for _ in 0..50 {
        let port = free_port()?;
        assert!(port >= 1024, "{port} is a privileged port");
        listeners.push(TcpListener::bind(("127.0.0.1", port))?);
        ports.insert(port);
    }
    assert_eq!(ports.len(), 50);
    if let Ok(range) = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range") {
        let start: u16 = range.split_whitespace().next().unwrap().parse()?;
        assert!(ports.iter().all(|port| *port < start), "{ports:?} with {range}");
    }
    Ok(())
}
