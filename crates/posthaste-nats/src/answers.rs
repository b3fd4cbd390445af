//! Confirmations of publishes: one inbox for a whole connection, read by one task.
//!
//! A publish names a reply subject of its own, `inbox.batch.entry`. The task that reads the inbox
//! books each answer where it belongs, and wakes a batch once, when its last answer is there.
//! Another task gives up what will not be answered any more. The client's own way costs an inbox, a
//! channel, a timer and a wake-up for each message.

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
use tokio::time::Instant;

use crate::error;
use crate::link::Link;

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
    open: Arc<Open>,
    next: AtomicU64,
}

/// The batches that wait.
#[derive(Debug, Default)]
struct Open {
    calls: Mutex<Calls>,
    /// Somebody waits, and nobody looks yet whether in vain.
    unwatched: Notify,
}

#[derive(Debug, Default)]
struct Calls {
    by_number: HashMap<u64, Arc<Call>>,
    watched: bool,
    /// No answer will come any more to anybody.
    ended: bool,
}

/// A batch that waits for its answers.
#[derive(Debug)]
struct Call {
    /// The stream that shall take it.
    stream: String,
    /// How often the connection was lost before it was sent.
    losses: u64,
    until: Instant,
    state: Mutex<State>,
    complete: Notify,
}

#[derive(Debug)]
struct State {
    answers: Vec<Answer>,
    /// How many may still come.
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

    /// Gives up what will not be answered any more: when its time is over, or some time after the
    /// connection is back that was lost meanwhile. Dropping the result gives up everything.
    pub(crate) fn watch(&self, link: Link) -> impl Future<Output = ()> + use<> {
        watch(EndsAll(Arc::clone(&self.open)), link)
    }

    /// Waits for the answers to that many messages, which the stream shall take: no longer than
    /// until then. So often was the connection lost before they are sent.
    pub(crate) fn expect(
        &self,
        stream: String,
        entries: usize,
        losses: u64,
        until: Instant,
    ) -> Waiting<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut answers = Vec::new();
        answers.resize_with(entries, Answer::default);
        let mut calls = self.open.lock();
        let missing = if calls.ended { 0 } else { entries };
        let state = Mutex::new(State { answers, missing });
        let call = Arc::new(Call { stream, losses, until, state, complete: Notify::new() });
        calls.by_number.insert(number, Arc::clone(&call));
        if !std::mem::replace(&mut calls.watched, true) {
            self.open.unwatched.notify_one();
        }
        drop(calls);
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
        let mut state = self.call.lock();
        state.missing = state.missing.saturating_sub(1);
    }

    /// Waits for the last answer that may come.
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
        self.answers.open.lock().by_number.remove(&self.number);
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
        // It may have been given up before.
        state.missing = state.missing.saturating_sub(1);
        if state.missing == 0 {
            drop(state);
            self.complete.notify_one();
        }
    }

    fn is_waiting(&self) -> bool {
        self.lock().missing > 0
    }

    fn give_up(&self) {
        self.lock().missing = 0;
        self.complete.notify_one();
    }
}

impl Open {
    fn lock(&self) -> MutexGuard<'_, Calls> {
        // Nothing panics while it is held but an allocation that failed.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fewest losses and the first end of those who wait; `None` if nobody does, and then
    /// whoever comes says so.
    fn next_end(&self) -> Option<(u64, Instant)> {
        let mut calls = self.lock();
        let waiting = calls.by_number.values().filter(|call| call.is_waiting());
        let next = waiting
            .map(|call| (call.losses, call.until))
            .reduce(|first, other| (first.0.min(other.0), first.1.min(other.1)));
        calls.watched = next.is_some();
        next
    }
}

async fn watch(open: EndsAll, link: Link) {
    let EndsAll(open) = &open;
    loop {
        let Some((losses, until)) = open.next_end() else {
            open.unwatched.notified().await;
            continue;
        };
        link.lost_since(losses, until).await;
        let now = Instant::now();
        let lost = now < until;
        for call in open.lock().by_number.values() {
            if call.until <= now || (lost && call.losses <= losses) {
                call.give_up();
            }
        }
    }
}

