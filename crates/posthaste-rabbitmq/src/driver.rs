//! The driver: polled by core, it reads the consumers of its channel, and opens another channel
//! when that one is gone.
//!
//! It has no task. What is under way (opening, cancelling, settling before the handler) is in here,
//! so that a poll that is given up loses nothing.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream as _;
use lapin::message::Delivery;
use posthaste_core::broker::{
    Credit, DeliveryMode, DriverEvent, Polled, Position, Received, Settler, SubscriptionDriver,
    Token,
};
use posthaste_core::{Error, Result};
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use crate::attach::{Attached, Source, attach_again, cancel};
use crate::convert::{self, Origin};
use crate::error::BROKER;
use crate::line::{Line, Told};
use crate::settle::RabbitmqSettler;

/// A channel that lived shorter than that is followed by a pause.
const SHORT_LIFE: Duration = Duration::from_secs(1);

type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

pub(crate) struct Driver {
    line: Arc<Line>,
    settler: Arc<RabbitmqSettler>,
    /// The task of the subscription ends with the driver.
    _ended: DropGuard,
    state: State,
    events: VecDeque<DriverEvent>,
    /// What is settled before it is handed out, and what of it may be handed out now.
    settling: Option<(Work<Result<()>>, Vec<Received>)>,
    settled: VecDeque<Received>,
    stopping: bool,
    opened: Instant,
    /// Who is read first.
    next: usize,
}

enum State {
    Open(Attached),
    Opening(Work<Result<Attached>>),
    /// The broker is told to send nothing more.
    Cancelling(Attached, Work<()>),
    Ended,
}

impl Driver {
    pub(crate) fn new(line: Arc<Line>, attached: Attached, ended: DropGuard) -> Self {
        Self {
            settler: Arc::new(RabbitmqSettler::new(Arc::clone(&line))),
            line,
            _ended: ended,
            state: State::Open(attached),
            events: VecDeque::new(),
            settling: None,
            settled: VecDeque::new(),
            stopping: false,
            opened: Instant::now(),
            next: 0,
        }
    }

    /// The channel is gone.
    fn lose(&mut self, attached: &Attached, why: String) {
        self.line.lose(attached.generation);
        for source in attached.sources.iter().filter(|source| source.assigned) {
            self.events.push_back(DriverEvent::LaneRevoked(Arc::clone(&source.lane)));
        }
        self.events.push_back(DriverEvent::Disconnected { reason: why });
        let pause = match self.opened.elapsed() < SHORT_LIFE {
            true => Duration::from_millis(100),
            false => Duration::ZERO,
        };
        self.state = State::Opening(Box::pin(attach_again(Arc::clone(&self.line), pause)));
    }

    fn opened(&mut self, attached: Attached) {
        self.opened = Instant::now();
        self.events.push_back(DriverEvent::Reconnected);
        for at in &attached.lost {
            if let Some(planned) = self.line.plan.topics.get(*at) {
                let reason = match planned.group {
                    Some(_) => "the queue of the group was deleted, and is made again",
                    None => "the connection was lost, and without a group nothing is kept",
                };
                self.events.push_back(DriverEvent::Lost {
                    topic: planned.topic.clone(),
                    count: None,
                    reason: reason.to_owned(),
                });
            }
        }
        self.state = State::Open(attached);
    }

    /// Begins to end the channel in good order.
    fn begin_stop(&mut self, attached: Attached) {
        self.state = if self.line.plan.is_ordered() {
            // Its consumers stay: another member must not begin before what is held is settled.
            // The channel closes with the driver, and the consumers go with it.
            State::Ended
        } else {
            let tags = attached.sources.iter().map(|source| source.consumer.tag()).collect();
            let cancelling = Box::pin(cancel(attached.channel.clone(), tags));
            State::Cancelling(attached, cancelling)
        };
    }

    /// Settles what was read before it is handed out.
    fn settle_first(&mut self, read: Vec<Received>, generation: u32) {
        let line = Arc::clone(&self.line);
        let told = read.iter().map(|received| (received.token.sequence, Told::Ack)).collect();
        let settling = async move {
            line.tell(told, generation).await?;
            // So that it does not come again if the connection is lost now.
            line.barrier(generation).await
        };
        self.settling = Some((Box::pin(settling), read));
    }

    fn poll_settling(&mut self, cx: &mut Context<'_>) {
        if let Some((settling, read)) = &mut self.settling
            && let Poll::Ready(settled) = settling.as_mut().poll(cx)
        {
            let read = std::mem::take(read);
            match settled {
                Ok(()) => self.settled.extend(read),
                // Whether they were settled is not known: who handles them could do so twice.
                Err(error) => {
                    tracing::debug!(%error, messages = read.len(), "at most once: given up");
                }
            }
            self.settling = None;
        }
    }
}

/// Reads what is there, within the credit. Says why the channel is gone, if it is.
fn read(
    cx: &mut Context<'_>,
    attached: &mut Attached,
    next: &mut usize,
    out: &mut Vec<Received>,
    credit: Credit,
    line: &Line,
    events: &mut VecDeque<DriverEvent>,
) -> Option<String> {
    let (mut messages, mut bytes) = (credit.messages, credit.bytes.max(1));
    let mut gone = None;
    let sources = attached.sources.len();
    let first = *next;
    for step in 0..sources {
        let at = (first + step) % sources;
        let source = &mut attached.sources[at];
        let before = out.len();
        while messages > 0 && bytes > 0 && !source.ended {
            match Pin::new(&mut source.consumer).poll_next(cx) {
                Poll::Ready(Some(Ok(delivery))) => {
                    let received = received(delivery, source, attached.generation);
                    messages -= 1;
                    bytes = bytes.saturating_sub(received.envelope.size());
                    out.push(received);
                }
                Poll::Ready(Some(Err(error))) => {
                    source.ended = true;
                    gone = Some(error.to_string());
                }
                Poll::Ready(None) => source.ended = true,
                Poll::Pending => break,
            }
        }
        let tags = out[before..].iter().map(|received| received.token.sequence);
        line.arrive(tags, attached.generation);
        if out.len() > before {
            *next = at + 1;
            if source.lane.partition().is_some() && !std::mem::replace(&mut source.assigned, true) {
                events.push_back(DriverEvent::LaneAssigned(Arc::clone(&source.lane)));
            }
        }
    }
    gone
}

