//! Receiving: a driver that takes whole batches from its topics' groups, and finds its way back
//! after a disconnect.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use posthaste_core::broker::{
    Credit, DriverEvent, Lane, LaneState, Polled, Received, Settler, SubscribeRequest, Subscribed,
    SubscriptionDriver,
};
use posthaste_core::{Error, Result, Topology};
use tokio::time::{Instant, Sleep};

use crate::attach::{Attached, Source, attach, check};
use crate::engine::{Connection, Engine, Fetch, Fetched, Leave, LinkState, Port, later};
use crate::settle::MemorySettler;
use crate::{MemoryBroker, error};

/// The group of a queue.
pub(crate) const QUEUE_GROUP: &str = "queue";

/// Starts a subscription. Nothing is awaited, so that it cannot be cancelled half-way.
pub(crate) fn subscribe(broker: &MemoryBroker, request: SubscribeRequest) -> Result<Subscribed> {
    if request.topics.is_empty() {
        return Err(Error::invalid("a subscription needs a topic").with_broker(error::BROKER));
    }
    if request.lease.is_zero() || request.prefetch.count == 0 {
        return Err(Error::invalid("lease and prefetch must be greater than zero")
            .with_broker(error::BROKER));
    }
    // Everything that can be refused is, before anything is created.
    for name in &request.topics {
        match broker.engine().topic(name) {
            Some(topic) => check(&topic, &request)?,
            None if request.topology == Topology::Create => {
                if request.order == posthaste_core::Order::PerKey {
                    return Err(error::not_ordered(name));
                }
            }
            None => return Err(error::no_topic(name)),
        }
    }
    let (engine, connection) = (broker.engine(), broker.connection());
    let (id, port) = (engine.next_id(), Arc::new(Port::default()));
    engine.add_port(id, &port);
    let settler = Arc::new(MemorySettler::new(engine, connection));
    let mut driver = Box::new(Driver {
        engine: Arc::clone(engine),
        connection: Arc::clone(connection),
        id,
        port,
        settler,
        sources: Vec::with_capacity(request.topics.len()),
        request,
        attached: true,
        disconnected: false,
        away_until: None,
        stopped: false,
        events: VecDeque::new(),
        lanes: Vec::new(),
        next: 0,
        deadline: None,
        timer: None,
    });
    let mut lease = Duration::MAX;
    let mut differences = Vec::new();
    for at in 0..driver.request.topics.len() {
        // On an error the driver is dropped, which undoes what was attached.
        let attached = driver.attach_source(at)?;
        lease = lease.min(attached.lease);
        differences.extend(attached.difference);
    }
    let mut subscribed = Subscribed::new(driver, lease);
    subscribed.differences = differences;
    Ok(subscribed)
}

