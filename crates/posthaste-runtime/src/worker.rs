//! One worker: takes a delivery, or a batch, runs its handler, and sees it settled.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use posthaste_core::{Delivery, Error, Result};

use crate::context::Context;
use crate::control::Phase;
use crate::floor::{Floor, Intake, failed};
use crate::report::count;
use crate::route::{Found, Route};
use crate::slot::{Slot, clear, guarded};
use crate::{Outcome, Replies};

/// A call that computes for longer than this holds up others, if they wait for it.
const HEAVY: Duration = Duration::from_micros(50);
/// One call in so many is looked at.
const LOOK_EVERY: u32 = 16;

/// A worker's place of work. Its task is owned by the consumer.
pub(crate) struct Worker {
    /// By route; made when the first message of the route comes here.
    slots: Vec<Option<Box<dyn Slot>>>,
    route: usize,
    /// What is being handled: one delivery, but for handlers of batches.
    batch: Vec<Delivery>,
    /// How often it was tried here before.
    again: u32,
    /// Whether the handler was called.
    begun: bool,
    refused: Vec<(usize, Error)>,
    turn: u32,
}

/// How a call of a handler ended.
enum Ended {
    Replied(Replies),
    /// The lease is gone: the message is not ours any more.
    Lost,
    /// Nothing was left to handle.
    Empty,
}

/// Works until the subscription ends.
pub(crate) async fn work(floor: Arc<Floor>) {
    let mut worker = Worker::new(floor.routes.len());
    let mut lead = floor.intake.lock().await;
    while worker.take(&floor, &mut lead).await {
        let ended = if floor.routes.get(worker.route).is_heavy() {
            None
        } else {
            worker.try_at_once(&floor).await
        };
        match ended {
            Some(ended) if !worker.takes_time(&floor, &ended) => worker.settle(&floor, ended).await,
            ended => {
                drop(lead);
                if !worker.begun {
                    // Who has the lead now is next on this very thread: it goes first, and this
                    // one computes elsewhere.
                    tokio::task::yield_now().await;
                }
                worker.see_through(&floor, ended).await;
                lead = floor.intake.lock().await;
            }
        }
    }
}

impl Worker {
    fn new(routes: usize) -> Self {
        let slots = std::iter::repeat_with(|| None).take(routes).collect();
        let (batch, refused) = (Vec::new(), Vec::new());
        Self { slots, route: 0, batch, again: 0, begun: false, refused, turn: 0 }
    }

    /// Takes the next delivery that has a handler, and more of the kind for a handler of batches.
    /// `false` at the end.
    async fn take(&mut self, floor: &Floor, intake: &mut Intake) -> bool {
        loop {
            let carried = intake.carry.take().filter(|delivery| !delivery.is_lost());
            let next = match carried {
                Some(delivery) => Some(Ok(delivery)),
                None => receive(floor, intake).await,
            };
            let delivery = match next {
                Some(Ok(delivery)) => delivery,
                Some(Err(error)) => {
                    floor.fail(error);
                    return false;
                }
                None => return false,
            };
            match floor.routes.find(delivery.topic(), delivery.envelope()) {
                Found::Route(route) => {
                    self.begin_with(route, delivery);
                    let max = floor.routes.get(route).batch;
                    if max > 1 {
                        self.gather(floor, intake, max);
                    }
                    return true;
                }
                found => {
                    if !floor.unknown(delivery, found).await {
                        return false;
                    }
                }
            }
        }
    }

    fn begin_with(&mut self, route: usize, delivery: Delivery) {
        self.route = route;
        self.again = 0;
        self.begun = false;
        self.batch.push(delivery);
    }

    /// Takes what is there and goes the same way, without waiting.
    fn gather(&mut self, floor: &Floor, intake: &mut Intake, max: usize) {
        while self.batch.len() < max {
            match intake.subscription.next().now_or_never() {
                Some(Some(Ok(next))) => {
                    let found = floor.routes.find(next.topic(), next.envelope());
                    if found == Found::Route(self.route) {
                        self.batch.push(next);
                    } else {
                        intake.carry = Some(next);
                        break;
                    }
                }
                Some(Some(Err(error))) => {
                    floor.fail(error);
                    break;
                }
                Some(None) | None => break,
            }
        }
    }

