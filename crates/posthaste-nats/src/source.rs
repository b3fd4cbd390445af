//! One consumer that a subscription reads: its inbox, its requests, its state.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_nats::jetstream::consumer::Info;
use async_nats::message::OutboundMessage;
use async_nats::{Message, StatusCode, Subject, Subscriber};
use futures_util::StreamExt as _;
use posthaste_core::broker::Lane;
use posthaste_core::{Result, TopicName};
use tokio::time::Instant;

use crate::arrival::Arrival;
use crate::error;
use crate::groups::ConsumerSpec;
use crate::hub::Hub;
use crate::loss::{Gap, LossWatch};
use crate::pull::Pulls;
use crate::repair::Checked;

/// How long the server keeps a request for messages. Short, so that one that was lost is soon
/// noticed, and a stop has soon everything that was on its way.
pub(crate) const EXPIRES: Duration = Duration::from_secs(2);
/// Without a word of the server for that long, what comes may be as old.
const SILENCE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

pub(crate) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

pub(crate) struct Source {
    pub(crate) spec: ConsumerSpec,
    pub(crate) topic: TopicName,
    pub(crate) lane: Arc<Lane>,
    /// The lane's number in tokens.
    pub(crate) lane_number: u32,
    pub(crate) pulls: Pulls,
    /// How many messages the server had for it, as far as it said.
    pub(crate) waiting: u64,
    pub(crate) loss: LossWatch,
    pub(crate) state: State,
    /// Asks the stream what it still has, after a gap.
    pub(crate) loss_check: Option<Boxed<(Gap, Result<u64>)>>,
    /// The last place that was delivered here.
    pub(crate) last_sequence: u64,
    /// The next message is larger than what was asked for in bytes.
    pub(crate) oversized: bool,
    pub(crate) limits: Limits,
    failures: u32,
    request_subject: Subject,
    inbox: Option<Subscriber>,
    inbox_name: String,
    arrival: Arc<Arrival>,
    waker: Waker,
    /// When the server was last heard, or first asked.
    heard: Instant,
    /// When the last message came.
    busy: Instant,
}

/// What a source is doing.
pub(crate) enum State {
    Open,
    /// Nothing is asked until then.
    Paused(Instant),
    /// The server is asked what became of the consumer.
    Checking(Boxed<Checked>),
    /// Stopped: what is still on its way is collected.
    Ending(Boxed<Vec<Message>>),
    Ended,
}

/// What the consumer allows in one request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) batch: usize,
    pub(crate) bytes: usize,
    pub(crate) expires: Duration,
}

/// What the server said instead of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// A sign of life, or the regular end of a request.
    Nothing,
    /// Ask again after a pause.
    Pause,
    /// See what became of the consumer.
    Check,
    /// The next message does not fit into the bytes that were asked for.
    Oversized,
}

impl Source {
    /// Opens the inbox of a consumer that exists.
    pub(crate) async fn open(
        hub: &Hub,
        spec: ConsumerSpec,
        topic: TopicName,
        lane: Arc<Lane>,
        lane_number: u32,
        info: &Info,
    ) -> Result<Self> {
        let inbox_name = hub.client.new_inbox();
        let inbox = hub.client.subscribe(format!("{inbox_name}.*")).await;
        let inbox = inbox.map_err(error::subscribe)?;
        let prefix = &hub.api.prefix;
        let request_subject = format!("{prefix}.CONSUMER.MSG.NEXT.{}.{}", spec.stream, spec.name);
        let arrival = Arrival::new();
        let now = Instant::now();
        let mut source = Self {
            topic,
            lane,
            lane_number,
            pulls: Pulls::default(),
            waiting: 0,
            loss: LossWatch::default(),
            state: State::Open,
            loss_check: None,
            last_sequence: 0,
            oversized: false,
            limits: Limits::of(info),
            failures: 0,
            request_subject: request_subject.into(),
            inbox: Some(inbox),
            inbox_name,
            waker: arrival.waker(),
            arrival,
            heard: now,
            busy: now,
            spec,
        };
        source.learn(info);
        Ok(source)
    }

    /// Takes over what the server says of the consumer.
    pub(crate) fn learn(&mut self, info: &Info) {
        let delivered = &info.delivered;
        self.waiting = info.num_pending;
        self.limits = Limits::of(info);
        self.loss = LossWatch::starting(delivered.stream_sequence, delivered.consumer_sequence);
        self.last_sequence = self.last_sequence.max(delivered.stream_sequence);
    }

    /// Reads one message of the inbox. Only as long as this is `Ready` there may be more.
    pub(crate) fn poll_inbox(&mut self, cx: &Context<'_>) -> Poll<Option<Message>> {
        self.arrival.register(cx);
        let Some(inbox) = &mut self.inbox else { return Poll::Ready(None) };
        inbox.poll_next_unpin(&mut Context::from_waker(&self.waker))
    }

    /// When what is in the inbox now came, at the earliest.
    pub(crate) fn arrived(&mut self, now: Instant) -> Instant {
        let arrived = self.arrival.take().unwrap_or(now);
        let silence = arrived.saturating_duration_since(self.heard);
        // After a stall of the network everything may have been sent before it.
        if silence > SILENCE { self.heard } else { arrived }
    }

