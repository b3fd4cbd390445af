//! The driver: polled by core, it reads the inboxes of its consumers and asks for more.
//!
//! It has no task of its own. What is under way (requests, checks, what came and was not taken
//! yet) is in here, so that a poll that is given up loses nothing.

mod ask;

use std::collections::VecDeque;
use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_nats::message::OutboundMessage;
use async_nats::{Client, Message, Subject};
use bytes::Bytes;
use futures_util::Sink;
use posthaste_core::broker::{
    Attempt, Credit, DeliveryMode, DriverEvent, Polled, Position, Received, Settler,
    SubscribeRequest, SubscriptionDriver, Token,
};
use posthaste_core::{Error, ErrorKind, Result, Topology};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::DropGuard;

use crate::convert::{self, Origin};
use crate::credit::{self, Want};
use crate::error::BROKER;
use crate::groups::Kind;
use crate::hub::Hub;
use crate::link_watch::LinkWatch;
use crate::names;
use crate::repair::{self, Checked, Suspect};
use crate::reply::Delivered;
use crate::settle::{self, NatsSettler};
use crate::source::{Source, State, Word};
use crate::topology;

/// How long all consumers together are asked in turn where there is not credit for each.
const ROUND: Duration = Duration::from_secs(1);
const SHORTEST: Duration = Duration::from_millis(20);
/// How often a stream is asked what it still has.
const LOSS_PAUSE: Duration = Duration::from_secs(1);

pub(crate) struct Driver {
    hub: Arc<Hub>,
    /// Requests are sent through it from a poll.
    client: Client,
    request: SubscribeRequest,
    sources: Vec<Source>,
    settler: Arc<NatsSettler>,
    link: LinkWatch,
    events: VecDeque<DriverEvent>,
    /// What came beyond the credit, for example of a request that outlived a reconnect.
    surplus: VecDeque<Received>,
    /// The running mean of messages' sizes.
    mean: usize,
    stopping: bool,
    failure: Option<Error>,
    /// Who is asked first where there is not credit for all.
    first: usize,
    next_loss_check: Instant,
    timer: Pin<Box<Sleep>>,
    wants: Vec<Want>,
    grants: Vec<usize>,
    /// While it is held, the member answers to its name.
    _roll: Vec<DropGuard>,
}

impl Driver {
    pub(crate) fn new(
        hub: Arc<Hub>,
        request: SubscribeRequest,
        sources: Vec<Source>,
        settler: Arc<NatsSettler>,
        events: VecDeque<DriverEvent>,
        roll: Vec<DropGuard>,
    ) -> Self {
        let now = Instant::now();
        Self {
            client: hub.client.clone(),
            link: LinkWatch::new(&hub.link),
            hub,
            request,
            sources,
            settler,
            events,
            surplus: VecDeque::new(),
            mean: 1_024,
            stopping: false,
            failure: None,
            first: 0,
            next_loss_check: now,
            timer: Box::pin(tokio::time::sleep_until(now)),
            wants: Vec::new(),
            grants: Vec::new(),
            _roll: roll,
        }
    }

    /// Notes what became of the connection.
    fn look_at_link(&mut self, cx: &mut Context<'_>) {
        match self.link.poll(cx, &mut self.events) {
            Ok(false) => {}
            Ok(true) => {
                // The server forgets every request with the connection.
                let now = Instant::now();
                self.sources.iter_mut().for_each(|source| source.cut_off(now));
            }
            Err(error) => {
                self.failure.get_or_insert(error);
            }
        }
    }

