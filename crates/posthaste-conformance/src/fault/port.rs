//! A port for a server that is started by a test.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use posthaste_core::{Error, ErrorKind, Result};

/// Where Linux says which ports it gives to outgoing connections.
const EPHEMERAL_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// The range's start where it cannot be read; the default of Linux, below that of the others.
const EPHEMERAL_START: u16 = 32_768;
/// Below are the ports of well-known services.
const LOWEST: u16 = 10_240;
const TRIES: usize = 64;

/// A TCP port of 127.0.0.1 on which nothing listens now.
///
/// It lies below the range of outgoing connections where it can. A server that was killed leaves
/// its port free until it is started again, and a client that keeps dialing a free port *inside*
/// that range sooner or later takes it as its own local port, connects to itself, and the server
/// cannot come back.
///
/// The port is not reserved: it was bound and closed again. Between this call and the server's own
/// bind another process may take it, and two calls may, rarely, return the same one. Start the
/// server at once, and treat a failed bind as a reason to ask for another port.
///
/// # Errors
/// [`ErrorKind::Connection`] when the system has no port to give.
pub fn free_port() -> Result<u16> {
    let end = ephemeral_start();
    if end > LOWEST {
        for _ in 0..TRIES {
            if let Ok(port) = bind_and_close(fastrand::u16(LOWEST..end)) {
                return Ok(port);
            }
        }
    }
    bind_and_close(0).map_err(|error| {
        Error::new(ErrorKind::Connection, "no free port on 127.0.0.1").with_source(error)
    })
}

fn bind_and_close(port: u16) -> std::io::Result<u16> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    Ok(listener.local_addr()?.port())
}

fn ephemeral_start() -> u16 {
    let start = std::fs::read_to_string(EPHEMERAL_RANGE).ok();
    start.and_then(|range| range.split_whitespace().next()?.parse().ok()).unwrap_or(EPHEMERAL_START)
}
