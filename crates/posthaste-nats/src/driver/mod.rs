//! The driver: polled by core, it reads the inboxes of its consumers and asks for more.
//!
//! It has no task of its own. What is under way (requests, checks, what came and was not taken
//! yet) is in here, so that a poll that is given up loses nothing. Which lanes of ordered topics
//! it reads, its keepers decide.

mod asking;
mod intake;
mod upkeep;

use std::collections::VecDeque;
use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_nats::Client;
use posthaste_core::broker::{
    Credit, DriverEvent, Polled, Received, Settler, SubscribeRequest, SubscriptionDriver,
};
use posthaste_core::{Error, ErrorKind, Result, Topology};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::DropGuard;

use crate::credit::Want;
use crate::error::BROKER;
use crate::hub::Hub;
use crate::kept::Kept;
use crate::lanes::handle::Signals;
use crate::lanes::keeper::{FromKeeper, Wish};
use crate::link_watch::LinkWatch;
use crate::settle::NatsSettler;
use crate::source::{Source, State};

pub(crate) struct Driver {
    hub: Arc<Hub>,
    /// Requests are sent through it from a poll.
    client: Client,
    request: SubscribeRequest,
    sources: Vec<Source>,
    keepers: Vec<KeeperLink>,
    signals: Arc<Signals>,
    _presence: Vec<DropGuard>,
    settler: Arc<NatsSettler>,
    link: LinkWatch,
    events: VecDeque<DriverEvent>,
    /// What may go out and was not taken yet: of ordered lanes, or beyond the credit because a
    /// request outlived a reconnect.
    queue: VecDeque<Kept>,
    /// The running mean of messages' sizes.
    mean: usize,
    stopping: bool,
    /// That nothing is asked any more was said, after the stop.
    quiet: bool,
    failure: Option<Error>,
    /// Who is asked first where there is not credit for all.
    first: usize,
    /// Somebody has messages, and requests of the others would keep the credit from it.
    tight: bool,
    next_loss_check: Instant,
    timer: Pin<Box<Sleep>>,
    wants: Vec<Want>,
    grants: Vec<usize>,
}

/// The way to the keeper of one ordered topic's lanes.
#[derive(Debug)]
pub(crate) struct KeeperLink {
    pub(crate) opened: mpsc::Receiver<FromKeeper>,
    pub(crate) wish: watch::Sender<Wish>,
}

/// What a driver begins with.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) sources: Vec<Source>,
    pub(crate) keepers: Vec<KeeperLink>,
    pub(crate) signals: Arc<Signals>,
    /// As long as they are here, the member is there.
    pub(crate) presence: Vec<DropGuard>,
    pub(crate) settler: Arc<NatsSettler>,
    pub(crate) events: VecDeque<DriverEvent>,
}

impl Driver {
    pub(crate) fn new(hub: Arc<Hub>, request: SubscribeRequest, parts: Parts) -> Self {
        let Parts { sources, keepers, signals, presence, settler, events } = parts;
        let now = Instant::now();
        Self {
            client: hub.client.clone(),
            link: LinkWatch::new(&hub.link),
            hub,
            request,
            sources,
            keepers,
            signals,
            _presence: presence,
            settler,
            events,
            queue: VecDeque::new(),
            mean: 1_024,
            stopping: false,
            quiet: false,
            failure: None,
            first: 0,
            tight: false,
            next_loss_check: now,
            timer: Box::pin(tokio::time::sleep_until(now)),
            wants: Vec::new(),
            grants: Vec::new(),
        }
    }

    fn wish(&self, wish: Wish) {
        for keeper in &self.keepers {
            // One that has ended wants nothing any more.
            let _ = keeper.wish.send(wish);
        }
    }

    /// Notes what became of the connection.
    fn look_at_link(&mut self, cx: &mut Context<'_>) {
        match self.link.poll(cx, &mut self.events) {
            Ok(false) => {}
            Ok(true) => {
                // The server forgets every request with the connection.
                let (now, client) = (Instant::now(), &self.client);
                let back = self.link.is_connected().then_some(client);
                self.sources.iter_mut().for_each(|source| source.cut_off(back, now));
            }
            Err(error) => {
                self.failure.get_or_insert(error);
            }
        }
    }

    /// Takes what the keepers have opened. Keepers that have ended go.
    fn look_at_keepers(&mut self, cx: &mut Context<'_>) {
        self.signals.driver.register(cx.waker());
        let (sources, failure) = (&mut self.sources, &mut self.failure);
        self.keepers.retain_mut(|keeper| {
            loop {
                match keeper.opened.poll_recv(cx) {
                    Poll::Ready(Some(FromKeeper::Opened(source))) => sources.push(*source),
                    Poll::Ready(Some(FromKeeper::Failed(error))) => {
                        failure.get_or_insert(error);
                    }
                    Poll::Ready(None) => return false,
                    Poll::Pending => return true,
                }
            }
        });
    }

    /// Nothing comes any more, also of what was asked for.
    fn end_sources(&mut self) {
        for mut source in self.sources.drain(..) {
            source.end();
            if let Some(order) = &source.order {
                order.handle.close();
            }
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
            if let Some(at) = source.looks_at(self.tight) {
                sooner(at);
            }
            if let Some(at) = source.pulls.overdue_at() {
                sooner(at);
                if (self.stopping || source.is_going()) && matches!(source.state, State::Open) {
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
            self.look_at_keepers(cx);
            self.tell_of_lanes();
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
                let ended = self.sources.is_empty() && self.queue.is_empty();
                if (ended && self.keepers.is_empty()) || self.failure.is_some() {
                    self.end_sources();
                    return Poll::Ready(Ok(Polled::Stopped));
                }
                if ended && !std::mem::replace(&mut self.quiet, true) {
                    return Poll::Ready(Ok(Polled::Quiet));
                }
            } else if let Some(error) = self.failure.take() {
                return Poll::Ready(Err(named(error, &self.request)));
            }
            ready!(self.poll_timer(cx));
        }
    }

    fn stop(&mut self) {
        self.stopping = true;
        self.wish(Wish::Stop);
    }

    fn settler(&self) -> Arc<dyn Settler> {
        Arc::clone(&self.settler) as Arc<dyn Settler>
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.wish(Wish::Drop);
        self.end_sources();
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
            .field("queue", &self.queue.len())
            .field("stopping", &self.stopping)
            .finish_non_exhaustive()
    }
}
