//! One consumer that a subscription reads: its inbox, its requests, its state.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_nats::jetstream::consumer::Info;
use async_nats::message::OutboundMessage;
use async_nats::{Client, Message, StatusCode, Subject, Subscriber};
use posthaste_core::broker::Lane;
use posthaste_core::{Result, TopicName};
use tokio::task::coop;
use tokio::time::Instant;

use crate::credit::Want;
use crate::ending::Ending;
use crate::error;
use crate::groups::{ConsumerSpec, Kind};
use crate::hub::Hub;
use crate::inbox::Inbox;
use crate::lanes::handle::LaneHandle;
use crate::loss::{Gap, LossWatch};
use crate::ordered::Ordered;
use crate::pull::Pulls;
use crate::repair::Checked;
use crate::request::{Limits, Request};
use crate::version::Version;
use crate::word::{self, Word};

/// How long the server keeps a request for messages. Short, so that one that was lost is soon
/// noticed, and a stop has soon everything that was on its way.
pub(crate) const EXPIRES: Duration = Duration::from_secs(2);
/// Without a word of the server for that long, what comes may be as old.
const SILENCE: Duration = Duration::from_secs(5);
/// How often a source without messages is looked at where no request can be kept open for it.
const LOOK: Duration = Duration::from_millis(250);
/// Shorter requests are not worth their cost.
const SHORTEST_REQUEST: Duration = Duration::from_millis(20);
/// A request that has brought nothing for so long is idle.
const QUIET: Duration = Duration::from_millis(50);
/// How long a source that ends waits for what comes. What trickles in for longer than that is no
/// more than what may be on its way when its inbox ends.
const LONGEST_END: Duration = Duration::from_millis(250);
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
    /// Whether the server counts what it delivered, and nothing else.
    pub(crate) counts_exactly: bool,
    /// The order that has to be kept, on lanes.
    pub(crate) order: Option<Ordered>,
    failures: u32,
    request_subject: Subject,
    inbox: Inbox<Subscriber>,
    inbox_name: String,
    /// After a reconnect another inbox is opened: the server has begun to count anew what it sent
    /// to the old one, and the client has not, so that it could not be ended any more.
    reopening: Option<Boxed<Option<(String, Subscriber)>>>,
    /// Since when it is coming to its end.
    ending: Option<Instant>,
    /// When the server was last heard, or first asked.
    heard: Instant,
    /// When the last message came.
    busy: Instant,
    /// When it is looked at again, if it has nothing.
    next_look: Instant,
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
            counts_exactly: hub.version() >= Version::EXACT_ATTEMPTS,
            order: None,
            failures: 0,
            request_subject: request_subject.into(),
            inbox: Inbox::new(inbox),
            inbox_name,
            reopening: None,
            ending: None,
            heard: now,
            busy: now,
            next_look: now,
            spec,
        };
        source.learn(info);
        Ok(source)
    }

    /// Keeps the stream's order from now on. What is outstanding comes first.
    pub(crate) fn order_by(&mut self, handle: Arc<LaneHandle>, info: &Info) {
        let recover = info.num_ack_pending > 0;
        self.order = Some(Ordered::new(handle, recover, info.delivered.consumer_sequence));
    }

    /// Takes over what the server says of the consumer.
    pub(crate) fn learn(&mut self, info: &Info) {
        let delivered = &info.delivered;
        self.waiting = info.num_pending;
        self.limits = Limits::of(info);
        self.loss = LossWatch::starting(delivered.stream_sequence, delivered.consumer_sequence);
        self.last_sequence = self.last_sequence.max(delivered.stream_sequence);
        if let Some(order) = &mut self.order {
            order.start_over(delivered.consumer_sequence);
        }
    }

    /// Reads one message of the inbox. Only as long as this is `Ready` there may be more.
    pub(crate) fn poll_inbox(&mut self, cx: &Context<'_>) -> Poll<Option<Message>> {
        self.inbox.poll_next(cx)
    }

    /// When what is in the inbox now came, at the earliest.
    pub(crate) fn arrived(&mut self, now: Instant) -> Instant {
        let arrived = self.inbox.since().unwrap_or(now);
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

    /// How much is asked of it, and known to wait for it. When it is `tight`, a source without
    /// messages is only looked at now and then.
    pub(crate) fn want(&self, tight: bool, now: Instant) -> Want {
        let outstanding = self.pulls.outstanding();
        // A sweep asks by itself.
        let asks = self.order.as_ref().is_none_or(|order| {
            order.handle.is_live()
                && self.longest() >= SHORTEST_REQUEST
                && order.asks() == Some(false)
        });
        let rests = self.rests(tight) && now < self.next_look;
        let open = matches!(self.state, State::Open) && self.reopening.is_none();
        let paused = !open || !asks || rests;
        let waiting = self.waiting;
        Want { outstanding, waiting, paused, lane: self.order.is_some() }
    }

    /// Whether what was outstanding has to be asked for now. One request after the other, or it
    /// could not be told when the sweep is over.
    pub(crate) fn sweeps(&self) -> bool {
        let sweeping = |order: &Ordered| order.handle.is_live() && order.asks() == Some(true);
        matches!(self.state, State::Open)
            && self.reopening.is_none()
            && self.pulls.outstanding() == 0
            && self.longest() >= SHORTEST_REQUEST
            && self.order.as_ref().is_some_and(sweeping)
    }

    /// Whether it is looked at now and then, with requests that do not wait: those that do keep
    /// credit from the others, and private channels are nearly always empty.
    fn rests(&self, tight: bool) -> bool {
        self.waiting == 0 && (tight || self.spec.kind == Kind::Private)
    }

    /// When it has to be looked at again.
    pub(crate) fn looks_at(&self, tight: bool) -> Option<Instant> {
        let open = matches!(self.state, State::Open) && !self.is_going();
        (open && self.rests(tight) && self.pulls.outstanding() == 0).then_some(self.next_look)
    }

    /// Messages of it that are kept back for the sake of order.
    pub(crate) fn kept(&self) -> usize {
        self.order.as_ref().map_or(0, Ordered::kept)
    }

    /// Whether it is about to end, because its lane goes and the application was told so.
    pub(crate) fn is_going(&self) -> bool {
        self.order.as_ref().is_some_and(|order| order.revoked)
    }

    /// How long a request may be open: none outlives the ownership of its lane.
    fn longest(&self) -> Duration {
        let left = self.order.as_ref().map(|order| order.handle.validity.left());
        left.map_or(self.limits.expires, |left| left.min(self.limits.expires))
    }

    /// The request for that many messages and bytes.
    pub(crate) fn next_request(&self, messages: usize, bytes: usize, tight: bool) -> Request {
        let sweep = self.order.as_ref().is_some_and(|order| order.asks() == Some(true));
        Request {
            batch: if self.oversized { 1 } else { messages.min(self.limits.batch) },
            bytes: (!self.oversized && !sweep).then_some(bytes),
            expires: self.longest(),
            no_wait: sweep || self.rests(tight),
        }
    }

    /// The message that asks the server.
    pub(crate) fn request(&mut self, mut request: Request, now: Instant) -> OutboundMessage {
        // Ends at random: servers before 2.10.15 lose their place, and a delivery, when a request
        // ends just as one falls due, and leases and delays are often of whole seconds too.
        request.expires = request.expires.mul_f64(fastrand::f64().mul_add(0.2, 0.8));
        if self.pulls.outstanding() == 0 {
            self.heard = now;
        }
        self.next_look = now + LOOK;
        let number = self.pulls.issue(request.batch, now + request.expires);
        OutboundMessage {
            subject: self.request_subject.clone(),
            reply: Some(format!("{}.{number}", self.inbox_name).into()),
            payload: request.body().into(),
            headers: None,
        }
    }

    /// Takes what the server says instead of a message.
    pub(crate) fn status(&mut self, code: StatusCode, message: &Message) -> Word {
        let text = message.description.as_deref().unwrap_or_default();
        let word = word::read(code.as_u16(), text);
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
            // A batch that was completed says nothing of what is behind it.
            if let (Word::Nothing, 404 | 408, Some(order)) = (&word, code.as_u16(), &mut self.order)
            {
                order.request_ended();
            }
        }
        match word {
            Word::Oversized => self.oversized = true,
            Word::Nothing => self.failures = 0,
            Word::Taken | Word::Pause | Word::Check => {}
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

    /// Nothing that was asked will be answered any more. The client is given once it is connected
    /// again.
    pub(crate) fn cut_off(&mut self, back: Option<&Client>, now: Instant) {
        self.pulls.clear();
        self.reopening = back.cloned().map(|client| -> Boxed<_> {
            Box::pin(async move {
                let name = client.new_inbox();
                // An error means that the client has ended, which the link tells.
                let messages = client.subscribe(format!("{name}.*")).await.ok()?;
                Some((name, messages))
            })
        });
        self.heard = now;
        self.failures = 0;
        if let State::Paused(_) | State::Checking(_) = self.state {
            self.state = State::Open;
        }
        self.begin_again();
    }

    /// Goes on with the inbox that is opened after a reconnect.
    pub(crate) fn poll_reopening(&mut self, cx: &mut Context<'_>) {
        let Some(reopening) = &mut self.reopening else { return };
        let Poll::Ready(opened) = reopening.as_mut().poll(cx) else { return };
        self.reopening = None;
        if let Some((name, messages)) = opened {
            self.inbox.replace(messages);
            self.inbox_name = name;
        }
    }

    /// On a lane: what was on its way may be lost, and has to come before all else.
    pub(crate) fn begin_again(&mut self) {
        if let Some(order) = &mut self.order {
            order.begin_again();
        }
    }

    /// Goes on to its end, after nothing is asked any more. A request that may still be answered
    /// is waited for as long as messages come, but not for long; an idle one is taken back.
    pub(crate) fn wind_up(&mut self, hub: &Arc<Hub>, now: Instant, connected: bool) {
        match self.state {
            State::Ended | State::Ending(_) => return,
            State::Open | State::Paused(_) | State::Checking(_) => {}
        }
        self.ending.get_or_insert(now);
        if self.pulls.outstanding() == 0 || !connected {
            self.end();
        } else if now >= self.quiet_at() && coop::has_budget_remaining() {
            // With that, all that has come was read.
            let read = self.inbox.read();
            let Some(messages) = self.inbox.take() else { return self.end() };
            let ending = Ending {
                hub: Arc::clone(hub),
                name: self.inbox_name.clone(),
                messages,
                read,
                awaited: self.pulls.outstanding(),
                stream: self.spec.stream.clone(),
                consumer: self.spec.name.clone(),
            };
            self.state = State::Ending(Box::pin(ending.run()));
        }
    }

    /// When a request may be taken back.
    pub(crate) fn quiet_at(&self) -> Instant {
        let idle = self.busy + QUIET;
        self.ending.map_or(idle, |since| idle.min(since + LONGEST_END))
    }

    pub(crate) fn end(&mut self) {
        drop(self.inbox.take());
        self.pulls.clear();
        self.state = State::Ended;
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
