//! Confirmations of publishes: one inbox for a whole connection, read by one task.
//!
//! A publish names a reply subject of its own, `inbox.batch.entry`. The task that reads the inbox
//! books each answer where it belongs, and wakes a batch once, when its last answer is there. The
//! client's own way costs an inbox, a channel, a timer and a wake-up for each message.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::jetstream;
use async_nats::{Client, Message, StatusCode, Subscriber};
use futures_util::StreamExt as _;
use posthaste_core::Result;
use serde::Deserialize;
use tokio::sync::Notify;

use crate::error;

/// What the server said of one message.
#[derive(Debug, Default)]
pub(crate) enum Answer {
    /// Nothing yet.
    #[default]
    None,
    Stored {
        sequence: u64,
        duplicate: bool,
    },
    /// Another stream than the one that was expected has it.
    Elsewhere(String),
    /// Nobody listens on the subject.
    Nobody,
    Refused(Box<jetstream::Error>),
    /// Not what a server of JetStream says.
    Unreadable,
}

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow)]
    stream: Option<Cow<'a, str>>,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    error: Option<Box<jetstream::Error>>,
}

/// The inbox of a connection's publishes.
#[derive(Debug)]
pub(crate) struct Answers {
    inbox: String,
    open: Arc<Mutex<Open>>,
    next: AtomicU64,
}

type Open = HashMap<u64, Arc<Call>>;

/// A batch that waits for its answers.
#[derive(Debug)]
struct Call {
    /// The stream that shall take it.
    stream: String,
    state: Mutex<State>,
    complete: Notify,
}

#[derive(Debug)]
struct State {
    answers: Vec<Answer>,
    missing: usize,
}

/// The right to the answers of one batch. What comes after it is dropped is thrown away.
#[derive(Debug)]
pub(crate) struct Waiting<'a> {
    answers: &'a Answers,
    number: u64,
    call: Arc<Call>,
}

impl Answers {
    /// Opens the inbox.
    ///
    /// # Errors
    /// `Connection` if the client has ended.
    pub(crate) async fn open(client: &Client) -> Result<(Self, Subscriber)> {
        let inbox = client.new_inbox();
        let messages = client.subscribe(format!("{inbox}.*.*")).await.map_err(error::subscribe)?;
        Ok((Self { inbox, open: Arc::default(), next: AtomicU64::new(0) }, messages))
    }

    /// Reads the inbox until the client has ended.
    pub(crate) fn read(&self, messages: Subscriber) -> impl Future<Output = ()> + use<> {
        read(messages, Arc::clone(&self.open))
    }

    /// Waits for the answers to that many messages, which the stream shall take.
    pub(crate) fn expect(&self, stream: String, entries: usize) -> Waiting<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut answers = Vec::new();
        answers.resize_with(entries, Answer::default);
        let state = Mutex::new(State { answers, missing: entries });
        let call = Arc::new(Call { stream, state, complete: Notify::new() });
        lock(&self.open).insert(number, Arc::clone(&call));
        Waiting { answers: self, number, call }
    }
}

impl Waiting<'_> {
    /// The reply subject of that entry.
    pub(crate) fn reply(&self, entry: usize) -> String {
        use std::fmt::Write as _;
        let inbox = &self.answers.inbox;
        let mut reply = String::with_capacity(inbox.len() + 24);
        reply.push_str(inbox);
        // Writing to a string never fails.
        let _ = write!(reply, ".{}.{entry}", self.number);
        reply
    }

    /// No answer to that entry will come: it was not sent.
    pub(crate) fn forgo(&self) {
        self.call.lock().missing -= 1;
    }

    /// Waits for the last answer.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn complete(&self) {
        while self.call.lock().missing > 0 {
            self.call.complete.notified().await;
        }
    }

    /// Takes the answers that came.
    pub(crate) fn take(&self) -> Vec<Answer> {
        std::mem::take(&mut self.call.lock().answers)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(&self.answers.open).remove(&self.number);
    }
}

