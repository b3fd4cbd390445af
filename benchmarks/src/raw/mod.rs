//! The raw clients: one file or folder for each broker, and one entry in [`ALL`].
//!
//! A file here uses its client as its best users do. Each run connects, makes a fresh topic of its
//! own with one group that waits for what is published, sends one message to be warm, and is
//! measured from there by [`timed`](crate::clock::timed). Before it returns, it reads the count
//! back from the broker, fails if it is wrong, and deletes the topic.

mod kafka;
mod nats;
mod rabbitmq;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use posthaste::{Error, ErrorKind, Result};

use crate::clock::Sample;
use crate::pace::Pace;

/// Every broker that has a raw client here.
pub(crate) const ALL: &[&dyn Raw] = &[&kafka::Kafka, &nats::Nats, &rabbitmq::Rabbitmq];

/// The broker of that name.
pub(crate) fn named(broker: &str) -> Option<&'static dyn Raw> {
    ALL.iter().copied().find(|raw| raw.broker() == broker)
}

/// What a run has to do, the same for both sides.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) url: String,
    /// At least 2.
    pub(crate) messages: u32,
    pub(crate) payload: Bytes,
}

/// How the raw client does it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    /// How many publishes it keeps in flight, or for how many messages it asks at once. 1 is one
    /// after the other.
    pub(crate) window: usize,
    /// Whether it writes what an envelope of ours puts beside the payload. A message is read with
    /// what it was written with.
    pub(crate) envelope: bool,
}

/// What one message of each side is, as somebody who listens sees it.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) ours: Seen,
    pub(crate) raw: Seen,
}

/// A message as it was seen.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Names of headers with the bytes of their values, sorted.
    pub(crate) headers: Vec<(String, usize)>,
    pub(crate) payload: usize,
}

/// The raw client of one broker.
#[async_trait(?Send)]
pub(crate) trait Raw: Sync {
    /// As it is called on the command line.
    fn broker(&self) -> &'static str;

    /// What [`How::window`] may be when publishing, for the sweep.
    fn windows(&self) -> &'static [usize];

    /// The same for consuming.
    fn pulls(&self) -> &'static [usize];

    /// What else is set on both sides, for whoever reads the results.
    fn conditions(&self) -> Option<&'static str> {
        None
    }

    /// The URL for both sides, made of the one that was given.
    ///
    /// # Errors
    /// Names what cannot be the same for both.
    fn url(&self, url: String) -> Result<String> {
        Ok(url)
    }

    /// The server's version.
    async fn server(&self, url: &str) -> Result<String>;

    /// One message of each side.
    async fn wire(&self, load: &Load) -> Result<Wire>;

    /// Publishes, and waits for every confirmation.
    async fn publish(&self, load: &Load, how: How) -> Result<Sample>;

    /// Reads what was published before, and acknowledges each message without waiting for the
    /// broker's answer, as `ack().await` of ours does. The first one is read before the clock
    /// starts, because a consumer may have to join a group.
    async fn consume(&self, load: &Load, how: How) -> Result<Sample>;

    /// Publishes at that pace, by [`open_loop`](crate::pace::open_loop).
    async fn latency(&self, load: &Load, how: How, pace: Pace) -> Result<(Sample, Vec<f64>)>;
}

impl Wire {
    /// Fails unless both sides carry the same.
    ///
    /// # Errors
    /// Names what differs.
    pub(crate) fn check(&self) -> Result<()> {
        // Ids end in numbers of any length.
        const SLACK: usize = 4;
        let names =
            |seen: &Seen| seen.headers.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        let (ours, raw) = (names(&self.ours), names(&self.raw));
        let alike =
            |(ours, raw): (&(String, usize), &(String, usize))| ours.1.abs_diff(raw.1) <= SLACK;
        if ours == raw
            && self.ours.headers.iter().zip(&self.raw.headers).all(alike)
            && self.ours.payload == self.raw.payload
        {
            return Ok(());
        }
        let differs = "the two sides do not put the same on the wire: the comparison is unfair";
        Err(Error::new(ErrorKind::Fatal, differs)
            .with_context("ours", format!("{:?}", self.ours))
            .with_context("raw", format!("{:?}", self.raw)))
    }
}

impl Seen {
    /// Bytes of headers and payload, without what frames them.
    pub(crate) fn bytes(&self) -> usize {
        self.payload + self.headers.iter().map(|(name, value)| name.len() + value).sum::<usize>()
    }
}

/// How long a server may take for what is not measured.
const PATIENCE: Duration = Duration::from_secs(5);

#[cold]
fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Fatal, "the raw client failed").with_source(error)
}

#[cold]
fn miscounted(what: &'static str, found: u64, wanted: u64) -> Error {
    Error::new(ErrorKind::Fatal, format!("the raw client's count is wrong: {what}"))
        .with_context("found", found)
        .with_context("wanted", wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(headers: &[(&str, usize)], payload: usize) -> Seen {
        let headers = headers.iter().map(|(name, bytes)| ((*name).to_owned(), *bytes)).collect();
        Seen { headers, payload }
    }

    #[test]
    fn what_differs_on_the_wire_is_refused() {
        let ours = || seen(&[("ce-id", 36), ("ce-type", 10)], 1_024);
        let check = |raw| Wire { ours: ours(), raw }.check();
        check(ours()).unwrap();
        check(seen(&[("ce-id", 34), ("ce-type", 10)], 1_024)).unwrap();
        for raw in [
            seen(&[("ce-id", 36)], 1_024),
            seen(&[("ce-id", 36), ("ce-type", 10)], 1_000),
            seen(&[("ce-id", 20), ("ce-type", 10)], 1_024),
        ] {
            assert!(check(raw).unwrap_err().to_string().contains("unfair"));
        }
    }

    #[test]
    fn bytes_are_those_of_names_values_and_payload() {
        assert_eq!(seen(&[("ab", 3)], 10).bytes(), 15);
    }
}
