//! Loopback ports for brokers that start at the same time.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

use crate::failure::{Context, Result};

/// Gives out free ports, none twice.
///
/// Another program can take a port between this and the server's start; the caller tries again
/// when the server says so.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    given: Mutex<BTreeSet<u16>>,
}

impl Ports {
    /// The ports of an earlier start if all of them are free, else `count` other free ones.
    pub(crate) fn take(&self, count: usize, earlier: &[u16]) -> Result<Vec<u16>> {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        if earlier.len() == count
            && earlier.iter().all(|&port| !given.contains(&port) && is_free(port))
        {
            given.extend(earlier);
            return Ok(earlier.to_vec());
        }
        // All are held until all are known, else the system could give one port twice.
        let mut held = Vec::new();
        let mut ports = Vec::new();
        while ports.len() < count {
            let (listener, port) = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                .and_then(|listener| listener.local_addr().map(|at| (listener, at.port())))
                .context(|| "asking for a free port".to_owned())?;
            held.push(listener);
            if given.insert(port) {
                ports.push(port);
            }
        }
        Ok(ports)
    }
}

/// Whether nothing listens at `port` on loopback.
pub(crate) fn is_free(port: u16) -> bool {
    port != 0 && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_ports_are_used_again_unless_taken() {
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = holder.local_addr().unwrap().port();
        assert_ne!(Ports::default().take(1, &[taken]).unwrap(), [taken]);
        drop(holder);
        assert_eq!(Ports::default().take(1, &[taken]).unwrap(), [taken]);
        assert_ne!(Ports::default().take(2, &[taken]).unwrap()[..], [taken]);
    }

    #[test]
    fn no_port_is_given_twice() {
        let ports = Ports::default();
        let first = ports.take(3, &[]).unwrap();
        let second = ports.take(3, &first).unwrap();
        let all: BTreeSet<u16> = first.iter().chain(&second).copied().collect();
        assert_eq!(all.len(), 6);
    }
}
