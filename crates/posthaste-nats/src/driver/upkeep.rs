//! What sources do besides delivering: pausing, being checked, recovering, ending.

use std::sync::Arc;
use std::task::{Context, Poll};

use posthaste_core::broker::{DriverEvent, Received};
use tokio::time::Instant;

use super::Driver;
use crate::lanes::nudge::Target;
use crate::ordered::Step;
use crate::repair::{self, Checked, Suspect};
use crate::request::Limits;
use crate::source::State;

impl Driver {
    /// Tells the application of lanes that came and that go.
    pub(super) fn tell_of_lanes(&mut self) {
        for source in &mut self.sources {
            let Some(order) = source.order.as_mut() else { continue };
            // Only lanes that can be taken away are told of.
            let told = order.handle.validity.until().is_some();
            if told && !order.announced {
                order.announced = true;
                let lane = Arc::clone(&order.handle.lane);
                self.events.push_back(DriverEvent::LaneAssigned(lane));
            }
            if order.revoked || order.handle.is_live() {
                continue;
            }
            order.revoked = true;
            if order.handle.is_lost() {
                // Also for deliveries that were handed out, should it become valid once more.
                order.handle.lane.lose();
            }
            if told {
                let lane = Arc::clone(&order.handle.lane);
                self.events.push_back(DriverEvent::LaneRevoked(lane));
            }
            // What was not handed out stays for the next owner.
            let number = order.handle.number;
            self.queue
                .retain(|kept| kept.order.as_ref().is_none_or(|handle| handle.number != number));
        }
    }

    /// Something is wrong with a consumer: asks what became of it.
    pub(super) fn suspect(&mut self, at: usize) {
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
    }

    /// Moves on what the sources are doing.
    pub(super) fn advance(&mut self, cx: &mut Context<'_>, out: &mut Vec<Received>, room: usize) {
        let now = Instant::now();
        for at in 0..self.sources.len() {
            if self.sources[at].pulls.expire(now) && self.link.is_connected() {
                // The end of a request did not come: it, or we, were forgotten.
                self.suspect(at);
            }
            self.sources[at].poll_reopening(cx);
            self.poll_state(cx, at, now);
            self.check_loss(cx, at);
            if self.stopping || self.sources[at].is_going() {
                self.sources[at].wind_up(&self.hub, now, self.link.is_connected());
                // What it has begun has to be polled, to be woken by it.
                self.poll_state(cx, at, now);
            } else {
                self.recover(cx, at, now);
            }
        }
        self.sources.retain(|source| {
            let ended = matches!(source.state, State::Ended);
            if let (true, Some(order)) = (ended, &source.order) {
                order.handle.close();
            }
            !ended
        });
        self.hand_out_queue(cx, out, room);
    }

    fn poll_state(&mut self, cx: &mut Context<'_>, at: usize, now: Instant) {
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
                        if let Some(kept) = self.take(cx, at, message, now, now) {
                            self.queue.push_back(kept);
                        }
                    }
                    self.sources[at].end();
                }
            }
            State::Open | State::Paused(_) | State::Ended => {}
        }
    }

    fn checked(&mut self, at: usize, checked: Checked, now: Instant) {
        let source = &mut self.sources[at];
        match checked {
            Checked::Fine(info) => {
                source.waiting = info.num_pending;
                source.limits = Limits::of(&info);
                source.begin_again();
                // It is there and did not answer: not at once again.
                source.pause(now);
            }
            Checked::Recreated(info, reason) => {
                source.last_sequence = 0;
                source.learn(&info);
                source.state = State::Open;
                if let Some(reason) = reason {
                    let stream = source.spec.stream.clone();
                    let (topic, reason) = (source.topic.clone(), reason.to_owned());
                    self.events.push_back(DriverEvent::Lost { topic, count: None, reason });
                    // The others may have gone with it.
                    for other in 0..self.sources.len() {
                        if other != at && self.sources[other].spec.stream == stream {
                            self.suspect(other);
                        }
                    }
                }
            }
            Checked::Later => source.pause(now),
            Checked::Gone(error) => {
                source.end();
                self.failure.get_or_insert(error);
            }
        }
    }

    /// Moves on the recovery of a lane.
    fn recover(&mut self, cx: &mut Context<'_>, at: usize, now: Instant) {
        let (connected, room) = (self.link.is_connected(), self.sweep_room());
        let source = &mut self.sources[at];
        let (Some(order), State::Open, true) = (&mut source.order, &source.state, connected) else {
            return;
        };
        let target = Target {
            hub: Arc::clone(&self.hub),
            stream: source.spec.stream.clone(),
            consumer: source.spec.name.clone(),
            filter: source.spec.filter.clone(),
        };
        let number = order.handle.number;
        let queued: Vec<_> = self
            .queue
            .iter()
            .filter(|kept| kept.order.as_ref().is_some_and(|handle| handle.number == number))
            .map(|kept| kept.place)
            .collect();
        let idle = source.pulls.outstanding() == 0;
        loop {
            match order.poll(cx, &target, &queued, idle, room) {
                Step::Wait => return,
                Step::Release(kept) => self.queue.extend(kept),
                Step::Retry => return source.pause(now),
                Step::Failed(error) => {
                    self.failure.get_or_insert(error);
                    return source.end();
                }
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
}