    /// The server was heard.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    pub(crate) fn received(&mut self, now: Instant) {
        self.pulls.received();
        self.busy = now;
        self.failures = 0;
        self.oversized = false;
    }

    /// The message that asks the server.
    pub(crate) fn request(
        &mut self,
        batch: usize,
        bytes: Option<usize>,
        expires: Duration,
        no_wait: bool,
        now: Instant,
    ) -> OutboundMessage {
        if self.pulls.outstanding() == 0 {
            self.heard = now;
        }
        let number = self.pulls.issue(batch, now + expires);
        let nanos = expires.as_nanos();
        let mut body = format!("{{\"batch\":{batch},\"expires\":{nanos}");
        if let Some(bytes) = bytes {
            body.push_str(&format!(",\"max_bytes\":{bytes}"));
        }
        body.push_str(if no_wait { ",\"no_wait\":true}" } else { "}" });
        OutboundMessage {
            subject: self.request_subject.clone(),
            reply: Some(format!("{}.{number}", self.inbox_name).into()),
            payload: body.into(),
            headers: None,
        }
    }

    /// Takes what the server says instead of a message.
    pub(crate) fn status(&mut self, code: StatusCode, message: &Message) -> Word {
        let text = message.description.as_deref().unwrap_or_default();
        let word = word(code.as_u16(), text);
        if code.as_u16() == 100 {
            return word;
        }
        let number = message.subject.rsplit_once('.').and_then(|(_, number)| number.parse().ok());
        let left = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get("Nats-Pending-Messages"))
            .and_then(|left| left.as_str().parse().ok());
        if let Some(number) = number {
            self.pulls.ended(number, left);
        }
        match word {
            Word::Oversized => self.oversized = true,
            Word::Nothing => self.failures = 0,
            Word::Pause | Word::Check => {}
        }
        word
    }

    /// When to ask again after a failure.
    pub(crate) fn pause(&mut self, now: Instant) {
        let doublings = self.failures.min(8);
        self.failures += 1;
        let longest = (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE);
        self.state = State::Paused(now + longest.mul_f64(fastrand::f64().mul_add(0.5, 0.5)));
    }

    /// Nothing that was asked will be answered any more.
    pub(crate) fn cut_off(&mut self, now: Instant) {
        self.pulls.clear();
        self.heard = now;
        self.failures = 0;
        if let State::Paused(_) | State::Checking(_) = self.state {
            self.state = State::Open;
        }
    }

    /// Goes on to its end, after nothing is asked any more. A request that may still be answered
    /// is waited for as long as messages come; an idle one is taken back.
    pub(crate) fn wind_up(&mut self, now: Instant, connected: bool) {
        match self.state {
            State::Ended | State::Ending(_) => return,
            State::Open | State::Paused(_) | State::Checking(_) => {}
        }
        if self.pulls.outstanding() == 0 || !connected {
            self.end();
        } else if now >= self.quiet_at() {
            if let Some(mut inbox) = self.inbox.take() {
                self.state = State::Ending(Box::pin(async move {
                    let mut left = Vec::new();
                    let collected = async {
                        if inbox.drain().await.is_ok() {
                            while let Some(message) = inbox.next().await {
                                left.push(message);
                            }
                        }
                    };
                    // Only a lost connection can make this last.
                    let _ = tokio::time::timeout(Duration::from_secs(1), collected).await;
                    left
                }));
            } else {
                self.end();
            }
        }
    }

    /// When an idle request may be taken back.
    pub(crate) fn quiet_at(&self) -> Instant {
        self.busy + Duration::from_millis(50)
    }

    pub(crate) fn end(&mut self) {
        self.inbox = None;
        self.pulls.clear();
        self.state = State::Ended;
    }
}

impl Limits {
    pub(crate) fn of(info: &Info) -> Self {
        let limit = |n: i64| usize::try_from(n).ok().filter(|n| *n > 0).unwrap_or(usize::MAX);
        let expires = info.config.max_expires;
        Self {
            batch: limit(info.config.max_batch),
            bytes: limit(info.config.max_bytes),
            expires: if expires.is_zero() { EXPIRES } else { expires.min(EXPIRES) },
        }
    }
}

fn word(code: u16, text: &str) -> Word {
    let says = |part: &str| text.get(..part.len()).is_some_and(|t| t.eq_ignore_ascii_case(part));
    match code {
        // Signs of life, and the ends that a request is expected to have.
        100 | 404 => Word::Nothing,
        408 if says("Request Timeout") => Word::Nothing,
        408 if says("Interest Expired") => Word::Pause,
        409 if says("Message Size Exceeds") => Word::Oversized,
        409 if says("Batch Completed") => Word::Nothing,
        409 if says("Leadership Change") || says("Server Shutdown") => Word::Pause,
        409 if says("Exceeded MaxWaiting") => Word::Pause,
        // The consumer is gone, is another one than it was, or nobody leads it.
        _ => Word::Check,
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("stream", &self.spec.stream)
            .field("consumer", &self.spec.name)
            .field("outstanding", &self.pulls.outstanding())
            .field("waiting", &self.waiting)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Paused(_) => "paused",
            Self::Checking(_) => "checking",
            Self::Ending(_) => "ending",
            Self::Ended => "ended",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn understands_what_servers_say() {
        for (code, text, expected) in [
            (100, "Idle Heartbeat", Word::Nothing),
            (404, "No Messages", Word::Nothing),
            (408, "Request Timeout", Word::Nothing),
            (408, "Interest Expired", Word::Pause),
            (409, "Message Size Exceeds MaxBytes", Word::Oversized),
            (409, "Batch Completed", Word::Nothing),
            (409, "Leadership Change", Word::Pause),
            (409, "Server Shutdown", Word::Pause),
            (409, "Exceeded MaxWaiting", Word::Pause),
            (409, "Exceeded MaxRequestBatch of 10", Word::Check),
            (409, "Consumer Deleted", Word::Check),
            (409, "Consumer is push based", Word::Check),
            (503, "", Word::Check),
            (400, "Bad Request", Word::Check),
        ] {
            assert_eq!(word(code, text), expected, "{code} {text}");
        }
    }
}