impl Call {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held but an allocation that failed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn book(&self, entry: usize, answer: Answer) {
        let mut state = self.lock();
        let Some(slot @ Answer::None) = state.answers.get_mut(entry) else { return };
        *slot = answer;
        state.missing -= 1;
        if state.missing == 0 {
            drop(state);
            self.complete.notify_one();
        }
    }
}

async fn read(mut messages: Subscriber, open: Arc<Mutex<Open>>) {
    while let Some(message) = messages.next().await {
        let Some((number, entry)) = place(&message.subject) else { continue };
        let call = lock(&open).get(&number).cloned();
        if let Some(call) = call {
            call.book(entry, answer(&message, &call.stream));
        }
    }
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    // Nothing panics while it is held but an allocation that failed.
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The batch and the entry that a reply subject names.
fn place(subject: &str) -> Option<(u64, usize)> {
    let (rest, entry) = subject.rsplit_once('.')?;
    let (_, number) = rest.rsplit_once('.')?;
    Some((number.parse().ok()?, entry.parse().ok()?))
}

fn answer(message: &Message, stream: &str) -> Answer {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Answer::Nobody;
    }
    match serde_json::from_slice(&message.payload) {
        Ok(Reply { error: Some(error), .. }) => Answer::Refused(error),
        Ok(Reply { stream: Some(found), seq: sequence, duplicate, .. }) => {
            if found == stream {
                Answer::Stored { sequence, duplicate }
            } else {
                Answer::Elsewhere(found.into_owned())
            }
        }
        _ => Answer::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn answers() -> Answers {
        Answers { inbox: "_INBOX.x".into(), open: Arc::default(), next: AtomicU64::new(0) }
    }

    fn message(payload: &str, status: Option<StatusCode>) -> Message {
        Message {
            subject: "_INBOX.x.0.0".into(),
            reply: None,
            payload: payload.to_owned().into(),
            headers: None,
            status,
            description: None,
            length: payload.len(),
        }
    }

    #[test]
    fn an_answer_is_read_for_what_it_says() {
        let read = |payload| answer(&message(payload, None), "orders");
        let stored = |sequence, duplicate| format!("{:?}", Answer::Stored { sequence, duplicate });
        for (payload, expected) in [
            (r#"{"stream":"orders", "seq":7}"#, stored(7, false)),
            (r#"{"stream":"orders","domain":"hub","seq":8,"duplicate":true}"#, stored(8, true)),
            (r#"{"stream":"other","seq":1}"#, r#"Elsewhere("other")"#.to_owned()),
            ("{}", "Unreadable".to_owned()),
            ("", "Unreadable".to_owned()),
        ] {
            assert_eq!(format!("{:?}", read(payload)), expected, "{payload}");
        }
        let refused = r#"{"error":{"code":503,"err_code":10077},"stream":"orders","seq":0}"#;
        assert!(matches!(read(refused), Answer::Refused(_)));
        let nobody = answer(&message("", Some(StatusCode::NO_RESPONDERS)), "orders");
        assert!(matches!(nobody, Answer::Nobody));
    }

    #[test]
    fn a_reply_subject_leads_back_to_its_entry() {
        let answers = answers();
        let (_one, two) = (answers.expect("s".into(), 1), answers.expect("s".into(), 20));
        assert_eq!(place(&two.reply(17)), Some((1, 17)));
        assert_eq!(place("_INBOX.x.1"), None);
        assert_eq!(place("_INBOX.x.1.a"), None);
    }

    #[test]
    fn a_batch_is_complete_with_its_last_answer_and_forgotten_when_dropped() {
        let answers = answers();
        let batch = answers.expect("s".into(), 3);
        batch.forgo();
        batch.call.book(2, Answer::Nobody);
        batch.call.book(2, Answer::Unreadable);
        batch.call.book(9, Answer::Nobody);
        assert!(batch.complete().now_or_never().is_none(), "one is missing");
        batch.call.book(1, Answer::Nobody);
        assert!(batch.complete().now_or_never().is_some());
        assert!(matches!(batch.take()[..], [Answer::None, Answer::Nobody, Answer::Nobody]));
        drop(batch);
        assert!(lock(&answers.open).is_empty());
    }
}
