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
#[derive(Debug, Clone, Copy)]
pub(crate) struct Number {
    value: u64,
    /// The outcome of an earlier try under it is unknown.
    again: bool,
}

#[derive(Debug, Default)]
struct Unknown {
    numbers: HashMap<Key, (u64, Instant)>,
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
            && let Some((value, since)) = unknown.numbers.remove(&Key::new(topic, envelope))
            && since.elapsed() < self.memory
        {
            return Number { value, again: true };
        }
        drop(unknown);
        Number { value: self.next.fetch_add(1, Ordering::Relaxed), again: false }
    }

    /// The message id with that number.
    pub(crate) fn id(&self, number: Number) -> String {
        format!("{}-{:x}", self.prefix, number.value)
    }

    /// A try under that number failed, and may be stored or is known not to be. If the message
    /// may be stored now, by this try or an earlier one, it keeps its number for the next one.
    pub(crate) fn failed(
        &self,
        topic: &str,
        envelope: &Envelope,
        number: Number,
        may_be_stored: bool,
    ) {
        if may_be_stored || number.again {
            self.keep(topic, envelope, number.value);
        }
    }

    fn keep(&self, topic: &str, envelope: &Envelope, number: u64) {
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
        let next = |topic: &str, envelope: &Envelope| resends.number(topic, envelope).value;
        let first = resends.number("orders", &one);
        // The same id again, after an outcome that was known: another message.
        resends.failed("orders", &one, first, false);
        assert_ne!(next("orders", &one), first.value);
        resends.failed("orders", &one, first, true);
        // Another source, another topic, another id: other messages.
        assert_ne!(next("orders", &envelope("/b", "1")), first.value);
        assert_ne!(next("refunds", &one), first.value);
        assert_ne!(next("orders", &envelope("/a", "2")), first.value);
        // The same: the same, once for each time that it was unknown.
        assert_eq!(next("orders", &one), first.value);
        assert_ne!(next("orders", &one), first.value);
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_that_is_known_to_have_failed_says_nothing_of_an_earlier_one() {
        let resends = Resends::new(Duration::from_secs(120));
        let one = envelope("/a", "1");
        let first = resends.number("orders", &one);
        resends.failed("orders", &one, first, true);
        for _ in 0..3 {
            let again = resends.number("orders", &one);
            assert_eq!(again.value, first.value);
            resends.failed("orders", &one, again, false);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_id_is_not_kept_longer_than_the_server_keeps_it() {
        let resends = Resends::new(Duration::from_secs(120));
        let one = envelope("/a", "1");
        let first = resends.number("orders", &one);
        resends.failed("orders", &one, first, true);
        tokio::time::advance(Duration::from_secs(121)).await;
        assert_ne!(resends.number("orders", &one).value, first.value);
    }

    #[test]
    fn two_connections_never_give_the_same_id() {
        let (a, b) = (Resends::new(Duration::ZERO), Resends::new(Duration::ZERO));
        let one = envelope("/a", "1");
        assert_ne!(a.id(a.number("orders", &one)), b.id(b.number("orders", &one)));
    }
}