    /// Reads every inbox until it is empty.
    fn read(&mut self, cx: &mut Context<'_>, out: &mut Vec<Received>, room: usize) {
        while out.len() < room {
            let Some(received) = self.surplus.pop_front() else { break };
            self.hand_out(cx, received, out);
        }
        for at in 0..self.sources.len() {
            let now = Instant::now();
            let mut arrived = None;
            while let Poll::Ready(Some(message)) = self.sources[at].poll_inbox(cx) {
                let arrived = *arrived.get_or_insert_with(|| self.sources[at].arrived(now));
                self.take(cx, at, message, arrived, now, out, room);
            }
            if arrived.is_some() {
                self.sources[at].heard(now);
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one poll, used once")]
    fn take(
        &mut self,
        cx: &mut Context<'_>,
        at: usize,
        message: Message,
        arrived: Instant,
        now: Instant,
        out: &mut Vec<Received>,
        room: usize,
    ) {
        let source = &mut self.sources[at];
        if let Some(code) = message.status {
            match source.status(code, &message) {
                Word::Nothing | Word::Oversized => {}
                Word::Pause => source.pause(now),
                Word::Check => self.suspect(at, now),
            }
            return;
        }
        let Some((reply, delivered)) = message
            .reply
            .as_ref()
            .and_then(|reply| Some((reply.clone(), Delivered::parse(reply)?)))
        else {
            tracing::warn!(subject = %message.subject, "a message that is no delivery was ignored");
            return;
        };
        source.received(now);
        source.waiting = delivered.pending;
        if source.spec.kind != Kind::Private
            && let Some(gap) = source.loss.see(&delivered, source.spec.reads_all)
            && source.loss_check.is_none()
            && now >= self.next_loss_check
        {
            self.next_loss_check = now + LOSS_PAUSE;
            let (hub, stream) = (Arc::clone(&self.hub), source.spec.stream.clone());
            source.loss_check = Some(Box::pin(async move {
                let info = topology::info(&hub, &stream).await;
                (gap, info.map(|info| info.state.first_sequence))
            }));
        }
        let source = &mut self.sources[at];
        source.last_sequence = source.last_sequence.max(delivered.stream_sequence);
        self.mean = (self.mean * 7 + message.length.max(1)) / 8;
        let Some(stamp) = self.lease_from(cx, &reply, arrived, now) else {
            // Too old to be handed out: the server gives it to somebody, perhaps to us.
            return;
        };
        let source = &self.sources[at];
        let origin = Origin {
            stream: &source.spec.stream,
            subject: &message.subject,
            sequence: delivered.stream_sequence,
            stored_at: Some(delivered.stored_at),
        };
        let partition =
            source.spec.partition.or_else(|| names::partition_of(&source.topic, &message.subject));
        let envelope = convert::envelope(message.headers.as_ref(), message.payload, &origin);
        let token = Token::sequence(source.lane_number, stamp, delivered.stream_sequence)
            .with_handle(Bytes::from(reply.into_string()));
        let attempt = u32::try_from(delivered.deliveries).unwrap_or(u32::MAX);
        let received = Received::new(envelope, token, Arc::clone(&source.lane))
            .with_attempt(Attempt::exact(attempt))
            .with_position(
                Position::offset(delivered.stream_sequence)
                    .in_partition(partition)
                    .stored_at(Some(delivered.stored_at)),
            );
        if out.len() < room {
            self.hand_out(cx, received, out);
        } else {
            self.surplus.push_back(received);
        }
    }

    /// From when on the lease counts, as the token says it. `None` if it has ended already. One
    /// that has lasted for a while is prolonged first, so that the handler has all of it.
    fn lease_from(
        &mut self,
        cx: &mut Context<'_>,
        reply: &Subject,
        arrived: Instant,
        now: Instant,
    ) -> Option<u32> {
        let clock = self.settler.clock();
        let age = now.saturating_duration_since(arrived);
        if age * 3 < clock.lease() {
            return Some(clock.stamp(arrived));
        }
        if age >= clock.lease() {
            return None;
        }
        let (fresh, aged) = (clock.stamp(now), clock.stamp(arrived));
        let sent = self.send(cx, settle::answer(reply.clone(), settle::PROGRESS));
        Some(if sent { fresh } else { aged })
    }

    /// Gives a message to core. Under at-most-once it is acknowledged before.
    fn hand_out(&mut self, cx: &mut Context<'_>, received: Received, out: &mut Vec<Received>) {
        if self.request.mode == DeliveryMode::AtMostOnce {
            let Some(reply) = settle::reply(&received.token) else { return };
            if !self.send(cx, settle::answer(reply, settle::ACK)) {
                self.surplus.push_back(received);
                return;
            }
        }
        out.push(received);
    }

    /// Gives a message to the client, if it takes one now.
    fn send(&mut self, cx: &mut Context<'_>, message: OutboundMessage) -> bool {
        let mut client = Pin::new(&mut self.client);
        match client.as_mut().poll_ready(cx) {
            Poll::Ready(Ok(())) => client.start_send(message).is_ok(),
            Poll::Ready(Err(_)) | Poll::Pending => false,
        }
    }

    /// Something is wrong with a consumer: pauses first, then asks what became of it.
    fn suspect(&mut self, at: usize, now: Instant) {
        let source = &mut self.sources[at];
        if matches!(source.state, State::Checking(_) | State::Ending(_) | State::Ended) {
            return;
        }
        source.pulls.clear();
        source.state = State::Checking(Box::pin(repair::check(Suspect {
            hub: Arc::clone(&self.hub),
            topic: source.topic.clone(),
            spec: source.spec.clone(),
            topology: self.request.topology,
            last_sequence: source.last_sequence,
        })));
        let _ = now;
    }

    /// Moves on what the sources are doing besides reading.
    fn advance(&mut self, cx: &mut Context<'_>, out: &mut Vec<Received>, room: usize) {
        let now = Instant::now();
        for at in 0..self.sources.len() {
            let source = &mut self.sources[at];
            if source.pulls.expire(now) && self.link.is_connected() {
                // The end of a request did not come: it, or we, were forgotten.
                self.suspect(at, now);
            }
            let source = &mut self.sources[at];
            match &mut source.state {
                State::Paused(until) if *until <= now => source.state = State::Open,
                State::Checking(check) => {
                    if let Poll::Ready(checked) = check.as_mut().poll(cx) {
                        self.checked(at, checked, now);
                    }
                }
                State::Ending(left) => {
                    if let Poll::Ready(left) = left.as_mut().poll(cx) {
                        for message in left {
                            self.take(cx, at, message, now, now, out, room);
                        }
                        self.sources[at].end();
                    }
                }
                State::Open | State::Paused(_) | State::Ended => {}
            }
            self.check_loss(cx, at);
            if self.stopping {
                self.sources[at].wind_up(now, self.link.is_connected());
                // What it has begun has to be polled once, to be woken by it.
                if let State::Ending(left) = &mut self.sources[at].state
                    && let Poll::Ready(left) = left.as_mut().poll(cx)
                {
                    for message in left {
                        self.take(cx, at, message, now, now, out, room);
                    }
                    self.sources[at].end();
                }
            }
        }
    }

    fn checked(&mut self, at: usize, checked: Checked, now: Instant) {
        let source = &mut self.sources[at];
        match checked {
            Checked::Fine(info) => {
                source.waiting = info.num_pending;
                source.limits = crate::source::Limits::of(&info);
                // It is there and did not answer: not at once again.
                source.pause(now);
            }
            Checked::Recreated(info, reason) => {
                source.last_sequence = 0;
                source.learn(&info);
                source.state = State::Open;
                if let Some(reason) = reason {
                    let (topic, reason) = (source.topic.clone(), reason.to_owned());
                    self.events.push_back(DriverEvent::Lost { topic, count: None, reason });
                }
            }
            Checked::Later => source.pause(now),
            Checked::Gone(error) => {
                source.end();
                self.failure.get_or_insert(error);
            }
        }
    }

    fn check_loss(&mut self, cx: &mut Context<'_>, at: usize) {
        let source = &mut self.sources[at];
        let Some(check) = &mut source.loss_check else { return };
        let Poll::Ready((gap, first)) = check.as_mut().poll(cx) else { return };
        source.loss_check = None;
        let Ok(first) = first else { return };
        let removed = gap.removed(first);
        if removed > 0 {
            // Where places are shared with other subjects, how many were of this one is not known.
            let count = source.spec.reads_all.then_some(removed);
            self.events.push_back(DriverEvent::Lost {
                topic: source.topic.clone(),
                count,
                reason: "messages were removed from the stream before the group read them".into(),
            });
        }
    }

    /// Wakes the poll when there is something to do by the clock. `Ready` if that is now.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut next: Option<Instant> = None;
        let mut sooner = |at: Instant| next = Some(next.map_or(at, |next| next.min(at)));
        for source in &self.sources {
            if let State::Paused(until) = source.state {
                sooner(until);
            }
            if let Some(at) = source.pulls.overdue_at() {
                sooner(at);
                if self.stopping && matches!(source.state, State::Open) {
                    sooner(source.quiet_at());
                }
            }
        }
        let Some(next) = next else { return Poll::Pending };
        if self.timer.deadline() != next {
            self.timer.as_mut().reset(next);
        }
        self.timer.as_mut().poll(cx)
    }
}

impl SubscriptionDriver for Driver {
    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<Received>,
        credit: Credit,
    ) -> Poll<Result<Polled>> {
        let before = out.len();
        let room = before.saturating_add(credit.messages);
        loop {
            self.look_at_link(cx);
            if out.len() == before
                && let Some(event) = self.events.pop_front()
            {
                return Poll::Ready(Ok(Polled::Event(event)));
            }
            self.read(cx, out, room);
            self.advance(cx, out, room);
            if !self.stopping && self.link.is_connected() && self.failure.is_none() {
                let _ = self.ask(cx, credit, &out[before..]);
            }
            if out.len() > before {
                return Poll::Ready(Ok(Polled::Batch));
            }
            if !self.events.is_empty() {
                continue;
            }
            if self.stopping {
                let ended = |source: &Source| matches!(source.state, State::Ended);
                let over = self.sources.iter().all(ended) || self.failure.is_some();
                if over && self.surplus.is_empty() {
                    return Poll::Ready(Ok(Polled::Stopped));
                }
            } else if let Some(error) = self.failure.take() {
                return Poll::Ready(Err(named(error, &self.request)));
            }
            ready!(self.poll_timer(cx));
        }
    }

    fn stop(&mut self) {
        self.stopping = true;
    }

    fn settler(&self) -> Arc<dyn Settler> {
        Arc::clone(&self.settler) as Arc<dyn Settler>
    }
}

#[cold]
fn named(error: Error, request: &SubscribeRequest) -> Error {
    let error = error.with_broker(BROKER);
    let gone = error.kind() == ErrorKind::NotFound && request.topology != Topology::Create;
    let error =
        if gone { error.with_context("topology", "create is not asked for") } else { error };
    match &request.group {
        Some(group) => error.with_group(group),
        None => error,
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("sources", &self.sources)
            .field("connected", &self.link.is_connected())
            .field("stopping", &self.stopping)
            .finish_non_exhaustive()
    }
}