fn received(mut delivery: Delivery, source: &Source, generation: u32) -> Received {
    let body = Bytes::from(std::mem::take(&mut delivery.data));
    let origin =
        Origin { exchange: delivery.exchange.as_str(), routing_key: delivery.routing_key.as_str() };
    let attempt = convert::attempt(&delivery.properties, delivery.redelivered, source.counted);
    let envelope = convert::envelope(&delivery.properties, body, &origin);
    let token = Token::sequence(source.number, generation, delivery.delivery_tag);
    Received::new(envelope, token, Arc::clone(&source.lane))
        .with_attempt(attempt)
        .with_position(Position::default().in_partition(source.lane.partition()))
}

impl SubscriptionDriver for Driver {
    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<Received>,
        credit: Credit,
    ) -> Poll<Result<Polled>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(Ok(Polled::Event(event)));
            }
            self.poll_settling(cx);
            if !self.settled.is_empty() {
                let most = credit.messages.min(self.settled.len());
                out.extend(self.settled.drain(..most));
                return Poll::Ready(Ok(Polled::Batch));
            }
            let first = self.line.plan.mode == DeliveryMode::AtMostOnce;
            match std::mem::replace(&mut self.state, State::Ended) {
                State::Open(attached) if self.stopping => self.begin_stop(attached),
                State::Open(mut attached) => {
                    let before = out.len();
                    let gone = match self.settling {
                        // One batch at a time.
                        Some(_) => None,
                        None => read(
                            cx,
                            &mut attached,
                            &mut self.next,
                            out,
                            credit,
                            &self.line,
                            &mut self.events,
                        ),
                    };
                    let ended = attached.sources.iter().any(|source| source.ended);
                    let generation = attached.generation;
                    match gone {
                        Some(why) => self.lose(&attached, why),
                        None if ended => {
                            let why = "the broker cancelled a consumer: its queue is gone or moves";
                            self.lose(&attached, why.to_owned());
                        }
                        None => self.state = State::Open(attached),
                    }
                    if out.len() > before {
                        if first {
                            let read = out.drain(before..).collect();
                            self.settle_first(read, generation);
                            continue;
                        }
                        return Poll::Ready(Ok(Polled::Batch));
                    }
                    if self.events.is_empty() && matches!(self.state, State::Open(_)) {
                        return Poll::Pending;
                    }
                }
                State::Opening(_) if self.stopping => {}
                State::Opening(mut opening) => match opening.as_mut().poll(cx) {
                    Poll::Ready(Ok(attached)) => self.opened(attached),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(self.named(error))),
                    Poll::Pending => {
                        self.state = State::Opening(opening);
                        return Poll::Pending;
                    }
                },
                State::Cancelling(mut attached, mut cancelling) => {
                    let cancelled = cancelling.as_mut().poll(cx).is_ready();
                    let before = out.len();
                    read(
                        cx,
                        &mut attached,
                        &mut self.next,
                        out,
                        credit,
                        &self.line,
                        &mut self.events,
                    );
                    let all = attached.sources.iter().all(|source| source.ended);
                    if cancelled && (all || !attached.channel.status().connected()) {
                        self.state = State::Ended;
                    } else if cancelled {
                        // A broken channel ends its streams, too.
                        let over = Box::pin(std::future::pending());
                        self.state = State::Cancelling(attached, over);
                    } else {
                        self.state = State::Cancelling(attached, cancelling);
                    }
                    if out.len() > before {
                        if first {
                            // Nobody will see them: they stay unsettled and come again.
                            out.truncate(before);
                            continue;
                        }
                        return Poll::Ready(Ok(Polled::Batch));
                    }
                    if matches!(self.state, State::Cancelling(..)) {
                        return Poll::Pending;
                    }
                }
                // What is settled first is said to be lost, and not forgotten.
                State::Ended if self.settling.is_some() => return Poll::Pending,
                State::Ended => return Poll::Ready(Ok(Polled::Stopped)),
            }
        }
    }

    fn stop(&mut self) {
        self.stopping = true;
        self.line.stop();
    }

    fn settler(&self) -> Arc<dyn Settler> {
        Arc::clone(&self.settler) as Arc<dyn Settler>
    }
}

impl Driver {
    #[cold]
    fn named(&self, error: Error) -> Error {
        let error = error.with_broker(BROKER);
        match self.line.plan.topics.first() {
            Some(planned) => {
                let error = error.with_topic(&planned.topic);
                match &planned.group {
                    Some(group) => error.with_group(group),
                    None => error,
                }
            }
            None => error,
        }
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Open(_) => "open",
            State::Opening(_) => "opening",
            State::Cancelling(..) => "cancelling",
            State::Ended => "ended",
        };
        f.debug_struct("Driver")
            .field("line", &self.line)
            .field("state", &state)
            .field("stopping", &self.stopping)
            .finish_non_exhaustive()
    }
}