    /// Calls the handler, unless it is over before: with what it ended.
    async fn begin(&mut self, floor: &Floor) -> Option<Ended> {
        let route = floor.routes.get(self.route);
        let slot = self.slots[self.route].get_or_insert_with(|| (route.slot)());
        let context = Context { outbox: &floor.outbox, again: self.again };
        let (batch, refused) = (&self.batch, &mut self.refused);
        let started = guarded(slot, |slot| slot.start(batch, context, refused));
        self.begun = true;
        match started {
            Ok(true) if self.refused.is_empty() => None,
            Ok(started) => {
                while let Some((index, error)) = self.refused.pop() {
                    floor.refuse(self.batch.remove(index), error, route).await;
                }
                (!started).then_some(Ended::Empty)
            }
            Err(panic) => {
                self.refused.clear();
                Some(Ended::Replied(floor.panicked(&panic)))
            }
        }
    }

    /// Calls the handler and polls it once. `None` if it has to wait.
    async fn try_at_once(&mut self, floor: &Floor) -> Option<Ended> {
        self.turn = self.turn.wrapping_add(1);
        let since = (self.turn % LOOK_EVERY == 1).then(Instant::now);
        if let Some(ended) = self.begin(floor).await {
            return Some(ended);
        }
        let polled = self.poll_once(floor).await;
        weigh(floor.routes.get(self.route), since);
        polled
    }

    /// Polls the handler that was called.
    async fn poll_once(&mut self, floor: &Floor) -> Option<Ended> {
        let slot = self.slots[self.route].as_mut()?;
        let polled = poll_fn(|cx| Poll::Ready(guarded(slot, |slot| slot.poll(cx)))).await;
        match polled {
            Ok(Poll::Ready(replies)) => Some(Ended::Replied(replies)),
            Ok(Poll::Pending) => None,
            Err(panic) => Some(Ended::Replied(floor.panicked(&panic))),
        }
    }

    /// Runs the handler to its end, its limit, or that of its lease.
    async fn drive(&mut self, floor: &Floor) -> Ended {
        if !self.begun {
            let since = Instant::now();
            if let Some(ended) = self.begin(floor).await {
                return ended;
            }
            let polled = self.poll_once(floor).await;
            weigh(floor.routes.get(self.route), Some(since));
            if let Some(ended) = polled {
                return ended;
            }
        }
        let Some(slot) = self.slots[self.route].as_mut() else { return Ended::Empty };
        let end = tokio::select! {
            biased;
            polled = poll_fn(|cx| match guarded(slot, |slot| slot.poll(cx)) {
                Ok(polled) => polled.map(Ok),
                Err(panic) => Poll::Ready(Err(panic)),
            }) => match polled {
                Ok(replies) => return Ended::Replied(replies),
                Err(panic) => return Ended::Replied(floor.panicked(&panic)),
            },
            () = lost(&self.batch) => Ended::Lost,
            () = limit(floor.time_limit) => Ended::Replied(floor.timed_out()),
        };
        clear(slot);
        end
    }

    /// Whether something has to be awaited before it is settled.
    fn takes_time(&self, floor: &Floor, ended: &Ended) -> bool {
        let publishes = match ended {
            Ended::Replied(Replies::All(reply)) => !reply.messages.is_empty(),
            Ended::Replied(Replies::Each(replies)) => {
                replies.iter().any(|reply| !reply.messages.is_empty())
            }
            Ended::Lost | Ended::Empty => false,
        };
        publishes || self.is_tried_again(floor, ended)
    }

    fn is_tried_again(&self, floor: &Floor, ended: &Ended) -> bool {
        let single = floor.routes.get(self.route).batch == 1 && self.batch.len() == 1;
        match ended {
            Ended::Replied(Replies::All(reply)) if single => {
                floor.policy.is_immediate(&reply.outcome, self.again)
            }
            _ => false,
        }
    }