#[derive(Debug)]
struct Driver {
    engine: Arc<Engine>,
    connection: Arc<Connection>,
    request: SubscribeRequest,
    id: u64,
    port: Arc<Port>,
    settler: Arc<MemorySettler>,
    /// One for each topic, in the order of the request.
    sources: Vec<Source>,
    /// Whether we are a member of the groups.
    attached: bool,
    /// Whether the application was told so.
    disconnected: bool,
    away_until: Option<Instant>,
    stopped: bool,
    /// What is to be told next. Bounded by what one turn brings.
    events: VecDeque<DriverEvent>,
    /// The lanes of ordered topics that we were given.
    lanes: Vec<Arc<Lane>>,
    /// The source to begin with, so that a busy one starves nobody.
    next: usize,
    /// When to look again without being woken.
    deadline: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl SubscriptionDriver for Driver {
    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<Received>,
        credit: Credit,
    ) -> Poll<Result<Polled>> {
        // At least one message passes, however large it is.
        let credit = Credit::new(credit.messages, credit.bytes.max(1));
        if let Some(polled) = self.look(out, credit).transpose() {
            return Poll::Ready(polled);
        }
        loop {
            // Look once more behind the registration: what comes after the look wakes us.
            self.port.register(cx.waker());
            if let Some(polled) = self.look(out, credit).transpose() {
                return Poll::Ready(polled);
            }
            if self.poll_timer(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn stop(&mut self) {
        if !self.stopped {
            self.stopped = true;
            self.leave(Leave::Stopped);
            self.timer = None;
            self.port.wake();
        }
    }

    fn settler(&self) -> Arc<dyn Settler> {
        Arc::clone(&self.settler) as Arc<dyn Settler>
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.stop();
        self.engine.remove_port(self.id);
        if self.request.group.is_none() {
            // An ephemeral group ends with its only member.
            for source in &self.sources {
                source.topic.turn(|state, turn| {
                    if let Some(mut group) = state.groups.remove(&source.group) {
                        group.restart(turn);
                    }
                });
            }
        }
    }
}

impl Driver {
    /// What there is now, if anything.
    fn look(&mut self, out: &mut Vec<Received>, credit: Credit) -> Result<Option<Polled>> {
        self.deadline = None;
        if let Some(event) = self.events.pop_front() {
            return Ok(Some(Polled::Event(event)));
        }
        if self.stopped {
            return Ok(Some(Polled::Stopped));
        }
        if self.connection.is_closed() {
            self.leave(Leave::Broken);
            return Err(error::closed());
        }
        match self.engine.link.state() {
            LinkState::Silent => return Ok(None),
            LinkState::Down => return Ok(self.disconnect("the broker is down")),
            LinkState::Up => {}
        }
        if let Some(until) = self.away_until {
            if Instant::now() < until {
                self.deadline = Some(until);
                return Ok(self.disconnect("injected fault: the connection was cut"));
            }
            self.away_until = None;
        }
        if !self.attached {
            if let Some(event) = self.disconnect("the broker closed the connection") {
                return Ok(Some(event));
            }
            // First, so that what was attached before an error is left again.
            self.attached = true;
            for at in 0..self.request.topics.len() {
                self.attach_source(at)?;
            }
        }
        if std::mem::take(&mut self.disconnected) {
            return Ok(Some(Polled::Event(DriverEvent::Reconnected)));
        }
        self.fetch(out, credit)
    }

    fn fetch(&mut self, out: &mut Vec<Received>, credit: Credit) -> Result<Option<Polled>> {
        let before = out.len();
        let mut left = credit;
        let count = self.sources.len();
        for step in 0..count {
            if out.len() > before && (left.messages == 0 || left.bytes == 0) {
                break;
            }
            let at = (self.next + step) % count.max(1);
            let fetched = self.fetch_source(at, out, &mut left);
            match fetched {
                Some(Fetched::Messages) => {}
                Some(Fetched::Event(event)) => {
                    self.note_lane(&event);
                    self.events.push_back(event);
                }
                Some(Fetched::Unknown) => {
                    self.leave(Leave::Broken);
                    break;
                }
                // What was received goes first; the deletion is found again.
                None if out.len() > before => break,
                None => self.replace_source(at)?,
            }
        }
        self.next = (self.next + 1) % count.max(1);
        if out.len() > before {
            if let Some(away) = self.engine.faults.disconnects() {
                self.leave(Leave::Broken);
                self.away_until = Some(later(Instant::now(), away));
            }
            return Ok(Some(Polled::Batch));
        }
        if !self.attached {
            return Ok(self.disconnect("the broker closed the connection"));
        }
        Ok(self.events.pop_front().map(Polled::Event))
    }

    /// One turn on a topic. `None` if the topic was deleted.
    fn fetch_source(
        &mut self,
        at: usize,
        out: &mut Vec<Received>,
        left: &mut Credit,
    ) -> Option<Fetched> {
        let source = self.sources.get(at)?;
        let faults = &self.engine.faults;
        let mut fetch = Fetch {
            member: source.member,
            source: source.number,
            credit: *left,
            mode: self.request.mode,
            twice: &mut || faults.duplicates(),
            out,
        };
        let (fetched, deadline) = source.topic.turn(|state, turn| {
            let Some(group) = state.groups.get_mut(&source.group) else {
                return (Fetched::Unknown, None);
            };
            let fetched = group.fetch(&state.logs, &mut fetch, turn);
            (fetched, group.next_deadline())
        })?;
        *left = fetch.credit;
        self.deadline = [self.deadline, deadline].into_iter().flatten().min();
        Some(fetched)
    }

    /// The topic was deleted under us: a new one under `Create`, else the end.
    fn replace_source(&mut self, at: usize) -> Result<()> {
        let Some(source) = self.sources.get(at) else { return Ok(()) };
        let topic = source.topic.name.clone();
        if self.request.topology != Topology::Create {
            return Err(error::no_topic(&topic));
        }
        let lost = source.topic.turn_even_if_deleted(|state, _| {
            state.groups.get_mut(&source.group).and_then(crate::engine::Group::take_lost)
        });
        // Another member may have told the loss already.
        self.events.extend(lost.map(|lost| DriverEvent::Lost {
            topic,
            count: Some(lost.count),
            reason: lost.reason.to_owned(),
        }));
        self.tell_lost_lanes();
        self.attach_source(at).map(|_| ())
    }

    /// Joins the group of that topic, for the first time or again.
    fn attach_source(&mut self, at: usize) -> Result<Attached> {
        let former = self.sources.get(at);
        let attached = attach(&self.engine, &self.request, at, former, &self.port, &self.settler)?;
        self.events.extend(attached.lost.clone());
        let source = attached.source.clone();
        match self.sources.get_mut(at) {
            Some(former) => *former = source,
            None => self.sources.push(source),
        }
        Ok(attached)
    }

    fn leave(&mut self, how: Leave) {
        for source in self.sources.iter().filter(|_| self.attached) {
            source.topic.turn(|state, turn| {
                if let Some(group) = state.groups.get_mut(&source.group) {
                    group.leave(source.member, how, turn);
                }
            });
        }
        self.attached = false;
        if how == Leave::Broken {
            self.tell_lost_lanes();
        }
    }

    /// Tells the application once, before anything else.
    fn disconnect(&mut self, reason: &str) -> Option<Polled> {
        if std::mem::replace(&mut self.disconnected, true) {
            return None;
        }
        Some(Polled::Event(DriverEvent::Disconnected { reason: reason.to_owned() }))
    }

    fn note_lane(&mut self, event: &DriverEvent) {
        match event {
            DriverEvent::LaneAssigned(lane) => self.lanes.push(Arc::clone(lane)),
            DriverEvent::LaneRevoked(lane) => self.lanes.retain(|ours| !Arc::ptr_eq(ours, lane)),
            _ => {}
        }
    }

    fn tell_lost_lanes(&mut self) {
        let lost = self.lanes.extract_if(.., |lane| lane.state() == LaneState::Lost);
        self.events.extend(lost.map(DriverEvent::LaneRevoked));
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else {
            self.timer = None;
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx)
    }
}
