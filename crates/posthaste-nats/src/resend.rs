//! Message ids that make the server recognise what is sent a second time.
//!
//! When a confirmation does not come, core publishes the same envelope again. So that this stores
//! nothing twice, every message carries a number of its own as `Nats-Msg-Id`, and one whose
//! outcome is unknown keeps its number for the next try. The envelope's id is not used for it:
//! an application that publishes one id twice on purpose, or two sources that use the same id,
//! would lose a message without having asked for deduplication.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use posthaste_core::Envelope;
use tokio::time::Instant;

/// How many unknown outcomes are remembered. The oldest go first; they are then sent under a new
/// number, and may be stored twice.
const LIMIT: usize = 65_536;

/// Gives out message ids.
#[derive(Debug)]
pub(crate) struct Resends {
    prefix: String,
    next: AtomicU64,
    memory: Duration,
    unknown: Mutex<Unknown>,
}

/// What makes the message id of one message, on this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number(u64);

#[derive(Debug, Default)]
struct Unknown {
    numbers: HashMap<Key, (Number, Instant)>,
}

/// What tells one message from another: where it goes, and who sent what.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    topic: String,
    source: String,
    id: String,
}

impl Key {
    fn new(topic: &str, envelope: &Envelope) -> Self {
        let (source, id) = (envelope.source().to_owned(), envelope.id().to_owned());
        Self { topic: topic.to_owned(), source, id }
    }
}

impl Resends {
    /// `memory` is how long the server remembers ids.
    pub(crate) fn new(memory: Duration) -> Self {
        let prefix = format!("ph-{:011x}", fastrand::u64(..) & 0xfff_ffff_ffff);
        Self { prefix, next: AtomicU64::new(0), memory, unknown: Mutex::default() }
    }

    /// The number under which the message is to be sent.
    pub(crate) fn number(&self, topic: &str, envelope: &Envelope) -> Number {
        let mut unknown = self.unknown();
        if !unknown.numbers.is_empty()
            && let Some((number, since)) = unknown.numbers.remove(&Key::new(topic, envelope))
            && since.elapsed() < self.memory
        {
            return number;
        }
        drop(unknown);
        Number(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// The message id with that number.
    pub(crate) fn id(&self, Number(number): Number) -> String {
        format!("{}-{number:x}", self.prefix)
    }

    /// The message may be stored under that number: it keeps it for the next try.
    pub(crate) fn keep(&self, topic: &str, envelope: &Envelope, number: Number) {
        let now = Instant::now();
        let mut unknown = self.unknown();
        if unknown.numbers.len() >= LIMIT {
            let memory = self.memory;
            unknown.numbers.retain(|_, (_, since)| now.duration_since(*since) < memory);
            let oldest = unknown.numbers.iter().min_by_key(|(_, (_, since))| *since);
            if unknown.numbers.len() >= LIMIT
                && let Some(oldest) = oldest.map(|(key, _)| key.clone())
            {
                unknown.numbers.remove(&oldest);
            }
        }
        unknown.numbers.insert(Key::new(topic, envelope), (number, now));
    }

    fn unknown(&self) -> std::sync::MutexGuard<'_, Unknown> {
        // Nothing panics while it is held but an allocation that failed.
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(source: &str, id: &str) -> Envelope {
        Envelope::builder("t").source(source.to_owned()).id(id.to_owned()).build().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_is_unknown_keeps_its_id() {
        let resends = Resends::new(Duration::from_secs(120));
        let one = envelope("/a", "1");
        let first = resends.number("orders", &one);
        // The same id again, after an outcome that was known: another message.
        assert_ne!(resends.number("orders", &one), first);
        resends.keep("orders", &one, first);
        // Another source, another topic, another id: other messages.
        assert_ne!(resends.number("orders", &envelope("/b", "1")), first);
        assert_ne!(resends.number("refunds", &one), first);
        assert_ne!(resends.number("orders", &envelope("/a", "2")), first);
        // The same: the same, once for each time that it was unknown.
        assert_eq!(resends.number("orders", &one), first);
        assert_ne!(resends.number("orders", &one), first);
    }

    #[tokio::test(start_paused = true)]
    async fn an_id_is_not_kept_longer_than_the_server_keeps_it() {
        let resends = Resends::new(Duration::from_secs(120));
        let one = envelope("/a", "1");
        let first = resends.number("orders", &one);
        resends.keep("orders", &one, first);
        tokio::time::advance(Duration::from_secs(121)).await;
        assert_ne!(resends.number("orders", &one), first);
    }

    #[test]
    fn two_connections_never_give_the_same_id() {
        let (a, b) = (Resends::new(Duration::ZERO), Resends::new(Duration::ZERO));
        let one = envelope("/a", "1");
        assert_ne!(a.id(a.number("orders", &one)), b.id(b.number("orders", &one)));
    }
}