    /// Does what is left until the batch is settled.
    async fn see_through(&mut self, floor: &Floor, ended: Option<Ended>) {
        let mut ended = ended;
        loop {
            let mut now = match ended.take() {
                Some(ended) => ended,
                None => self.drive(floor).await,
            };
            self.publish(floor, &mut now).await;
            if !self.is_tried_again(floor, &now) || self.batch.iter().any(Delivery::is_lost) {
                return self.settle(floor, now).await;
            }
            count(&floor.counters.failed);
            self.again += 1;
            self.begun = false;
        }
    }

    async fn publish(&mut self, floor: &Floor, ended: &mut Ended) {
        let route = floor.routes.get(self.route);
        match ended {
            Ended::Replied(Replies::All(reply)) => floor.publish(&self.batch, reply, route).await,
            Ended::Replied(Replies::Each(replies)) => {
                for (delivery, reply) in self.batch.iter().zip(replies) {
                    floor.publish(std::slice::from_ref(delivery), reply, route).await;
                }
            }
            Ended::Lost | Ended::Empty => {}
        }
    }

    /// Settles what was handled. Never waits.
    async fn settle(&mut self, floor: &Floor, ended: Ended) {
        let route = floor.routes.get(self.route);
        match ended {
            Ended::Replied(Replies::All(reply)) => {
                for delivery in self.batch.drain(..) {
                    floor.settle(delivery, &reply.outcome, route).await;
                }
            }
            Ended::Replied(Replies::Each(replies)) => self.settle_each(floor, route, replies).await,
            Ended::Lost => {
                for delivery in self.batch.drain(..) {
                    // Those of a batch that are still ours go back without fault; the others
                    // cannot, and need not.
                    drop(delivery.release().await);
                }
            }
            Ended::Empty => self.batch.clear(),
        }
    }

    async fn settle_each(&mut self, floor: &Floor, route: &Route, replies: Vec<crate::Reply>) {
        let (wanted, found) = (self.batch.len(), replies.len());
        let wrong = match failed(format!("the handler returned {found} outcomes for {wanted}")) {
            Replies::All(reply) if wanted != found => Some(reply),
            _ => None,
        };
        let mut replies = replies.into_iter();
        for delivery in self.batch.drain(..) {
            let own = replies.next().map_or(Outcome::Retry, |reply| reply.outcome);
            let outcome = wrong.as_ref().map_or(&own, |reply| &reply.outcome);
            floor.settle(delivery, outcome, route).await;
        }
    }
}

/// The next delivery, while the consumer is not paused.
async fn receive(floor: &Floor, intake: &mut Intake) -> Option<Result<Delivery>> {
    loop {
        if floor.control.is_paused() {
            // The control is the floor's, so it cannot be gone.
            let _ = intake.phase.wait_for(|phase| *phase != Phase::Paused).await;
        }
        let subscription = &mut intake.subscription;
        // Asked again whenever it is polled: a message may come together with a pause.
        let next = poll_fn(|cx| match floor.control.is_paused() {
            true => Poll::Ready(None),
            false => subscription.poll_next_unpin(cx).map(Some),
        });
        tokio::select! {
            biased;
            next = next => {
                if let Some(next) = next {
                    return next;
                }
            }
            _ = intake.phase.changed() => {}
        }
    }
}

/// Notes whether calls of that handler compute for long.
fn weigh(route: &Route, since: Option<Instant>) {
    if let Some(since) = since {
        route.weigh(since.elapsed() > HEAVY);
    }
}

/// Waits until one of these leases is lost.
async fn lost(batch: &[Delivery]) {
    match batch {
        [one] => one.lost().await,
        several => {
            let mut leases: FuturesUnordered<_> = several.iter().map(Delivery::lost).collect();
            leases.next().await;
        }
    }
}

async fn limit(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}