/// Whoever waits when it is dropped waits in vain, and so would who comes later.
struct EndsAll(Arc<Open>);

impl Drop for EndsAll {
    fn drop(&mut self) {
        let mut calls = self.0.lock();
        calls.ended = true;
        calls.by_number.values().for_each(|call| call.give_up());
    }
}

async fn read(mut messages: Subscriber, open: Arc<Open>) {
    while let Some(message) = messages.next().await {
        let Some((number, entry)) = place(&message.subject) else { continue };
        let call = open.lock().by_number.get(&number).cloned();
        if let Some(call) = call {
            call.book(entry, answer(&message, &call.stream));
        }
    }
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
    use std::time::Duration;

    use async_nats::Event;
    use futures_util::FutureExt as _;

    use super::*;

    fn answers() -> Answers {
        Answers { inbox: "_INBOX.x".into(), open: Arc::default(), next: AtomicU64::new(0) }
    }

    fn expect(answers: &Answers, entries: usize) -> Waiting<'_> {
        answers.expect("s".into(), entries, 0, Instant::now() + Duration::from_secs(5))
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
        let (_one, two) = (expect(&answers, 1), expect(&answers, 20));
        assert_eq!(place(&two.reply(17)), Some((1, 17)));
        assert_eq!(place("_INBOX.x.1"), None);
        assert_eq!(place("_INBOX.x.1.a"), None);
    }

    #[test]
    fn a_batch_is_complete_with_its_last_answer_and_forgotten_when_dropped() {
        let answers = answers();
        let batch = expect(&answers, 3);
        batch.forgo();
        batch.call.book(2, Answer::Nobody);
        batch.call.book(2, Answer::Unreadable);
        batch.call.book(9, Answer::Nobody);
        assert!(batch.complete().now_or_never().is_none(), "one is missing");
        batch.call.book(1, Answer::Nobody);
        assert!(batch.complete().now_or_never().is_some());
        assert!(matches!(batch.take()[..], [Answer::None, Answer::Nobody, Answer::Nobody]));
        drop(batch);
        assert!(answers.open.lock().by_number.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_waits_no_longer_than_its_time() {
        let (answers, start) = (answers(), Instant::now());
        let story = async {
            let first = answers.expect("s".into(), 1, 0, start + Duration::from_secs(3));
            let second = answers.expect("s".into(), 1, 0, start + Duration::from_secs(2));
            second.complete().await;
            assert_eq!(start.elapsed(), Duration::from_secs(2));
            first.complete().await;
            assert_eq!(start.elapsed(), Duration::from_secs(3));
            // Somebody who comes after a time when nobody waited.
            expect(&answers, 1).complete().await;
            assert_eq!(start.elapsed(), Duration::from_secs(8));
        };
        tokio::select! { () = story => {}, () = answers.watch(Link::new()) => {} }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_sent_before_a_loss_is_given_up_after_the_reconnect() {
        let (answers, link) = (answers(), Link::new());
        let until = Instant::now() + Duration::from_secs(60);
        let story = async {
            let before = answers.expect("s".into(), 1, link.losses(), until);
            tokio::task::yield_now().await;
            link.take(Event::Disconnected);
            link.take(Event::Connected);
            let after = answers.expect("s".into(), 1, link.losses(), until);
            before.complete().await;
            assert!(Instant::now() < until && after.complete().now_or_never().is_none());
            link.close();
            after.complete().await;
            assert!(Instant::now() < until);
        };
        tokio::select! { () = story => {}, () = answers.watch(link.clone()) => {} }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_when_nobody_looks_any_more() {
        let answers = answers();
        let waiting = expect(&answers, 1);
        drop(answers.watch(Link::new()));
        assert!(waiting.complete().now_or_never().is_some());
        assert!(expect(&answers, 1).complete().now_or_never().is_some());
    }
}
